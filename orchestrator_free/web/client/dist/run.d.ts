/** The fold of one run: its events in log order become what a person reads of it. The same rules as the gateway's. */
import type { Part, RunView } from "./types.js";
type Body = {
    type: string;
    [name: string]: any;
};
export declare class RunFold {
    readonly agent: string;
    readonly run: string;
    input: string;
    parent: RunView["parent"];
    whisper: boolean;
    into: RunView["into"];
    waiting: RunView["waiting"];
    stalled: number | null;
    status: string;
    lost: boolean;
    cancelled: number;
    attempt: number;
    attempts: RunView["attempts"];
    parts: Map<string, Part>;
    usage: Record<string, number>;
    error: string | null;
    object: string | null;
    started: string | null;
    finished: string | null;
    first: number;
    last: number;
    constructor(agent: string, run: string);
    /** Whether its end is not in the log yet. */
    get open(): boolean;
    /** Apply one event of this run; false if it made no sense and was skipped. */
    apply(body: Body, sequence: number, time: string): boolean;
    /** The run as the view shows it. */
    view(): RunView;
    /** What people see: a cancel counts from its place in the log, whenever the agent stops. */
    private shownStatus;
    partViews(): Part[];
    /** The run that a view shows, ready for the events after it. */
    static load(view: RunView): RunFold;
}
export {};
