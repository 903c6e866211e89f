/** What the gateway says: events, and the view that they fold to. The view's JSON schema is broker/schemas/view.json. */
export type Json = null | boolean | number | string | Json[] | {
    [name: string]: Json;
};
/** One event as a feed hands it over. */
export interface Envelope {
    position: string;
    session: string;
    member: string;
    kind: string;
    target?: string;
    id?: string;
    time: string;
    event: {
        type: string;
        [name: string]: any;
    };
}
export interface Part {
    type: string;
    [name: string]: any;
}
export interface RunView {
    run: string;
    agent: string;
    input: string;
    parent: {
        agent: string;
        run: string;
    } | null;
    whisper: boolean;
    into: {
        agent: string;
        run: string;
    } | null;
    waiting: {
        reason: string;
        ask: string | null;
        until: string | null;
        since: string;
    } | null;
    stalled: number | null;
    status: "running" | "lost" | "done" | "error" | "cancelled" | "failed" | "rejected";
    cancelled: number | null;
    attempt: number;
    attempts: {
        attempt: number;
        parts: Part[];
    }[];
    started: string | null;
    finished: string | null;
    usage: Record<string, number>;
    error: string | null;
    object: string | null;
    parts: Part[];
    first: number;
    last: number;
}
export interface AgentView {
    agent: string;
    status: "idle" | "working" | "offline";
    reason: string | null;
    back: string | null;
    runs: RunView[];
}
export interface Reference {
    from: string;
    input: string;
}
export interface InputView extends Reference {
    to: string;
    text: string;
    data: Json;
    parent: {
        agent: string;
        run: string;
    } | null;
    replayed: boolean;
    note: boolean;
    whisper: boolean;
    floor: string | null;
    after: Reference | null;
    siblings: number;
    time: string;
    sequence: number;
}
export interface AskView {
    ask: string;
    from: string;
    about: string;
    text: string;
    data: Json;
    to: string[];
    options: string[] | null;
    rule: "quorum" | "count" | "highest" | "lowest";
    quorum: number;
    veto: string | null;
    run: {
        agent: string;
        run: string;
    } | null;
    seconds: number | null;
    status: "open" | "decided" | "expired" | "withdrawn";
    value: Json;
    by: string[];
    reason: string;
    answers: {
        member: string;
        value: Json;
        comment: string;
        counts: boolean;
        reason: string;
        time: string;
    }[];
    time: string;
    decided: string | null;
    sequence: number;
    [name: string]: any;
}
export interface ControlView {
    control: string;
    type: string;
    from: string;
    to: string;
    run: string | null;
    text: string;
    reason: string;
    time: string;
    sequence: number;
    outcomes: Record<string, {
        state: string;
        reason: string;
        runs: string[];
        time: string;
    }>;
}
export interface View {
    session: string;
    position: string;
    meta: {
        title: string;
        agents: string[];
        created: string | null;
        by: string | null;
        [name: string]: any;
    };
    inputs: InputView[];
    branch: {
        path: (Reference | null)[];
        heads: (Reference | null)[];
    };
    agents: AgentView[];
    queue: {
        agent: string;
        run: string;
        input: string;
        from: string;
        place: number;
    }[];
    presence: Record<string, {
        status: string;
        reason: string;
        back: string | null;
        time: string;
    }>;
    floor: {
        holder: string | null;
        previous: string | null;
        request: any;
        [name: string]: any;
    } | null;
    state: Record<string, {
        value: Json;
        by: string;
        revision: number;
        time: string;
    }>;
    asks: AskView[];
    leases: Record<string, any>;
    notices: any[];
    controls: ControlView[];
}
/** What a feed says that is no event of the log. */
export interface Control {
    control: "snapshot" | "reset" | "cut" | "deleted" | "idle" | "presence" | "token_expired" | "token_revoked";
    position: string | null;
    data: any;
}
export type Line = Envelope | Control;
/** Of the line to the gateway: being opened, open, to be opened again, or there is nothing to follow any more. */
export type Status = "connecting" | "live" | "offline" | "deleted";
/** Who is there, as everybody sees it. */
export interface Member {
    member: string;
    kind: "agent" | "person" | "service";
    status: "joined" | "idle" | "thinking" | "streaming" | "waiting" | "stalled" | "away" | "offline";
    detail: {
        run: string;
        reason: string;
        ask: string | null;
        until: string | null;
        seconds: number | null;
    } | null;
    devices: {
        device: string;
        since: string | null;
        status: string;
    }[];
    device_count: number;
    reason: string;
    back: string | null;
    since: string | null;
}
