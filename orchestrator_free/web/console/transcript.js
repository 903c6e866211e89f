/** A session as turns (what was asked, the answers beside each other) or as one column for each agent. */
import { runId } from "../client/index.js";
import { avatar, h, Keyed, say, show } from "./dom.js";
import { Card } from "./card.js";
import { count, json, when } from "./format.js";
import { Growing } from "./markdown.js";

/** how many turns, and runs of a column or of a parent, are shown until somebody asks for more */
const TURNS = 30;
const RUNS = 20;
/** the last turns are open, the ones before are folded */
const OPEN = 8;

export class Transcript {
  #cards = new Map();
  #turns = new Keyed();
  #columns = new Keyed();
  #lists = new WeakMap();
  #more = new Map();
  #follow = true;
  #structure = null;
  #off = null;

  constructor(element, desk) {
    this.element = element;
    this.desk = desk;
    this.mode = "turns";
    this.inner = h("div.turns");
    this.earlier = h("button.plain.more", { type: "button", hidden: true, onclick: () => this.#grow("", TURNS) });
    this.latest = h("button.latest", { type: "button", hidden: true, onclick: () => this.toEnd() }, "Jump to the latest");
    this.empty = h("p.empty", { hidden: true }, "Nothing was said yet. Write the first message below.");
    element.replaceChildren(this.earlier, this.inner, this.empty, this.latest);
    this.#off = new AbortController();
    this.#watch(this.#off.signal);
  }

  /** Whether to stay at the end: what is drawn may move the page, only people leave the end. */
  #watch(signal) {
    const { element } = this;
    let moved = 0;
    const by = () => (moved = performance.now());
    for (const name of ["wheel", "touchmove", "pointerdown", "keydown"]) element.addEventListener(name, by, { passive: true, signal });
    element.addEventListener("scroll", () => {
      const atEnd = element.scrollHeight - element.scrollTop - element.clientHeight < 80;
      if (atEnd) this.#follow = true;
      else if (performance.now() - moved < 1000) this.#follow = false;
      show(this.latest, !this.#follow);
    }, { passive: true, signal });
    const resized = new ResizeObserver(() => this.#stay());
    resized.observe(this.inner);
    signal.addEventListener("abort", () => resized.disconnect());
  }

  #stay() {
    if (this.#follow) this.element.scrollTop = this.element.scrollHeight;
  }

  close() {
    this.#off.abort();
  }

  toEnd() {
    this.#follow = true;
    this.element.scrollTop = this.element.scrollHeight;
  }

  /** Forget everything: another session, or another place in time. */
  clear() {
    this.#cards.clear();
    this.#turns = new Keyed();
    this.#columns = new Keyed();
    this.#lists = new WeakMap();
    this.#structure = null;
    this.inner.replaceChildren();
  }

  setMode(mode) {
    this.mode = mode;
    this.clear();
    this.inner.className = mode;
    this.element.dataset.mode = mode;
    this.layout();
  }

  /** Show what changed: some runs (by key), or everything where the structure did. */
  update(dirty, structure) {
    if (structure || this.#structure !== this.desk.fold) this.layout();
    for (const key of dirty) {
      const run = this.desk.fold.runs.get(key);
      if (run) this.#cards.get(key)?.update(run);
    }
  }

  /** Update what is shown of all runs. */
  refresh() {
    for (const [key, card] of this.#cards) {
      const run = this.desk.fold.runs.get(key);
      if (run) card.update(run);
    }
  }

  #grow(key, by) {
    this.#more.set(key, (this.#more.get(key) ?? 0) + by);
    this.layout();
  }

  layout() {
    const { fold } = this.desk;
    this.#structure = fold;
    const inputs = [...fold.inputs.values()].sort((one, other) => one.sequence - other.sequence);
    const runs = [...fold.runs.values()].sort((one, other) => one.first - other.first);
    const children = new Map();
    for (const run of runs) {
      const parent = above(fold, run);
      if (parent) push(children, `${parent.agent} ${parent.run}`, run);
    }
    show(this.empty, !inputs.length && !runs.length);
    if (this.mode === "columns") this.#layColumns(inputs, runs);
    else this.#layTurns(inputs, runs, children);
  }

  #layTurns(inputs, runs, children) {
    const turns = this.desk.turns(inputs, runs);
    const most = TURNS + (this.#more.get("") ?? 0);
    const shown = turns.slice(-most);
    const hidden = turns.length - shown.length;
    say(show(this.earlier, hidden > 0), hidden ? `Show ${count(Math.min(hidden, TURNS), "earlier message")} of ${hidden}` : "");
    const folded = new Set(shown.slice(0, -OPEN).flatMap((turn) => turn.runs.map((run) => run.run)));
    this.#turns.render(this.inner, shown, (turn) => turn.key, (turn) => this.#turn(turn), (node, turn) => {
      node.fill(turn);
      this.#runs(node.answers, turn.runs, children, folded, turn.key);
    });
  }

  #turn(turn) {
    const answers = h("div.answers");
    const queued = h("p.queued.dim", { hidden: true });
    const node = h("section.turn", { "aria-label": turn.input ? `${turn.input.from} said` : "Work without a message" });
    node.answers = answers;
    const said = turn.input ? this.#said(turn.input) : null;
    node.append(...(said ? [said] : []), answers, queued);
    node.fill = (now) => {
      said?.fill(now.input);
      node.dataset.count = String(Math.min(4, now.runs.length));
      const waits = now.waits.join(", ");
      say(show(queued, Boolean(waits)), waits ? `waits for ${waits}` : "");
    };
    return node;
  }

