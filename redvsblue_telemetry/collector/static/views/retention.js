// Retention: how many players come back, one day, a week or a month after their first.

import { Box } from "../form.js";
import { facts, grid } from "../grid.js";
import { Plot, legend, stepName, stroke } from "../plot.js";
import { Question, inRange, versionOptions } from "../question.js";
import { offset } from "../range.js";
import { counted, make, number, setText, share } from "../text.js";
import { article, linkTo, listed, plain, plural, strong } from "../words.js";

const DAYS = "1,7,30";
const DAY = 86_400_000; // milliseconds
const SHADES = 6;

export function open(root, state, tools) {
  const question = new Question(root, tools, {
    title: "Retention",
    about: "How many players come back after their first day?",
  });
  const field = question.choice("field", "Who");
  const days = new Box("Days later", { placeholder: DAYS, onChange: (text) => tools.go({ days: text.replace(/\s+/g, "") }) });
  question.form.append(days.element);
  const version = question.choice("version", "Version");
  const where = question.where();
  const chart = new Plot("Players who came back");

  async function find(state) {
    const lists = [question.contextFields(), question.versions(state)];
    if (!state.get("field")) {
      const [contexts] = await Promise.all(lists);
      const chosen = contexts.find((name) => /player|user|account/i.test(name)) ?? contexts[0];
      if (chosen) tools.go({ field: chosen }, { isReplaced: true });
      else question.sayNothing(`No event${inRange(state)} says who plays.`, "Call telemetry.context(player=…) in the game, so that each event has the player.");
      return;
    }
    const parameters = {
      ...state.range.query, field: state.get("field"), days: state.get("days") || DAYS,
      version: state.get("version"), where: state.all("where"), offset: offset(),
    };
    const asking = tools.request("/api/answers/retention", parameters);
    const filling = Promise.all(lists).then(([contexts, versions]) => {
      field.offer(contexts.map((name) => ({ value: name, text: `each ${plain(name)}` })), state.get("field"));
      days.show((state.get("days") || DAYS).replaceAll(",", ", "));
      version.offer(versionOptions(versions), state.get("version"));
      where.show(state.all("where"));
    });
    const [answer] = await Promise.all([asking, filling]);
    show(state, answer, parameters);
  }

  function show(state, answer, parameters) {
    const name = plain(answer.field), { cohorts, overall } = answer;
    const asked = Object.keys(overall).map(Number).sort((a, b) => a - b);
    const players = cohorts.reduce((sum, cohort) => sum + cohort.players, 0);
    if (!players) {
      question.sayNothing(`No event${inRange(state)} has ${article(name)} ${name} in its context.`);
      return;
    }
    question.say(...sentence(state, overall, asked, players, name));
    question.link("/api/answers/retention", parameters, linkTo(tools.href({ view: "funnel", per: answer.field }), `Funnel by ${name}`));
    const known = asked.filter((day) => overall[day].players);
    question.show(factsOf(overall, asked), known.length > 0 && cohorts.length > 1 && lines(cohorts, known, name), table(cohorts, asked, name));
  }

  function lines(cohorts, asked, name) {
    const section = make("div", "figure");
    const title = `Share of ${plural(name)} that came back, by their first day`;
    const shown = asked.map((day) => ({
      name: `after ${counted(day, "day")}`,
      points: cohorts.flatMap(({ day: at, players, returned }) => (returned[day] === null || !players ? [] : [{ at, part: returned[day] / players, count: returned[day], players }])),
    }));
    chart.show((pen) => draw(pen, shown, cohorts), { label: title });
    section.append(make("h3", "", title), legend(shown.map((line) => line.name)), chart.element);
    return section;
  }

  function update(state) {
    question.retry = () => update(state);
    question.ask(state, () => find(state));
  }

  update(state);
  return { update, close: () => question.close() };
}

function sentence(state, overall, days, players, name) {
  const known = days.filter((day) => overall[day].players);
  const open = days.filter((day) => !overall[day].players);
  if (!known.length) return [`The first day of ${counted(players, name, plural(name))}${inRange(state)} was too recent to see who came back.`];
  const parts = [];
  known.forEach((day, at) => {
    const [before, last] = [at > 0, at === known.length - 1];
    parts.push(before ? (last ? " and " : ", ") : "", strong(share(overall[day].share)), at ? "" : ` of new ${plural(name)} came back`, day === 1 ? " the next day" : ` after ${counted(day, "day")}`);
  });
  parts.push(`. There ${players === 1 ? "was" : "were"} ${counted(players, `new ${name}`, `new ${plural(name)}`)}${inRange(state)}.`);
  if (open.length) parts.push(` It is too early to know about ${open.length === 1 ? "day" : "days"} ${listed(open.map(String))}.`);
  return parts;
}

function factsOf(overall, days) {
  return facts(
    days.map((day) => {
      const { players, returned, share: part } = overall[day];
      return [`day ${day}`, players ? `${share(part)}: ${number(returned)} of ${number(players)}` : "not over yet"];
    }),
  );
}

function draw(pen, lines, cohorts) {
  const most = Math.max(0.01, ...lines.flatMap(({ points }) => points.map(({ part }) => part)));
  const y = pen.up(0, most, (value) => `${number(value * 100)}%`);
  const x = pen.time(cohorts[0].day, cohorts.at(-1).day, DAY);
  lines.forEach(({ points }, at) => pen.line(points.map((point) => ({ at: point.at, x: x(point.at), y: y(point.part) })), at, DAY));
  return cohorts.map(({ day, players }) => ({
    x: x(day),
    title: `${stepName(day, DAY)}: ${number(players)} new`,
    rows: lines.flatMap(({ name, points }, at) => {
      const point = points.find((each) => each.at === day);
      return point ? [{ name, value: `${share(point.part)} (${number(point.count)})`, key: () => stroke(at) }] : [];
    }),
  }));
}

/** Return the table of cohorts, the newest first; the more came back, the darker a cell. */
function table(cohorts, days, name) {
  const columns = [{ title: "First day" }, { title: `New ${plural(name)}` }, ...days.map((day) => ({ title: `Day ${day}`, explained: `Came back ${counted(day, "day")} after their first day` }))];
  const rows = [...cohorts].reverse().map(({ day, players, returned }) => [
    stepName(day, DAY),
    number(players),
    ...days.map((each) => cell(returned[each], players)),
  ]);
  const section = make("div", "figure");
  section.append(make("h3", "", "By first day"), grid(`${plural(name)} that came back, by their first day`, columns, rows));
  return section;
}

function cell(returned, players) {
  if (returned === null || returned === undefined || !players) return make("span", "quiet", "–");
  const part = returned / players;
  const element = make("span", "heat");
  element.dataset.heat = Math.min(SHADES - 1, Math.ceil(part * (SHADES - 1) * 1.6));
  setText(element, share(part));
  element.title = `${number(returned)} of ${number(players)}`;
  return element;
}
