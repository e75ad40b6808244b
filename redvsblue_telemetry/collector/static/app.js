// The live page: what is asked of the collector, and where the answers go.

import { Chart } from "./chart.js";
import { Detail, copy } from "./detail.js";
import { EventList } from "./events.js";
import { readWithEvents } from "./rawjson.js";
import { Stream } from "./stream.js";
import { RejectedList, SessionTable } from "./tables.js";
import { duration, make, moment, number, say, shortened } from "./text.js";

const REFRESH = 2_000, SOONEST = 900; // milliseconds between two questions; when something has changed
const PATIENCE = 15_000; // milliseconds for an answer
const TYPING = 300; // milliseconds after the last key, until the filter holds
const HISTORY = 100; // events that are asked for at first
const SESSIONS = 100, REJECTED = 50; // that are shown

const $ = (id) => document.getElementById(id);

/** An address of this collector. Made from the origin, as the page's own may have a password in it. */
function address(path, parameters = {}) {
  const url = new URL(path, location.origin);
  for (const [name, value] of Object.entries(parameters)) {
    if (value !== "" && value !== undefined) url.searchParams.set(name, value);
  }
  return url;
}

async function ask(path, parameters, signal = AbortSignal.timeout(PATIENCE)) {
  const answer = await fetch(address(path, parameters), { signal });
  const text = await answer.text();
  if (!answer.ok) throw new Error(`${answer.status}: ${shortened(text, 300)}`);
  return text;
}

// What is shown.

const detail = new Detail($("detail"));

const chart = new Chart({
  canvas: $("chart"),
  tip: $("chart-tip"),
  legend: $("legend"),
  note: $("chart-note"),
  said: $("chart-said"),
  onType: (type) => setFilter({ type }),
  onColours: () => list.recolour(),
});

const list = new EventList({
  list: $("events"),
  note: $("events-note"),
  none: $("events-none"),
  pause: $("pause"),
  colourOf: (type) => chart.colourOf(type),
  onOpen: showEvent,
});

const sessions = new SessionTable({
  body: $("sessions"),
  note: $("sessions-note"),
  none: $("sessions-none"),
  onOpen: showSession,
});

const rejected = new RejectedList({
  list: $("rejected"),
  note: $("rejected-note"),
  none: $("rejected-none"),
  onOpen: (part) =>
    detail.show({
      title: "Rejected",
      facts: [["reason", part.reason], ["received", moment(part.received)]],
      text: part.text,
    }),
});

async function showEvent({ arrival, type }) {
  const facts = [];
  try {
    const text = await ask("/api/events", { after: arrival - 1, before: arrival + 1, limit: 1 });
    const [event] = readWithEvents(text).events;
    if (!event) throw new Error("it has been deleted");
    facts.push(["session", event.sessionId], ["number", number(event.seq)], ["happened", moment(event.timestamp)]);
    facts.push(["received", moment(event.received)], ["id", event.id]);
    if (event.version !== undefined) facts.push(["version", event.version]);
    const onlyThese = () => setFilter({ session: event.sessionId });
    detail.show({ title: event.type, facts, text: event.data, isJson: true, onlyThese });
  } catch (error) {
    detail.show({ title: type, facts: [["it can't be shown", error.message]], text: "" });
  }
}

async function showSession(id) {
  const onlyThese = () => setFilter({ session: id });
  try {
    const session = JSON.parse(await ask(`/api/sessions/${encodeURIComponent(id)}`));
    const facts = [["session", id], ["state", session.connected ? "live" : "ended"]];
    if (session.version !== null) facts.push(["version", session.version]);
    facts.push(["first event", moment(session.firstTimestamp)], ["last event", moment(session.lastTimestamp)]);
    facts.push(["duration", duration(session.lastTimestamp - session.firstTimestamp)]);
    facts.push(["events", number(session.events)], ["missing", number(session.missing)]);
    facts.push(["repeats", number(session.repeats)], ["highest number", number(session.highest)]);
    const gaps = session.gaps.map(([first, last]) => (first === last ? `${first}` : `${first} to ${last}`));
    const types = Object.entries(session.types).map(([type, count]) => `${number(count).padStart(10)}  ${type}`);
    const missing = gaps.length ? `Missing numbers\n${gaps.map((gap) => `            ${gap}`).join("\n")}\n\n` : "";
    detail.show({ title: "Session", facts, text: `${missing}Events by type\n${types.join("\n")}`, onlyThese });
  } catch (error) {
    detail.show({ title: "Session", facts: [["session", id], ["it can't be shown", error.message]], text: "", onlyThese });
  }
}

// The filter, which is in the page's address too, so that it can be kept and sent.

const inputs = { type: $("filter-type"), session: $("filter-session"), text: $("filter-text") };
const filter = { type: "", session: "", text: "" };
let typing = 0;
let filling = new AbortController();

function setFilter(changes) {
  for (const [name, value] of Object.entries(changes)) inputs[name].value = value;
  apply();
}

