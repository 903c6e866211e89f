/** What a member says, in order, once each: kept while nobody answers, and over a reload where there is a place to. */
import { Backoff, GatewayError, pause } from "./http.js";
export class Outbox {
    gateway;
    place;
    store;
    changed;
    entries = [];
    #waiters = new Map();
    #backoff;
    #stop = new AbortController();
    #resting = null;
    #sending = false;
    /**
     * @param place the key in `store`.
     * @param changed called when `entries` are others.
     */
    constructor(gateway, place, store, changed, backoff) {
        this.gateway = gateway;
        this.place = place;
        this.store = store;
        this.changed = changed;
        this.#backoff = backoff ?? new Backoff(500);
    }
    /** Begin with what an earlier page has left. */
    open() {
        this.#stop = new AbortController();
        this.entries = [...this.#stored(), ...this.entries.filter((own) => this.#waiters.has(own.key))];
        this.entries = [...new Map(this.entries.map((entry) => [entry.key, entry])).values()];
        if (this.entries.length)
            this.changed();
        void this.#flush();
    }
    /** Say something as soon as it can be.
     *
     * @returns what the gateway answers.
     * @throws GatewayError if it is refused.
     */
    push(entry) {
        const waiter = {};
        waiter.promise = new Promise((resolve, reject) => Object.assign(waiter, { resolve, reject }));
        this.#waiters.set(entry.key, waiter);
        const whole = { ...entry, time: new Date().toISOString(), error: null };
        this.#set([...this.entries, whole]);
        this.#save((stored) => [...stored, whole]);
        void this.#flush();
        return waiter.promise;
    }
    /** The line is back: try at once. */
    wake() {
        this.#backoff.reset();
        this.#resting?.abort();
        void this.#flush();
    }
    /** Send nothing more. What is left stays in the store, if there is one, for the next page. */
    close() {
        this.#stop.abort();
        this.#resting?.abort();
        for (const { promise, reject } of this.#waiters.values()) {
            promise.catch(() => { });
            reject(new GatewayError(0, "the session was closed before this was sent"));
        }
        this.#waiters.clear();
    }
    async #flush() {
        if (this.#sending)
            return;
        this.#sending = true;
        const { signal } = this.#stop;
        while (this.entries[0] && !signal.aborted)
            await this.#try(this.entries[0], signal);
        this.#sending = false;
        if (signal.aborted && !this.#stop.signal.aborted)
            void this.#flush(); // closed and opened again meanwhile
    }
    async #try(entry, signal) {
        try {
            const answer = await this.#send(entry, signal);
            this.#remove(entry);
            this.#waiters.get(entry.key)?.resolve(answer);
        }
        catch (error) {
            if (signal.aborted)
                return;
            if (error instanceof GatewayError && error.passing) {
                await this.#rest(entry, error);
                return;
            }
            this.#remove(entry);
            this.#waiters.get(entry.key)?.reject(error);
        }
        this.#waiters.delete(entry.key);
        this.#backoff.reset();
    }
    async #rest(entry, error) {
        this.#set(this.entries.map((one) => (one.key === entry.key ? { ...one, error: error.message } : one)));
        this.#resting = new AbortController();
        await pause(this.#backoff.next(error.retryAfter ?? 0), this.#resting.signal);
        this.#resting = null;
    }
    async #send({ key, kind, path, body }, signal) {
        const call = { body, headers: { "idempotency-key": key }, signal };
        try {
            return await this.gateway.json("POST", path, call);
        }
        catch (error) {
            if (kind !== "answer" || !(error instanceof GatewayError) || error.status !== 409)
                throw error;
            const ask = await this.gateway.json("GET", path.replace(/\/answer$/, ""), { signal });
            const counted = ask.answers.some(({ member, value }) => member === body.from && JSON.stringify(value) === JSON.stringify(body.value));
            if (!counted)
                throw error;
            return ask; // it was said before, and the answer of the gateway did not arrive
        }
    }
    #remove(entry) {
        this.#save((stored) => stored.filter(({ key }) => key !== entry.key));
        this.#set(this.entries.filter(({ key }) => key !== entry.key));
    }
    #set(entries) {
        this.entries = entries;
        this.changed();
    }
    #stored() {
        try {
            const found = JSON.parse(this.store?.getItem(this.place) ?? "[]");
            return Array.isArray(found) ? found.filter((entry) => typeof entry?.key === "string" && typeof entry.path === "string") : [];
        }
        catch {
            return []; // it was written by somebody else, or may not be read
        }
    }
    #save(change) {
        try {
            const left = change(this.#stored());
            if (left.length)
                this.store?.setItem(this.place, JSON.stringify(left));
            else
                this.store?.removeItem(this.place);
        }
        catch {
            // the store is full or forbidden: what is said still goes out, but does not survive a reload
        }
    }
}
