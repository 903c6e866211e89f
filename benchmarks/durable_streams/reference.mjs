// The reference server of the protocol: `node reference.mjs <packages> <port> [<folder>]`, in memory without a folder.
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";

const [, , packages, port, dataDir] = process.argv;
const entry = createRequire(`${packages}/package.json`).resolve("@durable-streams/server");
const { DurableStreamTestServer } = await import(pathToFileURL(entry));
await new DurableStreamTestServer({ port: Number(port), host: "127.0.0.1", ...(dataDir ? { dataDir } : {}) }).start();
console.log("up");
