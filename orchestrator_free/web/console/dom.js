/** Building and updating nodes. Everything that is shown goes through `textContent`; nothing is ever parsed as HTML. */

/** Make an element: `h("button.small", {type: "button", onclick}, "Send")`. Texts become text nodes. */
export function h(name, props = {}, ...children) {
  const [tag, ...classes] = name.split(".");
  const element = document.createElement(tag || "div");
  if (classes.length) element.className = classes.join(" ");
  for (const [key, value] of Object.entries(props ?? {})) {
    if (value === undefined || value === null || value === false) continue;
    if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else if (key === "value" || key === "checked" || key === "disabled" || key === "hidden" || key === "open") element[key] = value;
    else element.setAttribute(key, value === true ? "" : String(value));
  }
  element.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

/** Let a parent have exactly these children, moving only what is not in its place. */
export function place(parent, nodes) {
  let at = parent.firstChild;
  for (const node of nodes) {
    if (node === at) at = at.nextSibling;
    else parent.insertBefore(node, at);
  }
  while (at) {
    const next = at.nextSibling;
    at.remove();
    at = next;
  }
}

/** Set a text only when it is another one: selections and screen readers are left alone. */
export function say(element, text) {
  if (element.textContent !== text) element.textContent = text;
  return element;
}

export function show(element, visible) {
  if (element.hidden === visible) element.hidden = !visible;
  return element;
}

/** Keyed children: `make(item)` once per key, `update(node, item)` each time; returns the nodes in order. */
export class Keyed {
  #nodes = new Map();

  render(parent, items, key, make, update) {
    const kept = new Map();
    const nodes = [];
    for (const item of items) {
      const id = key(item);
      const node = this.#nodes.get(id) ?? make(item);
      update?.(node, item);
      kept.set(id, node);
      nodes.push(node);
    }
    this.#nodes = kept;
    place(parent, nodes);
  }
}

/** Run a function at most once per frame, also while the page is hidden (then four times a second). */
export function perFrame(work) {
  let asked = false;
  const run = () => {
    if (!asked) return;
    asked = false;
    work();
  };
  return () => {
    if (asked) return;
    asked = true;
    if (document.hidden) setTimeout(run, 250);
    else requestAnimationFrame(run);
  };
}

/** A colour for a name: one of eight, the same everywhere. */
export function hue(name) {
  let sum = 0;
  for (const letter of name) sum = (sum * 31 + letter.codePointAt(0)) >>> 0;
  return sum % 8;
}

export function avatar(name, kind = "person") {
  const letters = name.replace(/[^\p{L}\p{N}]+/gu, " ").trim().split(" ").map((word) => (/^\d+$/.test(word) ? word.slice(-2) : [...word][0])).slice(0, 2).join("");
  return h(`span.avatar.hue${hue(name)}${kind === "agent" ? ".is-agent" : ""}`, { "aria-hidden": "true" }, (letters || "?").toUpperCase());
}

let announced = 0;
/** Tell people who listen instead of looking; short, and not token by token. */
export function announce(text) {
  const element = document.getElementById("status");
  const now = ++announced;
  element.textContent = text;
  setTimeout(() => now === announced && (element.textContent = ""), 8000);
}

/** Show a problem for a while. */
export function toast(text, kind = "bad") {
  const close = h("button.plain", { type: "button", "aria-label": "Dismiss", onclick: () => note.remove() }, "×");
  const note = h(`div.toast.${kind}`, {}, h("span", {}, text), close);
  document.getElementById("toasts").append(note);
  setTimeout(() => note.remove(), 9000);
}

/** A setting of this browser. */
export const kept = {
  get(name, fallback = "") {
    try {
      return localStorage.getItem(`console.${name}`) ?? fallback;
    } catch {
      return fallback;
    }
  },
  set(name, value) {
    try {
      localStorage.setItem(`console.${name}`, value);
    } catch {
      // it is forgotten with the page
    }
  },
};
