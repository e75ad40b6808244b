// A view that answers a question: its form, then the answer in one sentence, its charts and its tables; and what is
// shown while there is no answer.

import { address } from "./api.js";
import { Choice, Where, button } from "./form.js";
import { inWords } from "./range.js";
import { make, number, shortened } from "./text.js";
import { linkTo, plain } from "./words.js";

const SLOW = 250; // milliseconds until the page says that an answer is awaited
const FRESH = 20_000; // milliseconds for which the lists of types, versions and fields are not asked for again
const MAX_TYPES = 300, MAX_VERSIONS = 100;
const TYPES_LOOKED_AT = 4; // for a default, the most frequent ones

let made = 0; // titles, for ids

export class Question {
  /** `title` and `about` head the view; `tools` is that of router.js. */
  constructor(root, tools, { title, about }) {
    this.tools = tools;
    this.known = new Map(); // lists for the form: a promise each, and when it was made
    const id = `question-${++made}`;
    const head = make("div", "panel-head"), heading = make("h2", "", title);
    heading.id = id;
    head.append(heading, make("p", "quiet", about));
    this.form = make("form", "filters");
    this.form.addEventListener("submit", (event) => event.preventDefault());
    this.form.setAttribute("aria-labelledby", id);
    const asked = make("section", "panel question");
    asked.append(head, this.form);
    this.answer = make("section", "panel answer");
    this.answer.ariaLabel = "Answer";
    this.sentence = make("p", "sentence");
    this.sentence.role = "status";
    this.trouble = make("div", "problem");
    this.trouble.role = "alert";
    this.trouble.hidden = true;
    this.links = make("p", "links");
    this.body = make("div", "figures");
    this.answer.append(this.sentence, this.trouble, this.links, this.body);
    root.append(asked, this.answer);
  }

  /** Add a list to the form; its choice is the parameter `name` of the address, other changes come with it. */
  choice(name, label, changes = () => ({})) {
    const choice = new Choice(label, (value) => this.tools.go({ [name]: value, ...changes(value) }));
    this.form.append(choice.element);
    return choice;
  }

  /** Add the box for conditions to the form. */
  where() {
    const where = new Where((terms) => this.tools.go({ where: terms }));
    this.form.append(where.element);
    return where;
  }

  /** Show an answer: `find` asks for it and shows it; what it throws is shown instead. */
  async ask(state, find) {
    const turn = (this.turn = {});
    this.state = state;
    clearTimeout(this.slow);
    this.slow = setTimeout(() => this.wait(turn), SLOW);
    try {
      await find();
      if (this.turn === turn) this.settle(null);
    } catch (error) {
      if (error.name !== "AbortError" && this.turn === turn) this.settle(error);
    }
  }

  wait(turn) {
    if (this.turn !== turn) return;
    this.answer.ariaBusy = "true";
    if (!this.body.firstChild) this.say("Looking …");
  }

  settle(error) {
    clearTimeout(this.slow);
    this.answer.ariaBusy = "false";
    this.trouble.hidden = !error;
    if (!error) return;
    this.clear();
    this.trouble.replaceChildren(make("p", "", reasonOf(error)));
    const isLasting = error.response?.status < 500; // the question has to change
    if (!isLasting) this.trouble.append(button("Try again", () => this.again()));
  }

  /** Ask once more, also for the lists of the form. */
  again() {
    this.known.clear();
    this.retry();
  }

  clear() {
    this.sentence.replaceChildren();
    this.links.replaceChildren();
    this.body.replaceChildren();
  }

  /** Show the answer in a sentence of texts and elements. */
  say(...parts) {
    this.sentence.replaceChildren(...parts);
  }

  /** Show that there is nothing to answer, and what might help. */
  sayNothing(text, advice = "") {
    this.clear();
    this.say(text, advice ? ` ${advice}` : "");
    const { from, to } = this.state.range;
    if (from === null && to === null) return;
    this.links.append(linkTo(this.tools.href({ range: "all", from: "", to: "" }), "Look at everything that is stored"));
  }

  /** Show links below the sentence, and the one to the answer as JSON. */
  link(path, parameters, ...links) {
    const json = linkTo(address(path, parameters).href, "JSON", "This answer as the API gives it");
    this.links.replaceChildren(...links.filter(Boolean), json);
  }

