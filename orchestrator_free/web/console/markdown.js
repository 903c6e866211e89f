/** A small subset of Markdown as nodes: paragraphs, headings, lists, quotes, code, emphasis, links. Never as HTML. */
import { h } from "./dom.js";
import { safeUrl } from "./format.js";

/** every piece is bounded, so that no text takes more than its length */
const INLINE = new RegExp([
  "(?<!`)(`{1,2})(?!`)([^`\\n]{1,2000})\\1(?!`)",
  "\\*\\*(?=\\S)([^*\\n]{1,1000})(?<=\\S)\\*\\*",
  "(?<![\\w*])\\*(?=\\S)([^*\\n]{1,500})(?<=\\S)\\*(?![\\w*])",
  "\\[([^\\]\\[\\n]{1,300})\\]\\(([^()\\s]{1,2000})\\)",
  "(https?:\\/\\/[^\\s<>\"'`)\\]]{1,2000})(?<![.,;:!?])",
].join("|"), "g");
/** what a block that never ends may grow to before it is split */
const MOST = 6000;
/** of a text more than twice as long, so much of its end is shown until somebody asks for all of it */
const LONG = 60_000;

/** The nodes of a line of text. */
export function inline(text) {
  const nodes = [];
  let last = 0;
  for (const match of text.matchAll(INLINE)) {
    if (match.index > last) nodes.push(text.slice(last, match.index));
    last = match.index + match[0].length;
    const [whole, , code, strong, soft, label, target, bare] = match;
    if (code !== undefined) nodes.push(h("code", {}, code));
    else if (strong !== undefined) nodes.push(h("strong", {}, inline(strong)));
    else if (soft !== undefined) nodes.push(h("em", {}, soft));
    else nodes.push(link(label ?? bare, target ?? bare, whole));
  }
  if (last < text.length) nodes.push(text.slice(last));
  return nodes;
}

function link(label, target, whole) {
  const href = safeUrl(target);
  if (!href) return whole;
  return h("a", { href, target: "_blank", rel: "noopener noreferrer nofollow" }, label);
}

/** The nodes of one block. */
function block(text) {
  const lines = text.replace(/^\n+/, "").trimEnd().split("\n");
  const first = lines[0] ?? "";
  if (first.startsWith("```")) {
    const body = lines.at(-1).startsWith("```") && lines.length > 1 ? lines.slice(1, -1) : lines.slice(1);
    return [h("pre", { tabindex: "0" }, h("code", {}, body.join("\n")))];
  }
  const nodes = [];
  let open = null;
  for (const line of lines) {
    const [kind, body, level] = lineKind(line);
    if (kind === "head") nodes.push((open = null) ?? h(`h${level}.md`, {}, inline(body)));
    else if (kind === "rule") nodes.push((open = null) ?? h("hr"));
    else if (kind === "ul" || kind === "ol") {
      if (open?.kind !== kind) nodes.push((open = { kind, element: h(kind) }).element);
      open.element.append(h("li", {}, inline(body)));
    } else if (open?.kind === kind) open.element.append(h("br"), ...inline(body));
    else nodes.push((open = { kind, element: h(kind, {}, inline(body)) }).element);
  }
  return nodes;
}

function lineKind(line) {
  let match;
  if ((match = /^(#{1,4})\s+(.*)$/.exec(line))) return ["head", match[2], Math.min(6, match[1].length + 3)];
  if (/^\s*([-*_])(\s*\1){2,}\s*$/.test(line)) return ["rule", "", 0];
  if ((match = /^\s*[-*+•]\s+(.*)$/.exec(line))) return ["ul", match[1], 0];
  if ((match = /^\s*\d{1,4}[.)]\s+(.*)$/.exec(line))) return ["ol", match[1], 0];
  if ((match = /^>\s?(.*)$/.exec(line))) return ["blockquote", match[1], 0];
  return ["p", line, 0];
}

/** Where the next block ends in a text from an offset on, -1 if it may still grow. */
function boundary(text, from) {
  let start = from;
  while (text[start] === "\n") start += 1;
  if (text.startsWith("```", start)) {
    const end = text.indexOf("\n```", start + 3);
    if (end < 0) return -1;
    const line = text.indexOf("\n", end + 1);
    return line < 0 ? -1 : line + 1;
  }
  const blank = text.indexOf("\n\n", start);
  const fence = text.indexOf("\n```", start);
  if (fence >= 0 && (blank < 0 || fence < blank)) return fence + 1;
  if (blank >= 0) return blank + 2;
  return text.length - start > MOST ? Math.max(text.lastIndexOf(" "), start + MOST) : -1;
}

/** A text that grows: what is finished stays as it is, only its last block is made anew; of a long one its end is shown. */
export class Growing {
  #seen = 0;
  #text = "";
  #tail = [];
  #start = 0;
  #whole = false;

  constructor(element) {
    this.element = element;
  }

  update(text) {
    if (text === this.#text) return;
    const start = this.#from(text);
    if (start !== this.#start || !text.startsWith(this.#text)) {
      this.element.replaceChildren(...(start ? [this.#before(start)] : []));
      [this.#start, this.#seen, this.#tail] = [start, start, []];
    }
    this.#text = text;
    for (const node of this.#tail) node.remove();
    for (let end = boundary(text, this.#seen); end >= 0; end = boundary(text, this.#seen)) {
      this.element.append(...block(text.slice(this.#seen, end)));
      this.#seen = end;
    }
    const rest = text.slice(this.#seen);
    this.#tail = rest.trim() ? block(rest) : [];
    this.element.append(...this.#tail);
  }

  /** Where what is shown begins: it stays there while the text grows, until that is too much again. */
  #from(text) {
    const start = text.startsWith(this.#text) ? this.#start : 0;
    if (this.#whole || text.length - start <= 2 * LONG) return this.#whole ? 0 : start;
    const blank = text.indexOf("\n\n", text.length - LONG);
    return blank < 0 ? text.length - LONG : blank + 2;
  }

  #all() {
    const text = this.#text;
    [this.#whole, this.#text] = [true, ""];
    this.update(text);
  }

  #before(start) {
    return h("button.plain.more", { type: "button", onclick: () => this.#all() }, `Show the ${start.toLocaleString()} characters before`);
  }
}
