/** Beside the conversation: who needs a person, the floor, the agents as a tree, who is here, shared values, decisions. */
import { askCard } from "./asks.js";
import { avatar, h, Keyed, place, say, show } from "./dom.js";
import { count, json, short, time, when } from "./format.js";
import { doing, statusWord } from "./card.js";

/** runs of the tree that are shown of each agent */
const TREE = 6;
const ENDED = 12;

const PRESENCE = { joined: "here", idle: "idle", thinking: "thinking", streaming: "streaming",
  waiting: "waiting", stalled: "silent", away: "away", offline: "offline" };

export class Panel {
  #asks = new Keyed();
  #tree = new Keyed();
  #people = new Keyed();
  #state = new Keyed();
  #past = new Keyed();

  constructor(element, desk, page) {
    this.element = element;
    this.desk = desk;
    this.page = page;
    this.needs = section("Needs a person", "needs");
    this.floor = section("Floor");
    this.tree = section("Agents");
    this.people = section("People");
    this.state = section("State");
    this.past = section("Decisions and controls", "", true);
    element.replaceChildren(...[this.needs, this.floor, this.tree, this.people, this.state, this.past].map((one) => one.element));
  }

  update(aside) {
    const all = aside.has("all");
    const has = (...names) => all || names.some((name) => aside.has(name));
    if (has("ask", "answer", "stage", "floor")) this.#needs();
    if (has("floor", "presence")) this.#floor();
    if (has("agents", "presence", "ctl")) this.#agents();
    if (has("presence")) this.#present();
    if (has("state")) this.#values();
    if (has("ask", "answer", "stage", "ctl", "outcome")) this.#ended();
  }

  #needs() {
    const asks = this.desk.openAsks();
    const request = this.desk.fold.floor?.request;
    show(this.needs.element, asks.length > 0 || Boolean(request));
    this.needs.count(asks.length + (request ? 1 : 0));
    const items = [...(request ? [{ request }] : []), ...asks];
    this.#asks.render(this.needs.body, items, (one) => (one.request ? `request ${one.request.from} ${this.desk.member} ${this.desk.past}` : one.ask),
      (one) => (one.request ? this.#request(one.request) : askCard(one, this.desk)), (node, one) => node.update?.(one));
  }

