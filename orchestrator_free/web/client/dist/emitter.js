/** Listeners by name, and the events of a session as an async iterator. */
export class Emitter {
    #listeners = new Map();
    /** Call `listener` at every event of a name; return what ends that. */
    on(name, listener) {
        const listeners = this.#listeners.get(name) ?? new Set();
        this.#listeners.set(name, listeners);
        listeners.add(listener);
        return () => void listeners.delete(listener);
    }
    /** Call the listeners; one that fails does not keep the others from hearing. */
    emit(name, ...about) {
        for (const listener of [...(this.#listeners.get(name) ?? [])]) {
            try {
                listener(...about);
            }
            catch (error) {
                queueMicrotask(() => {
                    throw error;
                });
            }
        }
    }
}
/** Values that come while somebody iterates over them, in order; ends with `end`. */
export class Stream {
    left;
    #values = [];
    #waiting = [];
    #ended = false;
    constructor(left = () => { }) {
        this.left = left;
    }
    push(value) {
        const waiting = this.#waiting.shift();
        if (waiting)
            waiting({ value, done: false });
        else if (!this.#ended)
            this.#values.push(value);
    }
    end() {
        this.#ended = true;
        for (const waiting of this.#waiting.splice(0))
            waiting({ value: undefined, done: true });
    }
    next() {
        if (this.#values.length)
            return Promise.resolve({ value: this.#values.shift(), done: false });
        if (this.#ended)
            return Promise.resolve({ value: undefined, done: true });
        return new Promise((resolve) => this.#waiting.push(resolve));
    }
    return() {
        this.end();
        this.left();
        return Promise.resolve({ value: undefined, done: true });
    }
    [Symbol.asyncIterator]() {
        return this;
    }
}
