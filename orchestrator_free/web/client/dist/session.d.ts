/** A session as a page sees it: what is in it, live; and what can be said to it, also while the gateway is away. */
import { Emitter } from "./emitter.js";
import { Fold } from "./fold.js";
import { Gateway, GatewayError } from "./http.js";
import type { About, ControlSent, Said, Sent, SessionEvents, SessionOptions } from "./options.js";
import { Outbox } from "./outbox.js";
import { State } from "./state.js";
import type { Envelope, Json, Member, Status, View } from "./types.js";
export declare class Session extends Emitter<SessionEvents> {
    #private;
    readonly options: SessionOptions;
    readonly http: Gateway;
    readonly session: string;
    readonly member: string;
    readonly device: string;
    readonly state: State;
    readonly outbox: Outbox;
    /** Milliseconds from an event's being stored to its being shown here, of the last one; as right as both clocks are. */
    lag: number | null;
    constructor(options: SessionOptions);
    /** Begin to follow, or go on after `close`.
     *
     * @returns when the view is there.
     * @throws GatewayError if there is no such session, or the request is refused; being offline is no error.
     */
    open(): Promise<void>;
    /** Stop following. Nothing is cancelled by that. */
    close(): void;
    /** What is in the session as of `position`; null before it is known. */
    get view(): View | null;
    /** The fold behind the view, for who has to read it at every event; another one after each `snapshot`. */
    get fold(): Fold | null;
    get position(): string | null;
    get status(): Status;
    /** Why the line is down, if it is. */
    get error(): GatewayError | undefined;
    /** Who is there. */
    get presence(): Member[];
    /** The events from now on, in log order; ends with `close` or the session's deletion. */
    get events(): AsyncIterableIterator<Envelope>;
    /** Every event of the log so far, from the first one on, or from behind a position: for replaying it. */
    history(after?: string | null, signal?: AbortSignal): AsyncGenerator<Envelope>;
    /** Send an input. While the gateway is away it waits in the outbox, in order.
     *
     * @returns when it is stored.
     * @throws GatewayError if it is refused.
     */
    send(text: string, { id, to, ...more }?: Said): Promise<Sent>;
    /** The run that answers, or will answer, an input; the same for every agent. */
    runOf(input: string, from?: string): string;
    cancel(about?: About): Promise<ControlSent>;
    steer(text: string, about?: About): Promise<ControlSent>;
    redirect(text: string, about?: About): Promise<ControlSent>;
    pause(about?: About): Promise<ControlSent>;
    resume(about?: About): Promise<ControlSent>;
    /** Answer an ask; returns the ask after it. */
    answer(ask: string, value: Json, comment?: string): Promise<any>;
    approve(ask: string, comment?: string): Promise<any>;
    deny(ask: string, comment?: string): Promise<any>;
    /** Take a step of the floor: take, request, accept, decline, withdraw, return or release. Not while offline. */
    floor(step: string, { to, reason, cancel }?: {
        to?: string;
        reason?: string;
        cancel?: boolean;
    }): Promise<any>;
    /** Say that this member is away, for everybody to see until `back`. */
    away(about?: {
        reason?: string;
        back?: string;
    }): Promise<{
        position: string;
    }>;
    back(): Promise<{
        position: string;
    }>;
    /** What somebody who takes over has to know. */
    brief(): Promise<any>;
}
