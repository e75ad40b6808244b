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

/** Return an Intl formatter that is made when it is first used: to make one takes some milliseconds. */
export function formatter(kind, options) {
  let made;
  return { format: (value) => (made ??= new kind("en-US", options)).format(value) };
}

const NUMBERS = formatter(Intl.NumberFormat, { maximumFractionDigits: 1 });

/** Return a number with commas; one that `parse()` keeps exactly, with all of its digits. */
export function number(value) {
  return NUMBERS.format(value instanceof Number ? BigInt(String(value)) : value);
}

const MAX_SHOWN_LENGTH = 11; // characters

/** Set an element's text, which a style cuts off if it is long; then the element's title has all of it. */
export function setCut(element, text) {
  setText(element, text);
  element.title = text.length > MAX_SHOWN_LENGTH ? visible(text) : "";
}

const two = (value) => String(value).padStart(2, "0");

// The years 1 to 9999, as in the commands. A game may claim any 64 bits as a time.
const FIRST_TIME = -62_135_596_800_000, LAST_TIME = 253_402_300_799_999; // milliseconds since 1970

/** Return whether a time has a date. */
function isDate(milliseconds) {
  return milliseconds >= FIRST_TIME && milliseconds <= LAST_TIME;
}

/** Return the local time of day, with milliseconds if `precise`. */
export function clock(milliseconds, { precise = false } = {}) {
  const date = new Date(Number(milliseconds));
  const time = [date.getHours(), date.getMinutes(), date.getSeconds()].map(two).join(":");
  return precise ? `${time}.${String(date.getMilliseconds()).padStart(3, "0")}` : time;
}

const DAYS = formatter(Intl.DateTimeFormat, { month: "short", day: "numeric" });
const DAYS_OF_OTHER_YEARS = formatter(Intl.DateTimeFormat, { dateStyle: "medium" });

/**
 * Return the local time of day; of other days with the date, and of other years with the year.
 *
 * The time has milliseconds if `precise`, except in other years, and without it seconds on this day alone.
 */
export function when(milliseconds, { precise = false } = {}) {
  if (!isDate(milliseconds)) return `implausible: ${number(milliseconds)}`;
  const date = new Date(Number(milliseconds)), now = new Date();
  const time = clock(milliseconds, { precise });
  if (date.toDateString() === now.toDateString()) return time;
  const isThisYear = date.getFullYear() === now.getFullYear();
  const day = (isThisYear ? DAYS : DAYS_OF_OTHER_YEARS).format(date);
  return `${day}, ${precise ? time.slice(0, isThisYear ? 12 : 8) : time.slice(0, 5)}`;
}

/** Return a date and time in UTC. */
export function moment(milliseconds) {
  if (!isDate(milliseconds)) return `implausible: ${number(milliseconds)} ms since 1970`;
  return new Date(Number(milliseconds)).toISOString();
}

/** Show in an element when something was; its title has the date, and the time in UTC. */
export function showTime(element, milliseconds, { precise = false } = {}) {
  const text = when(milliseconds, { precise });
  setText(element, text);
  element.title = moment(milliseconds);
  element.classList.toggle("dated", text.length > "00:00:00.000".length); // needs a wider column
}

/** Return the time from one time to another. */
export function between(first, last) {
  return isDate(first) && isDate(last) ? duration(last - first) : "implausible";
}

const MAX_DURATION = LAST_TIME - FIRST_TIME;

export function duration(milliseconds) {
  if (!(Math.abs(milliseconds) <= MAX_DURATION)) return "implausible";
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
