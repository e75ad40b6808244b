// One session as a timeline: which events it sent when, who played, and how it ended.

import { Box } from "../form.js";
import { facts, folded, grid } from "../grid.js";
import { causeOf, makeOutcome, outcomeOf, showOutcome } from "../outcome.js";
import { Plot } from "../plot.js";
import { Question, inRange } from "../question.js";
import { between, clock, counted, duration, make, moment, number, shortened, when } from "../text.js";
import { linkTo, named, quantity, strong } from "../words.js";

const MAX_OFFERED = 100;
const LANE = 42, BARS = 20, MARKS = 24, SYMBOL = 10, MAX_LANES = 24; // pixels; lanes
const OTHERS = "other types"; // together in one lane, which has no type
const MAX_FIELDS = 4; // of a context, that are shown in a line
const MARK_OF = new Map([["crash", "✕"], ["fault", "!"], ["gap", "▿"], ["end", "■"]]);
const KIND_OF = new Map([["crash", "crash"], ["fault", "fault"], ["gap", "missing events"], ["end", "end"]]);

export function open(root, state, tools) {
  const question = new Question(root, tools, {
    title: "Session",
    about: "What happened in one session, by the player's clock?",
  });
  const recent = question.choice("session", "Session");
  const typed = new Box("Another session's id", { placeholder: "paste it here", onChange: (id) => id && tools.go({ session: id }) });
  question.form.append(typed.element);
  const chart = new Plot("Timeline");

  function sessions(state) {
    return question.remember(`sessions ${JSON.stringify(state.range.query)}`, async () => {
      const page = await tools.request("/api/sessions", { ...state.range.query, limit: MAX_OFFERED });
      return page.sessions;
    });
  }

  async function find(state) {
    const listing = sessions(state);
    if (!state.get("session")) {
      const [newest] = await listing;
      if (newest) tools.go({ session: newest.sessionId }, { isReplaced: true });
      else question.sayNothing(`There are no sessions${inRange(state)}.`);
      return;
    }
    const parameters = { session: state.get("session") };
    const asking = tools.request("/api/answers/timeline", parameters);
    const filling = listing.then((found) => {
      recent.offer(found.map((session) => ({ value: session.sessionId, text: option(session) })), state.get("session"));
      typed.show("");
    });
    const [answer] = await Promise.all([asking, filling]);
    show(answer, parameters);
  }

  function show(answer, parameters) {
    const { session } = answer;
    question.say(...sentence(answer));
    question.link(
      "/api/answers/timeline", parameters,
      linkTo(tools.href({ view: "overview", session: session.sessionId }), "Its events"),
      session.version !== null && session.version !== undefined &&
        linkTo(tools.href({ view: "versions", version: session.version }), `Version ${shortened(session.version, 30)}`),
    );
    const part = answer.partial && make("p", "quiet remark", "It has too many events to read all of them at once: the timeline has the first ones.");
    question.show(factsOf(session), part, timeline(answer), marks(answer), contexts(answer));
  }

  function timeline(answer) {
    const section = make("div", "figure");
    const { lanes } = answer, shown = lanes.slice(0, MAX_LANES);
    section.append(make("h3", "", "Events by type"));
    if (!shown.length) {
      section.append(make("p", "quiet remark", "None of its events is stored."));
      return section;
    }
    chart.show((pen) => draw(pen, answer, shown), {
      label: `Timeline of the session: events of ${counted(shown.length, "type")}`,
      height: 12 + MARKS + shown.length * LANE + 26,
    });
    section.append(chart.element);
    if (lanes.length > shown.length) section.append(make("p", "quiet remark", `The ${shown.length} most frequent types; the table has the others.`));
    section.append(
      folded("These figures as a table", () =>
        grid(
          "Events by type",
          [{ title: "Type" }, { title: "Events" }, { title: "First" }, { title: "Last" }],
          lanes.map(({ type, count, counts }) => {
            const first = counts.findIndex(Boolean), last = counts.findLastIndex(Boolean);
            return [type ? linkTo(tools.href({ view: "field", type }), shortened(type, 60)) : OTHERS, number(count), ...[first, last].map((at) => elapsed(answer, answer.from + at * answer.step))];
          }),
        ),
      ),
    );
    return section;
  }

  function marks(answer) {
    const shown = answer.marks;
    if (!shown.length) return null;
    const section = make("div", "figure");
    const rows = shown.map((mark) => [
      elapsed(answer, mark.at),
      when(mark.at, { precise: true }),
      [marked(mark.kind), ` ${KIND_OF.get(mark.kind) ?? mark.kind}`],
      mark.arrival === null || mark.arrival === undefined ? shortened(textOf(mark), 300) : eventButton(mark),
    ]);
    section.append(make("h3", "", "What stands out"));
    section.append(grid("Crashes, faults, gaps and the end", [{ title: "After" }, { title: "At", className: "extra" }, { title: "What", className: "kind" }, { title: "Text", className: "text" }], rows));
    return section;
  }

  function eventButton({ text, arrival, kind }) {
    const made = make("button", "link", shortened(text || kind, 300));
    made.type = "button";
    made.title = "Show the event";
    made.addEventListener("click", () => tools.opened.event({ arrival, type: "Event" }));
    return made;
  }

  function update(state) {
    question.retry = () => update(state);
    question.ask(state, () => find(state));
  }

  update(state);
  return { update, close: () => question.close() };
}

