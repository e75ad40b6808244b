// How a number in the events of a type is distributed, and how that changes over time; also by version or another field.

import { facts, folded, grid } from "../grid.js";
import { Plot, legend, stepName, stroke } from "../plot.js";
import { Question, fieldOptions, inRange, typeOptions, versionOptions } from "../question.js";
import { offset } from "../range.js";
import { counted, make, number, share, shortened } from "../text.js";
import { article, brief, linkTo, named, plain, quantity, strong, whole } from "../words.js";

const FIGURES = [
  { value: "p95", text: "p95" },
  { value: "p50", text: "p50, the median" },
];
const PERCENTILES = ["p50", "p95", "p99"];
const MAX_NAMED_GROUPS = 4; // in the sentence
const MARKS = 16; // pixels

const hasNumbers = ({ kind }) => kind !== "text";

export function open(root, state, tools) {
  const question = new Question(root, tools, {
    title: "Field",
    about: "How large is a number in your events, and how does it change?",
  });
  const type = question.choice("type", "Type", () => ({ field: "", by: by.control.value === "version" ? "version" : "" }));
  const field = question.choice("field", "Field");
  const by = question.choice("by", "Split by");
  const version = question.choice("version", "Version");
  const where = question.where();
  const overTime = new Plot("Over time"), distribution = new Plot("Distribution");
  const figure = question.choice("figure", "Chart of");

  async function fill(state, types, versions) {
    const asked = state.get("type"), fields = await question.fields(asked);
    type.offer(typeOptions(types), asked);
    field.offer(fieldOptions(fields.filter(hasNumbers)), whole(state.get("field")));
    by.offer(splits(fields), state.get("by"));
    version.offer(versionOptions(versions), state.get("version"));
    figure.offer(FIGURES, state.get("figure") || "p95");
    figure.element.hidden = !state.get("by");
    where.show(state.all("where"));
  }

  /** Choose what the address leaves open. Return whether there is anything to choose. */
  async function choose(state, types, versions) {
    const asked = state.get("type");
    const found = await question.firstFitting(asked ? [[asked]] : types, hasNumbers);
    if (!found) return false;
    const split = asked || versions.length < 2 ? {} : { by: "version" };
    tools.go({ type: found.type, field: plain(found.field.name), ...split }, { isReplaced: true });
    return true;
  }

  async function find(state) {
    const lists = [question.types(state), question.versions(state)];
    if (!state.get("type") || !state.get("field")) {
      const [types, versions] = await Promise.all(lists);
      if (await choose(state, types, versions)) return;
      type.offer(typeOptions(types), state.get("type"));
      question.sayNothing(`No event${inRange(state)} has a number in its data.`, "A field is a number that a game emits, such as damage=12.");
      return;
    }
    const parameters = {
      ...state.range.query,
      type: state.get("type"), field: state.get("field"), by: state.get("by"),
      version: state.get("version"), where: state.all("where"), offset: offset(),
    };
    const asking = tools.request("/api/answers/field", parameters);
    const filling = Promise.all(lists).then(([types, versions]) => fill(state, types, versions));
    const [answer] = await Promise.all([asking, filling]);
    show(state, answer, parameters);
  }

  function show(state, answer, parameters) {
    const asked = state.get("type"), name = plain(state.get("field"));
    if (!answer.count) {
      question.sayNothing(`No ${asked} event${inRange(state)} has a number in ${name}${state.all("where").length || state.get("version") ? " and fits the conditions" : ""}.`);
      return;
    }
    const groups = answer.groups ?? [], short = shortened(name, 60);
    question.say(...sentence(state, answer, groups, asked, name));
    question.link(
      "/api/answers/field", parameters,
      linkTo(tools.href({ view: "values", type: asked, field: name }), "Most frequent values"),
      groups.length > 1 && answer.by === "version" &&
        linkTo(tools.href({ view: "versions", version: versionsOf(groups), type: asked, field: name }), "Compare these versions"),
      linkTo(tools.href({ view: "overview", type: asked }), `${shortened(asked, 40)} events`),
    );
    const percentile = state.get("figure") === "p50" ? "p50" : "p95";
    question.show(
      factsOf(answer),
      over(answer, groups, percentile, short),
      groups.length > 0 && groupTable(groups, answer, asked, short),
      histogram(answer, short),
    );
  }

  function groupTable(groups, answer, asked, name) {
    const columns = ["Events", "p50", "p95", "p99", "Mean", "Lowest", "Highest"].map((title) => ({ title }));
    const rows = groups.map((group, at) => [
      [stroke(at), groupLink(group, answer.by)],
      number(group.count),
      ...["p50", "p95", "p99", "mean", "min", "max"].map((figure) => quantity(group[figure])),
    ]);
    rows.push([["All"], number(answer.count), ...["p50", "p95", "p99", "mean", "min", "max"].map((figure) => quantity(answer[figure]))]);
    const table = make("div", "figure");
    table.append(make("h3", "", `${name} by ${plain(answer.by)}`));
    table.append(grid(`${name} of ${asked} by ${plain(answer.by)}`, [{ title: plain(answer.by) }, ...columns], rows));
    if (answer.others) table.append(make("p", "quiet remark", `${counted(answer.others, "event")} with other values of ${plain(answer.by)}.`));
    return table;
  }

  /** Return a link to the same question about one group. */
  function groupLink({ value }, name) {
    if (value === null) return make("span", "quiet", `no ${plain(name)}`);
    const text = shortened(String(value), 40);
    const isVersion = name === "version";
    const condition = `${name}=${value}`;
    const href = isVersion
      ? tools.href({ version: String(value), by: "" })
      : tools.href({ where: [...new Set([...question.state.all("where"), condition])], by: "" });
    return linkTo(href, text, "Show only these events");
  }

  function over(answer, groups, percentile, name) {
    const section = make("div", "figure");
    const title = groups.length ? `${percentile} of ${name} over time, by ${plain(answer.by)}` : `${name} over time`;
    const lines = groups.length
      ? groups.map((group) => ({
          name: nameOf(group.value, answer.by),
          points: group.overTime.map(([at, count, p50, p95]) => ({ at, count, value: percentile === "p50" ? p50 : p95 })),
        }))
      : PERCENTILES.map((each) => ({ name: each, points: answer.overTime.map((point) => ({ at: point.at, count: point.count, value: point[each] })) }));
    overTime.show((pen) => drawLines(pen, lines, answer.step), { label: title });
    section.append(make("h3", "", title), legend(lines.map((line) => line.name)), overTime.element);
    section.append(folded("These figures as a table", () => timeTable(title, lines, answer.step)));
    return section;
  }

  function histogram(answer, name) {
    const section = make("div", "figure");
    const title = `How often each ${name} occurs`;
    distribution.show((pen) => drawHistogram(pen, answer), { label: title });
    section.append(make("h3", "", title), distribution.element);
    section.append(
      folded("These figures as a table", () =>
        grid(
          title,
          [{ title: name }, { title: "Events" }, { title: "Share" }],
          answer.histogram.map((bin) => [binName(bin), number(bin.count), share(bin.count / answer.count)]),
        ),
      ),
    );
    return section;
  }

  function update(state) {
    question.retry = () => update(state);
    question.ask(state, () => find(state));
  }

  update(state);
  return { update, close: () => question.close() };
}

