// The list of the newest events. A viewer can go back from them to the first one, page by page; meanwhile no new ones
// are added. The number of its rows is bounded.

import { fields } from "./json.js";
import { moveWithArrows } from "./rows.js";
import { counted, make, number, setCut, setText, shortened, showTime, visible } from "./text.js";

const MAX_ROWS = 200, MAX_OLDER_ROWS = 1000; // the larger one while a viewer goes back
const SHARE_UPDATES = 10; // updates that the shown share is computed over: five seconds
const MAX_FIELDS = 10, MAX_VALUE_LENGTH = 80, MAX_TYPE_LENGTH = 60; // in one row
const MAX_FAULT_LENGTH = 60;
const NOTHING = "No matching events.", SEARCHING = "Searching…";
const MAX_DATA_LENGTH = 2000; // characters kept for a row; opening the event fetches all of its data

export class EventList {
  /** `onOlder` loads the events before an arrival, and `onNewest` the newest ones. */
  constructor({ list, note, empty, pause, older, newest, end, colorOf, onOpen, onOlder, onNewest }) {
    Object.assign(this, { list, note, empty, pause, older, newest, end, colorOf, onOpen });
    this.pending = []; // events to draw, oldest first
    this.shares = []; // [shown, matching] counts of the latest updates
    this.newCount = 0; // events that arrived while the list is held
    this.isPaused = false;
    this.isLive = true; // whether new events arrive
    this.isBack = false; // while a viewer looks at older events
    this.hasFirst = false; // whether the last row is the first event that there is
    this.isPointed = false;
    this.isFocused = false;
    this.isDrawing = false;
    this.isUnsorted = false;
    this.day = new Date().toDateString();
    this.isSearching = false;
    this.failure = ""; // why the last search has found nothing
    this.isSlow = false; // a search that takes its time
    pause.addEventListener("click", () => this.setPaused(!this.isPaused));
    older.addEventListener("click", () => onOlder(this.list.lastChild.arrival));
    newest.addEventListener("click", () => {
      onNewest();
      this.pause.focus(); // the button is gone
    });
    // Rows must not move away while the pointer or the keyboard is about to open one.
    list.addEventListener("pointerenter", (event) => {
      this.isPointed = event.pointerType === "mouse";
    });
    list.addEventListener("pointerleave", () => this.release("isPointed"));
    list.addEventListener("focusin", (event) => {
      this.isFocused = event.target.matches(":focus-visible");
    });
    list.addEventListener("focusout", () => this.release("isFocused"));
    moveWithArrows(list);
    list.addEventListener("click", (event) => this.open(event.target.closest("button")));
  }

  get isHeld() {
    const isEmpty = !this.list.children.length; // an empty list has no rows that could move
    return !isEmpty && (this.isPaused || this.isBack || this.isPointed || this.isFocused);
  }

  release(reason) {
    this[reason] = false;
    this.draw();
  }

  setPaused(isPaused) {
    this.isPaused = isPaused;
    this.pause.setAttribute("aria-pressed", String(isPaused));
    setText(this.pause, isPaused ? "Resume" : "Pause");
    this.draw();
    this.describe();
  }

  /** Remove all rows, for another filter or another connection. */
  clear() {
    this.pending = [];
    this.shares = [];
    this.newCount = 0;
    this.isBack = this.hasFirst = false;
    this.list.replaceChildren();
    this.empty.hidden = false;
    this.showEnd();
    this.describe();
  }

  /** Show whether earlier events are being searched for. */
  setSearching(isSearching) {
    this.isSearching = isSearching;
    this.list.ariaBusy = String(isSearching);
    if (isSearching) this.failure = "";
    setText(this.empty, isSearching ? SEARCHING : this.failure || NOTHING);
    this.describe();
  }

  /** Show whether that takes so long that a viewer may wonder. */
  setSlow(isSlow) {
    this.isSlow = isSlow;
    this.describe();
  }

  /** Add events that were stored earlier, oldest first. */
  fill(events) {
    const known = new Set([...this.list.children].map((row) => row.arrival));
    for (const event of this.pending) known.add(event.arrival);
    const older = events.filter((event) => !known.has(event.arrival)).map(kept);
    this.pending = [...older, ...this.pending].sort((a, b) => a.arrival - b.arrival).slice(-MAX_ROWS);
    this.isUnsorted = true; // newer events may have been drawn already
    this.draw();
  }

  /** Add events before those in the list, newest first. */
  append(events) {
    this.isBack = true;
    const rows = events.map((event) => rowOf(event, this.colorOf(event.type)));
    this.list.append(...rows);
    while (this.list.children.length > MAX_OLDER_ROWS) this.list.firstChild.remove();
    if (rows.length && document.activeElement === this.older) {
      const [button] = rows[0].children;
      for (const other of this.list.querySelectorAll('[tabindex="0"]')) other.tabIndex = -1;
      button.tabIndex = 0;
      button.focus();
    }
    this.setTabStop();
    this.describe();
    this.showEnd();
  }

  /** Show whether new events are to come. */
  setLive(isLive) {
    this.isLive = isLive;
    if (!isLive && this.isPaused) this.setPaused(false);
    this.showEnd();
  }

