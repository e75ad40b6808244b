// The live page: requests to the collector, and the parts of the page that show the answers.

import { Chart } from "./chart.js";
import { Detail, copy } from "./detail.js";
import { EventList } from "./events.js";
import { Stream } from "./stream.js";
import { RejectedList, SessionTable } from "./tables.js";
import { duration, make, moment, number, setText, shortened } from "./text.js";

// Milliseconds.
const REFRESH_INTERVAL = 2_000, MIN_REFRESH_INTERVAL = 900; // the shorter one after a change
const REQUEST_TIMEOUT = 15_000;
const TYPING_DELAY = 300; // from the last key to the new filter

const INITIAL_EVENTS = 100, MAX_SESSIONS = 100, MAX_REJECTED = 50;

const $ = (id) => document.getElementById(id);

/** Return a URL of this collector, based on the origin: the page's own URL may contain a password. */
function address(path, parameters = {}) {
  const url = new URL(path, location.origin);
  for (const [name, value] of Object.entries(parameters)) {
    if (value !== "" && value !== undefined) url.searchParams.set(name, value);
  }
  return url;
}

async function request(path, parameters, signal = AbortSignal.timeout(REQUEST_TIMEOUT)) {
  const response = await fetch(address(path, parameters), { signal });
  const text = await response.text();
  if (!response.ok) throw new Error(`${response.status}: ${shortened(text, 300)}`);
  return JSON.parse(text);
}

// The parts of the page.

const detail = new Detail($("detail"));

const chart = new Chart({
  canvas: $("chart"),
  tip: $("chart-tip"),
  legend: $("legend"),
  note: $("chart-note"),
  status: $("chart-status"),
  onType: (type) => setFilter({ type }),
  onColors: () => list.recolor(),
});

const list = new EventList({
  list: $("events"),
  note: $("events-note"),
  empty: $("events-empty"),
  pause: $("pause"),
  colorOf: (type) => chart.colorOf(type),
  onOpen: showEvent,
});

const sessions = new SessionTable({
  body: $("sessions"),
  note: $("sessions-note"),
  empty: $("sessions-empty"),
  onOpen: showSession,
});

const rejected = new RejectedList({
  list: $("rejected"),
  note: $("rejected-note"),
  empty: $("rejected-empty"),
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
    const page = { after: arrival - 1, before: arrival + 1, limit: 1, data: "text" };
    const [event] = (await request("/api/events", page)).events;
    if (!event) throw new Error("it was deleted");
    facts.push(["session", event.sessionId], ["sequence number", number(event.seq)]);
    facts.push(["timestamp", moment(event.timestamp)]);
    facts.push(["received", moment(event.received)], ["id", event.id]);
    if (event.version !== undefined) facts.push(["version", event.version]);
    const onFilter = () => setFilter({ session: event.sessionId });
    detail.show({ title: event.type, facts, text: event.data, isJson: true, onFilter });
  } catch (error) {
    detail.show({ title: type, facts: [["can't show this event", error.message]], text: "" });
  }
}

async function showSession(id) {
  const onFilter = () => setFilter({ session: id });
  try {
    const session = await request(`/api/sessions/${encodeURIComponent(id)}`);
    const facts = [["session", id], ["state", session.connected ? "live" : "ended"]];
    if (session.version !== null) facts.push(["version", session.version]);
    facts.push(["first event", moment(session.firstTimestamp)], ["last event", moment(session.lastTimestamp)]);
    facts.push(["duration", duration(session.lastTimestamp - session.firstTimestamp)]);
    facts.push(["events", number(session.events)], ["missing", number(session.missing)]);
    facts.push(["repeats", number(session.repeats)], ["highest sequence number", number(session.highest)]);
    const gaps = session.gaps.map(([first, last]) => (first === last ? `${first}` : `${first} to ${last}`));
    const types = Object.entries(session.types).map(([type, count]) => `${number(count).padStart(10)}  ${type}`);
    const missing = gaps.length ? `Missing sequence numbers\n${gaps.map((gap) => `            ${gap}`).join("\n")}\n\n` : "";
    detail.show({ title: "Session", facts, text: `${missing}Events by type\n${types.join("\n")}`, onFilter });
  } catch (error) {
    const facts = [["session", id], ["can't show this session", error.message]];
    detail.show({ title: "Session", facts, text: "", onFilter });
  }
}

// The filter. It is part of the page's URL, which can be bookmarked and shared.

