// An app on the small client. Reads commands from standard input, a JSON array each: a name and its arguments; prints what
// comes of them, a JSON object each. "eval" runs an expression over `session`; "wait" waits until one is true.
import { createInterface } from "node:readline";
import * as client from "../../orchestrator_free/web/client/dist/index.js";

const AsyncFunction = (async () => {}).constructor;
const scope = { client, seen: [], ...client };
const say = (what) => console.log(JSON.stringify(what));
const run = (code) => new AsyncFunction(...Object.keys(scope), `return (${code});`)(...Object.values(scope));
process.on("unhandledRejection", (error) => say({ unhandled: String(error) }));

const commands = {
  open: async (options, name = "session") => {
    const session = new client.Session({ backoff: { base: 100, most: 500 }, ...options });
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
