// The small client fits where the AI SDK's and AG-UI's own types say what they want. Nothing here is run.
import { HttpAgent as Agent0 } from "agui0";
import { HttpAgent as Agent1 } from "agui1";
import type { AbstractChat as Chat5, ChatTransport as Transport5, UIMessage as Message5 } from "ai5";
import { DefaultChatTransport as Stock5 } from "ai5";
import type { AbstractChat as Chat6, ChatTransport as Transport6, UIMessage as Message6 } from "ai6";
import { DefaultChatTransport as Stock6 } from "ai6";
import type { AbstractChat as Chat7, ChatTransport as Transport7, UIMessage as Message7 } from "ai7";
import { DefaultChatTransport as Stock7 } from "ai7";
import { byAgent, DurableChatTransport, durableFetch, follow, Session } from "../../orchestrator_free/web/client/dist/index.js";

declare const chat5: Chat5<Message5>;
declare const chat6: Chat6<Message6>;
declare const chat7: Chat7<Message7>;
const session = new Session({ session: "s1" });
const transport = new DurableChatTransport(session);
export const transports: [Transport5<Message5>, Transport6<Message6>, Transport7<Message7>] = [transport, transport, transport];
follow(session, chat5, transport);
follow(session, chat6, transport);
follow(session, chat7, transport);
byAgent(chat5.messages[0]!);
byAgent(chat7.messages[0]!);
const fetch = durableFetch();
export const stock = [new Stock5({ fetch }), new Stock6({ fetch }), new Stock7({ fetch })];
export const agents = [new Agent0({ url: "", fetch }), new Agent1({ url: "", fetch })];
