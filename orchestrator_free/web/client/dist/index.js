/** Durable sessions in the browser. */
export { Fold } from "./fold.js";
export { runId } from "./branches.js";
export { byAgent, DurableChatTransport } from "./chat.js";
export { durableFetch } from "./durable-fetch.js";
export { follow } from "./follow.js";
export { Gateway, GatewayError } from "./http.js";
export { Session } from "./session.js";