/** Return the answer in words. */
function sentence(state, answer, groups, type, name) {
  const an = article(name);
  if (answer.count === 1) return ["The only ", named(type), " event", inRange(state), ` with ${an} `, named(name), " has one of ", strong(quantity(answer.p50)), "."];
  const parts = [
    "95% of ", number(answer.count), " ", named(type), " events", inRange(state),
    ` have ${an} `, named(name), " of ", strong(quantity(answer.p95)), " or less (the p95); half have ", strong(quantity(answer.p50)), " or less.",
  ];
  if (!groups.length) return parts;
  parts.push(` The p95 by ${plain(answer.by)}: `);
  groups.slice(0, MAX_NAMED_GROUPS).forEach((group, at) => {
    parts.push(at ? ", " : "", named(nameOf(group.value, answer.by)), " ", strong(quantity(group.p95)));
  });
  parts.push(groups.length > MAX_NAMED_GROUPS ? `, and ${counted(groups.length - MAX_NAMED_GROUPS, "more")}.` : ".");
  return parts;
}

function factsOf(answer) {
  const all = answer.count + answer.absent;
  return facts([
    ["p50", quantity(answer.p50), "Half of the events are at or below it"],
    ["p95", quantity(answer.p95), "95% of the events are at or below it"],
    ["p99", quantity(answer.p99), "99% of the events are at or below it"],
    ["mean", quantity(answer.mean)],
    ["lowest", quantity(answer.min)],
    ["highest", quantity(answer.max)],
    ["events", number(answer.count)],
    ["without the field", answer.absent ? `${number(answer.absent)} (${share(answer.absent / all)})` : "0"],
  ]);
}

