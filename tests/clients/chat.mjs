// An app with the AI SDK of the version that is asked for, without a line about durable sessions.
// Reads commands from standard input, a JSON array each; prints what the app shows, a JSON object each.
import { createInterface } from "node:readline";

const [version, api, id] = process.argv.slice(2);
const { AbstractChat, DefaultChatTransport, lastAssistantMessageIsCompleteWithApprovalResponses } = await import(version);

class State {
  status = "ready";
  error = undefined;
  messages = [];
  pushMessage = (message) => { this.messages = [...this.messages, message]; };
  popMessage = () => { this.messages = this.messages.slice(0, -1); };
  replaceMessage = (index, message) => { this.messages = this.messages.with(index, structuredClone(message)); };
  snapshot = (value) => structuredClone(value);
}

class Chat extends AbstractChat {
  constructor(options) {
    const state = new State();
    super({ ...options, state });
    this.shown = state;
  }
}

const say = (what) => console.log(JSON.stringify(what));
const transport = api.startsWith("ws:")
  ? new (await import(version)).WebSocketChatTransport({ url: api, webSocket: (await import("ws")).default })
  : new DefaultChatTransport({ api });
const sendAutomaticallyWhen = lastAssistantMessageIsCompleteWithApprovalResponses;
const chat = new Chat({ id, transport, sendAutomaticallyWhen, onError: (error) => say({ error: String(error) }) });

const commands = {
  send: async (text) => { await chat.sendMessage({ text }); },
  resume: async () => { await chat.resumeStream(); },
  load: async (url) => { chat.messages = await (await fetch(url)).json(); },
  stop: async () => { await chat.stop(); },
  regenerate: async () => { await chat.regenerate(); },
  edit: async (messageId, text) => { await chat.sendMessage({ text, messageId }); },
  approve: async (id, approved) => {
    await chat.addToolApprovalResponse({ id, approved });
    while (chat.status !== "ready" && chat.status !== "error") await new Promise((resolve) => setTimeout(resolve, 20));
  },
};

for await (const line of createInterface({ input: process.stdin })) {
  const [name, ...values] = JSON.parse(line);
  if (name === "show") {
    say({ status: chat.status, messages: chat.messages });
  } else if (name === "begin") {
    commands[values[0]](...values.slice(1)).then(() => say({ done: values[0] }), (error) => say({ failed: String(error) }));
  } else {
    try {
      await commands[name](...values);
      say({ done: name, status: chat.status, messages: chat.messages, error: chat.error && String(chat.error) });
    } catch (error) {
      say({ failed: String(error) });
    }
  }
}
