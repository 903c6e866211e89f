// Clients of AG-UI, CopilotKit and TanStack AI as an app uses them, without a line about durable sessions.
// Reads commands from standard input, a JSON array each; prints what the app shows, a JSON object each.
import { createInterface } from "node:readline";

const [kind, base, thread] = process.argv.slice(2);
const say = (what) => console.log(JSON.stringify(what));
process.on("unhandledRejection", (error) => say({ unhandled: String(error) }));
const user = (text) => ({ id: crypto.randomUUID(), role: "user", content: text });

async function agUi(name) {
  const { HttpAgent, transformHttpEventStream, runHttpRequest } = await import(name);
  class Joining extends HttpAgent {
    connect(input) {
      return transformHttpEventStream(runHttpRequest(() => fetch(`${this.url}/connect`, this.requestInit(input))));
    }
  }
  const agent = new Joining({ url: `${base}/api/agui`, threadId: thread });
  return {
    show: () => ({ messages: agent.messages, running: agent.isRunning, interrupts: agent.pendingInterrupts }),
    send: async (text) => { agent.addMessage(user(text)); await agent.runAgent(); },
    resume: async (...answers) => { await agent.runAgent({ resume: answers }); },
    connect: async () => { await agent.connectAgent(); },
    stop: async () => { agent.abortRun(); },
  };
}

async function copilotKit() {
  globalThis.window ??= globalThis; // it asks for nothing where it takes itself to be on a server
  const { CopilotKitCore } = await import("@copilotkit/core");
  const core = new CopilotKitCore({ runtimeUrl: `${base}/api/copilotkit` });
  let agent;
  for (let tries = 0; tries < 100 && !agent; tries += 1) {
    agent = core.getAgent("default");
    if (!agent) await new Promise((resolve) => setTimeout(resolve, 50));
  }
  agent.threadId = thread;
  return {
    show: () => ({ messages: agent.messages, running: agent.isRunning }),
    send: async (text) => { agent.addMessage(user(text)); await core.runAgent({ agent }); },
    connect: async () => { await core.connectAgent({ agent }); },
    stop: async () => { agent.abortRun(); },
  };
}

async function tanStack(options = {}) {
  const { ChatClient, fetchServerSentEvents } = await import("@tanstack/ai-client");
  const connection = fetchServerSentEvents(`${base}/api/agui`);
  const client = new ChatClient({ connection, threadId: thread, ...options });
  return {
    show: () => ({ messages: client.getMessages(), running: client.getIsLoading(), error: client.getError()?.message }),
    send: async (text) => { await client.sendMessage(text); },
    connect: async () => {
      const found = await (await fetch(`${base}/api/agui?threadId=${thread}`)).json();
      say({ hydrated: found });
    },
    stop: async () => { client.stop(); },
    mount: () => client.attach(),
  };
}

// TanStack AI whose page asks the server on mount for what there is, and joins the run in the making.
async function hydrating() {
  globalThis.window ??= globalThis;
  const app = await tanStack({ persistence: true });
  app.mount(); // as its wrappers for React and others do
  return app;
}

const app = await { agui1: () => agUi("agui1"), agui0: () => agUi("agui0"), copilotkit: copilotKit, tanstack: tanStack, hydrating }[kind]();
say({ ready: kind });
for await (const line of createInterface({ input: process.stdin })) {
  const [name, ...values] = JSON.parse(line);
  if (name === "show") {
    say(app.show());
  } else if (name === "begin") {
    app[values[0]](...values.slice(1)).then(() => say({ done: values[0] }), (error) => say({ failed: String(error) }));
  } else {
    try {
      await app[name](...values);
      say({ done: name, ...app.show() });
    } catch (error) {
      say({ failed: String(error), stack: error?.stack });
    }
  }
}
process.exit(0);
