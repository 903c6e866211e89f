// Gives streams to the parsers of a client, as it would read them from a gateway. In: lines of {"events": […]}; out: for each
// {"ok"}, or {"error"} of what the client refused.
import { createInterface } from "node:readline";

const [name] = process.argv.slice(2);
const client = await import(name);
const body = (events, end) => new Response(
  events.map((event) => `data: ${JSON.stringify(event)}\n\n`).join("") + end,
  { headers: { "content-type": "text/event-stream", "x-vercel-ai-ui-message-stream": "v1" } },
);

async function aiSdk(events) {
  const fetch = async () => body(events, "data: [DONE]\n\n");
  const transport = new client.DefaultChatTransport({ api: "http://gateway/api/chat", fetch });
  const stream = await transport.sendMessages({ chatId: "c", messages: [], trigger: "submit-message" });
  // An error chunk is a word of ours to the app: the reader throws it, so it is looked at here and left out there.
  const parsed = stream.pipeThrough(new TransformStream({ transform: (chunk, out) => { if (chunk.type !== "error") out.enqueue(chunk); } }));
  let last;
  for await (const message of client.readUIMessageStream({ stream: parsed, terminateOnError: true })) last = message;
  return { texts: last ? last.parts.filter((part) => part.type === "text").map((part) => part.text) : [] };
}

async function agUi(events) {
  const { HttpAgent, transformHttpEventStream, runHttpRequest } = client;
  class Told extends HttpAgent {
    run() { return transformHttpEventStream(runHttpRequest(() => Promise.resolve(body(events, "")))); }
  }
  const agent = new Told({ url: "http://gateway/api/agui", threadId: "s1" });
  const failed = events.some((event) => event.type === "RUN_ERROR");
  await agent.runAgent().catch((error) => { if (!failed) throw error; });
  return { texts: agent.messages.filter((one) => one.role === "assistant" && one.content).map((one) => one.content) };
}

console.warn = console.error = () => {};
const read = name.startsWith("ai") ? aiSdk : agUi;
for await (const line of createInterface({ input: process.stdin })) {
  try {
    console.log(JSON.stringify(await read(JSON.parse(line).events)));
  } catch (error) {
    console.log(JSON.stringify({ error: `${error}`.slice(0, 1500) }));
  }
}
process.exit(0);
