/** Who this page is to the gateway: a token, pasted or handed over in the fragment, kept for as long as the tab lives. */
import { Gateway } from "../client/index.js";

const PLACE = "console.token";
let current = handedOver() ?? remembered();

/** The token in `#token=…` (also behind a session, `#/s/name&token=…`); it leaves the address at once. */
function handedOver() {
  const found = /[#&]token=([^&#]+)/.exec(location.hash);
  if (!found) return null;
  const rest = location.hash.replace(found[0], "").replace(/^(?!#)/, "#");
  history.replaceState(history.state, "", location.pathname + location.search + (rest === "#" ? "" : rest));
  const token = decodeURIComponent(found[1]);
  remember(token);
  return token;
}

function remembered() {
  try {
    return sessionStorage.getItem(PLACE);
  } catch {
    return null;
  }
}

function remember(token) {
  try {
    if (token) sessionStorage.setItem(PLACE, token);
    else sessionStorage.removeItem(PLACE);
  } catch {
    // it is forgotten with the page
  }
}

/** The token as of now, for clients of the gateway. */
export const token = () => current;

export function setToken(text) {
  current = text.trim() || null;
  remember(current);
}

/** Whose token it is, as it says; the gateway checks it. Null without one. */
export function subject() {
  try {
    const body = current.split(".")[1].replace(/-/g, "+").replace(/_/g, "/");
    return JSON.parse(atob(body)).sub ?? null;
  } catch {
    return null;
  }
}

export const gateway = () => new Gateway({ token });

/** Follow a link to something of the gateway, which a browser would ask for without a token. */
export async function download(url, name) {
  const answer = await gateway().fetch(url);
  if (!answer.ok) throw new Error(`${name}: ${answer.status} ${answer.statusText}`);
  const address = URL.createObjectURL(await answer.blob());
  const link = document.createElement("a");
  [link.href, link.download] = [address, name];
  link.click();
  setTimeout(() => URL.revokeObjectURL(address), 60_000);
}
