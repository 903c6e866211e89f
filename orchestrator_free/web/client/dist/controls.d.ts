/** Controls and what becomes of them. One that ends runs counts from its place in the log, for every reader. */
import type { RunFold } from "./run.js";
import type { ControlView, Envelope } from "./types.js";
export declare class Controls {
    private found;
    get empty(): boolean;
    /** The sequence of the control that ended a run between two sequences, 0 if there is none. */
    cancels(agent: string, run: string, since: number, until?: number): number;
    /** Apply a control. */
    given(event: Envelope, sequence: number, runs: Iterable<RunFold>): boolean;
    /** Apply an outcome; return whether it made sense, and the controls that change nothing by it. */
    settled(event: Envelope): [boolean, ControlView[]];
    view(): ControlView[];
    load(view: ControlView[]): void;
}
