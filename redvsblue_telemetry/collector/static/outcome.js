// How sessions stand, and why events are missing: the words, and the marks beside them. Causes come from the
// clients' reports, so a cause may be any word; an unknown one is shown as it is.

import { counted, make, moment, number, setText } from "./text.js";

// In the order in which a summary lists them: a mark, a word, and the meaning.
const OUTCOMES = new Map([
  ["running", ["●", "running", "The game is running"]],
  ["crashed", ["✕", "crashed", "An uncaught exception ended the game"]],
  ["killed", ["■", "killed", "The process ended without a word; the next start reported it"]],
  ["no_word", ["?", "no word", "Not connected, and nothing received for five minutes or more"]],
  ["switched_off", ["–", "switched off", "The player switched telemetry off"]],
  ["well", ["✓", "ended well", "The game stopped telemetry, or the interpreter exited"]],
]);

const CAUSES = new Map([
  ["overflow", "the game's store was full"],
  ["refused", "the server refused the event"],
  ["rejected", "before_send failed"],
  ["filtered", "before_send left the event out"],
  ["switched_off", "the player switched telemetry off"],
  ["expired", "the event was too old for the game's journal, or the journal was full"],
  ["left_behind", "the game stopped before the event was delivered"],
  ["forwarded", "the event has a number from elsewhere, so its own is not used"],
  ["damaged", "the game's journal was damaged there"],
  ["dropped", "the game dropped the event; its report had no room for the number and the reason"],
  ["waiting", "on the player's machine, still to come"],
  ["unexplained", "no report explains it"],
]);

/** Causes that nobody needs to look into. */
const HARMLESS = new Set(["filtered", "switched_off", "forwarded", "waiting"]);

/** Return how a session stands: a mark, a word and what that means. */
export function outcomeOf({ outcome }) {
  const [mark, word, meaning] = OUTCOMES.get(outcome) ?? ["?", outcome, ""];
  return { mark, word, meaning };
}

/** Return a new element for the mark and the words of an outcome. */
export function makeOutcome() {
  const element = make("span", "outcome");
  const mark = make("span", "mark");
  mark.ariaHidden = "true"; // the word says the same
  element.append(mark, make("span"));
  return element;
}

/** Show in such an element how a session stands, and more words after that. */
export function showOutcome(element, session, words) {
  const { mark, meaning } = outcomeOf(session);
  const isAway = session.outcome === "running" && !session.connected;
  element.dataset.outcome = session.outcome;
  element.title = [meaning, moment(session.since)].filter(Boolean).join("\n");
  setText(element.firstChild, isAway ? "○" : mark);
  setText(element.lastChild, words);
}

/** Return the numbers of sessions by outcome in words: "2 running, 1 killed". */
export function summary(outcomes) {
  const parts = [];
  for (const [outcome, [, word]] of OUTCOMES) {
    if (outcomes[outcome]) parts.push(`${number(outcomes[outcome])} ${outcome === "no_word" ? "without word" : word}`);
  }
  return together(parts);
}

/** Return how many sessions have a known end, the share that neither crashed nor were killed, and those that did. */
export function crashFree({ well = 0, switched_off: off = 0, crashed = 0, killed = 0 }) {
  const ended = well + off + crashed + killed;
  return { ended, share: (well + off) / ended, bad: summary({ crashed, killed }) };
}

/** Return a cause in words, with its explanation if that is wanted and known. */
export function causeOf(cause, { isExplained = false } = {}) {
  const word = cause.replaceAll("_", " ");
  const meaning = CAUSES.get(cause);
  return isExplained && meaning ? `${word}: ${meaning}` : word;
}

/** Return numbers by cause as words, the largest first: "12 overflow, 3 waiting". */
export function causes(lost, limit = 3) {
  const ranked = Object.entries(lost).filter(([, count]) => count > 0);
  ranked.sort((a, b) => b[1] - a[1] || (a[0] < b[0] ? -1 : 1));
  const parts = ranked.slice(0, limit).map(([cause, count]) => `${number(count)} ${causeOf(cause)}`);
  if (ranked.length > limit) parts.push(counted(ranked.length - limit, "other cause"));
  return together(parts);
}

/** Return a list in words; a line of it ends only after a comma. */
function together(parts) {
  return parts.map((part) => part.replaceAll(" ", "\u00a0")).join(", ");
}

/** Return whether some of the missing events are missing for a cause that somebody should look into. */
export function isBad(missing, lost) {
  let harmless = 0;
  for (const [cause, count] of Object.entries(lost)) if (HARMLESS.has(cause)) harmless += count;
  return missing > harmless;
}