const inputs = { type: $("filter-type"), session: $("filter-session"), text: $("filter-text") };
const filter = { type: "", session: "", text: "" };
let typing = 0;
let loading = new AbortController();

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
    typing = setTimeout(apply, TYPING_DELAY);
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

// Live updates.

const stream = new Stream({
  onUpdate: showUpdate,
  onState: (state) => {
    const pill = $("connection");
    pill.dataset.state = state;
    setText(pill, state);
  },
});

let total = 0;

function showUpdate(update, isFirst) {
  const isRestarted = isFirst && update.total < total;
  total = update.total;
  if (isRestarted) loadHistory();
  chart.add(update.now, update.seconds);
  noteCounts(`${update.total} ${update.repeats} ${update.rejected} ${update.connections}`);
  setText($("tile-rate"), number(chart.rate));
  setText($("tile-connections"), number(update.connections));
  const isFiltered = Object.values(filter).some(Boolean);
  // The first update brings events from before it, which its counts don't include.
  if (isFirst) list.fill(update.events);
  else list.add(update.events, isFiltered ? update.matching : update.arrived);
}

function listen() {
  stream.open(address("/api/live", { ...filter, data: "text" }));
  loadHistory();
}

/** Show the newest stored events. */
async function loadHistory() {
  list.clear();
  loading.abort();
  loading = new AbortController();
  try {
    const page = { ...filter, order: "desc", limit: INITIAL_EVENTS, data: "text" };
    list.fill((await request("/api/events", page, loading.signal)).events.reverse());
  } catch {
    // The stream shows whether there is a connection, and brings new events once there is one.
  }
}

// Totals, sessions and rejected parts, requested regularly while the page is visible.

let refreshing = 0;
let isRefreshing = false;
let shownRejected = -1;
let counts = "";
let isStale = false;
let refreshedAt = 0;

/** Refresh early if the counts have changed. */
function noteCounts(newCounts) {
  isStale ||= newCounts !== counts;
  counts = newCounts;
  if (isStale && !isRefreshing && performance.now() - refreshedAt >= MIN_REFRESH_INTERVAL) refresh();
}

async function refresh() {
  clearTimeout(refreshing);
  isRefreshing = true;
  isStale = false;
  refreshedAt = performance.now();
  try {
    const requests = [request("/api/stats"), request("/api/sessions", { limit: MAX_SESSIONS })];
    const [stats, page] = await Promise.all(requests);
    showStats(stats);
    sessions.show(page.sessions, stats.sessions);
    if (stats.rejected !== shownRejected) {
      rejected.show((await request("/api/rejected", { limit: MAX_REJECTED })).rejected, stats.rejected);
      shownRejected = stats.rejected;
    }
  } catch {
    // See loadHistory().
  }
  isRefreshing = false;
  clearTimeout(refreshing);
  if (!document.hidden) refreshing = setTimeout(refresh, REFRESH_INTERVAL);
}

function showStats(stats) {
  for (const name of ["events", "sessions", "missing", "repeats", "rejected"]) {
    const tile = $(`tile-${name}`);
    setText(tile, number(stats[name]));
    tile.dataset.bad = String((name === "missing" || name === "rejected") && stats[name] > 0);
  }
  const isEmpty = stats.events + stats.rejected === 0;
  $("empty").hidden = !isEmpty;
  $("flow").hidden = $("columns").hidden = isEmpty;
  $("trouble").hidden = !stats.lastError;
  setText($("trouble"), stats.lastError ? `Events can't be stored, so they are not acknowledged: ${stats.lastError}` : "");
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

// A hidden page makes no requests, and leaves the browser's few connections per host to other pages.
document.addEventListener("visibilitychange", () => {
  if (document.hidden) stream.close();
  else {
    listen();
    refresh();
  }
});

const scheme = location.protocol === "https:" ? "wss" : "ws";
const snippet = [
  "from redvsblue_telemetry import start_telemetry",
  `telemetry = start_telemetry(enabled=True, url="${scheme}://${location.host}/telemetry")`,
  'telemetry.emit("hello", {"from": "my game"})',
].join("\n");
$("snippet").textContent = snippet;
$("copy-snippet").hidden = !navigator.clipboard;
$("copy-snippet").addEventListener("click", () => copy($("copy-snippet"), snippet));

const parameters = new URLSearchParams(location.search);
for (const name of Object.keys(filter)) filter[name] = inputs[name].value = parameters.get(name) ?? "";
$("clear").hidden = !Object.values(filter).some(Boolean);
listen();
refresh();