  /** What somebody said. */
  #said(input) {
    const body = h("div.text");
    const growing = new Growing(body);
    const kind = h("span.tag", { hidden: true });
    const to = h("span.dim");
    const siblings = h("span.siblings", { hidden: true });
    const data = h("details.part.data", { hidden: true }, h("summary", {}, h("span.kind", {}, "Data")), h("pre", { tabindex: "0" }));
    data.addEventListener("toggle", () => data.open && say(data.querySelector("pre"), json(data.value).slice(0, 20_000)));
    const node = h("div.said", {}, avatar(input.from),
      h("div.bubble", {}, h("div.said-head", {}, h("strong", {}, input.from), to, kind, h("time.dim", {}, when(input.time)), siblings), body, data));
    node.fill = (now) => {
      growing.update(now.text || (now.data === null ? "(no text)" : ""));
      node.dataset.note = String(now.note);
      say(to, `to ${now.note ? "the customer" : now.targets.map((name) => (name === "all" ? "everybody" : name)).join(", ")}`);
      say(show(kind, now.note || now.whisper), now.whisper ? "whisper" : "note");
      data.value = now.data;
      show(data, now.data !== null);
      this.#siblings(siblings, now);
    };
    return node;
  }

  /** Other versions of what was said here: which of how many is shown, and a way to the others. */
  #siblings(node, input) {
    const all = this.desk.siblings(input);
    const at = all.findIndex((key) => key === `${input.from}/${input.input}`);
    const mark = all.length > 1 && at >= 0 ? `${at} ${all.join(" ")}` : "";
    if (node.dataset.mark === mark) return;
    node.dataset.mark = mark;
    show(node, Boolean(mark));
    if (!mark) return node.replaceChildren();
    const step = (label, by, sign) => h("button.plain", {
      type: "button", "aria-label": label, disabled: !all[at + by], onclick: () => this.desk.branch(all[at + by]),
    }, sign);
    return node.replaceChildren(step("Earlier version", -1, "‹"), `${at + 1} of ${all.length}`, step("Later version", 1, "›"));
  }

  #runs(parent, runs, children, folded, key) {
    const most = RUNS + (this.#more.get(key) ?? 0);
    const shown = runs.slice(-most);
    const hidden = runs.length - shown.length;
    let list = this.#lists.get(parent);
    if (!list) this.#lists.set(parent, (list = new Keyed()));
    const items = hidden ? [{ hidden }, ...shown] : shown;
    list.render(parent, items, (one) => (one.hidden ? "more" : `${one.agent} ${one.run}`),
      (one) => (one.hidden ? this.#moreButton(key) : this.#card(one).element),
      (node, one) => {
        if (one.hidden) return say(node, `Show ${count(Math.min(RUNS, hidden), "earlier run")} of ${hidden}`);
        const card = this.#card(one);
        card.open(!folded.has(one.run) || one.open, false);
        card.update(one);
        const below = children?.get(`${one.agent} ${one.run}`) ?? [];
        show(card.children, below.length > 0);
        if (below.length || card.children.firstChild) this.#runs(card.children, below, children, folded, `${key}/${one.agent} ${one.run}`);
      });
  }

  #moreButton(key) {
    return h("button.plain.more", { type: "button", onclick: () => this.#grow(key, RUNS) });
  }

  #card(run) {
    const key = `${run.agent} ${run.run}`;
    let card = this.#cards.get(key);
    if (!card) this.#cards.set(key, (card = new Card(this.desk)));
    return card;
  }

  #layColumns(inputs, runs) {
    const groups = new Map();
    for (const run of runs) push(groups, run.agent, run);
    for (const agent of this.desk.fold.meta.agents) if (!groups.has(agent)) groups.set(agent, []);
    show(this.earlier, false);
    const people = this.desk.turns(inputs, []).filter((turn) => turn.input).map((turn) => turn.input).slice(-60);
    const columns = [{ agent: "", inputs: people }, ...[...groups].map(([agent, own]) => ({ agent, runs: own }))];
    this.#columns.render(this.inner, columns, (one) => one.agent, (one) => this.#column(one), (node, one) => node.fill(one));
  }

  #column({ agent }) {
    const state = h("span.dim");
    const list = h("div.column-runs");
    const title = agent ? [avatar(agent, "agent"), h("h3", {}, agent)] : [h("h3", {}, "People")];
    const node = h("section.column", { "aria-label": agent || "People" }, h("header.column-head", {}, ...title, state), list);
    const said = new Keyed();
    node.fill = (now) => {
      if (!agent) {
        say(state, count(now.inputs.length, "message"));
        return said.render(list, now.inputs, (one) => `${one.from}/${one.input}`, (one) => this.#said(one), (item, one) => item.fill(one));
      }
      say(state, count(now.runs.length, "run"));
      const folded = new Set(now.runs.slice(0, -OPEN).map((run) => run.run));
      return this.#runs(list, now.runs, null, folded, `column ${agent}`);
    };
    return node;
  }
}

