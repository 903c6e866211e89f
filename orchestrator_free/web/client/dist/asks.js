/** Asks: what answers and stages add up to, decided in log order, so that every reader decides alike. */
const isText = (value) => typeof value === "string";
/** A text that is the same for the same JSON. */
function canonical(value) {
    if (typeof value !== "object" || value === null)
        return JSON.stringify(value);
    if (Array.isArray(value))
        return `[${value.map(canonical).join()}]`;
    const names = Object.keys(value).sort();
    return `{${names.map((name) => `${JSON.stringify(name)}:${canonical(value[name])}`).join()}}`;
}
export class Asks {
    found = new Map();
    apply(event, sequence) {
        switch (event.event.type) {
            case "ask":
                return this.asked(event, sequence);
            case "answer":
                return this.answered(event);
            case "ask.escalated":
            case "ask.expired":
            case "ask.withdrawn":
                return this.staged(event);
        }
        return false;
    }
    asked(event, sequence) {
        const body = event.event;
        const id = event.id;
        if (this.found.has(id))
            return false;
        this.found.set(id, {
            ask: id,
            from: event.member,
            about: body["about"] ?? "question",
            text: body["text"] ?? "",
            data: body["data"] ?? null,
            to: [...(body["to"] ?? [])],
            options: body["options"] ?? null,
            rule: body["rule"] ?? "quorum",
            quorum: body["quorum"] ?? 1,
            veto: body["veto"] ?? null,
            run: body["run"] ?? null,
            seconds: body["seconds"] ?? null,
            escalations: body["escalations"] ?? [],
            status: "open",
            value: null,
            by: [],
            reason: "",
            answers: [],
            time: event.time,
            decided: null,
            sequence,
        });
        return true;
    }
    answered(event) {
        const ask = this.found.get(event.id);
        if (!ask)
            return false;
        const value = event.event["value"] ?? null;
        const reason = refusal(ask, event.member, value);
        const comment = isText(event.event["comment"]) ? event.event["comment"] : "";
        ask.answers.push({ member: event.member, value, comment, counts: !reason, reason, time: event.time });
        if (!reason)
            tally(ask, event);
        return true;
    }
    /** Apply a stage; only the one who asks says it, or the broker in its name. */
    staged(event) {
        const ask = this.found.get(event.target);
        if (!ask || ask.from !== event.member)
            return false;
        if (ask.status !== "open")
            return true; // it was decided first
        const body = event.event;
        if (body.type === "ask.escalated") {
            if (ask.to.length)
                ask.to.push(...body["to"].filter((member) => !ask.to.includes(member)));
        }
        else if (body.type === "ask.withdrawn") {
            Object.assign(ask, { status: "withdrawn", reason: body["reason"] ?? "", decided: event.time });
        }
        else {
            const best = bestOf(ask);
            if (best)
                decide(ask, best.value, [best.member], event.time);
            else
                Object.assign(ask, { status: "expired", decided: event.time });
        }
        return true;
    }
    view() {
        const ordered = [...this.found.values()].sort((one, other) => one.sequence - other.sequence);
        return ordered.map(copy);
    }
    load(view) {
        this.found = new Map(view.map((ask) => [ask.ask, copy(ask)]));
    }
}
function copy(ask) {
    return { ...ask, to: [...ask.to], answers: ask.answers.map((answer) => ({ ...answer })) };
}
/** Why an answer to an ask as it stands would not count; empty if it would. */
export function refusal(ask, member, value) {
    if (ask.status !== "open")
        return `the ask is ${ask.status} already`;
    const everybody = ask.to.includes("all");
    const named = ask.to.includes(member);
    if (member === ask.from && !named && !everybody)
        return "who asks does not answer";
    if (ask.to.length && !named && !everybody)
        return `${member} is not asked, only ${ask.to.join(", ")}`;
    if (ask.answers.some((answer) => answer.member === member && answer.counts))
        return `${member} has answered already`;
    if (ask.options && !ask.options.includes(value))
        return `not one of the options ${ask.options.join(", ")}`;
    if ((ask.rule === "highest" || ask.rule === "lowest") && typeof value !== "number")
        return "not a number";
    return "";
}
/** Decide, if the answer that has just come makes it. */
function tally(ask, event) {
    const counted = ask.answers.filter((answer) => answer.counts);
    const value = counted.at(-1).value;
    if (ask.veto !== null && value === ask.veto)
        decide(ask, value, [event.member], event.time);
    else if (ask.rule === "count" && counted.length >= ask.quorum) {
        const values = Object.fromEntries(counted.map((one) => [one.member, one.value]));
        decide(ask, values, counted.map((one) => one.member), event.time);
    }
    else if (ask.rule === "quorum") {
        const agreed = counted.filter((one) => canonical(one.value) === canonical(value)).map((one) => one.member);
        if (agreed.length >= ask.quorum)
            decide(ask, value, agreed, event.time);
    }
}
function decide(ask, value, by, time) {
    Object.assign(ask, { status: "decided", value, by, decided: time });
}
/** The best bid, of equal ones the first. */
function bestOf(ask) {
    if (ask.rule !== "highest" && ask.rule !== "lowest")
        return undefined;
    const sign = ask.rule === "highest" ? 1 : -1;
    const bids = ask.answers.filter((answer) => answer.counts);
    return bids.reduce((best, bid) => (best && sign * best.value >= sign * bid.value ? best : bid), undefined);
}
