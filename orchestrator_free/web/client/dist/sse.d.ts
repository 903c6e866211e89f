/** The event-stream grammar of the HTML standard, over bytes as they come: any line ends, any cuts. */
export interface Frame {
    /** The field `event`; "" if absent. */
    event: string;
    data: string;
    /** The last id that any frame up to this one had. */
    id: string;
}
export declare class SseParser {
    #private;
    /** The last id of a frame that is complete. */
    id: string;
    /** What the server asks to wait before coming back, in milliseconds. */
    retry: number | null;
    /** Return the frames that these bytes complete. */
    feed(bytes: Uint8Array): Frame[];
}
/** Yield pieces of a body; ends without an error when the body does, throws if it breaks or `signal` aborts. */
export declare function pieces(body: ReadableStream<Uint8Array>, signal?: AbortSignal): AsyncGenerator<Uint8Array>;
