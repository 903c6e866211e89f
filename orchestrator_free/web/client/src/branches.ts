/** The tree that people's inputs make where one was edited, asked again, or gone back to; and which branch is shown. */

import { sha256 } from "./sha256.js";
import type { Envelope, InputView, Reference, View } from "./types.js";

const ROOT = "";

/** The id of the run that answers an input. */
export function runId(sender: string, input: string): string {
  return sha256(`${sender}.${input}`).slice(0, 24);
}

/** `<sender>/<input>` of a reference, empty for none. */
export function keyOf(reference: Reference | null | undefined): string {
  return reference ? `${reference.from}/${reference.input}` : ROOT;
}

function reference(key: string): Reference | null {
  const cut = key.indexOf("/");
  return key ? { from: key.slice(0, cut), input: key.slice(cut + 1) } : null;
}

function inTree(entry: InputView): boolean {
  return !(entry.note || entry.whisper || entry.parent);
}

export class Branches {
  readonly after = new Map<string, string>();
  head = ROOT;
  private readonly childrenOf = new Map<string, string[]>();
  private readonly latest = new Map<string, number>();
  private readonly runs = new Map<string, string>();
  private readonly aside = new Set<string>();

  /** Put an input into the tree; return what it was said after, unless it is a node. */
  take(event: Envelope, sequence: number, known: InputView | undefined): Reference | null {
    const body = event.event;
    const id = event.id ?? "";
    const key = `${event.member}/${id}`;
    if (known) {
      if (this.after.has(key) && inTree(known)) this.latest.set(key, sequence);
      return known.after;
    }
    const run = runId(event.member, id);
    if (body["parent"]) {
      this.aside.add(run);
      return null;
    }
    if (body["note"] || body["whisper"]) {
      const place = keyOf(body["after"]);
      return reference(this.after.has(place) ? place : this.head);
    }
    if (this.after.has(key)) {
      this.latest.set(key, sequence);
      return null;
    }
    const ended: string | undefined = body["redirects"]?.run;
    if (ended !== undefined && this.aside.has(ended) && !this.runs.has(ended)) {
      this.aside.add(run); // it goes on with something that was delegated
      return null;
    }
    const [place, selects] = this.place(body, ended);
    this.add(key, place, sequence);
    if (selects) this.head = key;
    return null;
  }

  /** What a new node comes after, and whether that branch is selected by it. */
  private place(body: Envelope["event"], ended: string | undefined): [string, boolean] {
    for (const name of ["edits", "again"]) {
      const other = this.after.get(keyOf(body[name]));
      if (body[name] && other !== undefined) return [other, true];
    }
    const other = keyOf(body["after"]);
    if (this.after.has(other)) return [other, true];
    const node = this.runs.get(ended ?? "");
    if (node !== undefined && !this.path().includes(node)) return [this.end(node), false];
    return [this.head, true];
  }

  private add(key: string, after: string, sequence: number): void {
    this.after.set(key, after);
    this.latest.set(key, sequence);
    const siblings = this.childrenOf.get(after);
    if (siblings) siblings.push(key);
    else this.childrenOf.set(after, [key]);
    const { from, input } = reference(key)!;
    this.runs.set(runId(from, input), key);
  }

  /** Apply a choice of branch: up to an input, and on from there along the latest ones. */
  select(chosen: unknown): boolean {
    const { from, input } = (chosen ?? {}) as Partial<Reference>;
    const key = typeof from === "string" && typeof input === "string" ? keyOf({ from, input }) : ROOT;
    if (!this.after.has(key)) return false;
    this.head = this.end(key);
    return true;
  }

  private end(key: string): string {
    for (let next = this.childrenOf.get(key); next; next = this.childrenOf.get(key)) {
      key = next.reduce((best, one) => (this.latest.get(one)! > this.latest.get(best)! ? one : best));
    }
    return key;
  }

  private path(): string[] {
    const found: string[] = [];
    for (let key = this.head; key !== ROOT; key = this.after.get(key)!) found.push(key);
    return found.reverse();
  }

  private ends(): string[] {
    const ordered = [...this.after.keys()].sort((one, other) => this.latest.get(one)! - this.latest.get(other)!);
    return ordered.filter((key) => !this.childrenOf.has(key));
  }

  view(): View["branch"] {
    return { path: this.path().map(reference), heads: this.ends().map(reference) };
  }

  /** An input as the view shows it: what it comes after, and how many stand in that place. */
  shown(entry: InputView): InputView {
    const after = inTree(entry) ? this.after.get(keyOf(entry)) : undefined;
    if (after === undefined) return { ...entry, siblings: 0 };
    return { ...entry, after: reference(after), siblings: this.childrenOf.get(after)!.length };
  }

  static load(view: View): Branches {
    const branches = new Branches();
    const nodes = new Map<string, [string, number]>();
    for (const entry of view.inputs) {
      if (entry.siblings) nodes.set(keyOf(entry), [keyOf(entry.after), entry.sequence]);
      else if (entry.parent || !(entry.note || entry.whisper)) branches.aside.add(runId(entry.from, entry.input));
    }
    for (const [key, [after, sequence]] of nodes) branches.add(key, after, sequence);
    branches.head = keyOf(view.branch.path.at(-1));
    return branches;
  }
}