/** Return a session as an option: how it ended, when, and its id. */
function option(session) {
  const { mark, word } = outcomeOf(session);
  return [`${mark} ${word}`, session.version, when(session.lastTimestamp || session.since), shortened(session.sessionId, 12)].filter(Boolean).join(" · ");
}

function sentence({ session, marks, contexts }) {
  const { word } = outcomeOf(session);
  const player = contexts.map(({ fields }) => fields.player ?? fields.user).find((value) => value !== undefined);
  const parts = ["The session ", named(shortened(session.sessionId, 20))];
  if (session.version) parts.push(" of ", named(shortened(session.version, 30)));
  if (player !== undefined) parts.push(", played by ", named(shortened(String(player), 40)), ",");
  const length = between(session.firstTimestamp, session.lastTimestamp);
  parts.push(session.events ? ` sent ${counted(session.events, "event")} in ${length}` : " sent no events");
  const crash = marks.findLast(({ kind }) => kind === "crash");
  const ends = {
    crashed: " and crashed", killed: " and was killed", running: " and is running", no_word: "; nothing was heard of it since",
    switched_off: "; then the player switched telemetry off", well: " and ended well",
  };
  parts.push(strong(ends[session.outcome] ?? ` and is ${word}`));
  if (session.outcome === "crashed" && crash?.text) parts.push(": ", named(shortened(crash.text, 120)));
  parts.push(".");
  if (session.missing) parts.push(` ${counted(session.missing, "event is", "events are")} missing.`);
  return parts;
}

function factsOf(session) {
  const outcome = makeOutcome();
  showOutcome(outcome, session, outcomeOf(session).word);
  return facts([
    ["outcome", outcome],
    ["first event", when(session.firstTimestamp), moment(session.firstTimestamp)],
    ["last event", when(session.lastTimestamp), moment(session.lastTimestamp)],
    ["events", number(session.events)],
    ["missing", number(session.missing)],
    ["crashes", number(session.crashes ?? 0)],
    ["id", session.sessionId],
  ]);
}

