/** The fold of one run: its events in log order become what a person reads of it. The same rules as the gateway's. */
const FINAL = new Set(["done", "error", "cancelled", "failed", "rejected"]);
const isText = (value) => typeof value === "string";
const isObject = (value) => typeof value === "object" && value !== null && !Array.isArray(value);
export class RunFold {
    agent;
    run;
    input = "";
    parent = null;
    whisper = false;
    into = null;
    waiting = null;
    stalled = null;
    status = "running";
    lost = false;
    cancelled = 0;
    attempt = 0;
    attempts = [];
    parts = new Map();
    usage = {};
    error = null;
    object = null;
    started = null;
    finished = null;
    first = 0;
    last = 0;
    constructor(agent, run) {
        this.agent = agent;
        this.run = run;
    }
    /** Whether its end is not in the log yet. */
    get open() {
        return this.status === "running";
    }
    /** Apply one event of this run; false if it made no sense and was skipped. */
    apply(body, sequence, time) {
        const ends = body.type === "run.finished";
        if (FINAL.has(this.status) && !ends)
            return false;
        if (this.cancelled && !ends) {
            this.first = this.first || sequence;
            this.last = sequence;
            return true; // it came too late to be shown
        }
        const stalled = this.stalled;
        this.stalled = null;
        if (!(HANDLERS[body.type] ?? other)(this, body, sequence, time)) {
            this.stalled = stalled;
            return false;
        }
        this.first = this.first || sequence;
        this.last = sequence;
        this.lost = false;
        return true;
    }
    /** The run as the view shows it. */
    view() {
        return {
            run: this.run,
            agent: this.agent,
            input: this.input,
            parent: this.parent,
            whisper: this.whisper,
            into: this.into,
            waiting: this.open ? this.waiting : null,
            stalled: this.open ? this.stalled : null,
            status: this.shownStatus(),
            cancelled: this.cancelled || null,
            attempt: this.attempt,
            attempts: [...this.attempts],
            started: this.started,
            finished: this.finished,
            usage: { ...this.usage },
            error: this.error,
            object: this.object,
            parts: this.partViews(),
            first: this.first,
            last: this.last,
        };
    }
    /** What people see: a cancel counts from its place in the log, whenever the agent stops. */
    shownStatus() {
        if (this.open && this.cancelled)
            return "cancelled";
        return this.lost && this.open ? "lost" : this.status;
    }
    partViews() {
        return [...this.parts.values()].map((part) => ({ ...part }));
    }
    /** The run that a view shows, ready for the events after it. */
    static load(view) {
        const run = new RunFold(view.agent, view.run);
        const { input, parent, whisper, into, waiting, stalled, attempt, started, finished, error, object, first, last } = view;
        Object.assign(run, { input, parent, whisper, into, waiting, stalled, attempt, started, finished, error, object, first, last });
        run.usage = { ...view.usage };
        run.attempts = [...view.attempts];
        run.lost = view.status === "lost";
        run.cancelled = view.cancelled ?? 0;
        run.status = view.finished === null ? "running" : view.status;
        run.parts = loadParts(view.parts);
        return run;
    }
}
function loadParts(parts) {
    return new Map(parts.map((part, number) => [partKey(part, number), { ...part }]));
}
/** The name under which later events find a part; unnamed parts get their place. */
function partKey(part, number) {
    switch (part.type) {
        case "text":
        case "reasoning":
            return `${part.type} ${part["part"]}`;
        case "tool":
            return `tool ${part["call"]}`;
        case "source":
            return `source ${part["id"]}`;
        case "file":
            return `file ${part["name"]}`;
        case "data":
            if (part["id"] !== undefined && part["id"] !== null)
                return `data ${JSON.stringify([part["name"], part["id"]])}`;
    }
    return `#${number}`;
}
function close(part) {
    delete part["open"];
}
function started(run, body, _sequence, time) {
    if (!Number.isInteger(body["attempt"]) || !isText(body["input"]))
        return false;
    if (run.parts.size) {
        const parts = run.partViews().map((part) => (close(part), part));
        run.attempts.push({ attempt: run.attempt, parts });
    }
    run.parts = new Map();
    run.usage = {};
    run.waiting = null;
    run.attempt = body["attempt"];
    run.input = body["input"];
    run.parent = body["parent"] ?? null;
    run.whisper = body["whisper"] ?? false;
    run.started = run.started ?? time;
    return true;
}
function delta(kind) {
    return (run, body) => {
        if (!isText(body["part"]) || !isText(body["text"]) || !isBy(body["by"]))
            return false;
        const key = `${kind} ${body["part"]}`;
        const part = run.parts.get(key);
        if (part === undefined)
            run.parts.set(key, { type: kind, part: body["part"], text: body["text"], open: true, ...by(body) });
        else if (part["open"])
            part["text"] += body["text"];
        else
            return false; // the part is closed
        return true;
    };
}
/** Which sub-agent inside the run opened a part, if one did. */
function by(body) {
    return isText(body["by"]) ? { by: body["by"] } : {};
}
function isBy(value) {
    return value === undefined || value === null || isText(value);
}
function end(kind) {
    return (run, body) => {
        if (!isText(body["part"]))
            return false;
        const part = run.parts.get(`${kind} ${body["part"]}`);
        if (part)
            close(part);
        return true;
    };
}
/** The part of a tool call; the first event of a call opens it. */
function call(run, body, time) {
    const key = `tool ${body["call"]}`;
    let part = run.parts.get(key);
    if (part === undefined) {
        part = {
            type: "tool", call: body["call"], tool: body["tool"] ?? "", status: "running", input: null, output: null,
            error: null, started: time, seconds: null, ...by(body),
        };
        run.parts.set(key, part);
    }
    return part;
}
function toolInputDelta(run, body, _sequence, time) {
    if (!isText(body["call"]) || !isText(body["tool"]) || !isText(body["text"]) || !isBy(body["by"]))
        return false;
    const part = call(run, body, time);
    if (!part["open"])
        Object.assign(part, { text: "", open: true });
    part["text"] += body["text"];
    return true;
}
function toolInput(run, body, _sequence, time) {
    if (!isText(body["call"]) || !isText(body["tool"]) || !isBy(body["by"]))
        return false;
    const part = call(run, body, time);
    delete part["text"];
    close(part);
    part["input"] = body["input"] ?? null;
    return true;
}
function toolOutput(run, body, _sequence, time) {
    if (!isText(body["call"]))
        return false;
    const part = call(run, body, time);
    close(part);
    part["output"] = body["output"] ?? null;
    if (!body["preliminary"])
        Object.assign(part, { status: "done", seconds: seconds(part["started"], time) });
    return true;
}
function toolError(run, body, _sequence, time) {
    if (!isText(body["call"]) || !isText(body["error"]))
        return false;
    const part = call(run, body, time);
    close(part);
    Object.assign(part, { status: "error", error: body["error"], seconds: seconds(part["started"], time) });
    return true;
}
/** Seconds between two RFC 3339 times, to the millisecond; their fractions are finer than a Date. */
function seconds(from, to) {
    const one = micros(from);
    const other = micros(to);
    return one === null || other === null ? null : Math.round((other - one) / 1000) / 1000;
}
function micros(text) {
    const match = /^(.*?)(?:\.(\d+))?(Z|[+-]\d\d:\d\d)$/.exec(text ?? "");
    const whole = match ? Date.parse(match[1] + match[3]) : NaN;
    return Number.isNaN(whole) ? null : whole * 1000 + Number((match[2] ?? "").padEnd(6, "0").slice(0, 6));
}
function keep(...fields) {
    return (run, body) => {
        if (!fields.every((field) => isText(body[field])))
            return false;
        run.parts.set(partKey(body, run.parts.size), { ...body });
        return true;
    };
}
function data(run, body, sequence, time) {
    if (body["transient"])
        return isText(body["name"]);
    return keep("name")(run, body, sequence, time);
}
function usage(run, body) {
    const used = body["usage"];
    if (!isObject(used) || !Object.values(used).every((value) => typeof value === "number"))
        return false;
    for (const [name, value] of Object.entries(used))
        run.usage[name] = (run.usage[name] ?? 0) + value;
    return true;
}
function waiting(run, body, _sequence, time) {
    if (!isText(body["reason"]))
        return false;
    run.waiting = { reason: body["reason"], ask: body["ask"] ?? null, until: body["until"] ?? null, since: time };
    return true;
}
function working(run) {
    run.waiting = null;
    return true;
}
function stalled(run, body) {
    if (typeof body["seconds"] !== "number")
        return false;
    run.stalled = body["seconds"];
    return true;
}
function other(run, body) {
    run.parts.set(`#${run.parts.size}`, { type: "other", event: body });
    return true;
}
function finished(run, body, _sequence, time) {
    if (!FINAL.has(body["status"]))
        return false;
    run.input = body["input"] ?? run.input;
    run.attempt = body["attempt"] ?? run.attempt;
    run.parent = body["parent"] !== undefined ? body["parent"] : run.parent;
    run.whisper = body["whisper"] ?? run.whisper;
    run.into = body["into"] ?? null;
    run.waiting = null;
    run.error = body["error"] ?? null;
    run.first = body["first"] || run.first;
    run.started = body["started"] || run.started;
    if ((body["parts"] ?? null) !== null || (body["object"] ?? null) !== null) {
        run.parts = loadParts(body["parts"] ?? []);
        run.usage = { ...(body["usage"] ?? {}) };
        run.attempts = [...(body["attempts"] ?? [])];
        run.object = body["object"] ?? null;
    }
    for (const part of run.parts.values())
        close(part);
    run.status = body["status"];
    run.finished = time;
    return true;
}
const HANDLERS = {
    "run.started": started,
    "run.finished": finished,
    "text.delta": delta("text"),
    "text.end": end("text"),
    "reasoning.delta": delta("reasoning"),
    "reasoning.end": end("reasoning"),
    "tool.input.delta": toolInputDelta,
    "tool.input": toolInput,
    "tool.output": toolOutput,
    "tool.error": toolError,
    source: keep("id"),
    file: keep("name"),
    data,
    usage,
    "run.waiting": waiting,
    "run.working": working,
    "run.stalled": stalled,
    error: keep("message"),
    raw: keep(),
};
