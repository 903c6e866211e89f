/** One open session: the live connection, what is shown of it (now or the past), and what can be done. */
import { Fold, Session } from "../client/index.js";
import { announce, perFrame, toast } from "./dom.js";
import { short } from "./format.js";
import { token } from "./identity.js";
import { turnsOf } from "./transcript.js";

/** so many events that came live are kept for the timeline: their runs may be compacted in the log meanwhile */
const SEEN = 50_000;

export class Desk {
  seen = [];
  members = new Map();
  #shown = null;
  #dirty = new Set();
  #structure = true;
  #aside = new Set();
  #off = [];
  #partial = new Set();

  /**
   * @param draw called at most once per frame with what changed: `{runs, structure, aside, whole}`.
   */
  constructor({ session, member, draw, status }) {
    Object.assign(this, { session, member });
    this.client = new Session({ session, member, token });
    this.path = `/sessions/${encodeURIComponent(session)}`;
    this.base = this.client.http.url(this.path);
    this.live = new Fold(session);
    this.ask = perFrame(() => this.#draw(draw));
    this.#off = [
      this.client.on("event", (event) => this.#take(event)),
      this.client.on("change", () => this.#check()),
      this.client.on("control-frame", (frame) => frame.control === "snapshot" && this.#load(frame.data)),
      this.client.on("presence", (members) => this.#present(members)),
      this.client.on("status", (now, error) => status(now, error)),
      this.client.on("outbox", () => this.#mark("outbox")),
    ];
  }

  open() {
    return this.client.open();
  }

  close() {
    for (const off of this.#off) off?.();
    this.client.close();
  }

  /** What is shown: the session now, or as it was. */
  get fold() {
    return this.#shown ?? this.live;
  }

  get past() {
    return this.#shown !== null;
  }

  /** Show a fold of the past; null for now. */
  show(fold) {
    const was = this.#shown;
    this.#shown = fold;
    if (Boolean(was) !== Boolean(fold)) announce(fold ? "You are looking at the past." : "You are looking at the present.");
    this.#reset();
  }

  #reset() {
    this.#structure = true;
    for (const key of this.fold.runs.keys()) this.#dirty.add(key);
    this.#mark("all");
  }

  #mark(what) {
    this.#aside.add(what);
    this.ask();
  }

  /** The client's view came whole, from a snapshot or another tab; or parts came that were in the object store. */
  #check() {
    const { position } = this.client;
    if (position !== null && position !== this.live.position) this.#load(this.client.view);
    if (this.#partial.size) this.#complete();
  }

  #load(view) {
    this.live = Fold.load(structuredClone(view));
    for (const [key, run] of this.live.runs) if (run.object && !run.parts.size) this.#partial.add(key);
    if (!this.#shown) this.#reset();
  }

  #complete() {
    const whole = Fold.load(structuredClone(this.client.view)).runs;
    for (const key of this.#partial) {
      const [run, found] = [this.live.runs.get(key), whole.get(key)];
      if (!found?.parts.size) continue;
      if (run) [run.parts, run.usage, run.attempts] = [found.parts, found.usage, found.attempts];
      this.#partial.delete(key);
      this.#dirty.add(key);
      this.ask();
    }
  }

  #take(event) {
    this.live.apply(event);
    if (event.event.type === "run.finished" && event.event.object) this.#partial.add(`${event.member} ${event.id}`);
    if (this.seen.length < SEEN) this.seen.push(event);
    this.#tell(event);
    if (this.#shown) return;
    switch (event.kind) {
      case "run":
        this.#dirty.add(`${event.member} ${event.id}`);
        if (event.event.type === "run.started" || event.event.type === "run.finished") this.#structure = true;
        if (event.event.type !== "text.delta") this.#aside.add("agents");
        break;
      case "ctl":
      case "outcome":
      case "presence":
        for (const run of this.live.runs.values()) if (run.open || run.cancelled) this.#dirty.add(`${run.agent} ${run.run}`);
        this.#aside.add(event.kind).add("agents");
        break;
      case "in":
      case "meta":
        this.#structure = true;
        this.#aside.add("all");
        break;
      default:
        this.#structure ||= event.kind === "ask" || event.kind === "answer" || event.kind === "stage";
        this.#aside.add(event.kind === "floor" ? "all" : event.kind);
    }
    this.ask();
  }

  /** For people who listen: what begins, ends, or wants something of them; never token by token. */
  #tell(event) {
    const body = event.event;
    if (body.type === "run.started") announce(`${event.member} begins.`);
    else if (body.type === "run.finished") announce(`${event.member}: ${body.status}.`);
    else if (body.type === "ask") announce(`${event.member} asks: ${short(body.text, 100)}`);
    else if (event.kind === "floor") announce(`Floor: ${event.member}, ${body.step}.`);
    else if (event.kind === "in" && event.member !== this.member && !body.parent) announce(`${event.member} wrote: ${short(body.text, 100)}`);
  }

  #present(members) {
    this.members = new Map(members.map((one) => [one.member, one]));
    this.#mark("presence");
  }

  #draw(draw) {
    const what = { runs: this.#dirty, structure: this.#structure, aside: this.#aside };
    [this.#dirty, this.#structure, this.#aside] = [new Set(), false, new Set()];
    draw(what);
  }

  // -- what the parts of the page ask ----------------------------------------------------------------------------

  agents() {
    const names = new Set(this.live.meta.agents);
    for (const run of this.live.runs.values()) names.add(run.agent);
    return [...names];
  }

  turns(inputs, runs) {
    return turnsOf(this.fold, inputs, runs);
  }

  /** The input that a run answers, where it is not beside it anyway. */
  asked(run) {
    const cut = run.input.indexOf("/");
    const [from, id] = [run.input.slice(0, cut), run.input.slice(cut + 1)];
    return this.fold.inputs.get(`${from}/${run.agent}/${id}`) ?? this.fold.inputs.get(`${from}/all/${id}`) ?? null;
  }

  /** Keys of all that was said in the place of an input, itself among them. */
  siblings(input) {
    const { after, childrenOf } = this.fold.branches;
    const place = after?.get(`${input.from}/${input.input}`);
    return place === undefined ? [] : (childrenOf?.get(place) ?? []);
  }

  isPaused(run) {
    let paused = false;
    for (const control of this.live.controls.found.values()) {
      if (control.type !== "pause" && control.type !== "resume") continue;
      const meant = [run.agent, "all"].includes(control.to) && (control.run === null || control.run === run.run);
      if (meant && control.sequence > run.first && control.outcomes[run.agent]?.state !== "rejected") paused = control.type === "pause";
    }
    return paused;
  }

  openAsks() {
    return [...this.fold.asks.found.values()].filter((ask) => ask.status === "open");
  }

  /** The person who is served: the last one who said something and does no runs. */
  customer() {
    const workers = new Set([...this.agents(), this.member]);
    const said = [...this.live.inputs.values()].sort((one, other) => other.sequence - one.sequence);
    const found = said.find((entry) => !entry.note && !entry.whisper && !entry.parent && !workers.has(entry.from));
    return found?.from ?? (this.live.meta.by && !workers.has(this.live.meta.by) ? this.live.meta.by : "user");
  }

  // -- what people do --------------------------------------------------------------------------------------------

  problem(error) {
    toast(error?.message ?? String(error));
  }

  /** Do something; false, and a message, if it was refused. */
  async #try(work) {
    try {
      await work();
      return true;
    } catch (error) {
      this.problem(error);
      return false;
    }
  }

  send(text, { to, whisper, note }) {
    const target = note ? this.customer() : to;
    return this.#try(() => this.client.send(text, { to: target, ...(whisper && { whisper }), ...(note && { note }) }));
  }

  control(type, about) {
    const { text, ...rest } = about;
    return this.#try(() => (text === undefined ? this.client[type](rest) : this.client[type](text, rest)));
  }

  answer(ask, value) {
    return this.#try(() => this.client.answer(ask, value));
  }

  floor(step, about = {}) {
    return this.#try(() => this.client.floor(step, about));
  }

  branch(key) {
    return this.#try(() => this.client.http.json("POST", `${this.path}/branch`, { body: { input: key, from: this.member } }));
  }

  brief() {
    return this.client.brief();
  }
}
