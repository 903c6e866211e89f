// An app on the small client. Reads commands from standard input, a JSON array each: a name and its arguments; prints what
// comes of them, a JSON object each. "eval" runs an expression over `session`; "wait" waits until one is true.
import { createInterface } from "node:readline";
import * as client from "../../orchestrator_free/web/client/dist/index.js";
import { SseParser } from "../../orchestrator_free/web/client/dist/sse.js";

const AsyncFunction = (async () => {}).constructor;
/** What a browser has beside Node: a store, and locks that tabs wait for. */
class Store extends Map {
  getItem = (key) => this.get(key) ?? null;
  setItem = (key, value) => void this.set(key, value);
  removeItem = (key) => void this.delete(key);
}
class Locks {
  #last = new Map();
  async request(name, { signal }, work) {
    const before = this.#last.get(name) ?? Promise.resolve();
    let release;
    const held = new Promise((resolve) => { release = resolve; });
    this.#last.set(name, before.then(() => held));
    try {
      await Promise.race([before, new Promise((_, reject) => signal.addEventListener("abort", () => reject(signal.reason)))]);
      return await work();
    } finally {
      release();
    }
  }
}
/** A chat of the AI SDK of a version, as an app without a framework has it. */
async function makeChat(version, id, transport) {
  const { AbstractChat, DefaultChatTransport } = await import(version);
  const state = {
    status: "ready", error: undefined, messages: [],
    pushMessage(message) { this.messages = [...this.messages, message]; },
    popMessage() { this.messages = this.messages.slice(0, -1); },
    replaceMessage(index, message) { this.messages = this.messages.with(index, structuredClone(message)); },
    snapshot: (value) => structuredClone(value),
  };
  class Chat extends AbstractChat {}
  return new Chat({ id, state, transport: typeof transport === "function" ? transport(DefaultChatTransport) : transport });
}
async function makeAgent(name, url, threadId, fetch) {
  const { HttpAgent } = await import(name);
  return new HttpAgent({ url, threadId, fetch });
}
const scope = { ...client, SseParser, Store, Locks, makeChat, makeAgent, seen: [] };
const say = (what) => console.log(JSON.stringify(what));
const run = (code) => new AsyncFunction(...Object.keys(scope), `return (${code});`)(...Object.values(scope));
process.on("unhandledRejection", (error) => say({ unhandled: String(error) }));

const commands = {
  open: async (options, name = "session") => {
    const session = new client.Session({ backoff: { base: 100, most: 500 }, share: false, ...options });
    scope[name] = session;
    await session.open();
  },
  eval: async (code) => (await run(code)) ?? null,
  keep: async (name, code) => { scope[name] = await run(code); },
  wait: async (code) => {
    for (;;) {
      const found = await run(code);
      if (found) return found;
      await new Promise((resolve) => setTimeout(resolve, 10));
    }
  },
};

for await (const line of createInterface({ input: process.stdin })) {
  const [name, ...values] = JSON.parse(line);
  commands[name](...values).then(
    (value) => say({ value: value ?? null }),
    (error) => say({ failed: error.message, status: error.status ?? null, stack: error.stack }),
  );
}
process.exit(0);
