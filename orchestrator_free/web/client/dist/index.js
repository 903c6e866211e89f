/** Durable sessions in the browser. */
export { Fold } from "./fold.js";
export { runId } from "./branches.js";
export { Gateway, GatewayError } from "./http.js";
export { Session } from "./session.js";
