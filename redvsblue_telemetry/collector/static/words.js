// Words and figures of answers. Text from events only ever becomes a text node; see text.js.

import { formatter, make, number, shortened, visible } from "./text.js";

const MAX_NAME_LENGTH = 60; // characters, in a sentence
const OF_THE_EVENT = new Set(["version", "type", "session", "outcome"]);
const FINE = formatter(Intl.NumberFormat, { maximumSignificantDigits: 3 });
const SHORT = formatter(Intl.NumberFormat, { notation: "compact", maximumFractionDigits: 1 });

/** Return a number of any size as a field may have it: "12", "0.0312", "1,234.5", "2.1e+15"; "–" if there is none. */
export function quantity(value) {
  if (value === null || value === undefined) return "–";
  const size = Math.abs(value);
  if (size >= 1e15 || (size > 0 && size < 1e-6)) return Number(value).toExponential(2);
  return Number.isInteger(value) || size >= 100 ? number(value) : FINE.format(value);
}

/** Return a number that fits beside a scale: "7,500", "800K", "2.5M". */
export function brief(value) {
  const size = Math.abs(value);
  if (size >= 1e15 || (size > 0 && size < 1e-4)) return value.toExponential(1).replace("+", "");
  return size >= 10_000 ? SHORT.format(value) : size >= 100 ? number(value) : FINE.format(value);
}

/** Return a noun that comes from the game, for several of them. */
export function plural(noun) {
  if (/[^aeiou]y$/i.test(noun)) return `${noun.slice(0, -1)}ies`;
  return noun + (/(s|x|z|ch|sh)$/i.test(noun) ? "es" : "s");
}

/** Return the article for a word that comes from the game. */
export function article(word) {
  return /^[aeiou]/i.test(word) ? "an" : "a";
}

/** Return some words as a list: "a", "a and b", "a, b and c". */
export function listed(words) {
  return words.length < 2 ? words.join("") : `${words.slice(0, -1).join(", ")} and ${words.at(-1)}`;
}

/** Return the name of a field as the author of the game knows it: without the "data." before it. */
export function plain(field) {
  return field.replace(/^(data|context)\./, "");
}

/** Return the whole name of a field, as in the collector: "damage" is short for "data.damage". */
export function whole(field) {
  return !field || OF_THE_EVENT.has(field) || /^(data|context)\./.test(field) ? field : `data.${field}`;
}

/** Return a new element for a figure in a sentence. */
export function strong(text) {
  return make("strong", "", text);
}

/** Return a new element for a name that comes from the game. */
export function named(text) {
  return make("bdi", "name-of", shortened(text, MAX_NAME_LENGTH));
}

/** Return a new link to a view. */
export function linkTo(href, text, title = "") {
  const link = make("a", "link", text);
  link.href = href;
  if (title) link.title = visible(title);
  return link;
}
