/** The console: which session is open, the header, the shortcuts, and what is drawn when. */
import { Composer } from "./composer.js";
import { Desk } from "./desk.js";
import { announce, h, kept, place, say, show, toast } from "./dom.js";
import { openBrief, openHelp, openMember, openNew, openToken } from "./dialogs.js";
import { span } from "./format.js";
import { gateway, setToken, subject } from "./identity.js";
import { SessionList } from "./list.js";
import { Panel } from "./panel.js";
import { Replay } from "./replay.js";
import { Transcript } from "./transcript.js";

const $ = (id) => document.getElementById(id);
const STATUS = { connecting: "Connecting", live: "Live", offline: "Reconnecting", deleted: "Deleted" };

class Page {
  desk = null;
  current = null;
  parts = null;

  constructor() {
    this.list = new SessionList($("sessions"), this);
    this.member = subject() ?? (new URLSearchParams(location.search).get("member") || kept.get("member", "user"));
    this.mode = kept.get("mode", "turns");
    this.#header();
    this.#tabs();
    addEventListener("hashchange", () => this.route());
    document.addEventListener("keydown", (event) => this.#key(event));
    setInterval(() => this.#connection(), 1000);
    this.#welcome();
    void this.list.load();
    this.route();
  }

  // -- the header ------------------------------------------------------------------------------------------------

  #header() {
    this.title = h("h2", { tabindex: "-1" }, "Console");
    this.sub = h("p.dim.sub");
    this.connection = h("span.connection", { role: "img" });
    this.lag = h("span.dim.lag");
    const button = (label, key, onclick, text) => {
      const about = { "aria-label": label, title: `${label} (${key})`, "aria-keyshortcuts": key };
      return h("button.tool-button", { type: "button", ...about, onclick }, text);
    };
    this.layout = button("Columns", "l", () => this.toggleMode(), "Columns");
    this.timeline = button("Timeline", "t", () => this.toggleTimeline(), "Timeline");
    this.who = h("button.tool-button", { type: "button", title: "Who you are", onclick: () => (subject() ? openToken(this) : openMember(this)) });
    this.unguarded = h("span.open-badge", { hidden: true, title: "This gateway asks nobody who they are: everybody who reaches it may do everything." }, "Open");
    this.sessionTools = h("span.session-tools", { hidden: true }, this.layout, this.timeline);
    const theme = button("Light or dark", "c", () => this.theme(), "◐");
    const help = button("Help", "?", () => openHelp(), "?");
    place($("head"), [h("div.head-words", {}, this.title, this.sub), h("span.line-state", {}, this.connection, this.lag),
      this.sessionTools, h("span.page-tools", {}, this.unguarded, this.who, theme, help)]);
    this.as(this.member);
    void this.#guarded();
  }

  /** Say it where the gateway asks nobody who they are. */
  async #guarded() {
    const about = await fetch("../readyz").then((answer) => answer.json()).catch(() => ({}));
    show(this.unguarded, about.identity === "open");
  }

  /** Whether the gateway wants a token, or another one; then it is asked for. */
  refused(error) {
    if (error?.status !== 401) return false;
    if (!$("dialog").open) openToken(this, subject() ? error.message : "");
    return true;
  }

  /** Go on with another token: as its subject. */
  identify(text) {
    setToken(text);
    this.member = subject() ?? this.member;
    kept.set("member", this.member);
    say(this.who, this.member);
    void this.list.load();
    this.open(this.current, false);
  }

  as(member) {
    const other = member !== this.member;
    this.member = member;
    kept.set("member", member);
    say(this.who, member).setAttribute("aria-label", `You are ${member}. Change`);
    if (other && this.current) this.open(this.current);
  }

  theme() {
    const dark = document.documentElement.dataset.theme
      ? document.documentElement.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
    document.documentElement.dataset.theme = dark ? "light" : "dark";
    kept.set("theme", dark ? "light" : "dark");
  }