/** Draw a row of bars for each type, and the marks above them. */
function draw(pen, answer, lanes) {
  const { from, to, step, marks } = answer;
  pen.left = 12;
  const x = pen.time(from, to > from ? to : from + 1);
  const top = pen.top + MARKS;
  lanes.forEach((lane, at) => {
    const floor = top + (at + 1) * LANE - 4, most = Math.max(...lane.counts, 1);
    pen.add("line", { x1: pen.left, x2: pen.right, y1: floor + 0.5, y2: floor + 0.5, class: "grid" });
    lane.counts.forEach((count, index) => {
      if (!count) return;
      const start = x(from + index * step), width = Math.max(1.5, x(Math.min(to, from + (index + 1) * step)) - start - 0.5);
      const height = Math.max(3, (count / most) * BARS);
      pen.add("rect", { x: Math.min(start, pen.right - width), width, y: floor - height, height, class: `c${Math.min(at, 8)}` });
    });
    pen.label(`${shortened(lane.type || OTHERS, 28)} ${number(lane.count)}`, pen.left + 2, floor - BARS - 5, { anchor: "start", className: "lane" });
  });
  const symbols = marks.map((mark) => ({ ...mark, index: indexOf(answer, mark.at) }));
  const taken = []; // the places of the symbols, the most important of which are drawn first
  const ranks = [...MARK_OF.keys()];
  for (const { at: time, kind } of [...symbols].sort((a, b) => ranks.indexOf(a.kind) - ranks.indexOf(b.kind))) {
    const at = Math.max(pen.left + 5, Math.min(pen.right - 5, x(time)));
    if (taken.some((place) => Math.abs(place - at) < SYMBOL)) continue;
    taken.push(at);
    pen.add("line", { x1: at, x2: at, y1: pen.top + 18, y2: pen.bottom, class: `rule ${kind}` });
    pen.label(MARK_OF.get(kind) ?? "•", at, pen.top + 13, { className: `symbol ${kind}` });
  }
  const stops = [];
  const count = Math.max(...lanes.map((lane) => lane.counts.length));
  for (let index = 0; index < count; index++) {
    const here = lanes.map((lane, at) => ({ lane, at })).filter(({ lane }) => lane.counts[index]);
    const noted = symbols.filter((mark) => mark.index === index);
    if (!here.length && !noted.length) continue;
    const start = from + index * step;
    stops.push({
      x: x(Math.min(to, start + step / 2)),
      title: `${elapsed(answer, start)} after the start, ${clock(start)}`,
      rows: [
        ...noted.map(({ kind, text }) => ({ name: KIND_OF.get(kind) ?? kind, value: shortened(textOf({ kind, text }), 60), key: () => marked(kind) })),
        ...here.map(({ lane, at }) => ({ name: lane.type || OTHERS, value: number(lane.counts[index]), key: () => make("span", `dot c${Math.min(at, 8)}`) })),
      ],
    });
  }
  return stops;
}

function indexOf({ from, to, step }, time) {
  const last = Math.max(0, Math.ceil((to - from) / step) - 1);
  return Math.max(0, Math.min(last, Math.floor((time - from) / step)));
}

/** Return the text of a mark; of an end, it is the outcome or the reason that the game reported. */
function textOf({ kind, text }) {
  return kind === "end" ? causeOf(text ?? "") : text ?? "";
}

function marked(kind) {
  const mark = make("span", `symbol ${kind}`, MARK_OF.get(kind) ?? "•");
  mark.ariaHidden = "true";
  return mark;
}

function elapsed({ from }, time) {
  return duration(Math.max(0, time - from));
}

/** Return the table of the contexts that the events had, in order. */
function contexts(answer) {
  if (!answer.contexts.length) return null;
  const section = make("div", "figure");
  const rows = answer.contexts.map(({ at, fields }) => {
    const entries = Object.entries(fields);
    const text = entries.slice(0, MAX_FIELDS).map(([name, value]) => `${name} ${typeof value === "number" ? quantity(value) : shortened(String(value), 40)}`);
    if (entries.length > MAX_FIELDS) text.push(`${entries.length - MAX_FIELDS} more`);
    return [elapsed(answer, at), when(at), text.join(", ")];
  });
  section.append(make("h3", "", "Context"), grid("Context", [{ title: "After" }, { title: "At", className: "extra" }, { title: "Fields", className: "text" }], rows));
  return section;
}
