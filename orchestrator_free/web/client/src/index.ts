/** Durable sessions in the browser. */

export { Fold } from "./fold.js";
export { runId } from "./branches.js";
export { Gateway, GatewayError } from "./http.js";
export { Session } from "./session.js";
export type { About, ControlSent, Said, Sent, SessionEvents, SessionOptions } from "./options.js";
export type { GatewayOptions, SessionLine, Token } from "./http.js";
export type { Pending } from "./outbox.js";
export type { Value } from "./state.js";
export type * from "./types.js";