  /** Show charts and tables. */
  show(...elements) {
    this.body.replaceChildren(...elements.filter(Boolean));
  }

  close() {
    clearTimeout(this.slow);
    this.turn = null;
  }

  // Lists for the form.

  /** Return what `find` finds, from memory if it is fresh. */
  remember(key, find) {
    const before = this.known.get(key);
    if (before && performance.now() - before.at < FRESH) return before.found;
    const found = find();
    this.known.set(key, { at: performance.now(), found });
    found.catch(() => this.known.delete(key));
    return found;
  }

  /** Return the types of the range with their counts, the most frequent first. */
  types(state) {
    return this.remember(`types ${JSON.stringify(state.range.query)}`, async () => {
      const { types } = await this.tools.request("/api/stats", state.range.query);
      // Counts of a range have no name for types with long ones, which are together under "".
      return Object.entries(types).filter(([type]) => type).sort((a, b) => b[1] - a[1] || (a[0] < b[0] ? -1 : 1));
    });
  }

  /** Return the versions with sessions in the range, the newest first. */
  versions(state) {
    return this.remember(`versions ${JSON.stringify(state.range.query)}`, async () => {
      const query = { ...state.range.query, limit: MAX_VERSIONS };
      const { versions } = await this.tools.request("/api/versions", query);
      return versions.filter(({ version }) => version !== null);
    });
  }

  /** Return the fields of the events of a type, and those of contexts; none if there is no such type. */
  fields(type) {
    return this.remember(`fields ${type}`, async () => {
      try {
        return (await this.tools.request("/api/fields", { type })).fields;
      } catch (error) {
        if (error.response?.status === 400) return []; // the answer to the question says so
        throw error;
      }
    });
  }

  /** Return the names of the fields that contexts have, the most frequent first. */
  contextFields() {
    return this.remember("contexts", async () => (await this.tools.request("/api/fields")).fields.map(({ name }) => name));
  }

  /** Return the most frequent type that has fields which fit, with the first of them in `order`; null if none has. */
  async firstFitting(types, fits, order = () => 0) {
    const looked = types.slice(0, TYPES_LOOKED_AT).map(([type]) => type);
    const lists = await Promise.all(looked.map((type) => this.fields(type)));
    for (const [at, type] of looked.entries()) {
      const [field] = lists[at].filter(fits).sort(order);
      if (field) return { type, field };
    }
    return null;
  }
}

/** Return the options for the types. */
export function typeOptions(types) {
  return types.slice(0, MAX_TYPES).map(([type, count]) => ({ value: type, text: `${shortened(type, 40)} (${number(count)})` }));
}

/** Return the options for the versions, with one for all of them. */
export function versionOptions(versions) {
  return [{ value: "", text: "all versions" }, ...versions.map(({ version }) => ({ value: version, text: version }))];
}

/** Return the options for fields; those of the data first. */
export function fieldOptions(fields) {
  return fields.map(({ name, examples = [] }) => {
    const example = examples.length ? ` – ${examples.slice(0, 3).map((value) => shortened(String(value), 14)).join(", ")}` : "";
    return { value: name, text: plain(name) + example, group: name.startsWith("context.") ? "Context" : name.startsWith("data.") ? "Data" : "Event" };
  });
}

/** Return the range in words that follow others: " in the last 7 days"; nothing if it is all of time. */
export function inRange({ range }) {
  const { words, from, to } = range;
  if (from === null && to === null) return "";
  if (!words) return ` (${inWords(range)})`;
  if (/^last (\d|minute|hour|day)/.test(words)) return ` in the ${words.replace("last 1 ", "last ")}`;
  if (/^(today|yesterday|since |until |last |this )/.test(words)) return ` ${words}`;
  if (words.includes(" to ")) return ` from ${words}`;
  return /^\d{4}(-\d\d)?$/.test(words) ? ` in ${words}` : ` on ${words}`;
}

/** Return why there is no answer. */
function reasonOf(error) {
  if (error.name === "TimeoutError") return "The collector has not answered for 15 seconds. A shorter range may help.";
  if (!error.response) return "The collector can't be reached.";
  const reason = error.message.replace(/^\d+: /, "");
  return `${reason.charAt(0).toUpperCase()}${reason.slice(1)}${/[.?!]$/.test(reason) ? "" : "."}`;
}
