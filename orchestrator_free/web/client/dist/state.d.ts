/** The values of a session: read and written with their revisions, so that no change of somebody else is lost. */
import { type Gateway } from "./http.js";
import type { Json } from "./types.js";
export interface Value {
    key: string;
    value: Json;
    revision: number;
    by: string;
    time: string;
}
/** `expect`: write only over this revision, 0 for no value; a GatewayError of status 412 says who was first. */
export interface Condition {
    expect?: number;
}
export declare class State {
    #private;
    readonly gateway: Gateway;
    readonly session: string;
    readonly member: string;
    constructor(gateway: Gateway, session: string, member: string);
    /** The present value; null if the key has none. */
    get(key: string): Promise<Value | null>;
    set(key: string, value: Json, condition?: Condition): Promise<Value & {
        position: string;
    }>;
    /** Change a value, whatever others do to it meanwhile: by an object (RFC 7396) or a list of operations (RFC 6902). */
    patch(key: string, patch: Json, condition?: Condition): Promise<Value & {
        position: string;
    }>;
    /** Remove a key; false if it had no value. */
    delete(key: string, condition?: Condition): Promise<boolean>;
}
