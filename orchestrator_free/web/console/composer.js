/** Where one writes: a message to agents or all, a whisper, a note to the customer; a steer or a redirect of a run. */
import { h, place, say, show } from "./dom.js";

const HINTS = {
  send: "Write a message", whisper: "Whisper to an agent; the customer does not see it", note: "Write to the customer; no agent answers",
  steer: "Steer: what should it take into account?", redirect: "Redirect: what should it do instead?",
};

export class Composer {
  #run = null;

  constructor(form, desk) {
    this.form = form;
    this.desk = desk;
    this.kind = "send";
    this.text = h("textarea", { rows: "1", "aria-label": "Message", name: "text" });
    this.to = h("select", { "aria-label": "To whom", name: "to" });
    this.how = h("select", { "aria-label": "How", name: "how", onchange: () => this.as(this.how.value) },
      h("option", { value: "send" }, "Message"), h("option", { value: "whisper" }, "Whisper"), h("option", { value: "note" }, "Note to customer"));
    this.button = h("button.primary", { type: "submit" }, "Send");
    this.target = h("div.target", { hidden: true });
    this.member = h("span.dim.as");
    form.replaceChildren(this.target, this.text, h("div.compose-row", {}, this.to, this.how, this.member, this.button));
    form.onsubmit = (event) => (event.preventDefault(), void this.send()); // one form for many sessions
    this.text.addEventListener("input", () => this.#grow());
    this.text.addEventListener("keydown", (event) => {
      if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
        event.preventDefault();
        this.send();
      } else if (event.key === "Escape" && this.#run) {
        event.stopPropagation();
        this.as("send");
      }
    });
    this.as("send");
  }

  /** Show who may be written to. */
  update() {
    const names = this.desk.agents();
    const mark = names.join("\n");
    say(this.member, `as ${this.desk.member}`);
    for (const one of this.form.elements) one.disabled = this.desk.past;
    if (this.to.dataset.mark === mark) return;
    this.to.dataset.mark = mark;
    const chosen = this.to.value;
    place(this.to, [h("option", { value: "all" }, "everybody"), ...names.map((name) => h("option", { value: name }, name))]);
    this.to.value = names.includes(chosen) ? chosen : "all";
  }

  /** What the next message is: send, whisper, note; with a run: steer, redirect. */
  as(kind, run = null) {
    this.kind = kind;
    this.#run = run;
    this.text.placeholder = HINTS[kind];
    this.text.setAttribute("aria-label", HINTS[kind]);
    if (kind === "whisper" && this.to.value === "all" && this.to.options.length > 1) this.to.selectedIndex = 1;
    show(this.target, Boolean(run));
    if (run) {
      place(this.target, [h("span", {}, `${kind === "steer" ? "Steer" : "Redirect"} ${run.agent}`),
        h("button.plain", { type: "button", "aria-label": "Do not", onclick: () => this.as("send") }, "×")]);
      this.text.focus();
    } else this.how.value = kind;
    show(this.to, !run && kind !== "note");
    show(this.how, !run);
    say(this.button, kind === "steer" ? "Steer" : kind === "redirect" ? "Redirect" : "Send");
  }

  async send() {
    const text = this.text.value.trim();
    if (!text || this.desk.past) return;
    const run = this.#run;
    this.text.value = "";
    this.#grow();
    const kind = this.kind;
    if (run) this.as("send");
    const done = run
      ? await this.desk.control(kind, { to: run.agent, run: run.run, text })
      : await this.desk.send(text, { to: this.to.value, whisper: kind === "whisper", note: kind === "note" });
    if (!done && !this.text.value) this.text.value = text;
  }

  #grow() {
    this.text.style.height = "auto";
    this.text.style.height = `${Math.min(this.text.scrollHeight, 200)}px`;
  }
}
