// One thing as a whole: an event, a session, or what was rejected.

import { make, say, visible } from "./text.js";
import { pretty } from "./rawjson.js";

const LONGEST = 1_000_000; // characters that are shown
const COLOURED = 50_000; // characters up to which they are shown in colours: each piece is an element

export class Detail {
  constructor(dialog) {
    const part = (name) => dialog.querySelector(`#detail-${name}`);
    Object.assign(this, { dialog, title: part("title"), facts: part("facts"), text: part("text") });
    Object.assign(this, { only: part("filter"), copy: part("copy") });
    this.copied = "";
    this.onlyThese = () => {};
    part("close").addEventListener("click", () => dialog.close());
    dialog.addEventListener("click", (event) => {
      if (event.target === dialog) dialog.close(); // beside it
    });
    dialog.addEventListener("close", () => this.text.replaceChildren());
    this.only.addEventListener("click", () => {
      dialog.close();
      this.onlyThese();
    });
    this.copy.hidden = !navigator.clipboard; // there is none on an insecure page
    this.copy.addEventListener("click", () => copy(this.copy, this.copied));
  }

  /** Show a title, facts as pairs, and a text, which may be JSON. */
  show({ title, facts, text, isJson = false, onlyThese = null }) {
    say(this.title, title);
    this.facts.replaceChildren();
    for (const [name, value] of facts) {
      const fact = make("div");
      const shown = make("dd");
      shown.append(make("bdi", "", String(value)));
      fact.append(make("dt", "", name), shown);
      this.facts.append(fact);
    }
    this.only.hidden = onlyThese === null;
    this.onlyThese = onlyThese ?? (() => {});
    this.copied = text;
    this.text.hidden = !text;
    this.text.replaceChildren(isJson ? coloured(text) : visible(text).replaceAll("\\u000a", "\n"));
    this.text.scrollTop = 0;
    if (!this.dialog.open) this.dialog.showModal();
  }
}

function coloured(text) {
  const pieces = document.createDocumentFragment();
  const isColoured = text.length <= COLOURED;
  let plain = "";
  let length = 0;
  for (const [kind, piece] of pretty(text)) {
    const shown = kind === "space" ? piece : visible(piece);
    const fitting = shown.slice(0, LONGEST - length);
    length += fitting.length;
    if (isColoured && (kind === "key" || kind === "string" || kind === "number")) {
      const span = document.createElement("span");
      span.className = `json-${kind}`;
      span.textContent = fitting;
      pieces.append(plain, span);
      plain = "";
    } else {
      plain += fitting;
    }
    if (length >= LONGEST) {
      plain += "\n… and more: see /api/events";
      break;
    }
  }
  pieces.append(plain);
  return pieces;
}

/** Put a text into the clipboard, and say so on the button. */
export async function copy(button, text) {
  try {
    await navigator.clipboard.writeText(text);
    say(button, "Copied");
  } catch {
    say(button, "Not allowed");
  }
  setTimeout(() => say(button, "Copy"), 1500);
}
