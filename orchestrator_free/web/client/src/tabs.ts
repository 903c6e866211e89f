/** One feed for all tabs of a browser: one of them leads and has it, the others hear from it; a next one takes over. */

import type { Feed, Follower } from "./feed.js";
import { GatewayError } from "./http.js";
import type { Line, Member, Status, View } from "./types.js";

/** Where a session stands, for a tab that has just come. */
export interface Standing {
  view: View;
  members: Member[];
  status: Status;
}

/** A session, as the tabs that share its feed see it. */
export interface Sharing extends Follower {
  standing(): Standing | null;
  adopt(standing: Standing): void;
}

type Message =
  | { hello: string }
  | { leads: string | null }
  | { to: string; standing: Standing }
  | { wake: true }
  | { lines: Line[] }
  | { status: Status; error: { status: number; message: string } | null };

export const canShare = (): boolean =>
  typeof BroadcastChannel === "function" && Boolean((globalThis.navigator as Navigator | undefined)?.locks);

const sequenceOf = (position: string): number => Number(position.slice(position.lastIndexOf("-") + 1));

export class Tabs {
  readonly #channel: BroadcastChannel;
  readonly #stop = new AbortController();
  readonly #tab = randomName();
  #feed: Feed | null = null;
  #asked = true;

  /**
   * @param name the same for all tabs that share a feed.
   * @param session what follows it in this tab.
   * @param open makes a feed for a follower, for when this tab leads.
   */
  constructor(
    readonly name: string,
    readonly session: Sharing,
    readonly open: (follower: Follower) => Feed,
  ) {
    this.#channel = new BroadcastChannel(name);
    this.#channel.onmessage = ({ data }) => this.#hear(data as Message);
  }

  /** Follow until `close`; and lead as soon as nobody else does. */
  async run(): Promise<void> {
    this.#post({ hello: this.#tab });
    globalThis.document?.addEventListener("visibilitychange", this.#looked);
    try {
      await navigator.locks.request(this.name, { signal: this.#stop.signal }, () => this.#lead());
    } catch {
      if (!this.#stop.signal.aborted && !this.#feed) await this.#lead(); // no locks here: each tab has a feed of its own
    }
  }

  close(): void {
    this.#stop.abort();
    globalThis.document?.removeEventListener("visibilitychange", this.#looked);
    this.#feed?.close();
    this.#channel.close();
  }

  async #lead(): Promise<void> {
    if (this.#stop.signal.aborted) return;
    this.#asked = false;
    this.#post({ leads: this.session.position() });
    this.#feed = this.open({
      position: () => this.session.position(),
      take: (lines) => {
        this.#post({ lines });
        this.session.take(lines);
      },
      status: (status, error) => {
        this.#post({ status, error: error ? { status: error.status, message: error.message } : null });
        this.session.status(status, error);
      },
    });
    await this.#feed.run();
  }

  /** Somebody looks at this tab: the leader, perhaps hidden and slow, shall not wait any longer. */
  #looked = (): void => {
    if (document.visibilityState !== "visible") return;
    this.#feed?.wake();
    this.#post({ wake: true });
  };

  #post(message: Message): void {
    if (!this.#stop.signal.aborted) this.#channel.postMessage(message);
  }

  #hear(message: Message): void {
    if (this.#stop.signal.aborted) return;
    if ("hello" in message) {
      const standing = this.#feed && this.session.standing();
      if (standing) this.#post({ to: message.hello, standing });
    } else if (this.#feed) {
      if ("wake" in message) this.#feed.wake(); // this tab leads: nobody else has news
    } else if ("wake" in message) {
      return;
    } else if ("leads" in message) {
      if (!this.#behind(message.leads)) return;
      this.#asked = true;
      this.#post({ hello: this.#tab });
    } else if ("standing" in message) {
      if (message.to !== this.#tab) return;
      this.#asked = false;
      this.session.adopt(message.standing);
    } else if ("lines" in message) this.#take(message.lines);
    else this.session.status(message.status, message.error ? new GatewayError(message.error.status, message.error.message) : undefined);
  }

  /** Take what the leader has; before this tab knows where the session stands, only from a snapshot on. */
  #take(lines: Line[]): void {
    if (this.#asked) {
      const start = lines.findIndex((line) => "control" in line && line.control === "snapshot");
      if (start < 0) return;
      this.#asked = false;
      lines = lines.slice(start);
    }
    this.session.take(lines);
  }

  #behind(position: string | null): boolean {
    const own = this.session.position();
    return position !== null && (own === null || sequenceOf(own) < sequenceOf(position));
  }
}

/** A name that nobody else has made up. */
export function randomName(): string {
  return [...crypto.getRandomValues(new Uint8Array(12))].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}
