/** Asks: what answers and stages add up to, decided in log order, so that every reader decides alike. */
import type { AskView, Envelope, Json } from "./types.js";
export declare class Asks {
    private found;
    apply(event: Envelope, sequence: number): boolean;
    private asked;
    private answered;
    /** Apply a stage; only the one who asks says it, or the broker in its name. */
    private staged;
    view(): AskView[];
    load(view: AskView[]): void;
}
/** Why an answer to an ask as it stands would not count; empty if it would. */
export declare function refusal(ask: AskView, member: string, value: Json): string;
