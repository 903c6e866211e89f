/** What a member says, in order, once each: kept while nobody answers, and over a reload where there is a place to. */
import { Backoff, type Gateway } from "./http.js";
/** Something that is said and not stored yet. */
export interface Pending {
    /** The idempotency key: of an input it is also its id, of a control its id. */
    key: string;
    kind: "input" | "control" | "answer";
    path: string;
    body: any;
    /** When it was said, RFC 3339. */
    time: string;
    /** Why the last try failed; null before. */
    error: string | null;
}
export type Storing = Pick<Storage, "getItem" | "setItem" | "removeItem">;
export declare class Outbox {
    #private;
    readonly gateway: Gateway;
    readonly place: string;
    readonly store: Storing | null;
    readonly changed: () => void;
    entries: Pending[];
    /**
     * @param place the key in `store`.
     * @param changed called when `entries` are others.
     */
    constructor(gateway: Gateway, place: string, store: Storing | null, changed: () => void, backoff?: Backoff);
    /** Begin with what an earlier page has left. */
    open(): void;
    /** Say something as soon as it can be.
     *
     * @returns what the gateway answers.
     * @throws GatewayError if it is refused.
     */
    push(entry: Omit<Pending, "time" | "error">): Promise<any>;
    /** The line is back: try at once. */
    wake(): void;
    /** Send nothing more. What is left stays in the store, if there is one, for the next page. */
    close(): void;
}
