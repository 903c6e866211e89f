/** The dialogs: help, who you are, a new session, the brief. */
import { h, place } from "./dom.js";
import { json, short, time } from "./format.js";

const KEYS = [
  ["/", "Search sessions"], ["j, k", "Next, previous session"], ["n", "Write a message"], ["Enter", "Send; Shift+Enter: a new line"],
  ["x", "Cancel the run in focus, or the newest at work"], ["a", "To the first open ask"], ["d", "To the details"],
  ["b", "Brief"], ["l", "Turns or columns"], ["t", "Timeline; arrow keys move in it"], ["g", "To the latest"],
  ["c", "Light or dark"], ["?", "This help"],
];

function open(title, ...content) {
  const dialog = document.getElementById("dialog");
  const close = h("button.plain", { type: "button", "aria-label": "Close", onclick: () => dialog.close() }, "×");
  place(dialog, [h("header.dialog-head", {}, h("h2", { id: "dialog-title" }, title), close), ...content]);
  if (!dialog.open) dialog.showModal();
  return dialog;
}

export function openHelp() {
  open("Keys", h("dl.keys", {}, KEYS.map(([key, what]) => h("div", {}, h("dt", {}, h("kbd", {}, key)), h("dd", {}, what)))));
}

export function openMember(page) {
  const field = h("input", {
    type: "text", value: page.member, "aria-label": "Member", pattern: "[A-Za-z0-9_\\-]+", required: true, maxlength: "64",
    autocomplete: "off",
  });
  const form = h("form.stack", { method: "dialog" }, h("p.dim", {}, "What you send, answer and take over is said in this member's name."),
    h("label", {}, "Member", field), h("button.primary", { type: "submit" }, "Go on as this member"));
  form.addEventListener("submit", () => page.as(field.value));
  open("Who are you?", form);
  field.select();
}

export function openToken(page, why = "") {
  const field = h("textarea", { rows: "5", "aria-label": "Token", required: true, autocomplete: "off", spellcheck: "false" });
  const form = h("form.stack", { method: "dialog" }, why ? h("p", {}, why) : null,
    h("p.dim", {}, "Make one with `orchestrator-free token`, or open this page with #token=… behind its address. It is kept until this tab is closed."),
    h("label", {}, "Token", field), h("button.primary", { type: "submit" }, "Go on with this token"));
  form.addEventListener("submit", () => page.identify(field.value));
  open("This gateway asks for a token", form);
  field.focus();
}

export function openNew(begin) {
  const title = h("input", { type: "text", maxlength: "200" });
  const agents = h("input", { type: "text", placeholder: "outliner, checker" });
  const form = h("form.stack", { method: "dialog" }, h("label", {}, "Title", title), h("label", {}, "Agents", agents),
    h("button.primary", { type: "submit" }, "Begin"));
  form.addEventListener("submit", () => begin({ title: title.value, agents: agents.value.split(/[\s,]+/).filter(Boolean) }));
  open("New session", form);
  title.focus();
}

export function openBrief(about) {
  const part = (title, items, line) => (items?.length ? [h("h3", {}, title), h("ul", {}, items.map((one) => h("li", {}, line(one))))] : []);
  const strong = (text) => h("strong", {}, text);
  open(`Brief: ${about.title || about.session}`, h("div.brief", {},
    part("Open", about.open, (one) => [strong(one.from ?? ""), ` ${one.text ?? ""}`]),
    part("Asked", about.asked, (one) => [strong(one.from), ` to ${one.to.join(", ")}: ${one.text}`]),
    part("Tried", about.tried, (one) => [strong(one.agent), ` ${one.status}: ${short(one.text || one.error || "", 300)}`]),
    part("Tools", about.tools, (one) => [strong(one.tool ?? ""), ` ${one.status ?? ""} ${short(json(one.output ?? one.error ?? ""), 160)}`]),
    part("Decided", about.decided, (one) => [strong(one.status ?? ""), ` ${one.text ?? ""} ${short(json(one.value ?? ""), 80)}`]),
    part("State", about.state, (one) => [strong(one.key), ` ${short(json(one.value), 160)}`]),
    part("Floor", about.floor?.steps, (one) => [strong(one.by ?? ""), ` ${one.step} ${one.reason ?? ""} ${time(one.time)}`]),
    about.cut?.length ? h("p.dim", {}, `Left out: ${about.cut.join("; ")}.`) : []));
}
