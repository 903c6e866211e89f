/** The feed of one session from a gateway: it comes back by itself, and goes on where it was. */

import { Backoff, Gateway, GatewayError, pause } from "./http.js";
import { pieces, SseParser } from "./sse.js";
import type { Control, Envelope, Line, Status } from "./types.js";

/** What follows a feed: a session, or the tabs that share it. */
export interface Follower {
  /** Behind which position to go on; null: begin with a snapshot. */
  position(): string | null;
  /** What came in one piece, in order. */
  take(lines: Line[]): void;
  status(status: Status, error?: GatewayError): void;
}

export interface FeedOptions {
  session: string;
  member: string;
  device: string;
  transport: "sse" | "websocket";
  /** Show this client to nobody. */
  hidden?: boolean | undefined;
  until?: "idle" | undefined;
  backoff?: Backoff | undefined;
}

/** The gateway closes a WebSocket with this code when the token behind it counts no more. */
const UNAUTHORIZED = 4401;
/** A line that was open for so many milliseconds is renewed at once; one that ends sooner waits as after any error. */
const WORN = 1000;

/** A gateway says something at least every 15 seconds; after so many milliseconds of silence the line is dead. */
const SILENCE = 40_000;

export class Feed {
  readonly #stop = new AbortController();
  readonly #backoff: Backoff;
  #wake: AbortController | null = null;
  #ended = false;
  /** When the line was opened, and whether it ended because its token counts no more. */
  #since = Infinity;
  #unauthorized = false;

  constructor(
    readonly gateway: Gateway,
    readonly options: FeedOptions,
    readonly follower: Follower,
  ) {
    this.#backoff = options.backoff ?? new Backoff();
  }

  /** Follow until `close`, until the session is deleted, or until an error that will not pass. */
  async run(): Promise<void> {
    const wake = () => this.wake();
    globalThis.addEventListener?.("online", wake);
    try {
      while (!this.#stop.signal.aborted) {
        const error = await this.#once();
        if (this.#ended || this.#stop.signal.aborted) return;
        if (error && this.#final(error)) return;
        if (this.#worn()) continue; // with another token, behind the position where it was
        this.follower.status("offline", error);
        await this.#rest(error?.retryAfter ?? 0);
      }
    } finally {
      globalThis.removeEventListener?.("online", wake);
    }
  }

  /** Try at once, if the line is down: somebody looks again, or the network is back. */
  wake(): void {
    this.#wake?.abort();
  }

  close(): void {
    this.#stop.abort();
  }

  /** Whether an error will not pass; said to the follower then. */
  #final(error: GatewayError): boolean {
    if (error.passing) return false;
    const gone = error.status === 404 && this.follower.position() !== null;
    this.follower.status(gone ? "deleted" : "offline", error);
    return true;
  }

  /** Whether the line was good, and only its token is not any more. */
  #worn(): boolean {
    const worn = this.#unauthorized && Date.now() - this.#since >= WORN;
    [this.#unauthorized, this.#since] = [false, Infinity];
    return worn;
  }

  async #rest(least: number): Promise<void> {
    this.#wake = new AbortController();
    const stop = () => this.#wake?.abort();
    this.#stop.signal.addEventListener("abort", stop);
    await pause(this.#backoff.next(least), this.#wake.signal);
    this.#stop.signal.removeEventListener("abort", stop);
    this.#wake = null;
  }

  /** One connection, from its opening to its end. */
  async #once(): Promise<GatewayError | undefined> {
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
      if (this.options.transport === "websocket") await this.#socket(path, query, line);
      else await this.#stream(path, query, line);
      return undefined;
    } catch (error) {
      return error instanceof GatewayError ? error : new GatewayError(0, String(error), undefined, null, { cause: error });
    } finally {
      this.#stop.signal.removeEventListener("abort", stop);
      line.abort();
    }
  }

  async #stream(path: string, query: Record<string, string | undefined>, line: AbortController): Promise<void> {
    let timer = setTimeout(() => line.abort(), SILENCE);
    try {
      const headers = { accept: "text/event-stream" };
      const response = await this.gateway.send("GET", path, { query, headers, signal: line.signal });
      const parser = new SseParser();
      if (!response.headers.get("content-type")?.startsWith("text/event-stream")) {
        throw new GatewayError(0, `${response.url} answers, but not with a feed: somebody stands in between`);
      }
      this.#live();
      for await (const piece of pieces(response.body!, line.signal)) {
        clearTimeout(timer);
        timer = setTimeout(() => line.abort(), SILENCE);
        const frames = parser.feed(piece);
        if (parser.retry !== null && !this.options.backoff) this.#backoff.base = parser.retry;
        this.#take(frames.map(({ event, data, id }) => (event ? control(event, id, data) : (JSON.parse(data) as Envelope))));
      }
    } finally {
      clearTimeout(timer);
    }
  }

  /** The same over a WebSocket; a page cannot set its headers, so a ticket stands for the token. */
  async #socket(path: string, query: Record<string, string | undefined>, line: AbortController): Promise<void> {
    const ticket = await this.gateway.ticket(this.options.session, line.signal);
    const url = this.gateway.url(path, { ...query, ticket }).replace(/^http/, "ws");
    const socket = new WebSocket(url);
    let opened = false;
    await new Promise<void>((resolve, reject) => {
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
          this.#take([JSON.parse(data) as Line]);
        } catch (error) {
          reject(error);
        }
      };
      socket.onerror = () => resolve(); // some say no `close` after it
      socket.onclose = ({ code }) => {
        if (code === UNAUTHORIZED) this.#unauthorized = true;
        resolve();
      };
    });
    // A refused WebSocket does not say why: the same address over HTTP does.
    if (!opened && !line.signal.aborted) await this.gateway.send("GET", path.replace(/\/events$/, ""), { signal: line.signal });
    if (!opened) throw new GatewayError(0, "the WebSocket was refused");
  }

  #live(): void {
    this.#since = Date.now();
    this.follower.status("live");
  }

  #take(lines: Line[]): void {
    if (lines.length === 0 || this.#stop.signal.aborted) return;
    this.#backoff.reset();
    this.follower.take(lines);
    for (const line of lines) {
      if (!("control" in line)) continue;
      if (line.control === "token_expired" || line.control === "token_revoked") this.#unauthorized = true;
      if (line.control === "deleted") this.follower.status("deleted");
      if (line.control === "deleted" || line.control === "idle") this.#ended = true;
    }
  }
}

const control = (name: string, id: string, data: string): Control => ({
  control: name as Control["control"],
  position: name === "snapshot" ? id : null,
  data: JSON.parse(data),
});
