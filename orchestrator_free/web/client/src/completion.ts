/** What an event leaves out because it is large: the parts of finished runs that are objects of their session. */

import { Backoff, type Gateway, GatewayError, pause } from "./http.js";
import type { RunView, View } from "./types.js";

export class Completion {
  readonly #found = new Map<string, Partial<RunView>>();
  readonly #asked = new Set<string>();
  readonly #stop = new AbortController();

  /** @param changed called when a view would be more complete now. */
  constructor(
    readonly gateway: Gateway,
    readonly changed: () => void,
  ) {}

  /** Put into a view what was fetched, and fetch what is missing. */
  complete(view: View): View {
    for (const agent of view.agents) agent.runs = agent.runs.map((run) => this.#run(view.session, run));
    return view;
  }

  close(): void {
    this.#stop.abort();
  }

  #run(session: string, run: RunView): RunView {
    if (!run.object || run.parts.length) return run;
    const found = this.#found.get(run.object);
    if (!found && !this.#asked.has(run.object)) {
      this.#asked.add(run.object);
      void this.#fetch(session, run.object);
    }
    return { ...run, ...found };
  }

  async #fetch(session: string, name: string): Promise<void> {
    const backoff = new Backoff();
    while (!this.#stop.signal.aborted) {
      try {
        const path = `/sessions/${encodeURIComponent(session)}/objects/${encodeURIComponent(name)}`;
        this.#found.set(name, await this.gateway.json("GET", path, { signal: this.#stop.signal }));
        return this.changed();
      } catch (error) {
        if (this.#stop.signal.aborted) return;
        if (!(error instanceof GatewayError) || !error.passing) {
          this.#found.set(name, { error: `the run's object ${name} cannot be had: ${String(error)}` });
          return this.changed();
        }
        await pause(backoff.next(), this.#stop.signal);
      }
    }
  }
}
