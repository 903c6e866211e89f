/** The fold of a session: its events in log order become the view, by the same rules as at the gateway. */
import { Asks } from "./asks.js";
import { Branches } from "./branches.js";
import { Controls } from "./controls.js";
import { RunFold } from "./run.js";
import type { Envelope, InputView, View } from "./types.js";
export declare class Fold {
    readonly session: string;
    position: string;
    sequence: number;
    skipped: number;
    deleted: boolean;
    meta: View["meta"];
    readonly inputs: Map<string, InputView>;
    readonly runs: Map<string, RunFold>;
    readonly offline: Map<string, {
        reason: string;
        back: string | null;
    }>;
    readonly presence: Map<string, {
        status: string;
        reason: string;
        back: string | null;
        time: string;
    }>;
    readonly state: Map<string, {
        value: import("./types.js").Json;
        by: string;
        revision: number;
        time: string;
    }>;
    readonly controls: Controls;
    readonly asks: Asks;
    readonly leases: Map<string, any>;
    readonly notices: Map<string, any>;
    floor: any;
    floorHistory: any[];
    branches: Branches;
    constructor(session: string);
    /** Apply the next event; one that makes no sense is skipped and counted. */
    apply(event: Envelope): void;
    run(agent: string, run: string): RunFold | undefined;
    /** What has not begun: [agent, run, input], in the order in which it was asked. */
    queued(): Generator<[string, string, InputView]>;
    /** Whether nothing is open or waiting. */
    get idle(): boolean;
    asked(agent: string, source: string): number;
    view(): View;
    private agentView;
    private queue;
    /** The fold that a view shows, ready for the events after the view's position. */
    static load(view: View): Fold;
}
