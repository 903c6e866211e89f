// Apps on the clients of Durable Streams, as they are published. Each does one thing with the stream at a URL, tells
// how far it is on lines of standard output, and what came of it on the last one, all JSON.
import { createServer } from "node:http";
import { DurableStream, IdempotentProducer, stream } from "@durable-streams/client";

const [, , what, url, ...more] = process.argv;
const say = (value) => console.log(JSON.stringify(value));
const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
const until = async (condition) => { while (!condition()) await pause(10); };

// The producer sends a batch once. An app that wants more gives it a fetch that goes on until it is answered.
async function persistent(...request) {
  for (;;) {
    try {
      const response = await fetch(...request);
      if (response.status < 500) return response;
    } catch { /* the gateway is away */ }
    await pause(100);
  }
}
// A reader ends with the connection that breaks; an app goes on from the offset it has.
async function follow(live, take, done) {
  let offset = "-1";
  while (!done()) {
    try {
      const reading = await stream({ url, offset, live, json: true });
      const stop = reading.subscribeJson(async (batch) => { take(batch.items); offset = batch.offset; });
      await Promise.race([reading.closed, until(done).then(stop)]);
    } catch { await pause(50); }
  }
}

const apps = {
  // A producer that pipelines batches, and a reader that follows live; somebody kills the gateway meanwhile.
  async follow(live, count) {
    const handle = await DurableStream.create({ url, contentType: "application/json", fetch: persistent });
    const failures = [];
    const producer = new IdempotentProducer(handle, "writer", {
      lingerMs: 1, maxBatchBytes: 200, fetch: persistent, onError: (error) => failures.push(String(error)),
    });
    const seen = [];
    const reading = follow(live, (items) => seen.push(...items), () => seen.length >= Number(count) || failures.length > 0);
    for (let number = 0; number < Number(count); number++) {
      producer.append(JSON.stringify({ number }));
      if (number % 10 === 0) { say({ written: number, seen: seen.length, failures }); await pause(60); }
    }
    await producer.flush();
    await reading;
    const again = await stream({ url, offset: "-1", live: false, json: true });
    const stored = await again.json();
    await producer.close();
    return { seen: seen.map((item) => item.number), stored: stored.map((item) => item.number), failures };
  },
  // Bytes, text, closing, resuming from an offset in the middle.
  async bytes() {
    const handle = await DurableStream.create({ url, contentType: "application/octet-stream" });
    const first = new Uint8Array(3_000_000).map((_, index) => index % 251);
    await handle.append(first);
    const middle = (await handle.head()).offset;
    await handle.append(new Uint8Array([1, 2, 3]));
    await handle.close({ body: new Uint8Array([4]) });
    const whole = await (await stream({ url, offset: "-1", live: false })).body();
    const rest = await (await stream({ url, offset: middle, live: "sse" })).body();
    const same = whole.length === 3_000_004 && first.every((byte, index) => whole[index] === byte);
    return { same, rest: [...rest], closed: (await handle.head()).streamClosed };
  },
  // An app of the AI SDK whose answers go through a durable stream; its first tab is closed in the middle.
  async chat(words) {
    const { AbstractChat } = await import("ai");
    const { createDurableChatTransport, toDurableStreamResponse } = await import("@durable-streams/aisdk-transport");
    const chats = new Map();
    async function* answer() {
      yield { type: "start", messageId: "m1" };
      yield { type: "text-start", id: "t" };
      for (let number = 0; number < Number(words); number++) {
        yield { type: "text-delta", id: "t", delta: `w${number} ` };
        await pause(5);
      }
      yield { type: "text-end", id: "t" };
      yield { type: "finish" };
    }
    const server = createServer(async (request, response) => {
      const chunks = [];
      for await (const chunk of request) chunks.push(chunk);
      let found = new Response(null, { status: 204 });
      if (request.method === "POST") {
        const { id } = JSON.parse(Buffer.concat(chunks));
        chats.set(id, `${url}-${id}`);
        const target = { writeUrl: chats.get(id), readUrl: chats.get(id) };
        found = await toDurableStreamResponse({ source: answer(), stream: target });
      } else if (chats.has(request.url.split("/")[3])) {
        const streamUrl = chats.get(request.url.split("/")[3]);
        found = Response.json({ streamUrl }, { headers: { Location: streamUrl } });
      }
      response.writeHead(found.status, Object.fromEntries(found.headers));
      response.end(Buffer.from(await found.arrayBuffer()));
    });
    await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
    const transport = createDurableChatTransport({ api: `http://127.0.0.1:${server.address().port}/api/chat` });
    const tab = () => {
      const state = {
        status: "ready", error: undefined, messages: [],
        pushMessage(message) { this.messages = [...this.messages, message]; },
        popMessage() { this.messages = this.messages.slice(0, -1); },
        replaceMessage(index, message) { this.messages = this.messages.with(index, structuredClone(message)); },
        snapshot: (value) => structuredClone(value),
      };
      return new (class extends AbstractChat {})({ id: "c1", state, transport });
    };
    const text = (chat) => (chat.messages.at(-1)?.parts ?? []).map((part) => part.text ?? "").join("");
    const first = tab();
    const sending = first.sendMessage({ text: "hello" });
    await until(() => text(first).split(" ").length > Number(words) / 4);
    const before = text(first);
    first.stop();
    await sending;
    const second = tab();
    await second.resumeStream();
    server.close();
    return { before, after: text(second), status: second.status };
  },
  // A database in a stream: three producers that take their names over, a live reader, and one that comes late.
  async database(rows) {
    const { createStateSchema } = await import("@durable-streams/state");
    const { createStreamDB } = await import("@durable-streams/state/db");
    const schema = { "~standard": { version: 1, vendor: "test", validate: (value) => ({ value }) } };
    const state = createStateSchema({ rows: { schema, type: "row", primaryKey: "id" } });
    const handle = await DurableStream.create({ url, contentType: "application/json" });
    const open = async () => {
      const db = createStreamDB({ streamOptions: { url, contentType: "application/json" }, live: "sse", state });
      await db.preload();
      return db;
    };
    const live = await open();
    await Promise.all(["a", "b", "c"].map(async (name) => {
      const producer = new IdempotentProducer(handle, name, { autoClaim: true, lingerMs: 1 });
      for (let number = 0; number < Number(rows); number++) {
        const value = { id: `${name}${number}`, number };
        producer.append(JSON.stringify(state.rows.insert({ value })));
        producer.append(JSON.stringify(state.rows.update({ value: { ...value, number: number + 1 } })));
        if (number % 10 === 0) await producer.flush();
      }
      producer.append(JSON.stringify(state.rows.delete({ key: `${name}0` })));
      await producer.flush();
    }));
    const expected = 3 * (Number(rows) - 1);
    await until(() => live.collections.rows.size === expected);
    const late = await open();
    const content = (db) => [...db.collections.rows.values()].map((row) => `${row.id}=${row.number}`).sort();
    return { expected, live: content(live), late: content(late) };
  },
  // A session of the gateway, followed as a durable stream.
  async session(live, runs) {
    const seen = [];
    const take = (items) => { seen.push(...items); say({ seen: seen.length }); };
    const finished = () => seen.filter((item) => item.event.type === "run.finished").length >= Number(runs);
    await follow(live, take, finished);
    return { seen: seen.map((item) => [item.position, item.event.type]) };
  },
};

say({ done: await apps[what](...more) });
process.exit(0);