  #request(request) {
    const act = (label, step, kind) => h(`button.${kind}`, { type: "button", onclick: () => this.desk.floor(step) }, label);
    const mine = request.to === "desk" || request.to === this.desk.member;
    const buttons = this.desk.past ? [] : request.from === this.desk.member ? [act("Withdraw", "withdraw", "no")]
      : mine ? [act("Accept", "accept", "yes"), act("Decline", "decline", "no")] : [];
    return h("section.ask", { "aria-label": "Request to take over" },
      h("div.ask-head", {}, h("strong", {}, "Take over?"), h("span.state", {}, `asked: ${request.to}`)),
      h("p.ask-text", {}, `${request.from} asks ${request.to === "desk" ? "for a person" : request.to} to answer from here on.`),
      request.reason ? h("p.dim", {}, request.reason) : "", h("div.ask-actions", {}, buttons));
  }

  #floor() {
    const { floor } = this.desk.fold;
    const me = this.desk.member;
    const holder = floor?.holder ?? null;
    const mark = JSON.stringify([holder, floor?.request, floor?.revision, me, this.desk.past]);
    if (this.floor.body.dataset.mark === mark) return;
    this.floor.body.dataset.mark = mark;
    const act = (label, step, kind = "") => h(`button${kind}`, { type: "button", onclick: () => this.desk.floor(step) }, label);
    const buttons = this.desk.past ? [] : holder === me
      ? [act("Hand back", "return", ".primary"), act("Release", "release")]
      : [act("Take over", "take", holder ? "" : ".primary")];
    const who = holder ? [avatar(holder), h("div", {}, h("strong", {}, holder === me ? "You have the floor" : `${holder} has the floor`),
      h("p.dim", {}, [floor.reason, when(floor.time)].filter(Boolean).join(" · ")))]
      : [h("p.dim", {}, "Nobody holds it: every agent that is asked answers.")];
    place(this.floor.body, [h("div.floor", {}, who), h("div.ask-actions", {}, buttons,
      this.desk.past ? "" : h("button", { type: "button", onclick: () => this.page.brief() }, "Brief"))]);
  }

  #agents() {
    const { fold, members } = this.desk;
    const runs = new Map();
    for (const run of fold.runs.values()) {
      const own = runs.get(run.agent);
      if (own) own.push(run);
      else runs.set(run.agent, [run]);
    }
    const names = [...new Set([...fold.meta.agents, ...runs.keys()])];
    this.tree.count(names.length);
    const items = names.map((agent) => ({ agent, runs: runs.get(agent) ?? [], member: members.get(agent) }));
    this.#tree.render(this.tree.body, items, (one) => one.agent, (one) => this.#agent(one), (node, one) => node.fill(one));
    show(this.tree.element, names.length > 0);
  }

  #agent({ agent }) {
    const state = h("span.state");
    const detail = h("span.dim");
    const menu = h("span.actions");
    const list = h("ul.tree");
    const keyed = new Keyed();
    const words = h("div.agent-words", {}, h("strong", {}, agent), detail);
    const node = h("div.agent", {}, h("div.agent-head", {}, avatar(agent, "agent"), words, state), menu, list);
    node.fill = ({ runs, member }) => {
      const open = runs.filter((run) => run.open && !run.cancelled);
      const status = this.#agentState(agent, member, open);
      node.dataset.state = status;
      say(state, PRESENCE[status] ?? statusWord(status));
      say(detail, this.#detail(agent, member, runs));
      this.#menu(menu, agent, open);
      const shown = runs.slice(-TREE).filter((run) => run.open || run.parent).slice(-TREE);
      keyed.render(list, shown, (run) => run.run, (run) => this.#leaf(run), (item, run) => item.fill(run));
      show(list, shown.length > 0);
    };
    return node;
  }

  #agentState(agent, member, open) {
    if (this.desk.fold.offline.has(agent)) return "offline";
    if (open.length) return doing(open.at(-1));
    const away = !this.desk.past && ["offline", "away"].includes(member?.status);
    return away ? member.status : "idle"; // what it does stands in the log first
  }

  #detail(agent, member, runs) {
    const offline = this.desk.fold.offline.get(agent);
    if (offline) return offline.reason || "no process is running";
    const waiting = runs.findLast((run) => run.open && !run.cancelled && run.waiting);
    if (waiting) return `waits for ${waiting.waiting.reason}`;
    const processes = !this.desk.past && member?.device_count ? `${count(member.device_count, "process", "processes")} · ` : "";
    return processes + count(runs.length, "run");
  }

  /** What can be said to an agent as a whole, while it is at work. */
  #menu(menu, agent, open) {
    const wanted = !open.length || this.desk.past ? "" : open.every((run) => this.desk.isPaused(run)) ? "paused" : "open";
    if (menu.dataset.for === wanted) return;
    menu.dataset.for = wanted;
    const button = (label, type) => {
      const onclick = () => this.desk.control(type, { to: agent });
      return h("button.small", { type: "button", "aria-label": `${label} all of ${agent}`, onclick }, label);
    };
    place(menu, !wanted ? [] : [wanted === "paused" ? button("Resume", "resume") : button("Pause", "pause"), button("Cancel", "cancel")]);
  }

  /** A run in the tree: for whom it works, and how it stands. */
  #leaf(run) {
    const state = h("span.state");
    const button = h("button.plain.leaf", { type: "button", onclick: () => this.page.reveal(run) });
    const words = run.parent ? `for ${run.parent.agent}` : short(this.desk.asked(run)?.text ?? run.run, 34);
    button.append(h("span.branch", { "aria-hidden": "true" }, run.parent ? "└" : "·"), h("span.leaf-words", {}, words), state);
    const node = h("li", {}, button);
    node.fill = (now) => {
      node.dataset.state = doing(now);
      say(state, statusWord(doing(now)));
    };
    return node;
  }

  #present() {
    const agents = new Set(this.desk.agents());
    const people = [...this.desk.members.values()].filter((one) => one.kind !== "agent" && !agents.has(one.member));
    this.people.count(people.length);
    show(this.people.element, people.length > 0 && !this.desk.past);
    this.#people.render(this.people.body, people, (one) => one.member, ({ member }) => {
      const state = h("span.state");
      const detail = h("span.dim");
      const name = member === this.desk.member ? `${member} (you)` : member;
      const node = h("div.person", {}, avatar(member), h("div.agent-words", {}, h("strong", {}, name), detail), state);
      return Object.assign(node, { fill: (one) => {
        node.dataset.state = one.status;
        say(state, PRESENCE[one.status] ?? one.status);
        const facts = [one.device_count ? count(one.device_count, "device") : "", one.reason, one.back ? `back ${when(one.back)}` : ""];
        say(detail, facts.filter(Boolean).join(" · "));
      } });
    }, (node, one) => node.fill(one));
  }

  #values() {
    const entries = [...this.desk.fold.state].sort((one, other) => one[0].localeCompare(other[0]));
    this.state.count(entries.length);
    show(this.state.element, entries.length > 0);
    this.#state.render(this.state.body, entries.slice(0, 200), ([key]) => key, ([key]) => {
      const value = h("pre.value", { tabindex: "0", "aria-label": `Value of ${key}` });
      const by = h("span.dim");
      const node = h("div.entry", {}, h("div.entry-head", {}, h("code", {}, key), by), value);
      let revision = null;
      node.fill = (entry) => {
        if (revision === entry.revision) return;
        if (revision !== null) node.classList.add("changed");
        setTimeout(() => node.classList.remove("changed"), 1200);
        revision = entry.revision;
        say(value, json(entry.value).slice(0, 4000));
        say(by, `${entry.by} · ${time(entry.time)}`);
      };
      return node;
    }, (node, [, entry]) => node.fill(entry));
  }

  #ended() {
    const { fold } = this.desk;
    const asks = [...fold.asks.found.values()].filter((ask) => ask.status !== "open");
    const items = [...asks, ...fold.controls.found.values()].sort((one, other) => other.sequence - one.sequence).slice(0, ENDED);
    show(this.past.element, items.length > 0);
    this.past.count(asks.length + fold.controls.found.size);
    this.#past.render(this.past.body, items, (one) => one.sequence, () => {
      const node = h("div.entry", {}, h("div.entry-head", {}, h("strong"), h("span.dim")), h("p.dim"));
      return node;
    }, (node, one) => {
      const [title, at, text] = [node.querySelector("strong"), node.querySelector("span"), node.querySelector("p")];
      say(at, time(one.time));
      if (one.ask) {
        say(title, `${short(one.text || one.about, 60)}`);
        const value = one.status === "decided" ? short(json(one.value), 50) : "";
        say(text, [one.status, value, one.by.join(", "), one.reason].filter(Boolean).join(" · "));
      } else {
        const outcomes = Object.entries(one.outcomes).map(([agent, out]) => `${agent}: ${out.state.replace("_", " ")}`);
        say(title, `${one.type} ${one.to === "all" ? "everybody" : one.to}`);
        say(text, [`by ${one.from}`, one.text || one.reason, outcomes.join(", ") || "no answer yet"].filter(Boolean).join(" · "));
      }
    });
  }
}

function section(title, kind = "", folded = false) {
  const number = h("span.number");
  const body = h("div.section-body");
  const element = h(`details.section${kind ? `.${kind}` : ""}`, { open: !folded }, h("summary", {}, h("h2", {}, title), number), body);
  return { element, body, count: (value) => say(number, value ? String(value) : "") };
}
