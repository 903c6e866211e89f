/** The parts of a run: text, reasoning, tool calls, sources, files, data. Each knows how to show what is new in it. */
import { h, say, show, toast } from "./dom.js";
import { json, safeUrl, short, span } from "./format.js";
import { download, token } from "./identity.js";
import { Growing } from "./markdown.js";

/** JSON longer than this is shown in part, until somebody asks for all of it */
const MOST = 4000;

/** A node for a part, with `node.update(part)`; `base` is the address of the session at the gateway. */
export function makePart(part, base) {
  const maker = { text, reasoning, tool, source, file, data, error }[part.type] ?? other;
  return maker(base);
}

function text() {
  const node = h("div.part.text");
  const growing = new Growing(node);
  node.update = (part) => {
    growing.update(part.text ?? "");
    node.classList.toggle("live", part.open === true);
  };
  return node;
}

function reasoning() {
  const body = h("div.text");
  const growing = new Growing(body);
  const label = h("span", {}, "Reasoning");
  const node = h("details.part.reasoning", {}, h("summary", {}, label), body);
  let latest = null;
  node.addEventListener("toggle", () => node.open && latest && growing.update(latest.text));
  node.update = (part) => {
    latest = part;
    say(label, part.open ? "Thinking…" : "Reasoning");
    node.classList.toggle("live", part.open === true);
    if (node.open) growing.update(part.text);
  };
  return node;
}

/** A block of JSON or text that is filled only when it is looked at. */
export function code(label) {
  const body = h("pre", { tabindex: "0", "aria-label": label });
  const more = h("button.plain.more", { type: "button", hidden: true }, "Show all");
  const node = h("div.code", {}, h("div.code-label", {}, label), body, more);
  let whole = false;
  let value;
  const fill = () => {
    const shown = json(value);
    say(body, whole ? shown : shown.slice(0, MOST));
    show(more, !whole && shown.length > MOST);
  };
  more.addEventListener("click", () => ((whole = true), fill()));
  node.update = (next) => ((value = next), fill());
  return node;
}

const TOOL = { running: "running", done: "done", error: "failed" };

function tool() {
  const name = h("span.tool-name");
  const gist = h("span.tool-gist");
  const took = h("span.took");
  const state = h("span.state");
  const input = code("Input");
  const output = code("Output");
  const problem = h("p.problem", { hidden: true });
  const node = h("details.part.tool", {},
    h("summary", {}, h("span.dot", { "aria-hidden": "true" }), name, gist, took, state), input, problem, output);
  let latest = null;
  const fill = () => {
    if (!node.open || !latest) return;
    input.update(latest.open ? (latest.text ?? "") : latest.input);
    show(output, latest.output !== null && latest.output !== undefined).update(latest.output);
    say(show(problem, Boolean(latest.error)), latest.error ?? "");
  };
  node.addEventListener("toggle", fill);
  node.update = (part) => {
    latest = part;
    node.dataset.status = part.status;
    say(name, part.tool || "tool");
    say(gist, short(part.open ? part.text : gistOf(part.input), 80));
    say(took, part.seconds === null || part.seconds === undefined ? "" : span(part.seconds));
    say(state, TOOL[part.status] ?? part.status ?? "");
    fill();
  };
  return node;
}

function gistOf(input) {
  if (input === null || input === undefined) return "";
  if (typeof input !== "object") return String(input);
  return Object.entries(input).slice(0, 4)
    .map(([name, value]) => `${name}: ${short(typeof value === "object" ? JSON.stringify(value) : value, 40)}`).join(", ");
}

function source() {
  const node = h("div.part.source");
  node.update = (part) => {
    const label = part.title || part.url || part.id;
    const href = part.url ? safeUrl(part.url) : null;
    const host = href ? new URL(href).host : (part.url ?? "");
    node.replaceChildren(h("span.kind", {}, "Source"),
      href ? h("a", { href, target: "_blank", rel: "noopener noreferrer nofollow" }, label) : h("span", {}, label),
      host && host !== label ? h("span.dim", {}, host) : "");
  };
  return node;
}

function file(base) {
  const node = h("div.part.file");
  node.update = (part) => {
    const stored = part.object ?? (/^[\w.=-]+$/.test(part.url ?? "") ? part.url : null);
    const url = stored ? `${base}/objects/${encodeURIComponent(stored)}` : (part.url ?? "");
    const href = url ? safeUrl(url) : null;
    node.replaceChildren(h("span.kind", {}, "File"),
      href ? h("a", { href, download: part.name, rel: "noopener noreferrer", onclick: stored && token() ? fetched(href, part.name) : null }, part.name)
        : h("span", {}, part.name),
      h("span.dim", {}, part.media_type ?? ""));
  };
  return node;
}

/** A link that a token has to be shown for. */
const fetched = (href, name) => (event) => {
  event.preventDefault();
  download(href, name).catch((error) => toast(error.message));
};

function data() {
  const name = h("span.tool-name");
  const gist = h("span.tool-gist");
  const body = code("Data");
  const kind = h("span.kind", {}, "Data");
  const node = h("details.part.data", {}, h("summary", {}, kind, name, gist), body);
  let latest = null;
  node.addEventListener("toggle", () => node.open && body.update(latest?.data));
  node.update = (part) => {
    latest = part;
    const helper = part.name === "subagent" && typeof part.data?.name === "string";
    say(kind, helper ? "Sub-agent" : "Data");
    say(name, (helper ? part.data.name : part.name) ?? "");
    say(gist, helper ? (part.data.status ?? "") : short(gistOf(part.data), 90));
    if (node.open) body.update(part.data);
  };
  return node;
}

function error() {
  const node = h("p.part.problem");
  node.update = (part) => say(node, part.message ?? "error");
  return node;
}

function other() {
  const body = code("Event");
  const node = h("details.part.data", {}, h("summary", {}, h("span.kind", {}, "Event"), h("span.tool-gist")), body);
  node.update = (part) => {
    say(node.querySelector(".tool-gist"), short(JSON.stringify(part.event ?? part), 90));
    body.update(part.event ?? part);
  };
  return node;
}
