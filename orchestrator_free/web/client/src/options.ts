/** What a session is made with, what it tells, and what can be said to it. */

import type { GatewayError, GatewayOptions } from "./http.js";
import type { Pending, Storing } from "./outbox.js";
import type { Session } from "./session.js";
import type { Control, Envelope, Json, Member, Reference, Status } from "./types.js";

export interface SessionOptions extends GatewayOptions {
  session: string;
  /** Begin the session if there is none. */
  begin?: { title?: string; agents?: string[] };
  /** Who speaks and looks; where the gateway asks for a token, its subject. */
  member?: string;
  /** With what; by default a name of this browser. */
  device?: string;
  transport?: "sse" | "websocket";
  /** Whether the tabs of this browser share one feed; by default where it can be done. */
  share?: boolean;
  /** Show this client to nobody. */
  hidden?: boolean;
  /** End when nothing is open or waiting. */
  until?: "idle";
  /** Where what is said survives a reload: `localStorage` where there is one; null for nowhere. */
  store?: Storing | null;
  /** First and longest wait before coming back, in milliseconds. */
  backoff?: { base?: number; most?: number };
}

export type SessionEvents = {
  /** One event of the log, folded already. */
  event: [event: Envelope];
  /** The view is another; once for all that came together. */
  change: [session: Session];
  status: [status: Status, error: GatewayError | undefined];
  presence: [members: Member[]];
  "control-frame": [frame: Control];
  /** What is said and not stored yet. */
  outbox: [entries: Pending[]];
};

export interface Said {
  /** An agent, several, or `all`; with `edits`, `again` or `after` by default as that input. */
  to?: string | string[];
  data?: Json;
  /** The input that this one is shown instead of. */
  edits?: Reference;
  /** The input that is to be answered once more; without a text. */
  again?: Reference;
  /** The input that this one goes on from. */
  after?: Reference;
  /** With `edits` or `again`: whether what still answers that input is cancelled first. */
  cancel?: boolean;
  whisper?: boolean;
  note?: boolean;
  overlap?: string;
  /** The same id and content is said once. */
  id?: string;
}

export interface Sent {
  input: string;
  run: string;
  position: string;
}

/** Whom a control is for: by default every run that is open or waiting. */
export interface About {
  to?: string;
  run?: string;
  reason?: string;
  data?: Json;
  /** Cancel: also what the run delegated. */
  children?: boolean;
  within_seconds?: number;
  id?: string;
}

export interface ControlSent {
  control: string;
  position: string;
}
