// The newest events. There are never more than so many rows, whatever comes.

import { clock, make, number, say, shortened, visible } from "./text.js";
import { parts } from "./rawjson.js";

const ROWS = 200;
const LOOKS = 10; // that what is said of the share of events is about: five seconds
const FIELDS = 10, FIELD_LENGTH = 80, NAME_LENGTH = 60; // of what a row shows
const KEPT_TEXT = 2000; // of the data of an event in the list; the whole is asked for when it is opened

export class EventList {
  constructor({ list, note, none, pause, colourOf, onOpen }) {
    Object.assign(this, { list, note, none, pause, colourOf, onOpen });
    this.waiting = []; // to be drawn, oldest first
    this.looks = []; // [shown, came] of the last few
    this.came = 0; // while held
    this.isPaused = false;
    this.isPointed = false;
    this.isFocused = false;
    this.isDrawing = false;
    this.isMixed = false;
    pause.addEventListener("click", () => this.setPaused(!this.isPaused));
    // Rows that move away under the pointer, or under the keyboard, can't be opened.
    list.addEventListener("pointerenter", (event) => {
      this.isPointed = event.pointerType === "mouse";
    });
    list.addEventListener("pointerleave", () => this.let("isPointed"));
    list.addEventListener("focusin", (event) => {
      this.isFocused = event.target.matches(":focus-visible");
    });
    list.addEventListener("focusout", () => this.let("isFocused"));
    list.addEventListener("keydown", (event) => this.move(event));
    list.addEventListener("click", (event) => this.open(event.target.closest("button")));
  }

  get isHeld() {
    const isEmpty = !this.list.children.length; // then there is nothing that could be held
    return !isEmpty && (this.isPaused || this.isPointed || this.isFocused);
  }

  let(reason) {
    this[reason] = false;
    this.draw();
  }

  setPaused(isPaused) {
    this.isPaused = isPaused;
    this.pause.setAttribute("aria-pressed", String(isPaused));
    say(this.pause, isPaused ? "Go on" : "Pause");
    this.draw();
    this.describe();
  }

  /** Begin anew: another filter, or another connection. */
  clear() {
    this.waiting = [];
    this.looks = [];
    this.came = 0;
    this.list.replaceChildren();
    this.none.hidden = false;
    this.describe();
  }

  /** Take what is there already, oldest first. */
  fill(events) {
    const known = new Set([...this.list.children].map((row) => row.arrival));
    for (const event of this.waiting) known.add(event.arrival);
    const older = events.filter((event) => !known.has(event.arrival)).map(kept);
    this.waiting = [...older, ...this.waiting].sort((a, b) => a.arrival - b.arrival).slice(-ROWS);
    this.isMixed = true; // what was drawn already may be newer
    this.draw();
  }

  /** Take what came since the last look, oldest first, and how many there were. */
  take(events, came) {
    this.looks = [...this.looks, [events.length, Math.max(came, events.length)]].slice(-LOOKS);
    if (this.isHeld) this.came += came;
    this.waiting = this.waiting.concat(events.map(kept)).slice(-ROWS);
    this.draw();
    this.describe();
  }

  describe() {
    const [shown, came] = this.looks.reduce(([a, b], [c, d]) => [a + c, b + d], [0, 0]);
    let text = "";
    if (this.isHeld) {
      text = this.isPaused ? "paused" : "held while you are at it";
      if (this.came) text += `, ${number(this.came)} came since`;
    } else if (came > shown) {
      text = `showing ${number(shown)} of ${number(came)} in the last 5 s`;
    }
    say(this.note, text);
  }

  draw() {
    if (this.isDrawing || this.isHeld) return;
    this.isDrawing = true;
    requestAnimationFrame(() => {
      this.isDrawing = false;
      if (!this.isHeld) this.paint();
    });
  }

  paint() {
    this.came = 0;
    const rows = this.waiting.map((event) => this.row(event)).reverse();
    this.waiting = [];
    this.list.prepend(...rows);
    if (this.isMixed) this.list.append(...[...this.list.children].sort((a, b) => b.arrival - a.arrival));
    this.isMixed = false;
    while (this.list.children.length > ROWS) this.list.lastChild.remove();
    this.none.hidden = this.list.children.length > 0;
    this.describe();
    if (!this.list.querySelector('[tabindex="0"]')) this.list.querySelector("button")?.setAttribute("tabindex", "0");
  }

  row(event) {
    const row = make("li");
    const button = make("button");
    button.type = "button";
    button.tabIndex = -1; // one row is in the order of the tab key, the arrow keys go on from there
    const type = make("span", "type");
    type.append(make("span", `dot ${this.colourOf(event.type)}`), make("bdi", "", shortened(event.type, NAME_LENGTH)));
    button.append(
      make("span", "time", clock(event.timestamp, { precise: true })),
      type,
      make("span", "session", shortened(event.sessionId, 8)),
      make("span", "seq", `#${number(event.seq)}`),
      preview(event.data),
    );
    row.arrival = event.arrival;
    row.event = event;
    row.append(button);
    return row;
  }

  /** Types have other colours now. */
  recolour() {
    for (const row of this.list.children) {
      row.querySelector(".dot").className = `dot ${this.colourOf(row.event.type)}`;
    }
  }

  open(button) {
    const row = button?.parentElement;
    if (row?.event) this.onOpen(row.event);
  }

  move(event) {
    const rows = [...this.list.children];
    const at = rows.indexOf(event.target.closest("li"));
    const to = { ArrowDown: at + 1, ArrowUp: at - 1, Home: 0, End: rows.length - 1 }[event.key];
    if (to === undefined || at < 0) return;
    event.preventDefault();
    const next = rows[Math.max(0, Math.min(rows.length - 1, to))].firstChild;
    for (const button of this.list.querySelectorAll('[tabindex="0"]')) button.tabIndex = -1;
    next.tabIndex = 0;
    next.focus();
  }
}

/** What the list keeps of an event. */
function kept({ arrival, type, sessionId, seq, timestamp, data }) {
  return {
    arrival,
    seq,
    timestamp,
    type,
    sessionId,
    data: String(data).slice(0, KEPT_TEXT),
  };
}

/** The first fields of the data, as they came. */
function preview(data) {
  const text = make("bdi", "data");
  let left = FIELDS;
  for (const [key, value] of parts(data)) {
    if (left-- === 0) {
      text.append("…");
      break;
    }
    const name = visible(shortened(key.slice(1, -1), FIELD_LENGTH));
    text.append(make("span", "key", name), ` ${visible(shortened(value, FIELD_LENGTH))}  `);
  }
  return text;
}
