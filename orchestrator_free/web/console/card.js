/** One run as a card: who, what it is doing, its parts, its controls, and the runs it delegated. */
import { avatar, h, Keyed, place, say, show } from "./dom.js";
import { between, count, short, time } from "./format.js";
import { askCard } from "./asks.js";
import { makePart } from "./parts.js";

/** of a run with more parts than this, the first are shown when somebody asks */
const PARTS = 120;

const WORDS = {
  running: "working", streaming: "streaming", thinking: "thinking", waiting: "waiting", stalled: "silent", lost: "lost its process",
  done: "done", error: "failed", failed: "failed", cancelled: "cancelled", rejected: "refused", queued: "queued",
};

/** What a run is doing, in one word: its status, and of one at work whether it thinks, writes, waits or is silent. */
export function doing(run) {
  const status = run.shownStatus();
  if (status !== "running") return status;
  if (run.stalled !== null) return "stalled";
  if (run.waiting) return "waiting";
  let last;
  for (const part of run.parts.values()) last = part;
  if (last?.type === "text" && last.open) return "streaming";
  return last?.type === "reasoning" && last.open ? "thinking" : "running";
}

export function statusWord(state) {
  return WORDS[state] ?? state;
}

/** The card of a run; `update(run)` shows what is new. `desk` has the session's actions. */
export class Card {
  #parts = new Map();
  #asks = new Keyed();
  #all = false;
  #opened;
  #run = null;