function apply() {
  clearTimeout(typing);
  const before = JSON.stringify(filter);
  for (const name of Object.keys(filter)) filter[name] = inputs[name].value;
  $("clear").hidden = !Object.values(filter).some(Boolean);
  if (JSON.stringify(filter) === before) return;
  history.replaceState(null, "", address(location.pathname, filter));
  listen();
}

for (const input of Object.values(inputs)) {
  input.addEventListener("input", () => {
    clearTimeout(typing);
    typing = setTimeout(apply, TYPING);
  });
}
$("filters").addEventListener("submit", (event) => {
  event.preventDefault();
  apply();
});
$("clear").addEventListener("click", () => {
  setFilter({ type: "", session: "", text: "" });
  inputs.type.focus();
});

// What comes.

const stream = new Stream({
  onLook: take,
  onState: (state) => {
    const pill = $("connection");
    pill.dataset.state = state;
    say(pill, state);
  },
});

let total = 0;

function take(look, isFirst) {
  const isAnother = isFirst && look.total < total; // a collector that was started since
  total = look.total;
  if (isAnother) recall();
  chart.take(look.now, look.seconds);
  notice(`${look.total} ${look.repeats} ${look.rejected} ${look.connections}`);
  say($("tile-rate"), number(chart.rate));
  say($("tile-connections"), number(look.connections));
  const isFiltered = Object.values(filter).some(Boolean);
  // What the first look brings was there before: it is no share of anything.
  if (isFirst) list.fill(look.events);
  else list.take(look.events, isFiltered ? look.matching : look.arrived);
}

function listen() {
  stream.open(address("/api/live", filter));
  recall();
}

/** Show what is stored, from the newest on back. */
async function recall() {
  list.clear();
  filling.abort();
  filling = new AbortController();
  try {
    const text = await ask("/api/events", { ...filter, order: "desc", limit: HISTORY }, filling.signal);
    list.fill(readWithEvents(text).events.reverse());
  } catch {
    // The stream says whether there is a connection; the next one brings what is new.
  }
}

// What is asked again and again, while the page is looked at.

let refreshing = 0;
let isAsking = false;
let rejectedShown = -1;
let noticed = "";
let isStale = false;
let refreshed = 0; // when it was asked last

/** Ask before the time when something has changed. */
function notice(state) {
  isStale ||= state !== noticed;
  noticed = state;
  if (isStale && !isAsking && performance.now() - refreshed >= SOONEST) refresh();
}

async function refresh() {
  clearTimeout(refreshing);
  isAsking = true;
  isStale = false;
  refreshed = performance.now();
  try {
    const answers = await Promise.all([ask("/api/stats"), ask("/api/sessions", { limit: SESSIONS })]);
    const [stats, found] = answers.map((text) => JSON.parse(text));
    showStats(stats);
    sessions.show(found.sessions, stats.sessions);
    if (stats.rejected !== rejectedShown) {
      const parts = JSON.parse(await ask("/api/rejected", { limit: REJECTED })).rejected;
      rejected.show(parts, stats.rejected);
      rejectedShown = stats.rejected;
    }
  } catch {
    // As above.
  }
  isAsking = false;
  clearTimeout(refreshing);
  if (!document.hidden) refreshing = setTimeout(refresh, REFRESH);
}

function showStats(stats) {
  for (const name of ["events", "sessions", "missing", "repeats", "rejected"]) {
    const tile = $(`tile-${name}`);
    say(tile, number(stats[name]));
    tile.dataset.bad = String((name === "missing" || name === "rejected") && stats[name] > 0);
  }
  const isEmpty = stats.events + stats.rejected === 0;
  $("empty").hidden = !isEmpty;
  $("flow").hidden = $("columns").hidden = isEmpty;
  $("trouble").hidden = !stats.lastError;
  say($("trouble"), stats.lastError ? `Events can't be stored, and nothing is acknowledged: ${stats.lastError}` : "");
  const types = Object.keys(stats.types).slice(0, 100);
  const options = [...$("types").children];
  if (options.map((option) => option.value).join("\n") !== types.join("\n")) {
    $("types").replaceChildren(
      ...types.map((type) => {
        const option = make("option");
        option.value = type;
        return option;
      }),
    );
  }
}

// A page that nobody sees asks for nothing, and keeps none of the few connections of its browser.
document.addEventListener("visibilitychange", () => {
  if (document.hidden) stream.close();
  else {
    listen();
    refresh();
  }
});

const scheme = location.protocol === "https:" ? "wss" : "ws";
const lines = [
  "from redvsblue_telemetry import start_telemetry",
  `telemetry = start_telemetry(enabled=True, url="${scheme}://${location.host}/telemetry")`,
  'telemetry.emit("hello", {"from": "my game"})',
].join("\n");
$("snippet").textContent = lines;
$("copy-snippet").hidden = !navigator.clipboard;
$("copy-snippet").addEventListener("click", () => copy($("copy-snippet"), lines));

const asked = new URLSearchParams(location.search);
for (const name of Object.keys(filter)) filter[name] = inputs[name].value = asked.get(name) ?? "";
$("clear").hidden = !Object.values(filter).some(Boolean);
listen();
refresh();
