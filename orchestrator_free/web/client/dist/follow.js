/** Keeps a chat of the AI SDK in step with its session: other people's messages, other tabs' answers, cancels. */
import { GatewayError, pause } from "./http.js";
const LOOK = 30;
/** Begin to keep `chat` in step; it uses a `DurableChatTransport`, and does not `resume` by itself. */
export function follow(session, chat, transport) {
    return new Follow(session, chat, transport);
}
class Follow {
    session;
    chat;
    transport;
    ready;
    #stop = new AbortController();
    #leave;
    #isReady;
    #dirty = true;
    #working = false;
    constructor(session, chat, transport) {
        this.session = session;
        this.chat = chat;
        this.transport = transport;
        this.ready = new Promise((resolve) => (this.#isReady = resolve));
        const look = () => {
            this.#dirty = true;
            void this.#work();
        };
        this.#leave = [
            session.on("event", (event) => changes(event) && look()),
            session.on("control-frame", (frame) => frame.control === "snapshot" && look()),
            session.on("status", (status) => status === "live" && this.#dirty && look()),
        ];
        void this.#work();
    }
    close() {
        this.#stop.abort();
        for (const leave of this.#leave)
            leave();
    }
    /** Whether the chat is at work on an answer, and nobody else may touch its messages. */
    get #busy() {
        return this.chat.status === "submitted" || this.chat.status === "streaming";
    }
    async #work() {
        if (this.#working)
            return;
        this.#working = true;
        const { signal } = this.#stop;
        while (this.#dirty && !signal.aborted) {
            if (this.#busy) {
                await pause(LOOK, signal);
                continue;
            }
            this.#dirty = false;
            try {
                await this.#step();
            }
            catch (error) {
                if (!(error instanceof GatewayError) || !error.passing)
                    break; // the session is gone
                this.#dirty = true;
                await pause(1000, signal);
            }
        }
        this.#working = false;
    }
    /** Show the conversation as it is in the log, and the answer in the making after it. */
    async #step() {
        const messages = await this.transport.messages();
        if (this.#busy || this.#stop.signal.aborted) {
            this.#dirty = true;
            return;
        }
        const shown = [...messages, ...this.#unsent(messages)];
        if (JSON.stringify(shown) !== JSON.stringify(this.chat.messages))
            this.chat.messages = shown;
        this.#isReady();
        if (messages.at(-1)?.role === "user")
            await this.chat.resumeStream();
    }
    /** What could not be sent stays on the screen. */
    #unsent(messages) {
        if (this.chat.status !== "error")
            return [];
        const known = new Set(messages.map(({ id }) => id));
        const last = this.chat.messages.at(-1);
        return last?.role === "user" && !known.has(last.id) ? [last] : [];
    }
}
/** Whether an event may change which messages there are, or which answer is being made. */
function changes({ kind, event }) {
    if (kind === "run")
        return event.type === "run.started" || event.type === "run.finished";
    return kind === "in" || kind === "meta" || kind === "answer" || kind === "ctl";
}
