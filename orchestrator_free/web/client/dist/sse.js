/** The event-stream grammar of the HTML standard, over bytes as they come: any line ends, any cuts. */
export class SseParser {
    /** The last id of a frame that is complete. */
    id = "";
    /** What the server asks to wait before coming back, in milliseconds. */
    retry = null;
    #decoder = new TextDecoder("utf-8");
    #rest = "";
    #skipLineFeed = false;
    #event = "";
    #data = [];
    #id = "";
    /** Return the frames that these bytes complete. */
    feed(bytes) {
        let text = this.#rest + this.#decoder.decode(bytes, { stream: true });
        if (this.#skipLineFeed && text) {
            if (text.startsWith("\n"))
                text = text.slice(1);
            this.#skipLineFeed = false;
        }
        if (text.endsWith("\r"))
            this.#skipLineFeed = true; // its line is complete; a line feed may follow
        const lines = text.split(/\r\n|\r|\n/);
        this.#rest = lines.pop();
        return lines.flatMap((line) => this.#take(line));
    }
    #take(line) {
        if (line !== "") {
            this.#field(line);
            return [];
        }
        this.id = this.#id;
        const frame = { event: this.#event, data: this.#data.join("\n"), id: this.id };
        const empty = this.#data.length === 0;
        this.#event = "";
        this.#data = [];
        return empty ? [] : [frame];
    }
    #field(line) {
        const colon = line.indexOf(":");
        const name = colon < 0 ? line : line.slice(0, colon);
        const value = colon < 0 ? "" : line.slice(line[colon + 1] === " " ? colon + 2 : colon + 1);
        if (name === "data")
            this.#data.push(value);
        else if (name === "event")
            this.#event = value;
        else if (name === "id" && !value.includes("\0"))
            this.#id = value;
        else if (name === "retry" && /^[0-9]+$/.test(value))
            this.retry = Number(value);
    }
}
/** Yield pieces of a body; ends without an error when the body does, throws if it breaks or `signal` aborts. */
export async function* pieces(body, signal) {
    const reader = body.getReader();
    const cancel = () => void reader.cancel().catch(() => { });
    signal?.addEventListener("abort", cancel, { once: true });
    try {
        for (;;) {
            const { done, value } = await reader.read();
            if (done)
                return;
            yield value;
        }
    }
    finally {
        signal?.removeEventListener("abort", cancel);
        cancel();
    }
}