function drawLines(pen, lines, step) {
  const values = lines.flatMap(({ points }) => points.map(({ value }) => value));
  if (!values.length) return [];
  const times = [...new Set(lines.flatMap(({ points }) => points.map(({ at }) => at)))].sort((a, b) => a - b);
  const [low, high] = [Math.min(...values), Math.max(...values)];
  const y = pen.up(low > 0 && high - low < low / 4 ? low : Math.min(0, low), Math.max(high, 0));
  const x = pen.time(times[0], times.at(-1));
  lines.forEach(({ points }, at) => pen.line(points.map((point) => ({ at: point.at, x: x(point.at), y: y(point.value) })), at, step));
  const found = lines.map(({ points }) => new Map(points.map((point) => [point.at, point])));
  return times.map((time) => ({
    x: x(time),
    title: stepName(time, step),
    rows: lines.flatMap(({ name }, at) => {
      const point = found[at].get(time);
      return point ? [{ name, value: quantity(point.value), key: () => stroke(at) }] : [];
    }),
  }));
}

function timeTable(title, lines, step) {
  const times = [...new Set(lines.flatMap(({ points }) => points.map(({ at }) => at)))].sort((a, b) => a - b);
  const found = lines.map(({ points }) => new Map(points.map((point) => [point.at, point.value])));
  const rows = times.map((time) => [stepName(time, step), ...found.map((values) => quantity(values.get(time)))]);
  return grid(title, [{ title: "From" }, ...lines.map(({ name }) => ({ title: name }))], rows);
}

/** Draw bars of equal width: those of the first and the last bin extend to the extremes, which would flatten the rest. */
function drawHistogram(pen, { histogram, count, ...figures }) {
  if (!histogram.length) return [];
  const inner = histogram[Math.floor(histogram.length / 2)];
  const width = histogram.length > 2 ? inner.high - inner.low : histogram[0].high - histogram[0].low || 1;
  const shown = histogram.map(({ low, high, count }, at) => ({
    count, low, high,
    from: at === 0 && histogram.length > 2 ? high - width : low,
    to: at === histogram.length - 1 && histogram.length > 2 ? low + width : high > low ? high : low + width,
  }));
  pen.top += MARKS; // room for the names of the percentiles
  const y = pen.up(0, Math.max(...shown.map((bin) => bin.count)));
  const x = pen.across(shown[0].from, shown.at(-1).to);
  const stops = shown.map((bin) => {
    const left = x(bin.from), right = x(bin.to), room = right - left;
    const height = Math.max(bin.count ? 1 : 0, pen.bottom - y(bin.count));
    pen.add("rect", { x: left + 0.5, width: Math.max(1, room - 1), y: pen.bottom - height, height, class: "c0" });
    return { x: left + room / 2, title: binName(bin), rows: [{ name: "events", value: `${number(bin.count)} (${share(bin.count / count)})` }] };
  });
  let end = -Infinity;
  for (const name of PERCENTILES) {
    const at = x(figures[name]);
    if (at < pen.left || at > pen.right) continue;
    pen.add("line", { x1: at, x2: at, y1: pen.top - MARKS, y2: pen.bottom, class: "rule" });
    const text = `${name} ${brief(figures[name])}`, length = text.length * 6.5;
    const isRight = at + length > pen.right;
    if (end > (isRight ? at - length : at)) continue; // the names would be on one another
    pen.label(text, at + (isRight ? -4 : 4), pen.top - MARKS + 8, { anchor: isRight ? "end" : "start", className: "mark" });
    end = isRight ? at : at + length;
  }
  return stops;
}

function binName({ low, high }) {
  return low === high ? quantity(low) : `${quantity(low)} to ${quantity(high)}`;
}

function nameOf(value, field) {
  return value === null ? `no ${plain(field)}` : shortened(String(value), 40);
}

function versionsOf(groups) {
  return groups.map(({ value }) => value).filter((value) => value !== null).slice(0, 4);
}

/** Return the options for the split. */
function splits(fields) {
  const others = fieldOptions(fields.filter(({ kind }) => kind !== "number")).filter(({ value }) => !["version", "outcome"].includes(value));
  return [{ value: "", text: "nothing" }, { value: "version", text: "version" }, { value: "outcome", text: "outcome of the session" }, ...others];
}
