/** The values of a session: read and written with their revisions, so that no change of somebody else is lost. */
import { GatewayError } from "./http.js";
export class State {
    gateway;
    session;
    member;
    constructor(gateway, session, member) {
        this.gateway = gateway;
        this.session = session;
        this.member = member;
    }
    /** The present value; null if the key has none. */
    async get(key) {
        try {
            return await this.gateway.json("GET", this.#path(key));
        }
        catch (error) {
            if (error instanceof GatewayError && error.status === 404 && !error.type.endsWith("session-not-found"))
                return null;
            throw error;
        }
    }
    async set(key, value, condition = {}) {
        return this.#write("PUT", key, value, condition, "application/json");
    }
    /** Change a value, whatever others do to it meanwhile: by an object (RFC 7396) or a list of operations (RFC 6902). */
    async patch(key, patch, condition = {}) {
        const kind = Array.isArray(patch) ? "json-patch" : "merge-patch";
        return this.#write("PATCH", key, patch, condition, `application/${kind}+json`);
    }
    /** Remove a key; false if it had no value. */
    async delete(key, condition = {}) {
        try {
            await this.#write("DELETE", key, undefined, condition);
            return true;
        }
        catch (error) {
            if (error instanceof GatewayError && error.status === 404 && !error.type.endsWith("session-not-found"))
                return false;
            throw error;
        }
    }
    #write(method, key, body, { expect }, type) {
        const headers = type ? { "content-type": type } : {};
        if (expect === 0)
            headers["if-none-match"] = "*";
        else if (expect !== undefined)
            headers["if-match"] = `"${expect}"`;
        return this.gateway.json(method, this.#path(key), { body, headers, query: { from: this.member } });
    }
    #path(key) {
        return `/sessions/${encodeURIComponent(this.session)}/state/${encodeURIComponent(key)}`;
    }
}
