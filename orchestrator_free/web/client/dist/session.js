/** A session as a page sees it: what is in it, live; and what can be said to it, also while the gateway is away. */
import { runId } from "./branches.js";
import { Completion } from "./completion.js";
import { Emitter, Stream } from "./emitter.js";
import { Feed } from "./feed.js";
import { Fold } from "./fold.js";
import { Backoff, Gateway, GatewayError, pause } from "./http.js";
import { Outbox } from "./outbox.js";
import { SseParser, pieces } from "./sse.js";
import { State } from "./state.js";
import { canShare, randomName, Tabs } from "./tabs.js";
export class Session extends Emitter {
    options;
    http;
    session;
    member;
    device;
    state;
    outbox;
    /** Milliseconds from an event's being stored to its being shown here, of the last one; as right as both clocks are. */
    lag = null;
    #status = "connecting";
    #error;
    #fold = null;
    #view = null;
    #members = new Map();
    #source = null;
    #opened = null;
    #streams = new Set();
    #completion;
    #path;
    constructor(options) {
        super();
        this.options = options;
        if (!options.session)
            throw new TypeError("session: which one?");
        const store = options.store === undefined ? browserStore() : options.store;
        this.http = new Gateway(options);
        this.session = options.session;
        this.member = options.member ?? "user";
        this.device = options.device ?? deviceName(store);
        this.#path = `/sessions/${encodeURIComponent(this.session)}`;
        this.state = new State(this.http, this.session, this.member);
        this.#completion = this.#newCompletion();
        const place = `orchestrator-free.outbox ${this.http.base} ${this.session} ${this.member}`;
        this.outbox = new Outbox(this.http, place, store, () => this.emit("outbox", this.outbox.entries), this.#backoff());
    }
    // -- following ----------------------------------------------------------------------------------------------------
    /** Begin to follow, or go on after `close`.
     *
     * @returns when the view is there.
     * @throws GatewayError if there is no such session, or the request is refused; being offline is no error.
     */
    open() {
        if (this.#source && this.#opened)
            return this.#opened.promise;
        const opened = (this.#opened = withResolvers());
        opened.promise.catch(() => { }); // the status says it, too
        if (this.#fold)
            opened.resolve();
        this.#set("connecting");
        this.#completion = this.#newCompletion();
        const source = (this.#source = this.#newSource());
        this.outbox.open();
        this.#begin(source)
            .then(() => (this.#source === source ? source.run() : undefined))
            .catch((error) => opened.reject(error))
            .finally(() => this.#end(source));
        return opened.promise;
    }
    /** Stop following. Nothing is cancelled by that. */
    close() {
        this.#source?.close();
        this.#source = null;
        this.outbox.close();
        this.#completion.close();
        for (const stream of this.#streams)
            stream.end();
        this.#streams.clear();
        if (this.#status !== "deleted")
            this.#set("offline");
    }
    /** What is in the session as of `position`; null before it is known. */
    get view() {
        if (!this.#view && this.#fold)
            this.#view = this.#completion.complete(this.#fold.view());
        return this.#view;
    }
    /** The fold behind the view, for who has to read it at every event; another one after each `snapshot`. */
    get fold() {
        return this.#fold;
    }
    get position() {
        return this.#fold && this.#fold.position;
    }
    get status() {
        return this.#status;
    }
    /** Why the line is down, if it is. */
    get error() {
        return this.#error;
    }
    /** Who is there. */
    get presence() {
        return [...this.#members.values()];
    }
    /** The events from now on, in log order; ends with `close` or the session's deletion. */
    get events() {
        const stream = new Stream(() => this.#streams.delete(stream));
        this.#streams.add(stream);
        return stream;
    }
    /** Every event of the log so far, from the first one on, or from behind a position: for replaying it. */
    async *history(after = null, signal) {
        const end = (await this.http.json("GET", this.#path, signal ? { signal } : {})).position;
        const line = new AbortController();
        signal?.addEventListener("abort", () => line.abort());
        const call = { query: { after, presence: "0", member: this.member }, headers: { accept: "text/event-stream" }, signal: line.signal };
        const parser = new SseParser();
        if (after === end)
            return;
        try {
            const response = await this.http.send("GET", `${this.#path}/events`, call);
            for await (const piece of pieces(response.body, line.signal)) {
                for (const { event, data } of parser.feed(piece)) {
                    if (event)
                        continue;
                    const envelope = JSON.parse(data);
                    yield envelope;
                    if (sequenceOf(envelope.position) >= sequenceOf(end))
                        return;
                }
            }
        }
        finally {
            line.abort();
        }
    }
    // -- saying -------------------------------------------------------------------------------------------------------
    /** Send an input. While the gateway is away it waits in the outbox, in order.
     *
     * @returns when it is stored.
     * @throws GatewayError if it is refused.
     */
    send(text, { id, to, ...more } = {}) {
        const placed = more.edits ?? more.again ?? more.after;
        const body = { text, to: to ?? (placed ? undefined : "all"), ...more, id, from: this.member };
        return this.#say("input", "/inputs", body, id);
    }
    /** The run that answers, or will answer, an input; the same for every agent. */
    runOf(input, from = this.member) {
        return runId(from, input);
    }
    cancel(about = {}) {
        return this.#control("cancel", about);
    }
    steer(text, about = {}) {
        return this.#control("steer", about, text);
    }
    redirect(text, about = {}) {
        return this.#control("redirect", about, text);
    }
    pause(about = {}) {
        return this.#control("pause", about);
    }
    resume(about = {}) {
        return this.#control("resume", about);
    }
    /** Answer an ask; returns the ask after it. */
    answer(ask, value, comment = "") {
        const body = { value, comment, from: this.member };
        return this.#say("answer", `/asks/${encodeURIComponent(ask)}/answer`, body);
    }
    approve(ask, comment = "") {
        return this.answer(ask, "approve", comment);
    }
    deny(ask, comment = "") {
        return this.answer(ask, "deny", comment);
    }
    /** Take a step of the floor: take, request, accept, decline, withdraw, return or release. Not while offline. */
    floor(step, { to, reason, cancel } = {}) {
        return this.http.json("POST", `${this.#path}/floor`, { body: { step, to, reason, cancel, from: this.member } });
    }
    /** Say that this member is away, for everybody to see until `back`. */
    away(about = {}) {
        return this.http.json("POST", `${this.#path}/presence`, { body: { status: "away", ...about, from: this.member } });
    }
    back() {
        return this.http.json("POST", `${this.#path}/presence`, { body: { status: "available", from: this.member } });
    }
    /** What somebody who takes over has to know. */
    brief() {
        return this.http.json("GET", `${this.#path}/brief`);
    }
    // -- inside -------------------------------------------------------------------------------------------------------
    #say(kind, path, body, id) {
        return this.outbox.push({ key: id ?? randomName(), kind, path: this.#path + path, body });
    }
    #control(type, { id, ...about }, text) {
        return this.#say("control", "/controls", { type, text, ...about, id, from: this.member }, id);
    }
    /** There is nothing to follow any more; `open` may try again. */
    #end(source) {
        source.close();
        if (this.#source === source)
            this.#source = null;
    }
    /** Begin the session, if that is asked for and as soon as it can be. */
    async #begin(source) {
        const { begin } = this.options;
        const backoff = this.#backoff();
        const { signal } = new AbortController();
        while (begin && !this.#fold && this.#source === source) {
            try {
                await this.http.create({ ...begin, session: this.session });
                return;
            }
            catch (error) {
                if (!(error instanceof GatewayError))
                    throw error;
                if (error.status === 409)
                    return; // somebody else was first
                if (!error.passing)
                    throw error;
                this.#set("offline", error);
                await pause(backoff.next(error.retryAfter ?? 0), signal);
            }
        }
    }
    #newSource() {
        const { session, member, device, options } = this;
        const { transport = "sse", hidden, until } = options;
        const backoff = options.backoff && this.#backoff();
        const sharing = {
            position: () => this.position,
            take: (lines) => this.#take(lines),
            status: (status, error) => this.#heard(status, error),
            standing: () => this.view && { view: this.view, members: this.presence, status: this.#status },
            adopt: (standing) => this.#adopt(standing),
        };
        const open = (follower) => new Feed(this.http, { session, member, device, transport, hidden, until, backoff }, follower);
        if (!(options.share ?? canShare()) || until)
            return open(sharing);
        return new Tabs(`orchestrator-free ${this.http.base} ${session} ${member} ${device} ${hidden ?? false}`, sharing, open);
    }
    #backoff() {
        return new Backoff(this.options.backoff?.base, this.options.backoff?.most);
    }
    #newCompletion() {
        return new Completion(this.http, () => this.#changed());
    }
    #take(lines) {
        let changed = false;
        let latest = null;
        for (const line of lines) {
            if ("control" in line)
                changed = this.#frame(line) || changed;
            else if (this.#fold && this.#fresh(line)) {
                this.#fold.apply(line);
                changed = true;
                latest = line.time;
                this.#view = null;
                this.emit("event", line);
                for (const stream of this.#streams)
                    stream.push(line);
            }
        }
        if (latest !== null)
            this.lag = Math.max(0, Date.now() - Date.parse(latest));
        if (changed)
            this.#changed();
    }
    #fresh(event) {
        const known = this.#fold.position;
        return !known || sequenceOf(event.position) > sequenceOf(known);
    }
    /** Take what is no event; true if the view is another. */
    #frame(frame) {
        if (frame.control === "snapshot")
            this.#load(frame.data);
        else if (frame.control === "presence")
            this.#meet(frame.data);
        this.emit("control-frame", frame);
        if (frame.control === "idle")
            queueMicrotask(() => this.close());
        return frame.control === "snapshot";
    }
    #load(view) {
        this.#fold = Fold.load(view);
        this.#view = null;
        this.#opened?.resolve();
    }
    #adopt({ view, members, status }) {
        this.#load(view);
        this.#meet({ whole: true, members, gone: [] });
        this.#heard(status);
        this.#changed();
    }
    #meet({ whole, members, gone }) {
        if (whole)
            this.#members.clear();
        for (const member of members)
            this.#members.set(member.member, member);
        for (const name of gone)
            this.#members.delete(name);
        this.emit("presence", this.presence);
    }
    #changed() {
        this.#view = null;
        this.emit("change", this);
    }
    #heard(status, error) {
        if (error && !error.passing)
            this.#opened?.reject(error);
        this.#set(status, error);
        if (status === "live")
            this.outbox.wake();
        if (status !== "deleted")
            return;
        for (const stream of this.#streams)
            stream.end();
        this.#streams.clear();
    }
    #set(status, error) {
        if (status === this.#status && error === this.#error)
            return;
        [this.#status, this.#error] = [status, error];
        this.emit("status", status, error);
    }
}
const sequenceOf = (position) => Number(position.slice(position.lastIndexOf("-") + 1));
function withResolvers() {
    const made = {};
    made.promise = new Promise((resolve, reject) => Object.assign(made, { resolve, reject }));
    return made;
}
function browserStore() {
    try {
        return globalThis.localStorage ?? null;
    }
    catch {
        return null; // the page may not have one
    }
}
/** The name of this browser, the same after a reload. */
function deviceName(store) {
    const place = "orchestrator-free.device";
    const made = randomName().slice(0, 8);
    try {
        const known = store?.getItem(place) ?? made;
        store?.setItem(place, known);
        return known;
    }
    catch {
        return made;
    }
}
