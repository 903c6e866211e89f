/** The tree that people's inputs make where one was edited, asked again, or gone back to; and which branch is shown. */
import type { Envelope, InputView, Reference, View } from "./types.js";
/** The id of the run that answers an input. */
export declare function runId(sender: string, input: string): string;
/** `<sender>/<input>` of a reference, empty for none. */
export declare function keyOf(reference: Reference | null | undefined): string;
export declare class Branches {
    readonly after: Map<string, string>;
    head: string;
    private readonly childrenOf;
    private readonly latest;
    private readonly runs;
    private readonly aside;
    /** Put an input into the tree; return what it was said after, unless it is a node. */
    take(event: Envelope, sequence: number, known: InputView | undefined): Reference | null;
    /** What a new node comes after, and whether that branch is selected by it. */
    private place;
    private add;
    /** Apply a choice of branch: up to an input, and on from there along the latest ones. */
    select(chosen: unknown): boolean;
    private end;
    private path;
    private ends;
    view(): View["branch"];
    /** An input as the view shows it: what it comes after, and how many stand in that place. */
    shown(entry: InputView): InputView;
    static load(view: View): Branches;
}
