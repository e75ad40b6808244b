// Text for people to read. What events bring is hostile: it is only ever set as text, and what would
// not be seen in it, or would turn the text around it, is shown as an escape.

const UNSEEN = new RegExp(
  "[\\u0000-\\u001f\\u007f-\\u009f\\u00ad\\u061c\\u180e\\u200b\\u200e\\u200f\\u2028-\\u202e" +
    "\\u2060-\\u206f\\ufeff\\ufff9-\\ufffb]" +
    "|[\\ud800-\\udbff](?![\\udc00-\\udfff])|(?<![\\ud800-\\udbff])[\\udc00-\\udfff]",
  "g",
);

/** The text with all that is unseen in it escaped. */
export function visible(text) {
  return text.replace(UNSEEN, (unit) => "\\u" + unit.charCodeAt(0).toString(16).padStart(4, "0"));
}

/** At most so many characters of the text, and a sign if there are more. */
export function shortened(text, most) {
  return text.length <= most ? text : text.slice(0, most) + "…";
}

/** A new element with a text in it. */
export function make(tag, className = "", text = "") {
  const element = document.createElement(tag);
  if (className) element.className = className;
  if (text) element.textContent = visible(text);
  return element;
}

/** Set a text that may be there already: what doesn't change isn't drawn again. */
export function say(element, text) {
  const shown = visible(text);
  if (element.textContent !== shown) element.textContent = shown;
}

const NUMBERS = new Intl.NumberFormat("en-US", { maximumFractionDigits: 1 });

export function number(value) {
  return NUMBERS.format(value);
}

const two = (value) => String(value).padStart(2, "0");

/** A time of the day, by this machine's clock and zone; milliseconds where they are asked for. */
export function clock(milliseconds, { precise = false } = {}) {
  const date = new Date(milliseconds);
  if (Number.isNaN(date.getTime())) return "no date";
  const time = [date.getHours(), date.getMinutes(), date.getSeconds()].map(two).join(":");
  return precise ? `${time}.${String(date.getMilliseconds()).padStart(3, "0")}` : time;
}

/** A date and a time, in UTC. */
export function moment(milliseconds) {
  const date = new Date(milliseconds);
  return Number.isNaN(date.getTime()) ? "no date" : date.toISOString();
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

/** "1 event", "2 events". */
export function counted(count, word) {
  return `${number(count)} ${word}${count === 1 ? "" : "s"}`;
}
