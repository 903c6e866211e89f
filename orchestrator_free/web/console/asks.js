/** Asks of people: approvals, questions, votes; open ones can be answered where they stand. */
import { h, place, say, show } from "./dom.js";
import { json, short, time } from "./format.js";
import { code } from "./parts.js";

const TITLES = { approval: "Approval", question: "Question", tool: "Tool for this client", vote: "Vote" };
const YES = new Set(["approve", "approved", "yes", "allow", "ok", "accept"]);
const NO = new Set(["deny", "denied", "reject", "no", "refuse", "decline"]);

/** A card for an ask; `node.update(ask)` shows how it stands. */
export function askCard(ask, desk) {
  const state = h("span.state");
  const facts = h("p.dim");
  const data = ask.data === null ? null : code("About");
  const actions = h("div.ask-actions");
  const node = h("section.ask", { "aria-label": `${TITLES[ask.about] ?? ask.about}: ${short(ask.text, 60)}` },
    h("div.ask-head", {}, h("strong", {}, TITLES[ask.about] ?? ask.about), state),
    h("p.ask-text", {}, ask.text || "(no text)"), data ?? "", facts, actions);
  node.dataset.ask = ask.ask;
  data?.update(ask.data);
  node.update = (now) => {
    node.dataset.status = now.status;
    say(state, now.status === "open" ? "waits for an answer" : now.status);
    say(facts, factsOf(now, desk));
    const form = now.status === "open" && !desk.past && canAnswer(now, desk.member) ? `${desk.member}` : "";
    if (actions.dataset.for !== form) {
      actions.dataset.for = form;
      place(actions, form ? answers(now, desk) : []);
    }
    show(actions, Boolean(form));
  };
  return node;
}

function canAnswer(ask, member) {
  const named = !ask.to.length || ask.to.includes(member) || ask.to.includes("all");
  return named && member !== ask.from && !ask.answers.some((one) => one.member === member && one.counts);
}

function factsOf(ask, desk) {
  const facts = [`by ${ask.from}`];
  if (ask.to.length) facts.push(`asked: ${ask.to.join(", ")}`);
  if (ask.quorum > 1) facts.push(`${ask.answers.filter((one) => one.counts).length} of ${ask.quorum}`);
  if (ask.status === "decided") facts.push(`${short(json(ask.value), 60)}, by ${ask.by.join(", ")}`);
  if (ask.reason) facts.push(ask.reason);
  for (const one of ask.answers) if (one.comment) facts.push(`${one.member}: ${one.comment}`);
  if (ask.status === "open" && ask.seconds) {
    const end = new Date(Date.parse(ask.time) + ask.seconds * 1000);
    facts.push(`until ${time(end.toISOString())}`);
  }
  if (ask.status === "open" && !canAnswer(ask, desk.member)) facts.push(`not for ${desk.member}`);
  return facts.join(" · ");
}

/** What can be answered: a button for each option, else a field. */
function answers(ask, desk) {
  const answer = (value) => desk.answer(ask.ask, value);
  if (ask.options?.length) return ask.options.map((option) => button(option, () => answer(option)));
  const field = h("input", { type: "text", "aria-label": `Answer to: ${short(ask.text, 60)}`, placeholder: "Your answer" });
  const send = () => {
    if (!field.value.trim()) return field.focus();
    const number = ask.rule === "highest" || ask.rule === "lowest" || ask.about === "tool";
    return answer(number ? parsed(field.value) : field.value);
  };
  field.addEventListener("keydown", (event) => {
    if (event.key !== "Enter") return;
    event.preventDefault();
    send();
  });
  return [field, button("Answer", send)];
}

function button(label, act) {
  const word = String(label).toLowerCase();
  const kind = YES.has(word) ? ".yes" : NO.has(word) ? ".no" : "";
  const shown = typeof label === "string" && label ? label[0].toUpperCase() + label.slice(1) : String(label);
  return h(`button${kind}`, { type: "button", onclick: act }, shown);
}

function parsed(text) {
  try {
    return JSON.parse(text);
  } catch {
    return text;
  }
}