  /** Show why no events can be shown. */
  fail(reason) {
    this.failure = `Can't be shown: ${reason.replace(/^\d+: /, "")}`;
  }

  /** Show whether the last row is the first event that there is. */
  setFirst(hasFirst) {
    this.hasFirst = hasFirst;
    this.showEnd();
  }

  showEnd() {
    const isEmpty = !this.list.children.length && !this.pending.length;
    this.older.hidden = isEmpty || this.hasFirst;
    this.end.hidden = isEmpty || !this.hasFirst || !this.isBack;
    this.newest.hidden = !this.isBack;
    this.pause.hidden = this.isBack || !this.isLive;
  }

  /** Add the events of an update, oldest first; `matching` counts the ones left out of it, too. */
  add(events, matching) {
    this.shares = [...this.shares, [events.length, Math.max(matching, events.length)]].slice(-SHARE_UPDATES);
    if (this.isHeld) this.newCount += matching;
    this.pending = this.pending.concat(events.map(kept)).slice(-MAX_ROWS);
    this.draw();
    this.describe();
  }

  describe() {
    const [shown, matching] = this.shares.reduce(([a, b], [c, d]) => [a + c, b + d], [0, 0]);
    let text = this.isSlow && this.list.children.length ? "showing what was found so far, searching on…" : "";
    if (this.isHeld) {
      text = this.isBack ? "older events" : this.isPaused ? "paused" : "paused while you use the list";
      if (this.newCount) text += `: ${counted(this.newCount, "new event")}`;
    } else if (matching > shown) {
      text = `showing ${number(shown)} of ${number(matching)} in the last 5 s`;
    }
    setText(this.note, text);
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
    this.newCount = 0;
    const rows = this.pending.map((event) => rowOf(event, this.colorOf(event.type))).reverse();
    this.pending = [];
    this.list.prepend(...rows);
    if (this.isUnsorted) this.list.append(...[...this.list.children].sort((a, b) => b.arrival - a.arrival));
    this.isUnsorted = false;
    this.dateAgain();
    while (this.list.children.length > MAX_ROWS) {
      this.list.lastChild.remove();
      this.hasFirst = false;
    }
    this.empty.hidden = this.list.children.length > 0;
    this.describe();
    this.setTabStop();
    this.showEnd();
  }

  /** Make one row a tab stop; the arrow keys move between rows. */
  setTabStop() {
    if (!this.list.querySelector('[tabindex="0"]')) this.list.querySelector("button")?.setAttribute("tabindex", "0");
  }

  /** Show the rows' times again after midnight: those of yesterday get a date. */
  dateAgain() {
    const today = new Date().toDateString();
    if (today === this.day) return;
    this.day = today;
    for (const row of this.list.children) showTime(row.querySelector(".time"), row.event.timestamp, { precise: true });
  }

  /** Apply the types' new colors. */
  recolor() {
    for (const row of this.list.children) {
      row.querySelector(".dot").className = `dot ${this.colorOf(row.event.type)}`;
    }
  }

  open(button) {
    const row = button?.parentElement;
    if (row) this.onOpen(row.event);
  }
}

/** Return a row for an event. Its button is not a tab stop. */
export function rowOf(event, color) {
  const row = make("li");
  const button = make("button");
  button.type = "button";
  button.tabIndex = -1;
  const type = make("span", "type");
  type.append(make("span", `dot ${color}`), make("bdi", "", shortened(event.type, MAX_TYPE_LENGTH)));
  const time = make("span", "time"), seq = make("span", "seq");
  showTime(time, event.timestamp, { precise: true });
  setCut(seq, `#${number(event.seq)}`);
  button.append(time, type, make("span", "session", shortened(event.sessionId, 8)), seq, preview(event));
  row.arrival = event.arrival;
  row.event = event;
  row.append(button);
  return row;
}

/** Return the parts of an event that a row needs. */
function kept({ arrival, type, sessionId, seq, timestamp, fault, data }) {
  return { arrival, type, sessionId, seq, timestamp, fault, data: data.slice(0, MAX_DATA_LENGTH) };
}

/** Return an element with the fault, if there is one, and the first fields of the data, exactly as they were sent. */
function preview({ fault, data }) {
  const text = make("bdi", "data");
  if (fault !== undefined) text.append(faultMark(fault));
  let left = MAX_FIELDS;
  for (const [key, value] of fields(data.slice(0, MAX_DATA_LENGTH))) {
    if (left-- === 0) {
      text.append("…");
      break;
    }
    const name = visible(shortened(key.slice(1, -1), MAX_VALUE_LENGTH));
    text.append(make("span", "key", name), ` ${visible(shortened(value, MAX_VALUE_LENGTH))}  `);
  }
  return text;
}

function faultMark(fault) {
  const shown = make("span", "fault");
  shown.title = `Does not fit the schema: ${visible(fault)}`;
  const mark = make("span", "mark", "≠");
  mark.ariaHidden = "true";
  shown.append(mark, make("span", "visually-hidden", "fault: "), make("bdi", "", shortened(fault, MAX_FAULT_LENGTH)));
  return shown;
}
