// The funnel: how many sessions, or players, come from each step to the next, and how those who leave end.

import { Choice, button } from "../form.js";
import { folded, grid } from "../grid.js";
import { makeOutcome, outcomeOf } from "../outcome.js";
import { bar } from "../plot.js";
import { Question, inRange, typeOptions, versionOptions } from "../question.js";
import { counted, duration, make, number, setText, share, shortened } from "../text.js";
import { article, linkTo, listed, named, plain, plural, strong } from "../words.js";

const MIN_STEPS = 2, MAX_STEPS = 8;
const PROPOSED = ["round_start", "round_end"];
const OF_THE_SDK = new Set(["frames", "crash", "hang"]); // no steps that a game's author thinks of

export function open(root, state, tools) {
  const question = new Question(root, tools, {
    title: "Funnel",
    about: "Where do players leave between one event and another?",
  });
  const list = make("ol", "steps");
  list.ariaLabel = "Steps, in order";
  const add = button("Add a step", () => change([...steps(), steps().at(-1) ?? ""]));
  const row = make("div", "steps-row");
  row.append(list, add);
  question.form.append(row);
  const per = question.choice("per", "Within");
  const version = question.choice("version", "Version");
  const where = question.where();
  const controls = [];

  const steps = () => question.state.all("step");
  const change = (changed) => tools.go({ step: changed });

  function showSteps(state, types) {
    const shown = state.all("step");
    while (controls.length > shown.length) controls.pop().item.remove();
    while (controls.length < shown.length) controls.push(stepControl(controls.length));
    shown.forEach((step, at) => {
      const { type, condition } = parts(step);
      controls[at].type.offer(typeOptions(types), type);
      controls[at].condition.value = condition;
      controls[at].remove.hidden = shown.length <= MIN_STEPS;
    });
    add.hidden = shown.length >= MAX_STEPS;
  }

  function stepControl(at) {
    const item = make("li");
    const put = (step) => change(steps().map((each, index) => (index === at ? step : each)));
    const type = new Choice(`Step ${at + 1}`, (value) => put(joined(value, condition.value)));
    const only = make("label", "", "Where");
    const condition = make("input");
    Object.assign(condition, { type: "search", autocomplete: "off", spellcheck: false, placeholder: "winner=red" });
    only.append(condition);
    condition.addEventListener("change", () => put(joined(type.control.value, condition.value.trim())));
    const remove = button("×", () => change(steps().filter((_, index) => index !== at)), { title: `Remove step ${at + 1}` });
    remove.ariaLabel = remove.title;
    item.append(type.element, only, remove);
    list.append(item);
    return { item, type, condition, remove };
  }

  async function find(state) {
    const lists = [question.types(state), question.versions(state), question.contextFields()];
    if (steps().length < MIN_STEPS) {
      const [types] = await Promise.all(lists);
      const proposed = propose(types.map(([type]) => type));
      if (proposed.length < MIN_STEPS) question.sayNothing(`There are not two types of events${inRange(state)}.`, "A funnel leads from one to another.");
      else tools.go({ step: proposed }, { isReplaced: true });
      return;
    }
    const parameters = {
      ...state.range.query, step: steps(), per: state.get("per"), version: state.get("version"), where: state.all("where"),
    };
    const asking = tools.request("/api/answers/funnel", parameters);
    const filling = Promise.all(lists).then(([types, versions, contexts]) => {
      showSteps(state, types);
      const fields = contexts.map((name) => ({ value: name, text: `all sessions of ${article(plain(name))} ${plain(name)}` }));
      per.offer([{ value: "", text: "a session" }, ...fields], state.get("per") === "session" ? "" : state.get("per"));
      version.offer(versionOptions(versions), state.get("version"));
      where.show(state.all("where"));
    });
    const [answer] = await Promise.all([asking, filling]);
    show(state, answer, parameters);
  }

  function show(state, answer, parameters) {
    const names = steps().map(nameOf), reached = answer.steps;
    const nouns = whoIs(state.get("per"));
    if (!reached[0].count) {
      question.sayNothing(`No ${nouns[0]}${inRange(state)} has ${article(names[0])} ${names[0]} event${state.all("where").length || state.get("version") ? " that fits the conditions" : ""}.`);
      return;
    }
    question.say(...sentence(state, names, reached, nouns));
    question.link("/api/answers/funnel", parameters);
    const section = make("div", "figure");
    const chart = make("ol", "funnel");
    chart.ariaLabel = "Steps of the funnel";
    reached.forEach((step, at) => {
      chart.append(stepItem(step, names[at], parts(steps()[at]).type));
      if (step.left && at < reached.length - 1) chart.append(leftItem(step, names[at], names[at + 1], reached[at + 1], nouns));
    });
    section.append(chart, folded("These figures as a table", () => table(names, reached, nouns)));
    question.show(section);
  }

  function stepItem(step, name, type) {
    const item = make("li", "step");
    const head = make("p", "step-name");
    head.append(linkTo(tools.href({ view: "field", type }), shortened(name, 60), "Numbers of these events"));
    const figures = make("p", "step-figures");
    figures.append(strong(number(step.count)), make("span", "quiet", ` ${share(step.share ?? 0)}`));
    item.append(head, figures, bar(step.share ?? 0));
    return item;
  }

  /** Return what is known of those who reached a step and not the next one. */
  function leftItem({ left, count }, name, nextName, next, nouns) {
    const item = make("li", "left");
    const head = make("p");
    if (!left.count) {
      head.append(make("span", "quiet", `All went on to ${shortened(nextName, 60)}${waited(next)}.`));
      item.append(head);
      return item;
    }
    head.append(strong(`${number(left.count)} left`), ` (${share(left.count / count)}) after ${shortened(name, 60)}`, make("span", "quiet", waited(next) ? `; the others took ${duration(next.medianSeconds * 1000)} (median) to the next step` : ""));
    item.append(head);
    const outcomes = Object.entries(left.outcomes).filter(([, count]) => count).sort((a, b) => b[1] - a[1]);
    if (outcomes.length) item.append(line("How their sessions ended: ", outcomes.map(([outcome, count]) => outcomeChip(outcome, count))));
    if (left.lastTypes.length) {
      item.append(line("Their last event: ", left.lastTypes.map(({ type, count }) => {
        const chip = make("span", "chip");
        chip.append(linkTo(tools.href({ view: "overview", type }), shortened(type, 40), "Show these events"), ` ${number(count)}`);
        return chip;
      })));
    }
    if (left.sessions.length) {
      item.append(line(left.sessions.length < left.count ? "Some of them: " : "Sessions: ", left.sessions.map((id) => linkTo(tools.href({ view: "session", session: id }), shortened(id, 12), `Show the session ${id} as a timeline`))));
    }
    return item;
  }

  function update(state) {
    question.retry = () => update(state);
    question.ask(state, () => find(state));
  }

  update(state);
  return { update, close: () => question.close() };
}

