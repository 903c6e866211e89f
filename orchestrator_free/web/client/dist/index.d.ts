/** Durable sessions in the browser. */
export { Fold } from "./fold.js";
export { runId } from "./branches.js";
export type * from "./types.js";
