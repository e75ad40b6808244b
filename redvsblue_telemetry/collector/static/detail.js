// The dialog with all there is to know about one event, session, group of events or rejected part.

import { pretty } from "./json.js";
import { moveWithArrows } from "./rows.js";
import { make, setText, visible } from "./text.js";

const MAX_TEXT = 1_000_000; // characters
const MAX_COLORED_TEXT = 50_000; // characters; each colored token is an element
const ONE_SESSION = "Show only this session";

export class Detail {
  /** `onEvent` gets the event of a row that is clicked. */
  constructor(dialog, onEvent) {
    const part = (name) => dialog.querySelector(`#detail-${name}`);
    Object.assign(this, { dialog, title: part("title"), facts: part("facts"), text: part("text") });
    Object.assign(this, { filter: part("filter"), copy: part("copy"), delete: part("delete") });
    Object.assign(this, { timeline: part("timeline"), more: part("more"), moreTitle: part("more-title"), rows: part("rows") });
    this.copied = "";
    this.onFilter = this.onDelete = null;
    part("close").addEventListener("click", () => dialog.close());
    dialog.addEventListener("click", (event) => {
      if (event.target === dialog) dialog.close(); // a click on the backdrop
    });
    dialog.addEventListener("close", () => {
      this.text.replaceChildren();
      this.rows.replaceChildren();
    });
    moveWithArrows(this.rows);
    this.rows.addEventListener("click", (event) => {
      const row = event.target.closest("li");
      if (row) onEvent(row.event);
    });
    this.filter.addEventListener("click", () => {
      dialog.close();
      this.onFilter();
    });
    this.timeline.addEventListener("click", () => dialog.close());
    this.delete.addEventListener("click", () => this.onDelete());
    this.copy.hidden = !navigator.clipboard; // browsers have it on secure pages only
    this.copy.addEventListener("click", () => copy(this.copy, this.copied));
  }

  /**
   * Show a title, facts, a text that may be JSON, and titled rows of events.
   *
   * `timeline` is the address of a session's timeline. A fact is a name and a value, and maybe what a click on the value does before the dialog closes, and an
   * explanation.
   */
  show({ title, facts, text, isJson = false, onFilter = null, filterText = ONE_SESSION, timeline = "", onDelete = null, rows = [], rowsTitle = "" }) {
    setText(this.title, title);
    this.facts.replaceChildren(...facts.map((fact) => this.fact(...fact)));
    this.more.hidden = rows.length === 0;
    setText(this.moreTitle, rowsTitle);
    this.rows.replaceChildren(...rows);
    rows[0]?.firstChild.setAttribute("tabindex", "0");
    this.timeline.hidden = !timeline;
    this.timeline.href = timeline;
    this.filter.hidden = onFilter === null;
    setText(this.filter, filterText);
    this.onFilter = onFilter;
    this.delete.hidden = onDelete === null;
    this.onDelete = onDelete;
    this.copied = text;
    this.text.hidden = !text;
    this.text.replaceChildren(isJson ? colored(text) : visible(text).replaceAll("\\u000a", "\n"));
    this.text.scrollTop = this.rows.scrollTop = 0;
    if (!this.dialog.open) this.dialog.showModal();
  }

  fact(name, value, onClick = null, explanation = "") {
    const fact = make("div");
    const shown = make("dd");
    const text = make("bdi", "", String(value));
    if (onClick) {
      const button = make("button", "link");
      button.type = "button";
      button.title = "Show only these events";
      button.append(text);
      button.addEventListener("click", () => {
        this.dialog.close();
        onClick();
      });
      shown.append(button);
    } else {
      shown.append(text);
    }
    if (explanation) shown.append(make("span", "sub", explanation));
    fact.append(make("dt", "", name), shown);
    return fact;
  }
}

function colored(text) {
  const pieces = document.createDocumentFragment();
  const isColored = text.length <= MAX_COLORED_TEXT;
  let plain = "";
  let left = MAX_TEXT;
  for (const [kind, token] of pretty(text.slice(0, MAX_TEXT))) {
    const shown = (kind === "space" ? token : visible(token)).slice(0, left);
    left -= shown.length;
    if (isColored && (kind === "key" || kind === "string" || kind === "number")) {
      const span = document.createElement("span");
      span.className = `json-${kind}`;
      span.textContent = shown;
      pieces.append(plain, span);
      plain = "";
    } else {
      plain += shown;
    }
    if (left === 0) break;
  }
  pieces.append(plain);
  if (left === 0 || text.length > MAX_TEXT) pieces.append("\n… truncated; get the full text from /api/events");
  return pieces;
}

/** Copy a text to the clipboard, and show on the button whether that worked. */
export async function copy(button, text) {
  try {
    await navigator.clipboard.writeText(text);
    setText(button, "Copied");
  } catch {
    setText(button, "Copy failed");
  }
  setTimeout(() => setText(button, "Copy"), 1500);
}
