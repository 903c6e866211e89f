/** The feed of one session from a gateway: it comes back by itself, and goes on where it was. */
import { Backoff, Gateway, GatewayError } from "./http.js";
import type { Line, Status } from "./types.js";
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
export declare class Feed {
    #private;
    readonly gateway: Gateway;
    readonly options: FeedOptions;
    readonly follower: Follower;
    constructor(gateway: Gateway, options: FeedOptions, follower: Follower);
    /** Follow until `close`, until the session is deleted, or until an error that will not pass. */
    run(): Promise<void>;
    /** Try at once, if the line is down: somebody looks again, or the network is back. */
    wake(): void;
    close(): void;
}
