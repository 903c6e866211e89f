// Bundles the app in a folder: node build.mjs <folder> <major version of ai> <file to write>
import { build } from "esbuild";
import { createRequire } from "node:module";
import { dirname, join } from "node:path";

const [folder, version, outfile] = process.argv.slice(2);
const here = import.meta.dirname ?? dirname(new URL(import.meta.url).pathname);
const there = createRequire(join(here, "node_modules", `react${version}`, "package.json"));
await build({
  absWorkingDir: here,
  entryPoints: [join(folder, "chat.jsx")],
  bundle: true,
  format: "esm",
  jsx: "automatic",
  nodePaths: [join(here, "node_modules")],
  alias: { "@ai-sdk/react": `react${version}`, ai: dirname(there.resolve("ai/package.json")) },
  define: { "process.env.NODE_ENV": '"production"' },
  logLevel: "error",
  outfile,
});
