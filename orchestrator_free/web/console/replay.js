/** The timeline: the session as it was at any position, folded from its log. */
import { Fold } from "../client/index.js";
import { announce, h, perFrame, say, show } from "./dom.js";
import { short, time } from "./format.js";

const CHECKPOINTS = 24;
const STEP = 1000;
const SPEEDS = [1, 4, 16, 64];
/** at speed 1 so many events come in a second */
const RATE = 12;

const sequenceOf = (position) => Number(position.slice(position.lastIndexOf("-") + 1));

/** The whole log, in order; `seen` are events that came live, whose runs may be compacted since. */
export async function readLog(client, seen, signal) {
  const found = new Map(seen.map((event) => [sequenceOf(event.position), event]));
  for await (const event of client.history(null, signal)) found.set(sequenceOf(event.position), event);
  return [...found].sort((one, other) => one[0] - other[0]).map(([, event]) => event);
}

/** A session's events with folds kept at some places, so that any place is reached quickly. */
export class Tape {
  #kept = [];
  constructor(session, events) {
    this.session = session;
    this.events = events;
    this.step = Math.max(STEP, Math.ceil(events.length / CHECKPOINTS));
    this.at = 0;
    this.fold = new Fold(session);
  }

  /** Fold the first `count` events. */
  seek(count) {
    if (count < this.at || count - this.at > this.step) this.#jump(count);
    while (this.at < count) {
      if (this.at && this.at % this.step === 0 && !this.#kept[this.at / this.step]) this.#kept[this.at / this.step] = this.fold.view();
      this.fold.apply(this.events[this.at]);
      this.at += 1;
    }
    return this.fold;
  }

  #jump(count) {
    let place = Math.floor(count / this.step);
    while (place > 0 && !this.#kept[place]) place -= 1;
    if (place * this.step <= this.at && this.at <= count) return;
    this.fold = place ? Fold.load(structuredClone(this.#kept[place])) : new Fold(this.session);
    this.at = place * this.step;
  }
}

/** The bar with the slider; `desk.show(fold)` is told what to show, null for now. */
export class Replay {
  #tape = null;
  #timer = 0;
  #abort = null;
  #marks = null;

  constructor(element, desk) {
    this.element = element;
    this.desk = desk;
    this.play = h("button.round", { type: "button", "aria-label": "Play", onclick: () => this.toggle() }, "▶");
    this.slider = h("input", { type: "range", min: "0", max: "0", step: "1", "aria-label": "Position in the log", oninput: () => this.#seek() });
    this.canvas = h("canvas", { "aria-hidden": "true", height: "18", width: "600" });
    this.label = h("span.replay-label");
    this.what = h("span.dim.replay-what");
    this.speed = h("select", { "aria-label": "Speed" }, SPEEDS.map((one) => h("option", { value: String(one) }, `${one}×`)));
    this.speed.value = "4";
    this.now = h("button", { type: "button", onclick: () => this.close() }, "Back to live");
    this.seek = perFrame(() => this.#show());
    element.replaceChildren(this.play, h("div.track", {}, this.canvas, this.slider),
      h("div.replay-words", {}, this.label, this.what), this.speed, this.now);
  }

  get active() {
    return this.#tape !== null;
  }

  async open() {
    if (this.#tape || this.#abort) return;
    this.#abort = new AbortController();
    show(this.element, true);
    say(this.label, "Reading the log…");
    try {
      const events = await readLog(this.desk.client, this.desk.seen, this.#abort.signal);
      this.#tape = new Tape(this.desk.session, events);
      this.slider.max = String(events.length);
      this.slider.value = String(events.length);
      this.#marks = events.map((event) => mark(event));
      this.#draw();
      this.#seek();
      this.slider.focus();
      announce("Timeline open. Arrow keys move through the log.");
    } catch (error) {
      if (this.#abort?.signal.aborted !== true) this.desk.problem(error);
      this.close();
    } finally {
      this.#abort = null;
    }
  }

  close() {
    this.#abort?.abort();
    this.#abort = null;
    this.#stop();
    const was = this.#tape;
    this.#tape = null;
    show(this.element, false);
    if (was) this.desk.show(null);
  }

  toggle() {
    if (!this.#tape) return;
    if (this.#timer) return void this.#stop();
    if (Number(this.slider.value) >= this.#tape.events.length) this.slider.value = "0";
    say(this.play, "⏸").setAttribute("aria-label", "Pause");
    let last = performance.now();
    let owed = 0;
    const tick = () => {
      const now = performance.now();
      owed += ((now - last) / 1000) * RATE * Number(this.speed.value);
      last = now;
      const by = Math.floor(owed);
      owed -= by;
      if (by) this.slider.value = String(Number(this.slider.value) + by);
      if (by) this.#seek();
      if (Number(this.slider.value) >= this.#tape.events.length) this.#stop();
    };
    this.#timer = setInterval(tick, 50);
  }

  #stop() {
    clearInterval(this.#timer);
    this.#timer = 0;
    say(this.play, "▶").setAttribute("aria-label", "Play");
  }

  #seek() {
    const at = Number(this.slider.value);
    const event = this.#tape.events[at - 1];
    const text = `${at.toLocaleString()} of ${this.#tape.events.length.toLocaleString()} events`;
    say(this.label, event ? `${time(event.time)} · ${text}` : text);
    say(this.what, event ? describe(event) : "the beginning");
    this.slider.setAttribute("aria-valuetext", `${text}, ${event ? describe(event) : "the beginning"}`);
    this.seek();
  }

  #show() {
    if (this.#tape) this.desk.show(this.#tape.seek(Number(this.slider.value)));
  }

  /** Where something happened, as strokes over the slider. */
  #draw() {
    const { canvas } = this;
    const pen = canvas.getContext("2d");
    const style = getComputedStyle(this.element);
    const width = (canvas.width = Math.max(100, canvas.clientWidth || 600));
    pen.clearRect(0, 0, width, 18);
    const colours = { in: "--accent", run: "--ok", ask: "--warn", floor: "--warn", ctl: "--bad", other: "--line" };
    const drawn = new Set();
    this.#marks.forEach((kind, number) => {
      const x = Math.round((number / Math.max(1, this.#marks.length)) * (width - 2));
      if (!kind || drawn.has(`${x}${kind}`)) return;
      drawn.add(`${x}${kind}`);
      pen.fillStyle = style.getPropertyValue(colours[kind] ?? colours.other);
      const tall = kind === "in" || kind === "ask" || kind === "floor" || kind === "ctl";
      pen.fillRect(x, tall ? 1 : 7, 2, tall ? 16 : 10);
    });
  }
}

function mark(event) {
  if (event.kind !== "run") return event.kind;
  return event.event.type === "run.started" || event.event.type === "run.finished" ? "run" : "";
}

function describe(event) {
  const body = event.event;
  switch (event.kind) {
    case "in":
      return `${event.member} to ${event.target}: ${short(body.text, 60)}`;
    case "run":
      return `${event.member}: ${body.type}${body.tool ? ` ${body.tool}` : ""}${body.status ? `, ${body.status}` : ""}`;
    case "state":
      return `${event.member}: ${body.type} ${event.id}`;
    case "ctl":
      return `${event.member}: ${body.type} to ${event.target}`;
    case "floor":
      return `${event.member}: floor, ${body.step}`;
  }
  return `${event.member}: ${body.type}`;
}
