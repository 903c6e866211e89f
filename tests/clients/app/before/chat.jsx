import { useChat } from "@ai-sdk/react";
import { DefaultChatTransport } from "ai";
import { useState } from "react";
import { createRoot } from "react-dom/client";

const id = new URLSearchParams(location.search).get("chat");
const api = "/api/chat";

function App() {
  const [text, setText] = useState("");
  const chat = useChat({
    id,
    transport: new DefaultChatTransport({ api }),
  });
  const submit = (event) => {
    event.preventDefault();
    chat.sendMessage({ text });
    setText("");
  };
  return (
    <main data-status={chat.status}>
      {chat.messages.map((message) => (
        <article key={message.id} data-role={message.role}>
          {message.parts.map((part, number) => part.type === "text" && (
            <p key={number}>{part.text}</p>
          ))}
        </article>
      ))}
      {chat.error && <p role="alert">{String(chat.error)}</p>}
      <form onSubmit={submit}>
        <input value={text} onChange={(event) => setText(event.target.value)} />
        <button>Send</button>
        <button type="button" onClick={() => chat.stop()}>Stop</button>
      </form>
    </main>
  );
}

createRoot(document.getElementById("root")).render(<App />);
