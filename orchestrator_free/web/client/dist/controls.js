/** Controls and what becomes of them. One that ends runs counts from its place in the log, for every reader. */
const CONTROLS = new Set(["cancel", "steer", "redirect", "pause", "resume"]);
const ENDING = new Set(["cancel", "redirect"]);
const REFUSED = new Set(["rejected", "too_late", "expired"]);
export class Controls {
    found = new Map();
    get empty() {
        return this.found.size === 0;
    }
    /** The sequence of the control that ended a run between two sequences, 0 if there is none. */
    cancels(agent, run, since, until = Infinity) {
        for (const control of this.found.values()) {
            const meant = [agent, "all"].includes(control.to) && (control.run === null || control.run === run);
            const ends = meant && ENDING.has(control.type) && !refused(control, agent);
            if (ends && since < control.sequence && control.sequence < until)
                return control.sequence;
        }
        return 0;
    }
    /** Apply a control. */
    given(event, sequence, runs) {
        const body = event.event;
        const to = event.target;
        const key = `${event.member}/${to}/${event.id}`;
        if (!CONTROLS.has(body.type) || this.found.has(key))
            return false;
        const run = body["run"] ?? null;
        this.found.set(key, {
            control: event.id, type: body.type, from: event.member, to, run, text: body["text"] ?? "",
            reason: body["reason"] ?? "", time: event.time, sequence, outcomes: {},
        });
        if (ENDING.has(body.type)) {
            for (const one of runs) {
                const meant = [one.agent, "all"].includes(to) && (run === null || run === one.run);
                if (meant && one.open && !one.cancelled)
                    one.cancelled = sequence;
            }
        }
        return true;
    }
    /** Apply an outcome; return whether it made sense, and the controls that change nothing by it. */
    settled(event) {
        const body = event.event;
        if (body.type !== "outcome")
            return [false, []];
        const meant = [...this.found.values()].filter((control) => control.control === event.id && [event.member, "all"].includes(control.to));
        const changed = [];
        for (const control of meant) {
            const before = control.outcomes[event.member]?.state ?? "accepted";
            if (before !== "accepted")
                return [false, changed]; // the first end counts
            const { state, reason = "", runs = [] } = body;
            control.outcomes[event.member] = { state, reason, runs: [...runs], time: event.time };
            if (refused(control, event.member))
                changed.push(control);
        }
        return [meant.length > 0, changed];
    }
    view() {
        return [...this.found.values()].sort((one, other) => one.sequence - other.sequence).map(copy);
    }
    load(view) {
        this.found = new Map(view.map((one) => [`${one.from}/${one.to}/${one.control}`, copy(one)]));
    }
}
function copy(control) {
    return { ...control, outcomes: { ...control.outcomes } };
}
function refused(control, agent) {
    return REFUSED.has(control.outcomes[agent]?.state ?? "");
}
