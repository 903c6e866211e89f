/** Requests to a gateway: a token that is asked again when it is refused, and errors that say what the gateway said. */
export type Token = () => string | null | undefined | Promise<string | null | undefined>;
export interface GatewayOptions {
    /** Where the gateway is; the page's own origin if absent. */
    gateway?: string;
    /** Returns what stands behind `Authorization: Bearer`; called again when the answer is 401. */
    token?: Token;
    fetch?: typeof fetch;
}
/** What the gateway, or one in between, refused; `status` 0: nobody answered. */
export declare class GatewayError extends Error {
    readonly status: number;
    readonly type: string;
    /** Milliseconds after which to come again, if the answer says so. */
    readonly retryAfter: number | null;
    name: string;
    constructor(status: number, message: string, type?: string, 
    /** Milliseconds after which to come again, if the answer says so. */
    retryAfter?: number | null, options?: ErrorOptions);
    /** Whether the same request may succeed later. */
    get passing(): boolean;
    static of(response: Response): Promise<GatewayError>;
}
export interface Call {
    body?: unknown;
    headers?: Record<string, string>;
    signal?: AbortSignal;
    query?: Record<string, string | number | null | undefined>;
}
export declare class Gateway {
    #private;
    readonly base: string;
    constructor({ gateway, token, fetch }?: GatewayOptions);
    url(path: string, query?: Call["query"]): string;
    /** The token as of now; null where there is none. */
    token(): Promise<string | null>;
    /** A ticket that opens one feed, once: where no header can be set. Undefined without a token, or where none is asked for. */
    ticket(session: string | null, signal?: AbortSignal): Promise<string | undefined>;
    /** Send a request; a 401 is tried once more with a new token.
     *
     * @throws GatewayError of status 0 if nobody answered, and of the answer's if that is an error.
     */
    send(method: string, path: string, call?: Call): Promise<Response>;
    /** `fetch` with this gateway's token; a 401 is tried once more with a new one. */
    readonly fetch: typeof fetch;
    json(method: string, path: string, call?: Call): Promise<any>;
    /** One page of the sessions, by id. */
    sessions(query?: {
        limit?: number;
        after?: string;
    }): Promise<{
        sessions: SessionLine[];
        next: string | null;
    }>;
    /** Begin a session. */
    create(about?: {
        session?: string;
        title?: string;
        agents?: string[];
    }): Promise<{
        session: string;
        position: string;
    }>;
    /** Delete a session with everything in it. */
    delete(session: string): Promise<void>;
}
export interface SessionLine {
    session: string;
    title: string;
    agents: string[];
    created: string;
}
/** How long to wait before the next try: anything up to twice as much each time, so that clients do not come in step. */
export declare class Backoff {
    #private;
    base: number;
    readonly most: number;
    constructor(base?: number, most?: number);
    reset(): void;
    next(least?: number): number;
}
/** Wait, unless `signal` aborts before; never throws. */
export declare function pause(milliseconds: number, signal: AbortSignal): Promise<void>;
