/** Requests to a gateway: a token that is asked again when it is refused, and errors that say what the gateway said. */
/** What the gateway, or one in between, refused; `status` 0: nobody answered. */
export class GatewayError extends Error {
    status;
    type;
    retryAfter;
    name = "GatewayError";
    constructor(status, message, type = "about:blank", 
    /** Milliseconds after which to come again, if the answer says so. */
    retryAfter = null, options) {
        super(message, options);
        this.status = status;
        this.type = type;
        this.retryAfter = retryAfter;
    }
    /** Whether the same request may succeed later. */
    get passing() {
        return this.status === 0 || this.status >= 500 || [401, 408, 425, 429].includes(this.status);
    }
    static async of(response) {
        const text = await response.text().catch(() => "");
        let said = null;
        try {
            said = JSON.parse(text);
        }
        catch {
            // a page of somebody in between
        }
        const after = Number(response.headers.get("retry-after") ?? NaN);
        const words = said?.detail ?? said?.title ?? (text.slice(0, 200) || response.statusText);
        return new GatewayError(response.status, String(words), said?.type, Number.isFinite(after) ? after * 1000 : null);
    }
}
export class Gateway {
    base;
    #token;
    #fetch;
    constructor({ gateway = globalThis.location?.origin, token, fetch } = {}) {
        if (!gateway)
            throw new TypeError("gateway: where is it? Outside a page there is no default");
        this.base = new URL(gateway, globalThis.location?.href).href.replace(/\/$/, "");
        this.#token = token;
        this.#fetch = fetch ?? ((...about) => globalThis.fetch(...about));
    }
    url(path, query = {}) {
        const words = Object.entries(query).filter((pair) => pair[1] != null);
        const text = new URLSearchParams(words.map(([name, value]) => [name, String(value)])).toString();
        return this.base + path + (text && `?${text}`);
    }
    /** The token as of now; null where there is none. */
    async token() {
        return (await this.#token?.()) ?? null;
    }
    /** A ticket that opens one feed, once: where no header can be set. Undefined without a token, or where none is asked for. */
    async ticket(session, signal) {
        if (!this.#token)
            return undefined;
        try {
            return (await this.json("POST", "/tickets", { body: session === null ? {} : { session }, ...(signal && { signal }) })).ticket;
        }
        catch (error) {
            if (error instanceof GatewayError && error.status === 409)
                return undefined;
            throw error;
        }
    }
    /** Send a request; a 401 is tried once more with a new token.
     *
     * @throws GatewayError of status 0 if nobody answered, and of the answer's if that is an error.
     */
    async send(method, path, call = {}) {
        const response = await this.#renewed(() => this.#once(method, path, call));
        if (!response.ok)
            throw await GatewayError.of(response);
        return response;
    }
    /** `fetch` with this gateway's token; a 401 is tried once more with a new one. */
    fetch = (input, init) => this.#renewed(() => this.#authorized(input, init));
    async #renewed(once) {
        const response = await once();
        if (response.status !== 401 || !this.#token)
            return response;
        await response.body?.cancel().catch(() => { });
        return once();
    }
    async #once(method, path, { body, headers = {}, signal, query }) {
        const said = body === undefined ? {} : { "content-type": "application/json" };
        try {
            return await this.#authorized(this.url(path, query), {
                method,
                headers: { ...said, ...headers },
                body: body === undefined ? null : JSON.stringify(body),
                signal: signal ?? null,
                cache: "no-store",
            });
        }
        catch (error) {
            if (signal?.aborted)
                throw error;
            throw new GatewayError(0, `the gateway at ${this.base} does not answer: ${String(error)}`, undefined, null, { cause: error });
        }
    }
    async #authorized(input, init = {}) {
        const headers = new Headers(init.headers);
        const token = await this.token();
        if (token)
            headers.set("authorization", `Bearer ${token}`);
        return this.#fetch(input, { ...init, headers });
    }
    async json(method, path, call = {}) {
        const text = await (await this.send(method, path, call)).text();
        return text ? JSON.parse(text) : null;
    }
    /** One page of the sessions, by id. */
    async sessions(query = {}) {
        return this.json("GET", "/sessions", { query });
    }
    /** Begin a session. */
    async create(about = {}) {
        return this.json("POST", "/sessions", { body: about });
    }
    /** Delete a session with everything in it. */
    async delete(session) {
        await this.send("DELETE", `/sessions/${encodeURIComponent(session)}`);
    }
}
/** How long to wait before the next try: anything up to twice as much each time, so that clients do not come in step. */
export class Backoff {
    base;
    most;
    #tries = 0;
    constructor(base = 1000, most = 30_000) {
        this.base = base;
        this.most = most;
    }
    reset() {
        this.#tries = 0;
    }
    next(least = 0) {
        const most = Math.min(this.most, this.base * 2 ** this.#tries);
        this.#tries += 1;
        return least + Math.random() * most;
    }
}
/** Wait, unless `signal` aborts before; never throws. */
export function pause(milliseconds, signal) {
    return new Promise((resolve) => {
        const end = () => {
            clearTimeout(timer);
            signal.removeEventListener("abort", end);
            resolve();
        };
        const timer = setTimeout(end, milliseconds);
        signal.addEventListener("abort", end);
        if (signal.aborted)
            end();
    });
}
