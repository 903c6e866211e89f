/** A transport for `useChat` of the AI SDK, 5 to 7: an abort only detaches, and a lost connection is not noticed. */
import { durableFetch } from "./durable-fetch.js";
import { Backoff, GatewayError, pause } from "./http.js";
import { pieces, SseParser } from "./sse.js";
/** A `ChatTransport` over a session; the chat's id is the session's. */
export class DurableChatTransport {
    session;
    options;
    /** A resumed stream tells the answer from its beginning. */
    resumeStreamIsReplay = true;
    #fetch;
    constructor(session, options = {}) {
        this.session = session;
        this.options = options;
        const { backoff } = session.options;
        this.#fetch = durableFetch({ fetch: (input, init) => session.http.fetch(input, init), ...(backoff ? { backoff } : {}) });
    }
    /** Say what the last message says, and stream its answer. While nobody answers, it is tried again. */
    async sendMessages({ trigger, messageId, messages, body, headers, abortSignal }) {
        const { to } = this.options;
        const said = { ...(to === undefined ? {} : { to }), ...body, id: this.session.session, messages, trigger, messageId };
        const init = {
            method: "POST",
            headers: { ...plain(headers), "content-type": "application/json" },
            body: JSON.stringify(said),
            signal: abortSignal ?? null,
        };
        const backoff = new Backoff(this.session.options.backoff?.base, this.session.options.backoff?.most);
        for (;;) {
            try {
                return await this.#stream("/api/chat", init);
            }
            catch (error) {
                const passing = error instanceof GatewayError && error.passing && trigger === "submit-message";
                if (!passing || abortSignal?.aborted)
                    throw error; // what is regenerated twice would be there twice
                await pause(backoff.next(error.retryAfter ?? 0), abortSignal ?? new AbortController().signal);
                abortSignal?.throwIfAborted();
            }
        }
    }
    /** Stream the answer in the making; null if there is none. */
    async reconnectToStream({ headers, abortSignal }) {
        const init = { headers: plain(headers), signal: abortSignal ?? null };
        return this.#stream(`/api/chat/${encodeURIComponent(this.session.session)}/stream`, init);
    }
    /** Cancel what is being answered, on every device. (An abort, `chat.stop()`, only stops listening.) */
    async cancel() {
        await this.session.cancel();
    }
    /** The conversation as UI messages; what is being answered is left to its stream. */
    async messages() {
        const path = `/api/chat/${encodeURIComponent(this.session.session)}/messages`;
        return this.session.http.json("GET", path, { query: this.#query });
    }
    get #query() {
        return { member: this.session.member, ai_sdk: this.options.profile ?? null };
    }
    async #stream(path, init) {
        let response;
        try {
            response = await this.#fetch(this.session.http.url(path, this.#query), init);
        }
        catch (error) {
            if (init.signal?.aborted)
                throw error;
            throw new GatewayError(0, `the gateway does not answer: ${String(error)}`, undefined, null, { cause: error });
        }
        if (response.status === 204)
            return null;
        if (!response.ok || !response.body)
            throw await GatewayError.of(response);
        return chunks(response.body);
    }
}
const plain = (headers) => Object.fromEntries(new Headers(headers ?? {}));
/** The chunks of a UI message stream. */
function chunks(body) {
    const source = pieces(body);
    const parser = new SseParser();
    return new ReadableStream({
        pull: async (controller) => {
            try {
                const { done, value } = await source.next();
                if (done)
                    return controller.close();
                const frames = parser.feed(value);
                for (const { data } of frames)
                    if (data !== "[DONE]")
                        controller.enqueue(JSON.parse(data));
            }
            catch (error) {
                controller.error(error);
            }
        },
        cancel: () => void source.return(undefined).catch(() => { }),
    });
}
/** The parts of an assistant message grouped by the agent and run that made them, in the order in which they came. */
export function byAgent(message) {
    const groups = new Map();
    const group = (agent, run) => {
        const key = `${agent}.${run}`;
        const found = groups.get(key) ?? { agent, run, status: "running", parent: null, parts: [] };
        groups.set(key, found);
        return found;
    };
    for (const part of message.parts) {
        const about = part.providerMetadata?.durable ?? part.callProviderMetadata?.durable;
        const [agent, run] = about ? [about.agent, about.run.slice(0, 8)] : String(part.toolCallId ?? part.sourceId ?? part.id ?? "").split(".");
        if (!agent || !run)
            continue;
        const found = group(agent, run);
        if (part.type === "data-agent")
            [found.status, found.parent] = [part.data.status, part.data.parent];
        else
            found.parts.push(part);
    }
    return [...groups.values()];
}