  #connection() {
    const status = this.desk?.client.status;
    show(this.connection, Boolean(status));
    if (!status) return say(this.lag, "");
    this.connection.dataset.status = status;
    this.connection.setAttribute("aria-label", STATUS[status] ?? status);
    const { lag, outbox } = this.desk.client;
    const unsent = outbox.entries.length;
    const words = [status === "live" && lag !== null ? span(lag / 1000) : STATUS[status]];
    if (unsent) words.push(`${unsent} unsent`);
    this.lag.title = status === "live" ? "How long the last event took to get here" : (this.desk.client.error?.message ?? "");
    return say(this.lag, words.join(" · "));
  }

  #status(now, error) {
    this.refused(error);
    if (now === "offline") announce("The connection is lost. Trying again.");
    if (now === "live" && this.wasOffline) announce("Connected again.");
    this.wasOffline = now === "offline";
    if (now === "deleted") toast("This session was deleted.");
    this.#connection();
  }

  // -- sessions --------------------------------------------------------------------------------------------------

  route() {
    const found = /^#\/s\/([^/?]+)/.exec(location.hash);
    const session = found ? decodeURIComponent(found[1]) : null;
    if (session !== this.current) this.open(session);
  }

  #welcome() {
    show($("composer"), false);
    show($("panel"), false);
    place($("transcript"), [h("div.welcome", {}, h("p", {}, "Choose a session to follow it live."),
      h("p.dim", {}, "Press ? for the keys."))]);
  }

  open(session, lead = true) {
    this.parts?.replay.close();
    this.parts?.transcript.close();
    this.desk?.close();
    [this.desk, this.current, this.parts] = [null, session, null];
    show(this.sessionTools, Boolean(session));
    this.list.draw();
    if (lead) this.pane(session ? "main" : "list");
    if (!session) {
      say(this.title, "Console");
      say(this.sub, "");
      document.title = "Console";
      return this.#welcome();
    }
    say(this.title, session);
    this.desk = new Desk({ session, member: this.member, draw: (what) => this.#draw(what), status: (now, error) => this.#status(now, error) });
    this.#furnish(this.desk);
    const { desk } = this;
    return desk.open().catch((error) => {
      if (desk !== this.desk) return;
      this.open(null, false);
      say(this.title, session);
      place($("transcript"), [h("div.welcome", {}, h("p", {}, error.status === 404 ? `There is no session ${session}.` : error.message))]);
    });
  }

  #furnish(desk) {
    desk.compose = (kind, run) => this.parts.composer.as(kind, run);
    this.parts = {
      transcript: new Transcript($("transcript"), desk), composer: new Composer($("composer"), desk),
      panel: new Panel($("panel"), desk, this), replay: new Replay($("replay"), desk),
    };
    show($("composer"), true);
    show($("panel"), true);
    this.#setMode(this.mode);
  }

  #draw({ runs, structure, aside }) {
    if (!this.parts) return;
    const { transcript, composer, panel } = this.parts;
    transcript.update(runs, structure);
    if (aside.size) panel.update(aside);
    if (aside.has("all")) this.#words();
    if (aside.has("all") || structure) composer.update();
    if (aside.has("ask") || aside.has("answer") || aside.has("stage")) transcript.refresh();
    document.body.classList.toggle("past", this.desk.past);
    this.timeline.setAttribute("aria-pressed", String(this.parts.replay.active));
    if (!this.desk.past) this.#waits(this.desk.openAsks().length + (this.desk.fold.floor?.request ? 1 : 0));
    this.#connection();
  }

  /** How many things wait for a person in the open session. */
  #waits(number) {
    this.list.waits(this.current, number);
    say($("tabs").lastChild, number ? `Details (${number})` : "Details");
  }

  #words() {
    const { meta, floor } = this.desk.fold;
    say(this.title, meta.title || this.current);
    document.title = `${meta.title || this.current} · Console`;
    const words = [this.current];
    if (meta.forked_from) words.push("a fork");
    if (floor?.holder) words.push(floor.holder === this.member ? "you have the floor" : `${floor.holder} has the floor`);
    say(this.sub, words.join(" · "));
  }

  // -- what the page can do ----------------------------------------------------------------------------------------

  #setMode(mode) {
    this.mode = mode;
    kept.set("mode", mode);
    this.layout.setAttribute("aria-pressed", String(mode === "columns"));
    this.parts?.transcript.setMode(mode);
  }

  toggleMode() {
    this.#setMode(this.mode === "columns" ? "turns" : "columns");
  }

  toggleTimeline() {
    const replay = this.parts?.replay;
    if (!replay) return;
    if (replay.active) replay.close();
    else void replay.open();
  }

  /** Bring a run's card into sight. */
  reveal(run) {
    this.pane("main");
    const card = [...document.querySelectorAll("article.card")].find((one) => one.dataset.run === run.run && one.dataset.agent === run.agent);
    if (!card) return announce("That run is further up; show earlier messages first.");
    card.scrollIntoView({ block: "center" });
    card.querySelector(".fold")?.focus();
  }

  async brief() {
    try {
      openBrief(await this.desk.brief());
    } catch (error) {
      toast(error.message);
    }
  }

  begin() {
    openNew(async (about) => {
      try {
        const { session } = await gateway().create(about);
        location.hash = `#/s/${session}`;
        await this.list.load();
      } catch (error) {
        toast(error.message);
      }
    });
  }

  // -- panes of narrow screens, keys -------------------------------------------------------------------------------

  #tabs() {
    const tab = (pane, label) => h("button.tab", { type: "button", "data-pane": pane, onclick: () => this.pane(pane) }, label);
    place($("tabs"), [tab("list", "Sessions"), tab("main", "Conversation"), tab("panel", "Details")]);
    this.pane("list");
  }

  pane(name) {
    $("app").dataset.pane = name;
    for (const tab of $("tabs").children) tab.setAttribute("aria-pressed", String(tab.dataset.pane === name));
  }

  #key(event) {
    const typing = event.target.matches?.("input, textarea, select, [contenteditable]");
    if (event.key === "Escape" && typing && event.target.type !== "range") return event.target.blur();
    if (typing || event.ctrlKey || event.metaKey || event.altKey || $("dialog").open) return undefined;
    const act = {
      "/": () => (this.pane("list"), this.list.search.focus()),
      n: () => $("composer").querySelector("textarea")?.focus(),
      j: () => this.#step(1),
      k: () => this.#step(-1),
      t: () => this.toggleTimeline(),
      l: () => this.toggleMode(),
      x: () => this.#cancel(),
      a: () => document.querySelector(".ask button")?.focus(),
      d: () => (this.pane("panel"), $("panel").querySelector("button")?.focus()),
      b: () => this.desk && this.brief(),
      g: () => this.parts?.transcript.toEnd(),
      c: () => this.theme(),
      "?": () => openHelp(),
    }[event.key];
    if (!act) return undefined;
    event.preventDefault();
    return act();
  }

  #step(by) {
    const links = [...document.querySelectorAll("#sessions a.row")];
    const at = links.findIndex((link) => link.hasAttribute("aria-current"));
    links[Math.min(links.length - 1, Math.max(0, at + by))]?.click();
  }

  /** Cancel the newest run at work. */
  #cancel() {
    if (!this.desk || this.desk.past) return;
    const open = [...this.desk.live.runs.values()].filter((run) => run.open && !run.cancelled);
    const focused = document.activeElement?.closest("article.card");
    const run = open.find((one) => one.run === focused?.dataset.run && one.agent === focused?.dataset.agent) ?? open.at(-1);
    if (run) void this.desk.control("cancel", { to: run.agent, run: run.run });
    else announce("Nothing is at work.");
  }
}

new Page();
