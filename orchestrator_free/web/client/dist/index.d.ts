/** Durable sessions in the browser. */
export { Fold } from "./fold.js";
export { runId } from "./branches.js";
export { byAgent, DurableChatTransport } from "./chat.js";
export type { AgentParts, ChatTransportOptions } from "./chat.js";
export { durableFetch } from "./durable-fetch.js";
export type { DurableFetchOptions } from "./durable-fetch.js";
export { follow } from "./follow.js";
export type { Followed, Following } from "./follow.js";
export { Gateway, GatewayError } from "./http.js";
export { Session } from "./session.js";
export type { About, ControlSent, Said, Sent, SessionEvents, SessionOptions } from "./options.js";
export type { GatewayOptions, SessionLine, Token } from "./http.js";
export type { Pending } from "./outbox.js";
export type { Value } from "./state.js";
export type * from "./types.js";
