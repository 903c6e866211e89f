/** A `fetch` for clients of other protocols: an answer whose connection breaks goes on where it was, unseen by them.
 *
 * A gateway names in `x-stream-url` where an answer is to be had again. Its frames go to the caller in whole steps: up to
 * one that has an `id:`. After a break the rest is asked with that id as `Last-Event-ID`.
 */
export interface DurableFetchOptions {
    fetch?: typeof fetch;
    /** Give up when nothing could be had for so many milliseconds. */
    patience?: number;
    /** First and longest wait between two tries, in milliseconds. */
    backoff?: {
        base?: number;
        most?: number;
    };
}
/** Return a `fetch` for the option of that name, as of `DefaultChatTransport` or AG-UI's `HttpAgent`. */
export declare function durableFetch(options?: DurableFetchOptions): typeof fetch;
