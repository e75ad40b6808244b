// The most frequent values of a field.

import { grid } from "../grid.js";
import { bar } from "../plot.js";
import { Question, fieldOptions, inRange, typeOptions, versionOptions } from "../question.js";
import { counted, make, number, share, shortened } from "../text.js";
import { article, linkTo, named, plain, strong, whole } from "../words.js";

const LIMIT = 50;

const isName = ({ kind, name }) => kind !== "number" && name.startsWith("data.");

/** Compare two fields: one with few values says more at first sight. */
const fewest = (one, other) => values(one) - values(other);
const values = ({ examples }) => (examples.length > 1 ? examples.length : Infinity);

export function open(root, state, tools) {
  const question = new Question(root, tools, {
    title: "Values",
    about: "Which values does a field have, and how often?",
  });
  const type = question.choice("type", "Type", () => ({ field: "" }));
  const field = question.choice("field", "Field");
  const version = question.choice("version", "Version");
  const where = question.where();

  async function fill(state, types, versions) {
    const asked = state.get("type"), fields = await question.fields(asked);
    type.offer(typeOptions(types), asked);
    field.offer(offered(fields), whole(state.get("field")));
    version.offer(versionOptions(versions), state.get("version"));
    where.show(state.all("where"));
  }

  async function choose(state, types) {
    const asked = state.get("type"), looked = asked ? [[asked]] : types;
    const found = (await question.firstFitting(looked, isName, fewest)) ?? (await question.firstFitting(looked, () => true));
    if (found) tools.go({ type: found.type, field: plain(found.field.name) }, { isReplaced: true });
    else if (types.length) tools.go({ type: asked || types[0][0], field: "version" }, { isReplaced: true });
    return types.length > 0;
  }

  async function find(state) {
    const lists = [question.types(state), question.versions(state)];
    if (!state.get("type") || !state.get("field")) {
      const [types] = await Promise.all(lists);
      if (!(await choose(state, types))) question.sayNothing(`There are no events${inRange(state)}.`);
      return;
    }
    const parameters = {
      ...state.range.query,
      type: state.get("type"), field: state.get("field"), version: state.get("version"), where: state.all("where"), limit: LIMIT,
    };
    const asking = tools.request("/api/answers/values", parameters);
    const filling = Promise.all(lists).then(([types, versions]) => fill(state, types, versions));
    const [answer] = await Promise.all([asking, filling]);
    show(state, answer, parameters);
  }

  function show(state, answer, parameters) {
    const asked = state.get("type"), name = plain(state.get("field"));
    if (!answer.count) {
      const fits = state.all("where").length || state.get("version") ? " and fits the conditions" : "";
      question.sayNothing(`No ${asked} event${inRange(state)} has ${article(name)} ${name}${fits}.`);
      return;
    }
    const [top] = answer.values;
    const most = [" is the most frequent ", named(name), ": ", strong(share(top.share)), " of the ", number(answer.count), " ", named(asked), " events"];
    const only = [" is the ", named(name), " of the only ", named(asked), " event"];
    question.say(
      strong(shortened(shown(top.value), 80)), ...(answer.count === 1 ? only : most), ` with one${inRange(state)}.`,
      answer.distinct === 1 ? " There is no other value" : ` There are ${number(answer.distinct)} different values`,
      answer.absent ? `; ${counted(answer.absent, "event has", "events have")} none.` : ".",
    );
    question.link(
      "/api/answers/values", parameters,
      linkTo(tools.href({ view: "field", type: asked, by: state.get("field") }), "A number by these values"),
      linkTo(tools.href({ view: "overview", type: asked }), `${shortened(asked, 40)} events`),
    );
    const rows = answer.values.map((value) => [
      valueLink(value, state),
      part(value.share),
      number(value.count),
      number(value.sessions),
    ]);
    const columns = [
      { title: shortened(name, 60) }, { title: "Share", className: "wide" }, { title: "Events" },
      { title: "Sessions", explained: "Sessions with such an event" },
    ];
    const section = make("div", "figure");
    section.append(grid(`Most frequent values of ${name} in ${asked}`, columns, rows));
    const others = answer.distinct - answer.values.length;
    if (others > 0) section.append(make("p", "quiet remark", `The ${answer.values.length} most frequent ones; ${counted(others, "value")} more.`));
    question.show(section);
  }

  /** Return a link to what else can be asked about the events with a value. */
  function valueLink({ value }, state) {
    const text = shortened(shown(value), 80), field = whole(state.get("field"));
    const asked = state.get("type");
    const condition = `${field}=${value}`;
    if (field === "version") return linkTo(tools.href({ view: "field", type: asked, version: String(value) }), text, "Numbers of this version");
    if (field === "session") return linkTo(tools.href({ view: "session", session: String(value) }), text, "Show this session");
    return linkTo(tools.href({ view: "field", type: asked, where: condition }), text, "Numbers of these events");
  }

  function update(state) {
    question.retry = () => update(state);
    question.ask(state, () => find(state));
  }

  update(state);
  return { update, close: () => question.close() };
}

function shown(value) {
  return value === "" ? "(empty)" : typeof value === "number" ? number(value) : String(value);
}

function part(share_) {
  const element = make("span", "part");
  element.append(bar(share_), make("span", "sum", share(share_)));
  return element;
}

function offered(fields) {
  const ofTheEvent = ["version", "outcome", "session"];
  const event = ofTheEvent.map((name) => ({ value: name, text: name, group: "Event" }));
  return [...fieldOptions(fields.filter(({ name }) => !ofTheEvent.includes(name))), ...event];
}
