/** A transport for `useChat` of the AI SDK, 5 to 7: an abort only detaches, and a lost connection is not noticed. */
import type { Session } from "./session.js";
export interface ChatTransportOptions {
    /** Major version of the app's `ai` package; 5 suits all, 6 and 7 have approvals. */
    profile?: 5 | 6 | 7;
    /** Who is to answer: an agent, several, or `all`. */
    to?: string | string[];
}
interface ChatRequest {
    chatId: string;
    abortSignal?: AbortSignal | undefined;
    headers?: Record<string, string> | Headers | undefined;
    body?: object | undefined;
    metadata?: unknown;
}
interface Sending extends ChatRequest {
    trigger: "submit-message" | "regenerate-message";
    messageId?: string | undefined;
    messages: any[];
}
/** A `ChatTransport` over a session; the chat's id is the session's. */
export declare class DurableChatTransport {
    #private;
    readonly session: Session;
    readonly options: ChatTransportOptions;
    /** A resumed stream tells the answer from its beginning. */
    readonly resumeStreamIsReplay = true;
    constructor(session: Session, options?: ChatTransportOptions);
    /** Say what the last message says, and stream its answer. While nobody answers, it is tried again. */
    sendMessages({ trigger, messageId, messages, body, headers, abortSignal }: Sending): Promise<ReadableStream<any>>;
    /** Stream the answer in the making; null if there is none. */
    reconnectToStream({ headers, abortSignal }: ChatRequest): Promise<ReadableStream<any> | null>;
    /** Cancel what is being answered, on every device. (An abort, `chat.stop()`, only stops listening.) */
    cancel(): Promise<void>;
    /** The conversation as UI messages; what is being answered is left to its stream. */
    messages(): Promise<any[]>;
}
export interface AgentParts {
    agent: string;
    /** The first digits of the run, which name it within the message. */
    run: string;
    status: string;
    /** Who delegated it; null for who was asked. */
    parent: {
        agent: string;
        run: string;
    } | null;
    parts: any[];
}
/** The parts of an assistant message grouped by the agent and run that made them, in the order in which they came. */
export declare function byAgent(message: {
    parts: any[];
}): AgentParts[];
export {};
