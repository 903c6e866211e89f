/** A `fetch` for clients of other protocols: an answer whose connection breaks goes on where it was, unseen by them.
 *
 * A gateway names in `x-stream-url` where an answer is to be had again. Its frames go to the caller in whole steps: up to
 * one that has an `id:`. After a break the rest is asked with that id as `Last-Event-ID`.
 */
import { Backoff, GatewayError, pause } from "./http.js";
import { pieces } from "./sse.js";
const BLANK = /\r\n\r\n|\n\n|\r\r/;
const DONE = /^data: ?\[DONE\]/m;
const ID = /^id: ?([^\r\n\0]*)$/m;
/** Return a `fetch` for the option of that name, as of `DefaultChatTransport` or AG-UI's `HttpAgent`. */
export function durableFetch(options = {}) {
    const send = options.fetch ?? ((...about) => globalThis.fetch(...about));
    return async (input, init) => {
        const response = await send(input, init);
        const place = response.headers.get("x-stream-url");
        if (!response.ok || !response.body || !place)
            return response;
        const answer = new Answer(send, address(input, place, response), init, input, options);
        const { status, statusText, headers } = response;
        return new Response(answer.stream(response), { status, statusText, headers });
    };
}
/** Where the answer is to be had again; what the request's query said holds for it, too. */
function address(input, place, response) {
    const asked = new URL(input instanceof Request ? input.url : input, globalThis.location?.href);
    const prefix = place.startsWith("/api/") ? asked.pathname.slice(0, Math.max(0, asked.pathname.indexOf("/api/"))) : "";
    const url = new URL(prefix + place, response.url || asked); // the gateway does not know below which path it stands
    for (const [name, value] of asked.searchParams)
        if (!url.searchParams.has(name))
            url.searchParams.set(name, value);
    return url;
}
class Answer {
    send;
    url;
    init;
    input;
    options;
    #signal;
    #left = new AbortController();
    #backoff;
    #id = "";
    #since = Date.now();
    constructor(send, url, init, input, options) {
        this.send = send;
        this.url = url;
        this.init = init;
        this.input = input;
        this.options = options;
        this.#signal = init?.signal ?? (input instanceof Request ? input.signal : null);
        this.#backoff = new Backoff(options.backoff?.base ?? 500, options.backoff?.most);
    }
    /** The whole answer as one body. */
    stream(first) {
        const steps = this.#steps(first);
        const encoder = new TextEncoder();
        return new ReadableStream({
            pull: async (controller) => {
                try {
                    const { done, value } = await steps.next();
                    if (done)
                        controller.close();
                    else
                        controller.enqueue(encoder.encode(value));
                }
                catch (error) {
                    controller.error(error);
                }
            },
            cancel: () => {
                this.#left.abort();
                void steps.return(undefined).catch(() => { });
            },
        });
    }
    async *#steps(first) {
        const needsDone = first.headers.has("x-vercel-ai-ui-message-stream");
        for (let response = first; response?.body; response = await this.#again()) {
            let held = "";
            try {
                for await (const frame of frames(response.body, this.#left.signal)) {
                    const id = ID.exec(frame)?.[1];
                    held += frame;
                    if (id === undefined && !DONE.test(frame))
                        continue;
                    this.#id = id ?? this.#id;
                    this.#since = Date.now();
                    this.#backoff.reset();
                    yield held;
                    held = "";
                    if (DONE.test(frame))
                        return;
                }
                if (this.#left.signal.aborted)
                    return;
                if (!needsDone) {
                    if (held)
                        yield held;
                    return;
                }
            }
            catch {
                this.#check(); // the line broke
            }
        }
        if (needsDone)
            yield "data: [DONE]\n\n"; // it broke behind the last step
        return undefined;
    }
    /** Ask for the rest, until it can be had; null if there is none. */
    async #again() {
        const headers = new Headers(this.init?.headers ?? (this.input instanceof Request ? this.input.headers : {}));
        for (const name of ["content-type", "content-length"])
            headers.delete(name);
        if (this.#id)
            headers.set("last-event-id", this.#id);
        const { method: _, body: __, ...own } = this.init ?? {};
        const init = this.input instanceof Request ? { credentials: this.input.credentials, mode: this.input.mode, ...own } : own;
        for (;;) {
            await pause(this.#backoff.next(), AbortSignal.any([this.#left.signal, ...(this.#signal ? [this.#signal] : [])]));
            this.#check();
            try {
                const response = await this.send(this.url.href, { ...init, method: "GET", headers, signal: this.#signal, cache: "no-store" });
                if (response.status === 204)
                    return null;
                if (response.ok)
                    return response;
                const refused = await GatewayError.of(response);
                if (!refused.passing || Date.now() - this.#since > this.#patience)
                    throw refused;
            }
            catch (error) {
                if (error instanceof GatewayError || Date.now() - this.#since > this.#patience)
                    throw error;
            }
        }
    }
    get #patience() {
        return this.options.patience ?? 300_000;
    }
    #check() {
        this.#signal?.throwIfAborted();
        this.#left.signal.throwIfAborted();
    }
}
/** Yield whole frames with their blank lines; comments are left out, and so is a frame that is cut. */
async function* frames(body, signal) {
    const decoder = new TextDecoder();
    let text = "";
    for await (const piece of pieces(body, signal)) {
        text += decoder.decode(piece, { stream: true });
        for (let end = BLANK.exec(text); end; end = BLANK.exec(text)) {
            const frame = text.slice(0, end.index + end[0].length);
            text = text.slice(frame.length);
            if (frame.split(/\r\n|\r|\n/).some((line) => line && !line.startsWith(":")))
                yield frame;
        }
    }
}
