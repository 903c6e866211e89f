// Load on a server of Durable Streams: `node load.mjs <base> <seconds> [many]` prints one JSON object.
import http from "node:http";

const [, , base, seconds, only] = process.argv;
const agent = new http.Agent({ keepAlive: true, maxSockets: 256 });
const event = JSON.stringify({ text: "x".repeat(230) });
const json = { "content-type": "application/json" };
const tag = Date.now().toString(36) + Math.random().toString(36).slice(2, 6);

function ask(method, path, body, headers = json) {
  return new Promise((resolve, reject) => {
    const request = http.request(base + path, { method, agent, headers }, (response) => {
      response.resume();
      response.on("end", () => (response.statusCode < 300 ? resolve(response) : reject(new Error(`${method} ${path}: ${response.statusCode}`))));
    });
    request.on("error", reject);
    request.end(body);
  });
}
function part(sorted, share) { return sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * share))]; }
// `writers` append one event after the other to `streams` streams.
async function append(name, writers, streams) {
  const paths = Array.from({ length: streams }, (_, number) => `/v1/stream/bench-${tag}-${name}-${number}`);
  for (const path of paths) await ask("PUT", path);
  const times = [];
  const end = performance.now() + Number(seconds) * 1000;
  await Promise.all(Array.from({ length: writers }, async (_, number) => {
    while (performance.now() < end) {
      const start = performance.now();
      await ask("POST", paths[number % streams], event);
      times.push(performance.now() - start);
    }
  }));
  times.sort((a, b) => a - b);
  return { per_second: times.length / Number(seconds), p50: part(times, 0.5), p99: part(times, 0.99) };
}
// `readers` follow a stream over SSE; from the moment of sending an event to its arrival at each of them.
async function fanout(readers, perSecond) {
  const path = `/v1/stream/bench-${tag}-fan`;
  await ask("PUT", path);
  const times = [];
  const open = await Promise.all(Array.from({ length: readers }, () => new Promise((resolve) => {
    const request = http.get(`${base}${path}?offset=-1&live=sse`, { agent: new http.Agent() }, (response) => {
      let rest = "";
      response.setEncoding("utf8");
      response.on("data", (piece) => {
        rest += piece;
        const found = [...rest.matchAll(/"sent":([0-9.]+)/g)];
        for (const match of found) times.push(performance.now() - Number(match[1]));
        rest = rest.slice(rest.lastIndexOf("\n") + 1);
      });
      resolve(request);
    });
  })));
  const count = Number(seconds) * perSecond;
  for (let number = 0; number < count; number++) {
    void ask("POST", path, JSON.stringify({ sent: performance.now() }));
    await new Promise((resolve) => setTimeout(resolve, 1000 / perSecond));
  }
  for (let waited = 0; times.length < readers * count && waited < 100; waited++) await new Promise((resolve) => setTimeout(resolve, 50));
  open.forEach((request) => request.destroy());
  times.sort((a, b) => a - b);
  return { delivered: times.length / (readers * count), p50: part(times, 0.5), p99: part(times, 0.99) };
}

if (only === "many") {
  console.log(JSON.stringify({ "32 writers, 32 streams": await append("many", 32, 32) }));
  process.exit(0);
}
await append("warm", 4, 4);
console.log(JSON.stringify({
  "1 writer": await append("one", 1, 1),
  "16 writers, one stream": await append("same", 16, 1),
  "32 writers, 32 streams": await append("many", 32, 32),
  "50 SSE readers, 50 events/s": await fanout(50, 50),
}));
process.exit(0);
