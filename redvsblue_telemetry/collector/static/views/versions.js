// Versions of the game's build, side by side.

import { grid } from "../grid.js";
import { bar } from "../plot.js";
import { Question, fieldOptions, inRange, typeOptions } from "../question.js";
import { counted, duration, make, number, share, shortened } from "../text.js";
import { linkTo, listed, named, plain, quantity, strong, whole } from "../words.js";

const PROPOSED = 2, MAX_OFFERED = 12;
const MANY_TIMES = 3; // from which on a difference is not in percent

/** The figures: a title, its value, how it is shown, its rate, whether more or less is better, and what it means. */
const FIGURES = [
  { title: "Sessions", of: (v) => v.sessions, show: number, explained: "Sessions that were last heard of in the range" },
  { title: "Crashed", of: (v) => v.crashed, show: number, rate: (v) => v.crashed / v.ended, isLess: true, explained: "Sessions that an uncaught exception ended" },
  { title: "Killed", of: (v) => v.killed, show: number, rate: (v) => v.killed / v.ended, isLess: true, explained: "Sessions whose process ended without a word" },
  { title: "Crash-free", of: (v) => v.crashFree, show: share, isChart: true, isMore: true, explained: "Of the sessions with a known end, those that neither crashed nor were killed" },
  { title: "Events a session", of: (v) => v.eventsPerSession, show: quantity, isChart: true },
  { title: "Median length", of: (v) => v.medianSeconds, show: (seconds) => duration(seconds * 1000), isChart: true, explained: "From a session's first event to its last, by the player's clock" },
  { title: "Frame p50", of: (v) => v.frames?.p50, show: milliseconds, isLess: true, explained: "Half of the frames took longer" },
  { title: "Frame p95", of: (v) => v.frames?.p95, show: milliseconds, isLess: true, explained: "1 in 20 frames took longer" },
  { title: "Frame p99", of: (v) => v.frames?.p99, show: milliseconds, isLess: true, isChart: true, explained: "1 in 100 frames took longer" },
  { title: "Hitches a minute", of: (v) => v.frames?.hitchesPerMinute, show: quantity, isLess: true, explained: "Frames that took more than twice the median of their interval" },
];

const hasNumbers = ({ kind }) => kind !== "text";

export function open(root, state, tools) {
  const question = new Question(root, tools, {
    title: "Versions",
    about: "Is one version of the game better than another?",
  });
  const set = make("fieldset", "boxes");
  set.append(make("legend", "", "Versions"));
  const boxes = make("div");
  set.append(boxes);
  question.form.append(set);
  const type = question.choice("type", "Also compare", () => ({ field: "" }));
  const field = question.choice("field", "Field");

  const chosen = () => question.state.all("version");

  function showBoxes(versions) {
    const names = versions.map(({ version }) => version).slice(0, MAX_OFFERED);
    const offered = [...names, ...chosen().filter((version) => !names.includes(version))];
    if (offered.join("\n") !== boxes.dataset.offered) {
      boxes.dataset.offered = offered.join("\n");
      boxes.replaceChildren(...offered.map((version) => {
        const label = make("label", "check");
        const box = make("input");
        Object.assign(box, { type: "checkbox", value: version });
        box.addEventListener("change", () => {
          const now = [...boxes.querySelectorAll("input:checked")].map(({ value }) => value);
          tools.go({ version: now });
        });
        label.append(box, make("bdi", "", shortened(version, 40)));
        return label;
      }));
    }
    for (const box of boxes.querySelectorAll("input")) {
      box.checked = chosen().includes(box.value);
      box.disabled = box.checked && chosen().length === 1; // there is nothing to show without any
    }
  }

  async function find(state) {
    const lists = [question.versions(state), question.types(state)];
    if (!chosen().length) {
      const [versions] = await Promise.all(lists);
      const proposed = versions.slice(0, PROPOSED).map(({ version }) => version);
      if (proposed.length) tools.go({ version: proposed }, { isReplaced: true });
      else question.sayNothing(`No session${inRange(state)} has a version.`, "Pass version=\"1.4.2\" to start_telemetry.");
      return;
    }
    if (state.get("type") && !state.get("field")) {
      const found = await question.firstFitting([[state.get("type")]], hasNumbers);
      if (found) {
        tools.go({ field: plain(found.field.name) }, { isReplaced: true });
        return;
      }
    }
    const withField = state.get("type") && state.get("field") ? { type: state.get("type"), field: state.get("field") } : {};
    const parameters = { ...state.range.query, version: chosen(), ...withField };
    const asking = tools.request("/api/answers/compare", parameters);
    const filling = Promise.all(lists).then(([versions, types]) => fill(state, versions, types));
    const [answer] = await Promise.all([asking, filling]);
    show(state, answer, parameters);
  }

  async function fill(state, versions, types) {
    showBoxes(versions);
    type.offer([{ value: "", text: "no field" }, ...typeOptions(types)], state.get("type"));
    field.element.hidden = !state.get("type");
    if (!state.get("type")) return;
    const fields = (await question.fields(state.get("type"))).filter(hasNumbers);
    field.offer(fields.length ? fieldOptions(fields) : [{ value: "", text: "no numbers" }], whole(state.get("field")));
  }

  function show(state, { versions }, parameters) {
    if (!versions.some(({ sessions }) => sessions)) {
      question.sayNothing(`No session of ${listed(chosen())} was heard of${inRange(state)}.`);
      return;
    }
    question.say(...sentence(state, versions));
    const name = plain(state.get("field"));
    question.link(
      "/api/answers/compare", parameters,
      parameters.type && linkTo(tools.href({ view: "field", type: state.get("type"), field: state.get("field"), by: "version" }), `${shortened(name, 40)} by version over time`),
    );
    const figures = parameters.type ? [...FIGURES, ...figuresOf(name, state.get("type"))] : FIGURES;
    const known = figures.filter((figure) => versions.some((version) => isKnown(figure.of(version))));
    question.show(charts(known, versions), table(known, versions, state));
  }

  function charts(figures, versions) {
    const list = make("div", "multiples");
    for (const figure of figures.filter(({ isChart }) => isChart)) {
      const card = make("div", "multiple");
      card.append(make("h3", "", figure.title));
      const most = figure.show === share ? 1 : Math.max(...versions.map((version) => figure.of(version) ?? 0));
      versions.forEach((version, at) => {
        const value = figure.of(version);
        const row = make("p", "multiple-row");
        row.append(make("bdi", "name", shortened(version.version, 16)), bar(most ? (value ?? 0) / most : 0, `c${at % 8}`), make("span", "sum", isKnown(value) ? figure.show(value) : "–"));
        card.append(row);
      });
      list.append(card);
    }
    return list;
  }

  function table(figures, versions, state) {
    const isPair = versions.length === 2;
    const columns = [{ title: "Figure" }, ...versions.map(({ version }) => ({ title: shortened(version, 24) }))];
    if (isPair) columns.push({ title: "Difference", explained: `${versions[0].version} compared with ${versions[1].version}; of crashed and killed ones, the shares of the sessions with a known end` });
    const rows = figures.map((figure) => {
      const head = make("span", "", figure.title);
      if (figure.explained) head.title = figure.explained;
      const cells = versions.map((version) => {
        const value = figure.of(version);
        if (!isKnown(value)) return "–";
        const rate = figure.rate?.(version);
        return rate > 0 ? `${figure.show(value)} (${share(rate)})` : figure.show(value);
      });
      return [head, ...cells, ...(isPair ? [difference(figure, ...versions)] : [])];
    });
    const section = make("div", "figure");
    section.append(make("h3", "", "Side by side"), grid(`Versions side by side${inRange(state)}`, columns, rows));
    return section;
  }

  function update(state) {
    question.retry = () => update(state);
    question.ask(state, () => find(state));
  }

  update(state);
  return { update, close: () => question.close() };
}

