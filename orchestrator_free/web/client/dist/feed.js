/** The feed of one session from a gateway: it comes back by itself, and goes on where it was. */
import { Backoff, GatewayError, pause } from "./http.js";
import { pieces, SseParser } from "./sse.js";
/** The gateway closes a WebSocket with this code when the token behind it counts no more. */
const UNAUTHORIZED = 4401;
/** A line that was open for so many milliseconds is renewed at once; one that ends sooner waits as after any error. */
const WORN = 1000;
/** A gateway says something at least every 15 seconds; after so many milliseconds of silence the line is dead. */
const SILENCE = 40_000;
export class Feed {
    gateway;
    options;
    follower;
    #stop = new AbortController();
    #backoff;
    #wake = null;
    #ended = false;
    /** When the line was opened, and whether it ended because its token counts no more. */
    #since = Infinity;
    #unauthorized = false;
    constructor(gateway, options, follower) {
        this.gateway = gateway;
        this.options = options;
        this.follower = follower;
        this.#backoff = options.backoff ?? new Backoff();
    }
    /** Follow until `close`, until the session is deleted, or until an error that will not pass. */
    async run() {
        const wake = () => this.wake();
        globalThis.addEventListener?.("online", wake);
        try {
            while (!this.#stop.signal.aborted) {
                const error = await this.#once();
                if (this.#ended || this.#stop.signal.aborted)
                    return;
                if (error && this.#final(error))
                    return;
                if (this.#worn())
                    continue; // with another token, behind the position where it was
                this.follower.status("offline", error);
                await this.#rest(error?.retryAfter ?? 0);
            }
        }
        finally {
            globalThis.removeEventListener?.("online", wake);
        }
    }
    /** Try at once, if the line is down: somebody looks again, or the network is back. */
    wake() {
        this.#wake?.abort();
    }
    close() {
        this.#stop.abort();
    }
    /** Whether an error will not pass; said to the follower then. */
    #final(error) {
        if (error.passing)
            return false;
        const gone = error.status === 404 && this.follower.position() !== null;
        this.follower.status(gone ? "deleted" : "offline", error);
        return true;
    }
    /** Whether the line was good, and only its token is not any more. */
    #worn() {
        const worn = this.#unauthorized && Date.now() - this.#since >= WORN;
        [this.#unauthorized, this.#since] = [false, Infinity];
        return worn;
    }
    async #rest(least) {
        this.#wake = new AbortController();
        const stop = () => this.#wake?.abort();
        this.#stop.signal.addEventListener("abort", stop);
        await pause(this.#backoff.next(least), this.#wake.signal);
        this.#stop.signal.removeEventListener("abort", stop);
        this.#wake = null;
    }
    /** One connection, from its opening to its end. */
    async #once() {
        const after = this.follower.position();
        const { session, member, device, hidden, until } = this.options;
        const query = {
            ...(after === null ? { snapshot: "1" } : { after }),
            member, device, until, presence: hidden ? "0,follow" : "follow",
        };
        const line = new AbortController();
        const stop = () => line.abort();
        this.#stop.signal.addEventListener("abort", stop);
        try {
            const path = `/sessions/${encodeURIComponent(session)}/events`;
            if (this.options.transport === "websocket")
                await this.#socket(path, query, line);
            else
                await this.#stream(path, query, line);
            return undefined;
        }
        catch (error) {
            return error instanceof GatewayError ? error : new GatewayError(0, String(error), undefined, null, { cause: error });
        }
        finally {
            this.#stop.signal.removeEventListener("abort", stop);
            line.abort();
        }
    }
    async #stream(path, query, line) {
        let timer = setTimeout(() => line.abort(), SILENCE);
        try {
            const headers = { accept: "text/event-stream" };
            const response = await this.gateway.send("GET", path, { query, headers, signal: line.signal });
            const parser = new SseParser();
            if (!response.headers.get("content-type")?.startsWith("text/event-stream")) {
                throw new GatewayError(0, `${response.url} answers, but not with a feed: somebody stands in between`);
            }
            this.#live();
            for await (const piece of pieces(response.body, line.signal)) {
                clearTimeout(timer);
                timer = setTimeout(() => line.abort(), SILENCE);
                const frames = parser.feed(piece);
                if (parser.retry !== null && !this.options.backoff)
                    this.#backoff.base = parser.retry;
                this.#take(frames.map(({ event, data, id }) => (event ? control(event, id, data) : JSON.parse(data))));
            }
        }
        finally {
            clearTimeout(timer);
        }
    }
    /** The same over a WebSocket; a page cannot set its headers, so a ticket stands for the token. */
    async #socket(path, query, line) {
        const ticket = await this.gateway.ticket(this.options.session, line.signal);
        const url = this.gateway.url(path, { ...query, ticket }).replace(/^http/, "ws");
        const socket = new WebSocket(url);
        let opened = false;
        await new Promise((resolve, reject) => {
            line.signal.addEventListener("abort", () => {
                socket.close();
                resolve();
            });
            socket.onopen = () => {
                opened = true;
                this.#live();
            };
            socket.onmessage = ({ data }) => {
                try {
                    this.#take([JSON.parse(data)]);
                }
                catch (error) {
                    reject(error);
                }
            };
            socket.onerror = () => resolve(); // some say no `close` after it
            socket.onclose = ({ code }) => {
                if (code === UNAUTHORIZED)
                    this.#unauthorized = true;
                resolve();
            };
        });
        // A refused WebSocket does not say why: the same address over HTTP does.
        if (!opened && !line.signal.aborted)
            await this.gateway.send("GET", path.replace(/\/events$/, ""), { signal: line.signal });
        if (!opened)
            throw new GatewayError(0, "the WebSocket was refused");
    }
    #live() {
        this.#since = Date.now();
        this.follower.status("live");
    }
    #take(lines) {
        if (lines.length === 0 || this.#stop.signal.aborted)
            return;
        this.#backoff.reset();
        this.follower.take(lines);
        for (const line of lines) {
            if (!("control" in line))
                continue;
            if (line.control === "token_expired" || line.control === "token_revoked")
                this.#unauthorized = true;
            if (line.control === "deleted")
                this.follower.status("deleted");
            if (line.control === "deleted" || line.control === "idle")
                this.#ended = true;
        }
    }
}
const control = (name, id, data) => ({
    control: name,
    position: name === "snapshot" ? id : null,
    data: JSON.parse(data),
});
