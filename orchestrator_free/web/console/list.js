/** The sessions: searched, page by page; those where a person is waited for stand first. */
import { h, Keyed, say, show, toast } from "./dom.js";
import { when } from "./format.js";
import { gateway } from "./identity.js";

const PAGE = 100;
/** the list is looked at again after so many milliseconds */
const AGAIN = 20_000;
/** of so many, the newest, is asked whether they wait for a person */
const LOOKED = 12;

export class SessionList {
  #rows = new Keyed();
  #found = new Map();
  #waits = new Map();
  #next = null;
  #looking = false;

  constructor(element, page) {
    this.page = page;
    this.gateway = gateway();
    this.search = h("input", { type: "search", "aria-label": "Search sessions", placeholder: "Search sessions", oninput: () => this.draw() });
    this.search.addEventListener("keydown", (event) => event.key === "Enter" && this.#first());
    this.rows = h("ul.rows");
    this.more = h("button.plain.more", { type: "button", hidden: true, onclick: () => this.#page() }, "Show more");
    this.empty = h("p.empty", { hidden: true });
    element.replaceChildren(
      h("header.side-head", {}, h("h1", {}, "Sessions"),
        h("button.plain", { type: "button", "aria-label": "Reload the list", title: "Reload", onclick: () => this.load() }, "↻"),
        h("button.plain", { type: "button", "aria-label": "New session", title: "New session", onclick: () => this.page.begin() }, "+")),
      h("div.search", {}, this.search), h("div.rows-box", {}, this.rows, this.empty, this.more));
    setInterval(() => document.hidden || void this.#again(), AGAIN);
  }

  /** New sessions on the first page; nothing is said when the gateway is away, the header says it. */
  async #again() {
    const { sessions } = await this.gateway.sessions({ limit: PAGE }).catch(() => ({ sessions: [] }));
    const before = this.#found.size;
    for (const one of sessions) this.#found.set(one.session, one);
    if (sessions.length) this.draw();
    if (this.#found.size > before) void this.#look();
  }

  async load() {
    this.#next = null;
    this.#found.clear();
    await this.#page();
    void this.#look();
  }

  async #page() {
    try {
      const { sessions, next } = await this.gateway.sessions({ limit: PAGE, ...(this.#next && { after: this.#next }) });
      for (const one of sessions) this.#found.set(one.session, one);
      this.#next = next;
    } catch (error) {
      if (!this.page.refused(error)) toast(error.message);
    }
    this.draw();
  }

  /** Whether the newest wait for a person: open asks, or a request to take over. One at a time, it is not urgent. */
  async #look() {
    if (this.#looking) return;
    this.#looking = true;
    const newest = [...this.#found.values()].sort(newer).slice(0, LOOKED);
    for (const { session } of newest) {
      try {
        const about = await this.gateway.json("GET", `/sessions/${encodeURIComponent(session)}/brief`);
        this.waits(session, (about.open?.length ?? 0) + (about.floor?.request ? 1 : 0));
      } catch {
        // it is gone, or the gateway is: the list works without
      }
    }
    this.#looking = false;
  }

  /** How many things in a session wait for a person. */
  waits(session, number) {
    if ((this.#waits.get(session) ?? 0) === number) return;
    this.#waits.set(session, number);
    this.draw();
  }

  draw() {
    const words = this.search.value.trim().toLowerCase().split(/\s+/).filter(Boolean);
    const matches = (one) => {
      const text = `${one.session} ${one.title} ${one.agents.join(" ")}`.toLowerCase();
      return words.every((word) => text.includes(word));
    };
    const shown = [...this.#found.values()].filter(matches).sort((one, other) => this.#waiting(other) - this.#waiting(one) || newer(one, other));
    this.#rows.render(this.rows, shown.slice(0, 500), (one) => one.session, (one) => this.#row(one), (node, one) => node.fill(one));
    show(this.more, Boolean(this.#next));
    const typed = this.search.value.trim();
    const unfound = this.#next ? "None of those loaded. Enter opens a session of this name." : "No session matches.";
    say(show(this.empty, !shown.length), typed ? unfound : "No sessions yet.");
  }

  #waiting(one) {
    return this.#waits.get(one.session) ? 1 : 0;
  }

  #first() {
    const first = this.rows.querySelector("a");
    if (first) first.click();
    else if (/^[\w-]+$/.test(this.search.value.trim())) location.hash = `#/s/${this.search.value.trim()}`;
  }

  #row({ session }) {
    const title = h("span.row-title");
    const about = h("span.row-about");
    const at = h("time.dim");
    const badge = h("span.badge", { hidden: true });
    const link = h("a.row", { href: `#/s/${encodeURIComponent(session)}` }, title, at, about, badge);
    const node = h("li", {}, link);
    node.fill = (one) => {
      say(title, one.title || one.session);
      say(about, one.agents.length ? one.agents.join(", ") : one.session);
      say(at, when(one.created));
      const number = this.#waits.get(session) ?? 0;
      say(show(badge, number > 0), number ? `${number} waiting` : "");
      if (this.page.current === session) link.setAttribute("aria-current", "page");
      else link.removeAttribute("aria-current");
    };
    return node;
  }
}

function newer(one, other) {
  return (other.created ?? "").localeCompare(one.created ?? "") || one.session.localeCompare(other.session);
}
