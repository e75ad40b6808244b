// Text for people to read. Text from events is hostile: it only ever becomes a text node, and characters in
// it that are invisible, or change the direction of the text around them, are shown as escapes.

const INVISIBLE = new RegExp(
  "[\\u0000-\\u001f\\u007f-\\u009f\\u00ad\\u061c\\u180e\\u200b\\u200e\\u200f\\u2028-\\u202e" +
    "\\u2060-\\u206f\\ufeff\\ufff9-\\ufffb]" +
    "|[\\ud800-\\udbff](?![\\udc00-\\udfff])|(?<![\\ud800-\\udbff])[\\udc00-\\udfff]",
  "g",
);

/** Return the text with its invisible characters escaped. */
export function visible(text) {
  return text.replace(INVISIBLE, (unit) => "\\u" + unit.charCodeAt(0).toString(16).padStart(4, "0"));
}

/** Return the text, cut off with an ellipsis if it is longer than `limit`. */
export function shortened(text, limit) {
  return text.length <= limit ? text : text.slice(0, limit) + "…";
}

/** Return a new element that contains a text. */
export function make(tag, className = "", text = "") {
  const element = document.createElement(tag);
  if (className) element.className = className;
  if (text) element.textContent = visible(text);
  return element;
}

/** Set an element's text, but leave the DOM alone if it has that text already. */
export function setText(element, text) {
  const shown = visible(text);
  if (element.textContent !== shown) element.textContent = shown;
}

const NUMBERS = new Intl.NumberFormat("en-US", { maximumFractionDigits: 1 });

export function number(value) {
  return NUMBERS.format(value);
}

const two = (value) => String(value).padStart(2, "0");

/** Return the local time of day, with milliseconds if `precise`. */
export function clock(milliseconds, { precise = false } = {}) {
  const date = new Date(milliseconds);
  if (Number.isNaN(date.getTime())) return "invalid date";
  const time = [date.getHours(), date.getMinutes(), date.getSeconds()].map(two).join(":");
  return precise ? `${time}.${String(date.getMilliseconds()).padStart(3, "0")}` : time;
}

const DAYS = new Intl.DateTimeFormat("en-US", { month: "short", day: "numeric" });
const DAYS_OF_OTHER_YEARS = new Intl.DateTimeFormat("en-US", { dateStyle: "medium" });

/** Return the local time of day today; of other days the day, with the time in this year. */
export function when(milliseconds) {
  const date = new Date(milliseconds), now = new Date();
  if (Number.isNaN(date.getTime()) || date.toDateString() === now.toDateString()) return clock(milliseconds);
  if (date.getFullYear() !== now.getFullYear()) return DAYS_OF_OTHER_YEARS.format(date);
  return `${DAYS.format(date)}, ${clock(milliseconds).slice(0, 5)}`;
}

/** Return a date and time in UTC. */
export function moment(milliseconds) {
  const date = new Date(milliseconds);
  return Number.isNaN(date.getTime()) ? "invalid date" : date.toISOString();
}

export function duration(milliseconds) {
  const seconds = milliseconds / 1000;
  if (seconds < 10) return `${seconds.toFixed(1)} s`;
  if (seconds < 60) return `${Math.floor(seconds)} s`;
  const minutes = Math.floor(seconds / 60);
  if (minutes < 60) return `${minutes} min ${two(Math.floor(seconds % 60))} s`;
  const hours = Math.floor(minutes / 60);
  if (hours < 48) return `${hours} h ${two(minutes % 60)} min`;
  return `${number(Math.floor(hours / 24))} days`;
}

/** Return "1 event", "2 events". */
export function counted(count, noun, plural = `${noun}s`) {
  return `${number(count)} ${count === 1 ? noun : plural}`;
}

/** Return a part of a whole, from 0 to 1, in percent. It is never rounded to nothing or to all. */
export function share(part) {
  const percent = 100 * part;
  if (percent > 0 && percent < 0.1) return "<0.1%";
  if (percent < 100 && percent > 99.9) return ">99.9%";
  return `${number(percent)}%`;
}
