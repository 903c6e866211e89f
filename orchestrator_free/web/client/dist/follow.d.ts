/** Keeps a chat of the AI SDK in step with its session: other people's messages, other tabs' answers, cancels. */
import type { DurableChatTransport } from "./chat.js";
import type { Session } from "./session.js";
/** What a chat of the AI SDK has, whatever its version: an instance of its class `Chat`. */
export interface Followed {
    messages: any[];
    readonly status: string;
    resumeStream(): Promise<void>;
}
export interface Following {
    /** Whether the chat has shown the conversation once. */
    readonly ready: Promise<void>;
    close(): void;
}
/** Begin to keep `chat` in step; it uses a `DurableChatTransport`, and does not `resume` by itself. */
export declare function follow(session: Session, chat: Followed, transport: DurableChatTransport): Following;
