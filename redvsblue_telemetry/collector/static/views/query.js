// SQL over the stored events: a box, and the rows. The query is in the address.

import { address } from "../api.js";
import { button } from "../form.js";
import { grid } from "../grid.js";
import { Question } from "../question.js";
import { counted, make, moment, number, shortened } from "../text.js";
import { linkTo, listed, strong } from "../words.js";

export const hasRange = false;

const MAX_CELL_LENGTH = 300; // characters
const SHORT_LENGTH = 40; // characters of a text that is kept on one line
const DIGITS = 9; // of a number that is not whole; its title has all of them
const IS_TIME = /^(received|timestamp|period|started|ended|(first|last)_(received|timestamp))$/;

// They work on the data of every game, but for the types and fields of the demo's.
const EXAMPLES = new Map([
  ["Crashes by version", `SELECT version, count(*) AS sessions,
       sum(outcome = 'crashed') AS crashed,
       round(100.0 * avg(outcome = 'crashed'), 1) AS percent
FROM sessions
GROUP BY version
ORDER BY version`],
  ["Events by day", `SELECT date(period / 1000, 'unixepoch') AS day, sum(events) AS events
FROM counts
GROUP BY day
ORDER BY day DESC`],
  ["Types of events", `SELECT type, count(*) AS events, count(DISTINCT session) AS sessions
FROM events
GROUP BY type
ORDER BY events DESC`],
  ["Longest sessions", `SELECT session, version, outcome, events,
       round((last_received - first_received) / 60000.0, 1) AS minutes
FROM sessions
ORDER BY minutes DESC
LIMIT 50`],
  ["Damage by weapon", `SELECT data ->> '$.weapon' AS weapon, count(*) AS hits,
       round(avg(data ->> '$.damage'), 1) AS mean, max(data ->> '$.damage') AS most
FROM events
WHERE type = 'ship_hit'
GROUP BY weapon
ORDER BY mean DESC`],
  ["Rejected messages", `SELECT reason, count(*) AS messages, max(received) AS received
FROM rejected
GROUP BY reason
ORDER BY messages DESC`],
]);

const VIEWS = [
  ["events", "arrival, received, session, seq, type, timestamp, id, version, data, context, fault"],
  ["sessions", "session, version, outcome, reason, events, missing, repeats, deleted, crashes, faults, started, ended, "
    + "first_received, last_received, first_timestamp, last_timestamp, highest, last_seq, lost, waiting"],
  ["counts", "period, level, type, version, events"],
  ["rejected", "arrival, received, reason, text"],
];

export function open(root, state, tools) {
  const question = new Question(root, tools, {
    title: "SQL",
    about: "A SELECT over the views events, sessions, counts and rejected. It only reads.",
  });
  const box = make("textarea", "sql");
  Object.assign(box, { spellcheck: false, autocomplete: "off", autocapitalize: "off", rows: 7, maxLength: 20_000 });
  const label = make("label", "sql-label", "Query");
  label.append(box);
  const run = button("Run", () => go(), { className: "run", title: "Ctrl+Enter" });
  const examples = make("p", "links examples", "Examples: ");
  for (const [name, sql] of EXAMPLES) examples.append(linkTo(tools.href({ sql }), name));
  question.form.append(label, run, examples, columns());
  box.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || !(event.ctrlKey || event.metaKey)) return;
    event.preventDefault();
    go();
  });

  function go() {
    const sql = box.value.trim();
    if (!sql) box.focus();
    else if (sql === state.get("sql")) update(state); // once more
    else tools.go({ sql });
  }

  async function find(state) {
    const sql = state.get("sql");
    const answer = await tools.request("/api/query", { sql });
    const { columns, rows, partial } = answer;
    const csv = linkTo(address("/api/query", { sql, format: "csv" }).href, "CSV", "These rows as a file");
    csv.download = "query.csv";
    question.link("/api/query", { sql }, csv);
    question.say(
      ...(partial ? ["The first ", strong(counted(rows.length, "row")), "; there are more."] : [strong(counted(rows.length, "row")), "."]),
    );
    if (!rows.length) {
      question.show();
      return;
    }
    const isNumber = columns.map((_, at) => rows.every((row) => row[at] === null || isNumeric(row[at])));
    const heads = columns.map((title, at) => ({ title, className: isNumber[at] ? "" : "text" }));
    const table = grid(`Result: ${listed(columns)}`, heads, rows.map((row) => row.map((value, at) => cell(value, columns[at]))));
    table.classList.add("result");
    question.show(table);
  }

  function cell(value, column) {
    if (value === null) return make("span", "quiet", "NULL");
    if (isNumeric(value)) {
      const isTime = IS_TIME.test(column);
      const figure = make("span", "short", isTime ? String(value) : plainNumber(value));
      figure.title = isTime ? moment(value) : String(value);
      return figure;
    }
    if (column === "session") return linkTo(tools.href({ view: "session", session: value, sql: "" }), shortened(value, MAX_CELL_LENGTH), "Show this session");
    const text = make("bdi", value.length > SHORT_LENGTH ? "long" : "short", shortened(value, MAX_CELL_LENGTH));
    if (value.length > MAX_CELL_LENGTH) text.title = shortened(value, 4000);
    return text;
  }

  function update(newState) {
    state = newState;
    if (!state.get("sql")) {
      tools.go({ sql: EXAMPLES.values().next().value }, { isReplaced: true });
      return;
    }
    if (box.value.trim() !== state.get("sql")) box.value = state.get("sql");
    question.retry = () => update(state);
    question.ask(state, () => find(state));
  }

  update(state);
  return { update, close: () => question.close() };
}

function isNumeric(value) {
  return typeof value === "number" || value instanceof Number;
}

function plainNumber(value) {
  return Number.isInteger(Number(value)) ? number(value) : String(Number(value.toPrecision(DIGITS)));
}

/** Return a list of the columns, folded up. */
function columns() {
  const details = make("details", "of-views");
  details.append(make("summary", "", "Columns of the views"));
  const list = make("dl");
  for (const [view, names] of VIEWS) {
    const code = make("code", "", names);
    const value = make("dd");
    value.append(code);
    list.append(make("dt", "", view), value);
  }
  details.append(list);
  return details;
}
