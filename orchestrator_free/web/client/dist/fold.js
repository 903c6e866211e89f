/** The fold of a session: its events in log order become the view, by the same rules as at the gateway. */
import { Asks } from "./asks.js";
import { Branches, runId } from "./branches.js";
import { Controls } from "./controls.js";
import { RunFold } from "./run.js";
const sequenceOf = (position) => Number(position.slice(position.lastIndexOf("-") + 1));
const FLOOR_STEPS = 50;
const NOTICES = 100;
const NOTICE = {
    "notification.failed": "failed",
    "notification.retry": "retrying",
    "notification.delivered": "delivered",
};
export class Fold {
    session;
    position = "";
    sequence = 0;
    skipped = 0;
    deleted = false;
    meta = { title: "", agents: [], created: null, by: null, compaction: "on", forked_from: null };
    inputs = new Map();
    runs = new Map();
    offline = new Map();
    presence = new Map();
    state = new Map();
    controls = new Controls();
    asks = new Asks();
    leases = new Map();
    notices = new Map();
    floor = null;
    floorHistory = [];
    branches = new Branches();
    constructor(session) {
        this.session = session;
    }
    /** Apply the next event; one that makes no sense is skipped and counted. */
    apply(event) {
        this.position = event.position;
        this.sequence = sequenceOf(event.position);
        const handler = HANDLERS[event.kind];
        if (!handler)
            return;
        try {
            if (!handler(this, event, this.sequence))
                this.skipped += 1;
        }
        catch {
            this.skipped += 1; // a payload of a wrong shape
        }
    }
    run(agent, run) {
        return this.runs.get(`${agent} ${run}`);
    }
    /** What has not begun: [agent, run, input], in the order in which it was asked. */
    *queued() {
        const ordered = [...this.inputs.values()].sort((one, other) => one.sequence - other.sequence);
        for (const entry of ordered) {
            if (entry.replayed || entry.note)
                continue;
            const run = runId(entry.from, entry.input);
            for (const agent of entry.to === "all" ? this.meta.agents : [entry.to]) {
                if (entry.to === "all" && !answers(entry.floor, agent, entry))
                    continue;
                if (this.run(agent, run) || this.controls.cancels(agent, run, entry.sequence))
                    continue;
                yield [agent, run, entry];
            }
        }
    }
    /** Whether nothing is open or waiting. */
    get idle() {
        return [...this.runs.values()].every((run) => !run.open || run.cancelled) && this.queued().next().done === true;
    }
    asked(agent, source) {
        const cut = source.indexOf("/");
        const [sender, name] = [source.slice(0, cut), source.slice(cut + 1)];
        const found = [agent, "all"].map((target) => this.inputs.get(`${sender}/${target}/${name}`)?.sequence ?? 0);
        return Math.max(...found);
    }
    view() {
        const agents = new Map();
        for (const run of [...this.runs.values()].sort((one, other) => one.first - other.first)) {
            agents.set(run.agent, [...(agents.get(run.agent) ?? []), run]);
        }
        for (const name of this.offline.keys())
            if (!agents.has(name))
                agents.set(name, []);
        const inputs = [...this.inputs.values()].sort((one, other) => one.sequence - other.sequence);
        const leases = [...this.leases].sort((one, other) => one[1].revision - other[1].revision);
        return {
            session: this.session,
            position: this.position,
            meta: { ...this.meta },
            inputs: inputs.map((entry) => this.branches.shown(entry)),
            branch: this.branches.view(),
            agents: [...agents].map(([name, runs]) => this.agentView(name, runs)),
            queue: this.queue(),
            presence: Object.fromEntries(this.presence),
            floor: this.floor && { ...this.floor, history: this.floorHistory.map((step) => ({ ...step })) },
            state: Object.fromEntries(this.state),
            asks: this.asks.view(),
            leases: Object.fromEntries(leases),
            notices: [...this.notices.values()],
            controls: this.controls.view(),
        };
    }
    agentView(agent, runs) {
        const offline = this.offline.get(agent);
        const status = offline ? "offline" : runs.some((run) => run.open) ? "working" : "idle";
        const { reason = null, back = null } = offline ?? {};
        return { agent, status, reason, back, runs: runs.map((run) => run.view()) };
    }
    queue() {
        const places = new Map();
        return [...this.queued()].map(([agent, run, entry]) => {
            const place = (places.get(agent) ?? 0) + 1;
            places.set(agent, place);
            return { agent, run, input: entry.input, from: entry.from, place };
        });
    }
    /** The fold that a view shows, ready for the events after the view's position. */
    static load(view) {
        const fold = new Fold(view.session);
        fold.position = view.position;
        fold.sequence = sequenceOf(view.position);
        fold.meta = { ...view.meta };
        for (const entry of view.inputs)
            fold.inputs.set(`${entry.from}/${entry.to}/${entry.input}`, { ...entry });
        for (const { agent, status, reason, back, runs } of view.agents) {
            if (status === "offline")
                fold.offline.set(agent, { reason: reason ?? "", back });
            for (const run of runs)
                fold.runs.set(`${agent} ${run.run}`, RunFold.load(run));
        }
        for (const [member, said] of Object.entries(view.presence))
            fold.presence.set(member, said);
        for (const [key, entry] of Object.entries(view.state))
            fold.state.set(key, entry);
        for (const [name, lease] of Object.entries(view.leases))
            fold.leases.set(name, lease);
        for (const notice of view.notices)
            fold.notices.set(`${notice.from}/${notice.notice}`, notice);
        if (view.floor) {
            const { history, ...state } = view.floor;
            [fold.floor, fold.floorHistory] = [state, [...history]];
        }
        fold.asks.load(view.asks);
        fold.controls.load(view.controls);
        fold.branches = Branches.load(view);
        return fold;
    }
}
/** Whether an agent is to work on an input, as far as the floor at its place in the log is concerned. */
function answers(holder, agent, entry) {
    const delegated = entry.parent !== null && entry.parent.agent === entry.from;
    return holder === null || holder === agent || holder === entry.from || delegated || entry.whisper;
}
function takeInput(fold, event, sequence) {
    const body = event.event;
    if (body.type !== "input" || typeof (body["text"] ?? "") !== "string")
        return false;
    const key = `${event.member}/${event.target}/${event.id}`;
    const known = fold.inputs.get(key);
    fold.inputs.set(key, {
        input: event.id,
        from: event.member,
        to: event.target,
        text: body["text"] ?? "",
        data: body["data"] ?? null,
        parent: known ? known.parent : (body["parent"] ?? null),
        replayed: body["replayed"] ?? false,
        note: known ? known.note : (body["note"] ?? false),
        whisper: known ? known.whisper : (body["whisper"] ?? false),
        floor: fold.floor?.holder ?? null,
        after: fold.branches.take(event, sequence, known),
        siblings: 0,
        time: event.time,
        sequence,
    });
    return true;
}
function takeRun(fold, event, sequence) {
    const key = `${event.member} ${event.id}`;
    let run = fold.runs.get(key);
    if (!run) {
        run = new RunFold(event.member, event.id);
        if (!fold.controls.empty) {
            run.cancelled = fold.controls.cancels(run.agent, run.run, fold.asked(run.agent, String(event.event["input"])));
        }
    }
    if (!run.apply(event.event, sequence, event.time))
        return false;
    fold.runs.set(key, run);
    fold.offline.delete(event.member);
    return true;
}
function takeMeta(fold, event) {
    const body = event.event;
    switch (body.type) {
        case "session.created":
            fold.meta = {
                title: body["title"] ?? "", agents: body["agents"] ?? [], created: event.time, by: event.member,
                compaction: body["compaction"] ?? "on", forked_from: body["forked_from"] ?? null,
            };
            return true;
        case "session.updated":
            fold.meta = {
                ...fold.meta, title: body["title"] ?? fold.meta.title, agents: body["agents"] ?? fold.meta.agents,
            };
            return true;
        case "session.deleted":
            fold.deleted = true;
            return true;
        case "branch.selected":
            return fold.branches.select(body["input"]);
    }
    return false;
}
function takePresence(fold, event) {
    const body = event.event;
    const { reason = "", back = null } = body;
    if (body.type !== "agent.offline" && body.type !== "presence.set")
        return false;
    fold.offline.delete(event.member);
    fold.presence.delete(event.member);
    if (body.type === "presence.set") {
        fold.presence.set(event.member, { status: body["status"], reason, back, time: event.time });
        return true;
    }
    fold.offline.set(event.member, { reason, back });
    for (const run of fold.runs.values())
        if (run.agent === event.member && run.open)
            run.lost = true;
    return true;
}
function takeState(fold, event, sequence) {
    const key = event.id;
    if (event.event.type === "state.set") {
        fold.state.set(key, { value: event.event["value"] ?? null, by: event.member, revision: sequence, time: event.time });
    }
    else if (event.event.type === "state.deleted")
        fold.state.delete(key);
    else
        return false;
    return true;
}
function takeOutcome(fold, event) {
    const [understood, refused] = fold.controls.settled(event);
    for (const control of refused) {
        for (const run of fold.runs.values()) {
            if (run.agent !== event.member || run.cancelled !== control.sequence)
                continue;
            const until = run.open ? Infinity : run.last;
            run.cancelled = fold.controls.cancels(run.agent, run.run, fold.asked(run.agent, run.input), until);
        }
    }
    return understood;
}
function takeFloor(fold, event, sequence) {
    const body = event.event;
    const { holder = null, previous = null, request = null, step, reason = "" } = body;
    if (body.type !== "floor" || !isOwnStep(step, holder, request, event.member))
        return false;
    fold.floor = { holder, previous, request, step, by: event.member, reason, time: event.time, revision: sequence };
    fold.floorHistory = [...fold.floorHistory.slice(1 - FLOOR_STEPS), fold.floor];
    return true;
}
/** Nobody takes the floor, or asks, in the name of another. */
function isOwnStep(step, holder, request, member) {
    switch (step) {
        case "take":
        case "accept":
            return holder === member && request === null;
        case "request":
            return request !== null && request.from === member;
        case "release":
            return holder === null && request === null;
    }
    return ["decline", "withdraw", "return"].includes(step) && request === null;
}
function takeLease(fold, event, sequence) {
    const body = event.event;
    const held = body.type === "lease.taken";
    if ((!held && body.type !== "lease.released") || typeof body["term"] !== "number")
        return false;
    const known = fold.leases.get(event.id);
    if (known && body["term"] < known.term)
        return true;
    const { term, hold, data = null, seconds = null } = body;
    const status = held ? "held" : body["done"] ? "done" : "released";
    const holder = held ? event.member : null;
    fold.leases.set(event.id, { holder, status, term, hold, by: event.member, data, seconds, time: event.time, revision: sequence });
    return true;
}
function takeStage(fold, event, sequence) {
    if (event.event.type !== "lease.lapsed")
        return fold.asks.apply(event, sequence);
    const known = fold.leases.get(event.target);
    if (known && known.holder === event.member && known.hold === event.id) {
        fold.leases.set(event.target, { ...known, holder: null, status: "lapsed", time: event.time });
    }
    return true;
}
function takeNotice(fold, event, sequence) {
    const { type, about, position, tries, error = "" } = event.event;
    const status = NOTICE[type];
    if (!status)
        return type === "letter.settled"; // for who operates
    const key = `${event.member}/${event.id}`;
    fold.notices.delete(key);
    fold.notices.set(key, { notice: event.id, from: event.member, about, position, status, tries, error, time: event.time, sequence });
    for (const oldest of fold.notices.keys()) {
        if (fold.notices.size <= NOTICES)
            break;
        fold.notices.delete(oldest);
    }
    return true;
}
const HANDLERS = {
    in: takeInput,
    run: takeRun,
    meta: takeMeta,
    presence: takePresence,
    state: takeState,
    ctl: (fold, event, sequence) => fold.controls.given(event, sequence, fold.runs.values()),
    outcome: takeOutcome,
    ask: (fold, event, sequence) => fold.asks.apply(event, sequence),
    answer: (fold, event, sequence) => fold.asks.apply(event, sequence),
    stage: takeStage,
    floor: takeFloor,
    lease: takeLease,
    notice: takeNotice,
};
