/** What an event leaves out because it is large: the parts of finished runs that are objects of their session. */
import { type Gateway } from "./http.js";
import type { View } from "./types.js";
export declare class Completion {
    #private;
    readonly gateway: Gateway;
    readonly changed: () => void;
    /** @param changed called when a view would be more complete now. */
    constructor(gateway: Gateway, changed: () => void);
    /** Put into a view what was fetched, and fetch what is missing. */
    complete(view: View): View;
    close(): void;
}
