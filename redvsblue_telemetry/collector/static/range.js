// The range of time that the page shows: what the address says, and how it is chosen. The collector reads the words;
// a range that was dragged on a chart is in the address as two times, which are the same in every time zone.

import { request } from "./api.js";
import { clock, formatter, make, setText, visible } from "./text.js";

const CHOICES = [
  ["Live", "", "The last minutes second by second, and everything that is stored"],
  ["1 h", "last hour", "The last hour"],
  ["24 h", "last 24 hours", "The last 24 hours"],
  ["Yesterday", "yesterday", "Yesterday, by this computer's clock"],
  ["7 d", "last 7 days", "The last 7 days"],
  ["30 d", "last 30 days", "The last 30 days"],
  ["All", "all", "Everything that is stored"],
];
const SUGGESTIONS = [
  "today", "yesterday", "this week", "last week", "this month", "last month",
  "last 15 minutes", "last 12 hours", "last 2 weeks", "last 3 months", "last year",
];
const MIN_LENGTH = 60_000; // milliseconds
const EVERYTHING = "all"; // in words; it needs no request
const LIVE = new Set(["", "live"]);

const DAY = formatter(Intl.DateTimeFormat, { weekday: "short", month: "short", day: "numeric" });
const DAY_OF_A_YEAR = formatter(Intl.DateTimeFormat, { month: "short", day: "numeric", year: "numeric" });

/** Return the minutes by which this computer's time is ahead of UTC. */
export function offset() {
  return -new Date().getTimezoneOffset();
}

/** Return the changes of the address that choose a range of two times; without the second, it has no end. */
export function span(from, to = null) {
  return { range: "", from: String(Math.round(from)), to: to === null ? "" : String(Math.round(to)) };
}

/** Return the changes of the address that choose a range by words. */
export function named(words) {
  return { range: LIVE.has(words) ? "" : words, from: "", to: "" };
}

/** Return the changes of the address that choose a range three times as long, with this one in its middle. */
export function longer({ from, to, isOpen }) {
  if (from === null) return named(EVERYTHING);
  const now = Date.now(), length = Math.max(MIN_LENGTH, (isOpen ? now : to ?? now) - from);
  const end = (isOpen ? now : to ?? now) + length;
  return from - length < 0 ? named(EVERYTHING) : span(from - length, end < now ? end : null);
}

/** Return the range that an address has; an error says what is wrong with it. */
export async function resolve(parameters, signal) {
  const words = parameters.get("range") ?? "";
  const [from, to] = ["from", "to"].map((name) => time(parameters.get(name)));
  if (from !== null || to !== null) return made({ from, to, isOpen: to === null, words: "" });
  if (LIVE.has(words)) return made({ words: "", isOpen: true, isLive: true });
  if (words === EVERYTHING) return made({ words, isOpen: true });
  const answer = await request("/api/range", { range: words, offset: offset() }, signal);
  return made({ words: answer.words, from: answer.from, to: answer.to, isOpen: answer.isOpen });
}

function made({ words, from = null, to = null, isOpen, isLive = false }) {
  const query = {};
  if (from !== null) query.from = from;
  if (to !== null && !isOpen) query.to = to; // one that is open has what arrives while it is shown, too
  return { words, from, to, isOpen, isLive, query };
}

function time(text) {
  if (!text) return null;
  if (!/^\d{1,15}$/.test(text)) throw new Error(`from and to are milliseconds since 1970, not ${visible(text)}`);
  return Number(text);
}

/** Return a range's first and last moment in words. */
export function inWords({ from, to, isOpen, isLive }) {
  if (isLive) return "";
  if (from === null && (to === null || isOpen)) return "everything that is stored";
  const [first, last] = [from, isOpen ? null : to].map((time) => time !== null && new Date(time));
  if (!last) return `${dayOf(first)}, ${clock(from).slice(0, 5)} – now`;
  if (!first) return `until ${dayOf(last)}, ${hour(last)}`;
  // A range ends before its end: midnight is the end of a day, not the beginning of the next one.
  const end = new Date(last - 1);
  const isDays = isMidnight(first) && isMidnight(last);
  if (isDays) return dayOf(first) === dayOf(end) ? dayOf(first) : `${dayOf(first)} – ${dayOf(end)}`;
  const isOneDay = first.toDateString() === end.toDateString();
  return `${dayOf(first)}, ${hour(first)} – ${isOneDay ? "" : `${dayOf(last)}, `}${hour(last)}`;
}

function dayOf(date) {
  return (date.getFullYear() === new Date().getFullYear() ? DAY : DAY_OF_A_YEAR).format(date);
}

function hour(date) {
  const text = clock(date.getTime());
  return text.endsWith(":00") ? text.slice(0, 5) : text;
}

function isMidnight(date) {
  return date.getHours() + date.getMinutes() + date.getSeconds() + date.getMilliseconds() === 0;
}

/** The buttons and the box in the header. */
export class RangePicker {
  /** `onChoose` gets the changes of the address that choose a range. */
  constructor(form, onChoose) {
    const part = (name) => form.querySelector(`#range-${name}`);
    Object.assign(this, { form, onChoose, words: part("words"), note: part("note"), error: part("error") });
    this.buttons = CHOICES.map(([label, words, title]) => {
      const button = make("button", "", label);
      Object.assign(button, { type: "button", title });
      button.addEventListener("click", () => onChoose(named(words)));
      return button;
    });
    part("choices").append(...this.buttons);
    part("suggestions").append(...SUGGESTIONS.map((words) => Object.assign(make("option"), { value: words })));
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.choose();
    });
    this.words.addEventListener("change", () => this.choose());
  }

  /** Choose the range of the words in the box, if the collector can read them. */
  async choose() {
    const words = this.words.value.trim();
    if (words === this.shown) return;
    try {
      if (words) await resolve(new URLSearchParams({ range: words }));
      this.onChoose(named(words));
    } catch (error) {
      this.fail(error);
    }
  }

  /** Show the range in the address, before the collector has read it. */
  mark(parameters) {
    const isSpan = parameters.has("from") || parameters.has("to");
    const words = isSpan ? null : parameters.get("range") ?? "";
    CHOICES.forEach(([, choice], at) => this.buttons[at].setAttribute("aria-pressed", String(choice === words)));
    const isChoice = CHOICES.some(([, choice]) => choice === words);
    this.shown = isSpan || isChoice ? "" : words;
    if (document.activeElement !== this.words || !isChoice) this.words.value = this.shown;
  }

  /** Show which times the range has. */
  show(range) {
    setText(this.note, inWords(range));
    setText(this.error, "");
    this.words.setAttribute("aria-invalid", "false");
  }

  fail(error) {
    setText(this.error, error.message.replace(/^\d+: /, ""));
    this.words.setAttribute("aria-invalid", "true");
  }
}