/** Return the answer in words: crashes first, since that is what a version is asked about. */
function sentence(state, versions) {
  const parts = [];
  for (const version of versions) {
    const { crashed, killed, sessions, ended, crashFree } = version;
    parts.push(parts.length ? " " : "", named(version.version), ": ");
    if (!sessions) {
      parts.push(strong("no sessions"), parts.length < 5 ? inRange(state) : "", ".");
      continue;
    }
    parts.push(strong(`${number(crashed)} of ${counted(sessions, "session")} crashed`), parts.length < 5 ? inRange(state) : "");
    parts.push(killed ? `, ${number(killed)} ${killed === 1 ? "was" : "were"} killed` : "");
    parts.push(ended ? `; ${share(crashFree)} crash-free.` : "; none of them has ended.");
  }
  return parts;
}

/** Return the figures of a field of the events. */
function figuresOf(name, type) {
  const short = shortened(name, 30), explained = `${name} in ${type}`;
  const each = (title, of, more = {}) => ({ title: `${title} of ${short}`, of: (v) => of(v.field ?? {}), show: quantity, explained, ...more });
  return [
    each("p50", ({ p50 }) => p50),
    each("p95", ({ p95 }) => p95, { isChart: true }),
    each("p99", ({ p99 }) => p99),
    each("Mean", ({ mean }) => mean),
    { title: `Events with ${short}`, of: (v) => v.field?.count, show: number, explained },
  ];
}

/** Return how the first version's figure differs from the second's, and whether that is better or worse, if either. */
function difference(figure, one, other) {
  const of = figure.rate ?? figure.of;
  const [now, before] = [of(one), of(other)];
  if (!isKnown(now) || !isKnown(before) || Number.isNaN(now - before)) return "–";
  const isPart = figure.show === share || figure.rate;
  const shown = isPart ? share : figure.show;
  const change = now - before;
  if (!change || shown(now) === shown(before)) return make("span", "quiet", "same");
  const text = isPart ? points(change) : relative(now, before, figure);
  const isBetter = figure.isMore ? change > 0 : figure.isLess ? change < 0 : null;
  if (isBetter === null) return text;
  const word = isBetter ? "better" : "worse";
  return make("span", word, `${text}, ${word}`);
}

function points(change) {
  const size = Math.max(0.1, Math.round(Math.abs(change) * 1000) / 10);
  return `${change > 0 ? "+" : "−"}${number(size)} ${size === 1 ? "point" : "points"}`;
}

/** Return how a figure differs from another, as a part of that; or how many times as large it is. */
function relative(now, before, { show }) {
  const sign = now > before ? "+" : "−";
  if (!before) return `${sign}${show(Math.abs(now - before))}`;
  return now / before >= MANY_TIMES ? `${quantity(Math.round((now / before) * 10) / 10)} times` : `${sign}${share(Math.abs(now / before - 1))}`;
}

function isKnown(value) {
  return value !== null && value !== undefined;
}

function milliseconds(value) {
  return `${value < 100 ? value.toFixed(1) : number(Math.round(value))} ms`;
}
