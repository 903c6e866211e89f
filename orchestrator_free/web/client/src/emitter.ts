/** Listeners by name, and the events of a session as an async iterator. */

export class Emitter<Events extends Record<string, unknown[]>> {
  readonly #listeners = new Map<keyof Events, Set<(...about: any[]) => void>>();

  /** Call `listener` at every event of a name; return what ends that. */
  on<Name extends keyof Events>(name: Name, listener: (...about: Events[Name]) => void): () => void {
    const listeners = this.#listeners.get(name) ?? new Set();
    this.#listeners.set(name, listeners);
    listeners.add(listener);
    return () => void listeners.delete(listener);
  }

  /** Call the listeners; one that fails does not keep the others from hearing. */
  protected emit<Name extends keyof Events>(name: Name, ...about: Events[Name]): void {
    for (const listener of [...(this.#listeners.get(name) ?? [])]) {
      try {
        listener(...about);
      } catch (error) {
        queueMicrotask(() => {
          throw error;
        });
      }
    }
  }
}

/** Values that come while somebody iterates over them, in order; ends with `end`. */
export class Stream<Value> implements AsyncIterableIterator<Value> {
  readonly #values: Value[] = [];
  #waiting: ((result: IteratorResult<Value>) => void)[] = [];
  #ended = false;

  constructor(readonly left: () => void = () => {}) {}

  push(value: Value): void {
    const waiting = this.#waiting.shift();
    if (waiting) waiting({ value, done: false });
    else if (!this.#ended) this.#values.push(value);
  }

  end(): void {
    this.#ended = true;
    for (const waiting of this.#waiting.splice(0)) waiting({ value: undefined, done: true });
  }

  next(): Promise<IteratorResult<Value>> {
    if (this.#values.length) return Promise.resolve({ value: this.#values.shift()!, done: false });
    if (this.#ended) return Promise.resolve({ value: undefined, done: true });
    return new Promise((resolve) => this.#waiting.push(resolve));
  }

  return(): Promise<IteratorResult<Value>> {
    this.end();
    this.left();
    return Promise.resolve({ value: undefined, done: true });
  }

  [Symbol.asyncIterator](): this {
    return this;
  }
}
