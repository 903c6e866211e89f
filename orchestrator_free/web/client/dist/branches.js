/** The tree that people's inputs make where one was edited, asked again, or gone back to; and which branch is shown. */
import { sha256 } from "./sha256.js";
const ROOT = "";
/** The id of the run that answers an input. */
export function runId(sender, input) {
    return sha256(`${sender}.${input}`).slice(0, 24);
}
/** `<sender>/<input>` of a reference, empty for none. */
export function keyOf(reference) {
    return reference ? `${reference.from}/${reference.input}` : ROOT;
}
function reference(key) {
    const cut = key.indexOf("/");
    return key ? { from: key.slice(0, cut), input: key.slice(cut + 1) } : null;
}
function inTree(entry) {
    return !(entry.note || entry.whisper || entry.parent);
}
export class Branches {
    after = new Map();
    head = ROOT;
    childrenOf = new Map();
    latest = new Map();
    runs = new Map();
    aside = new Set();
    /** Put an input into the tree; return what it was said after, unless it is a node. */
    take(event, sequence, known) {
        const body = event.event;
        const id = event.id ?? "";
        const key = `${event.member}/${id}`;
        if (known) {
            if (this.after.has(key) && inTree(known))
                this.latest.set(key, sequence);
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
        const ended = body["redirects"]?.run;
        if (ended !== undefined && this.aside.has(ended) && !this.runs.has(ended)) {
            this.aside.add(run); // it goes on with something that was delegated
            return null;
        }
        const [place, selects] = this.place(body, ended);
        this.add(key, place, sequence);
        if (selects)
            this.head = key;
        return null;
    }
    /** What a new node comes after, and whether that branch is selected by it. */
    place(body, ended) {
        for (const name of ["edits", "again"]) {
            const other = this.after.get(keyOf(body[name]));
            if (body[name] && other !== undefined)
                return [other, true];
        }
        const other = keyOf(body["after"]);
        if (this.after.has(other))
            return [other, true];
        const node = this.runs.get(ended ?? "");
        if (node !== undefined && !this.path().includes(node))
            return [this.end(node), false];
        return [this.head, true];
    }
    add(key, after, sequence) {
        this.after.set(key, after);
        this.latest.set(key, sequence);
        const siblings = this.childrenOf.get(after);
        if (siblings)
            siblings.push(key);
        else
            this.childrenOf.set(after, [key]);
        const { from, input } = reference(key);
        this.runs.set(runId(from, input), key);
    }
    /** Apply a choice of branch: up to an input, and on from there along the latest ones. */
    select(chosen) {
        const { from, input } = (chosen ?? {});
        const key = typeof from === "string" && typeof input === "string" ? keyOf({ from, input }) : ROOT;
        if (!this.after.has(key))
            return false;
        this.head = this.end(key);
        return true;
    }
    end(key) {
        for (let next = this.childrenOf.get(key); next; next = this.childrenOf.get(key)) {
            key = next.reduce((best, one) => (this.latest.get(one) > this.latest.get(best) ? one : best));
        }
        return key;
    }
    path() {
        const found = [];
        for (let key = this.head; key !== ROOT; key = this.after.get(key))
            found.push(key);
        return found.reverse();
    }
    ends() {
        const ordered = [...this.after.keys()].sort((one, other) => this.latest.get(one) - this.latest.get(other));
        return ordered.filter((key) => !this.childrenOf.has(key));
    }
    view() {
        return { path: this.path().map(reference), heads: this.ends().map(reference) };
    }
    /** An input as the view shows it: what it comes after, and how many stand in that place. */
    shown(entry) {
        const after = inTree(entry) ? this.after.get(keyOf(entry)) : undefined;
        if (after === undefined)
            return { ...entry, siblings: 0 };
        return { ...entry, after: reference(after), siblings: this.childrenOf.get(after).length };
    }
    static load(view) {
        const branches = new Branches();
        const nodes = new Map();
        for (const entry of view.inputs) {
            if (entry.siblings)
                nodes.set(keyOf(entry), [keyOf(entry.after), entry.sequence]);
            else if (entry.parent || !(entry.note || entry.whisper))
                branches.aside.add(runId(entry.from, entry.input));
        }
        for (const [key, [after, sequence]] of nodes)
            branches.add(key, after, sequence);
        branches.head = keyOf(view.branch.path.at(-1));
        return branches;
    }
}