  constructor(desk) {
    this.desk = desk;
    this.name = h("span.agent-name");
    this.state = h("span.state");
    this.took = h("span.took");
    this.menu = h("span.actions");
    this.prompt = h("p.prompt");
    this.earlier = h("button.plain.more", { type: "button", hidden: true, onclick: () => ((this.#all = true), this.update(this.#run)) });
    this.parts = h("div.parts");
    this.asks = h("div.asks");
    this.children = h("div.children", { hidden: true });
    this.foot = h("p.foot", { hidden: true });
    this.toggle = h("button.fold", { type: "button", onclick: () => this.open(!this.isOpen) });
    this.body = h("div.card-body", {}, this.prompt, this.earlier, this.parts, this.asks, this.foot, this.children);
    this.head = h("header.card-head", {}, this.toggle, this.menu);
    this.element = h("article.card", {}, this.head, this.body);
    this.isOpen = true;
  }

  /** Open or fold the card; what somebody chose stays. */
  open(yes, chosen = true) {
    if (chosen) this.#opened = yes;
    else if (this.#opened !== undefined) return;
    if (this.isOpen === yes && this.toggle.getAttribute("aria-expanded")) return;
    this.isOpen = yes;
    this.toggle.setAttribute("aria-expanded", String(yes));
    show(this.body, yes);
    if (yes && this.#run) this.update(this.#run);
  }

  update(run) {
    const first = this.#run === null;
    this.#run = run;
    const state = doing(run);
    if (first) this.#name(run);
    this.element.dataset.state = state;
    say(this.state, statusWord(state));
    say(this.took, run.finished ? between(run.started, run.finished) : "");
    this.#controls(run, state);
    if (!this.isOpen) return say(this.gist, short(this.#summary(run), 140));
    say(this.gist, "");
    this.#prompt(run);
    this.#show(run);
    this.#waiting(run);
    this.#foot(run, state);
  }

  #name(run) {
    say(this.name, run.agent);
    this.gist = h("span.gist");
    this.toggle.append(avatar(run.agent, "agent"), this.name, this.state, this.took, this.gist);
    this.element.setAttribute("aria-label", `Answer of ${run.agent}`);
    this.element.dataset.agent = run.agent;
    this.element.dataset.run = run.run;
    this.open(this.isOpen, false);
  }

  #summary(run) {
    for (const part of run.parts.values()) if (part.type === "text") return part.text.slice(0, 300);
    return run.error ?? "";
  }

  #prompt(run) {
    const asked = this.desk.asked(run);
    show(this.prompt, Boolean(asked));
    if (asked) say(this.prompt, `${asked.from}: ${short(asked.text, 200)}`);
  }

  #show(run) {
    const entries = [...run.parts];
    const hidden = this.#all ? 0 : Math.max(0, entries.length - PARTS);
    show(this.earlier, hidden > 0);
    if (hidden) say(this.earlier, `Show ${count(hidden, "earlier part")}`);
    const nodes = [];
    const kept = new Map();
    const subagents = new Map(entries.filter(([, part]) => part.name === "subagent").map(([, part]) => [part.id, part.data?.name]));
    for (const [key, part] of hidden ? entries.slice(hidden) : entries) {
      const known = this.#parts.get(key);
      const node = known?.type === part.type ? known.node : makePart(part, this.desk.base);
      if (known?.part !== part || known.mark !== mark(part)) node.update(part);
      if (part.by) node.dataset.by = subagents.get(part.by) ?? part.by;
      kept.set(key, { node, part, type: part.type, mark: mark(part) });
      nodes.push(node);
    }
    this.#parts = kept;
    place(this.parts, nodes);
  }

  #waiting(run) {
    const asks = run.waiting?.ask ? [this.desk.fold.asks.found.get(run.waiting.ask)].filter(Boolean) : [];
    this.#asks.render(this.asks, asks.filter((ask) => ask.status === "open"), (ask) => ask.ask,
      (ask) => askCard(ask, this.desk), (node, ask) => node.update(ask));
  }

  #foot(run, state) {
    const notes = [];
    if (run.open && run.waiting && !run.waiting.ask) notes.push(`waits: ${run.waiting.reason}`);
    if (run.stalled !== null && run.open) notes.push(`silent for ${Math.round(run.stalled)} s`);
    if (run.shownStatus() === "lost") notes.push("its process is gone; another one may take it over");
    if (run.attempt > 1) notes.push(`attempt ${run.attempt}`);
    if (run.whisper) notes.push("whisper, not shown to the customer");
    if (run.into) notes.push(`given to the run of ${run.into.agent} at work`);
    if (run.error) notes.push(run.error);
    if (run.object && !run.parts.size) notes.push("its parts are in the object store");
    const tokens = Object.entries(run.usage).map(([name, value]) => `${value.toLocaleString()} ${name.replaceAll("_", " ")}`);
    const text = [...notes, ...tokens].join(" · ");
    say(show(this.foot, Boolean(text)), text);
    this.foot.classList.toggle("problem", Boolean(run.error) && state !== "cancelled");
  }

  /** Buttons of a run at work. */
  #controls(run, state) {
    const wanted = this.desk.past || !run.open || run.cancelled ? "" : this.desk.isPaused(run) ? "paused" : "open";
    if (this.menu.dataset.for === wanted) return;
    this.menu.dataset.for = wanted;
    const button = (label, act, title) =>
      h("button.small", { type: "button", title, "aria-label": `${label} ${run.agent}`, onclick: act }, label);
    const control = (type) => () => this.desk.control(type, { to: run.agent, run: run.run });
    place(this.menu, !wanted ? [] : [
      button("Steer", () => this.desk.compose("steer", run), "Say something to it while it works"),
      wanted === "paused" ? button("Resume", control("resume")) : button("Pause", control("pause")),
      button("Redirect", () => this.desk.compose("redirect", run), "End it and ask for something else"),
      button("Cancel", control("cancel")),
    ]);
  }

  /** When it began, for people who hover. */
  title(run) {
    this.head.title = `${run.agent} · began ${time(run.started)}`;
  }
}

/** What tells whether a part has changed: parts grow in place. */
function mark(part) {
  switch (part.type) {
    case "text":
    case "reasoning":
      return `${part.text.length}${part.open ? "+" : ""}`;
    case "tool":
      return `${part.status} ${part.open ? part.text.length : ""} ${part.input !== null} ${part.output !== null} ${part.seconds}`;
  }
  return "";
}
