/** Listeners by name, and the events of a session as an async iterator. */
export declare class Emitter<Events extends Record<string, unknown[]>> {
    #private;
    /** Call `listener` at every event of a name; return what ends that. */
    on<Name extends keyof Events>(name: Name, listener: (...about: Events[Name]) => void): () => void;
    /** Call the listeners; one that fails does not keep the others from hearing. */
    protected emit<Name extends keyof Events>(name: Name, ...about: Events[Name]): void;
}
/** Values that come while somebody iterates over them, in order; ends with `end`. */
export declare class Stream<Value> implements AsyncIterableIterator<Value> {
    #private;
    readonly left: () => void;
    constructor(left?: () => void);
    push(value: Value): void;
    end(): void;
    next(): Promise<IteratorResult<Value>>;
    return(): Promise<IteratorResult<Value>>;
    [Symbol.asyncIterator](): this;
}
