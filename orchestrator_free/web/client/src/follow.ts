/** Keeps a chat of the AI SDK in step with its session: other people's messages, other tabs' answers, cancels. */

import type { DurableChatTransport } from "./chat.js";
import { GatewayError, pause } from "./http.js";
import type { Session } from "./session.js";
import type { Envelope } from "./types.js";

/** What a chat of the AI SDK has, whatever its version: an instance of its class `Chat`. */
export interface Followed {
  messages: any[];
  readonly status: string;
  resumeStream(): Promise<void>;
}

export interface Following {
  /** Whether the chat has shown the conversation once. */
  readonly ready: Promise<void>;
  close(): void;
}

const LOOK = 30;

/** Begin to keep `chat` in step; it uses a `DurableChatTransport`, and does not `resume` by itself. */
export function follow(session: Session, chat: Followed, transport: DurableChatTransport): Following {
  return new Follow(session, chat, transport);
}

class Follow implements Following {
  readonly ready: Promise<void>;
  readonly #stop = new AbortController();
  readonly #leave: (() => void)[];
  #isReady!: () => void;
  #dirty = true;
  #working = false;

  constructor(
    readonly session: Session,
    readonly chat: Followed,
    readonly transport: DurableChatTransport,
  ) {
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

  close(): void {
    this.#stop.abort();
    for (const leave of this.#leave) leave();
  }

  /** Whether the chat is at work on an answer, and nobody else may touch its messages. */
  get #busy(): boolean {
    return this.chat.status === "submitted" || this.chat.status === "streaming";
  }

  async #work(): Promise<void> {
    if (this.#working) return;
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
      } catch (error) {
        if (!(error instanceof GatewayError) || !error.passing) break; // the session is gone
        this.#dirty = true;
        await pause(1000, signal);
      }
    }
    this.#working = false;
  }

  /** Show the conversation as it is in the log, and the answer in the making after it. */
  async #step(): Promise<void> {
    const messages = await this.transport.messages();
    if (this.#busy || this.#stop.signal.aborted) {
      this.#dirty = true;
      return;
    }
    const shown = [...messages, ...this.#unsent(messages)];
    if (JSON.stringify(shown) !== JSON.stringify(this.chat.messages)) this.chat.messages = shown;
    this.#isReady();
    if (messages.at(-1)?.role === "user") await this.chat.resumeStream();
  }

  /** What could not be sent stays on the screen. */
  #unsent(messages: any[]): any[] {
    if (this.chat.status !== "error") return [];
    const known = new Set(messages.map(({ id }) => id));
    const last = this.chat.messages.at(-1);
    return last?.role === "user" && !known.has(last.id) ? [last] : [];
  }
}

/** Whether an event may change which messages there are, or which answer is being made. */
function changes({ kind, event }: Envelope): boolean {
  if (kind === "run") return event.type === "run.started" || event.type === "run.finished";
  return kind === "in" || kind === "meta" || kind === "answer" || kind === "ctl";
}
