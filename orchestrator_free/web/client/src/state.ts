/** The values of a session: read and written with their revisions, so that no change of somebody else is lost. */

import { type Gateway, GatewayError } from "./http.js";
import type { Json } from "./types.js";

export interface Value {
  key: string;
  value: Json;
  revision: number;
  by: string;
  time: string;
}

/** `expect`: write only over this revision, 0 for no value; a GatewayError of status 412 says who was first. */
export interface Condition {
  expect?: number;
}

export class State {
  constructor(
    readonly gateway: Gateway,
    readonly session: string,
    readonly member: string,
  ) {}

  /** The present value; null if the key has none. */
  async get(key: string): Promise<Value | null> {
    try {
      return await this.gateway.json("GET", this.#path(key));
    } catch (error) {
      if (error instanceof GatewayError && error.status === 404 && !error.type.endsWith("session-not-found")) return null;
      throw error;
    }
  }

  async set(key: string, value: Json, condition: Condition = {}): Promise<Value & { position: string }> {
    return this.#write("PUT", key, value, condition, "application/json");
  }

  /** Change a value, whatever others do to it meanwhile: by an object (RFC 7396) or a list of operations (RFC 6902). */
  async patch(key: string, patch: Json, condition: Condition = {}): Promise<Value & { position: string }> {
    const kind = Array.isArray(patch) ? "json-patch" : "merge-patch";
    return this.#write("PATCH", key, patch, condition, `application/${kind}+json`);
  }

  /** Remove a key; false if it had no value. */
  async delete(key: string, condition: Condition = {}): Promise<boolean> {
    try {
      await this.#write("DELETE", key, undefined, condition);
      return true;
    } catch (error) {
      if (error instanceof GatewayError && error.status === 404 && !error.type.endsWith("session-not-found")) return false;
      throw error;
    }
  }

  #write(method: string, key: string, body: unknown, { expect }: Condition, type?: string): Promise<any> {
    const headers: Record<string, string> = type ? { "content-type": type } : {};
    if (expect === 0) headers["if-none-match"] = "*";
    else if (expect !== undefined) headers["if-match"] = `"${expect}"`;
    return this.gateway.json(method, this.#path(key), { body, headers, query: { from: this.member } });
  }

  #path(key: string): string {
    return `/sessions/${encodeURIComponent(this.session)}/state/${encodeURIComponent(key)}`;
  }
}