/** Return the steps that a funnel begins with: the two of a round, or else the two most frequent types. */
function propose(types) {
  if (PROPOSED.every((type) => types.includes(type))) return PROPOSED;
  const own = types.filter((type) => !OF_THE_SDK.has(type));
  return (own.length < MIN_STEPS ? types : own).slice(0, MIN_STEPS);
}

function sentence(state, names, reached, [one, many]) {
  const first = reached[0], last = reached.at(-1);
  const parts = [
    "Of ", strong(counted(first.count, one, many)), " with ", named(names[0]), inRange(state), ", ",
    strong(`${number(last.count)} (${share(last.share ?? 0)})`), " got to ", named(names.at(-1)), ".",
  ];
  const worst = reached.slice(0, -1).reduce((most, step) => ((step.left?.count ?? 0) > (most?.left?.count ?? 0) ? step : most), null);
  if (!worst) return parts;
  const at = reached.indexOf(worst);
  if (reached.length > 2) parts.push(" Most left after ", named(names[at]), `: ${number(worst.left.count)}`);
  else if (!last.count) parts.push(first.count === 1 ? " The only one left after " : " All of them left after ", named(names[at]));
  else parts.push(` The other ${worst.left.count === 1 ? "one" : number(worst.left.count)} left after `, named(names[at]));
  const { crashed = 0, killed = 0 } = worst.left.outcomes;
  if (worst.left.count === 1 && crashed + killed) {
    parts.push("; ", strong(crashed ? "it crashed" : "it was killed"), ".");
    return parts;
  }
  const words = [crashed && `${number(crashed)} of them crashed`, killed && `${number(killed)} ${crashed ? "" : "of them "}${killed === 1 ? "was" : "were"} killed`];
  if (crashed + killed) parts.push("; ", strong(listed(words.filter(Boolean))));
  parts.push(".");
  return parts;
}

function table(names, reached, [, many]) {
  const columns = [
    { title: "Step" }, { title: many[0].toUpperCase() + many.slice(1) }, { title: "Of the first" }, { title: "Of the step before" },
    { title: "Median time" }, { title: "Left after it" }, { title: "Crashed" }, { title: "Killed" },
  ];
  const rows = reached.map((step, at) => [
    names[at],
    number(step.count),
    share(step.share ?? 0),
    at && step.ofPrevious !== null ? share(step.ofPrevious) : "–",
    at && step.medianSeconds !== null ? duration(step.medianSeconds * 1000) : "–",
    step.left ? number(step.left.count) : "–",
    step.left ? number(step.left.outcomes.crashed ?? 0) : "–",
    step.left ? number(step.left.outcomes.killed ?? 0) : "–",
  ]);
  return grid("Steps of the funnel", columns, rows);
}

function outcomeChip(outcome, count) {
  const { mark, word } = outcomeOf({ outcome });
  const chip = makeOutcome();
  chip.classList.add("chip");
  chip.dataset.outcome = outcome;
  setText(chip.firstChild, mark);
  setText(chip.lastChild, `${number(count)} ${word}`);
  return chip;
}

function line(title, elements) {
  const element = make("p", "left-line");
  element.append(make("span", "quiet", title), ...elements.flatMap((each) => [each, " "]));
  return element;
}

function waited({ medianSeconds }) {
  return medianSeconds === null || medianSeconds === undefined ? "" : `, after ${duration(medianSeconds * 1000)} (median)`;
}

/** Return who goes through the funnel, one of them and several. */
function whoIs(per) {
  if (!per || per === "session") return ["session", "sessions"];
  const name = plain(per);
  return [name, plural(name)];
}

/** Return the type and the condition of a step such as "round_end[data.result=won]". */
function parts(step) {
  const [, type, condition] = /^(.*?)(?:\[(.*)\])?$/s.exec(step);
  return { type, condition: condition ?? "" };
}

/** Return a step in words. */
function nameOf(step) {
  const { type, condition } = parts(step);
  return condition ? `${type} where ${condition}` : type;
}

function joined(type, condition) {
  return condition ? `${type}[${condition}]` : type;
}