/** agents delegate half as deep */
const DEEPEST = 16;

/** The run that a run stands below, if what parents claim comes to an end: it can go round in a circle, or on and on. */
function above(fold, run) {
  const parent = (one) => one.parent && fold.runs.get(`${one.parent.agent} ${one.parent.run}`);
  const found = parent(run);
  let deep = 0;
  for (let one = found; one; one = parent(one)) if (++deep > DEEPEST) return null;
  return found;
}

/** Inputs (one for each of what was said, whoever it went to) with the runs that answer them. */
export function turnsOf(fold, inputs, runs) {
  const turns = new Map();
  for (const entry of inputs) {
    if (entry.parent) continue; // delegated: its run shows it
    const key = `${entry.from}/${entry.input}`;
    const known = turns.get(key);
    if (known) known.input.targets.push(entry.to);
    else turns.set(key, { key, input: { ...entry, targets: [entry.to] }, runs: [], waits: [] });
  }
  for (const run of runs) {
    if (above(fold, run)) continue;
    const turn = turns.get(run.input);
    if (turn) turn.runs.push(run);
    else turns.set(`run ${run.agent} ${run.run}`, { key: `run ${run.agent} ${run.run}`, input: null, runs: [run], waits: [] });
  }
  for (const [agent, , entry] of fold.queued()) turns.get(`${entry.from}/${entry.input}`)?.waits.push(agent);
  return onBranch(fold, [...turns.values()]);
}

/** Without what was said on branches that people left. */
function onBranch(fold, turns) {
  const { after } = fold.branches;
  if (!after?.size || after.size === fold.branches.path().length) return turns;
  const path = new Set(fold.branches.path());
  const gone = new Set([...after.keys()].filter((key) => !path.has(key)).map((key) => {
    const cut = key.indexOf("/");
    return runId(key.slice(0, cut), key.slice(cut + 1));
  }));
  return turns.filter((turn) => {
    if (!turn.input) return !turn.runs.every((run) => gone.has(run.run));
    return !after.has(turn.key) || path.has(turn.key);
  });
}

function push(lists, key, item) {
  const known = lists.get(key);
  if (known) known.push(item);
  else lists.set(key, [item]);
}
