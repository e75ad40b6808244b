// The live page: requests to the collector, and the parts of the page that show the answers.

import { address, request, search } from "./api.js";
import { Chart } from "./chart.js";
import { parsed, textOf } from "./context.js";
import { Deletion } from "./deletion.js";
import { Detail, copy } from "./detail.js";
import { EventList, rowOf } from "./events.js";
import { FrameTimes } from "./frames.js";
import { Opened } from "./opened.js";
import { causes, crashFree, isBad } from "./outcome.js";
import { storageInWords, storageWarning } from "./storage.js";
import { Stream } from "./stream.js";
import { CRASHES, FAULTS, GroupList, RejectedList, SampledTable, SessionTable, VersionTable } from "./tables.js";
import { counted, make, number, setText, share } from "./text.js";

// Milliseconds.
const REFRESH_INTERVAL = 2_000, MIN_REFRESH_INTERVAL = 900; // the shorter one after a change
const SUMMARY_INTERVAL = 10_000; // of versions and frame times, which are costlier to ask for, and of old crashes
const TYPING_DELAY = 300; // from the last key to the new filter

const SEARCH_DELAY = 400; // until a search counts as slow

const INITIAL_EVENTS = 100, MAX_SESSIONS = 100, MAX_REJECTED = 50, MAX_GROUPS = 50, MAX_VERSIONS = 30;
const MAX_PLAUSIBLE = 1e12; // missing events of a session, as in the collector

const $ = (id) => document.getElementById(id);

// The parts of the page.

const detail = new Detail($("detail"), (event) => opened.event(event));

const deletion = new Deletion($("deletion"), () => {
  $("detail").close();
  loadHistory();
  refresh();
});

const opened = new Opened({
  detail,
  onDelete: (session) => deletion.ask(session),
  onFilter: (changes) => setFilter(changes),
  rowOf: (event) => rowOf(event, chart.colorOf(event.type)),
});

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
  onOpen: (event) => opened.event(event),
});

const sessions = new SessionTable({
  body: $("sessions"),
  note: $("sessions-note"),
  empty: $("sessions-empty"),
  onOpen: (id) => opened.session(id),
});

const versions = new VersionTable({ body: $("versions"), empty: $("versions-empty") });

const sampled = new SampledTable({ panel: $("sampled-panel"), body: $("sampled") });

const crashes = new GroupList(CRASHES, {
  list: $("crashes"),
  note: $("crashes-note"),
  onOpen: (group) => opened.crash(group),
});

const faults = new GroupList(FAULTS, {
  list: $("faults"),
  note: $("faults-note"),
  onOpen: (group) => opened.fault(group),
});

const frameTimes = new FrameTimes({
  panel: $("frames-panel"),
  canvas: $("frames-chart"),
  tip: $("frames-tip"),
  body: $("frames"),
  note: $("frames-note"),
  status: $("frames-status"),
});

const rejected = new RejectedList({
  list: $("rejected"),
  note: $("rejected-note"),
  empty: $("rejected-empty"),
  onOpen: (part) => opened.rejected(part),
});

// The filter. It is part of the page's URL, which can be bookmarked and shared.

const NO_FILTER = { type: "", session: "", context: [], text: "", fault: "" };
const inputs = Object.fromEntries(Object.keys(NO_FILTER).map((name) => [name, $(`filter-${name}`)]));
let filter = NO_FILTER;
let typing = 0;
let loading = new AbortController();

const isFiltered = () => Object.values(filter).some((value) => value.length);

/** Change some of the boxes. */
function setFilter(changes) {
  for (const [name, value] of Object.entries(changes)) inputs[name].value = name === "context" ? textOf(value) : value;
  apply();
}

/** Return the filter in the boxes. */
function read() {
  const { terms, isComplete } = parsed(inputs.context.value);
  inputs.context.setAttribute("aria-invalid", String(!isComplete));
  $("context-hint").hidden = isComplete;
  const { type, session, text, fault } = inputs;
  return { type: type.value, session: session.value, context: terms, text: text.value, fault: fault.value };
}

function apply() {
  clearTimeout(typing);
  const before = JSON.stringify(filter);
  filter = read();
  $("clear").hidden = !Object.values(inputs).some((input) => input.value);
  if (JSON.stringify(filter) === before) return;
  history.replaceState(null, "", address("/", filter));
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
  setFilter(NO_FILTER);
  inputs.type.focus();
});

// Live updates.

const stream = new Stream({
  onUpdate: showUpdate,
  onState: (state) => {
    streamState = state;
    showState();
  },
});

let streamState = "connecting";
let searching = 0; // a timer, while stored events are searched for

/** Show the state of the stream; or that a search runs, since until it ends nobody knows what is stored. */
function showState() {
  const pill = $("connection");
  const state = streamState === "live" && list.isSlow ? "searching" : streamState;
  pill.dataset.state = state;
  setText(pill, state === "searching" ? "searching…" : state);
}

/** Note that a search has begun or ended; a quick one is not worth a word. */
function setSearching(isSearching) {
  clearTimeout(searching);
  list.setSearching(isSearching);
  searching = setTimeout(() => {
    list.setSlow(isSearching);
    showState();
  }, isSearching ? SEARCH_DELAY : 0);
}

let total = 0;

function showUpdate(update, isFirst) {
  const isRestarted = isFirst && update.total < total;
  total = update.total;
  if (isRestarted) loadHistory();
  chart.add(update.now, update.seconds);
  noteCounts(`${update.total} ${update.repeats} ${update.rejected} ${update.connections}`);
  setText($("tile-rate"), number(chart.rate));
  setText($("tile-connections"), number(update.connections));
  // The first update brings events from before it, which its counts don't include.
  if (isFirst) list.fill(update.events);
  else list.add(update.events, isFiltered() ? update.matching : update.arrived);
}

function listen() {
  stream.open(address("/api/live", { ...filter, data: "text" }));
  loadHistory();
}

/** Show the newest stored events. */
async function loadHistory() {
  loading.abort(); // so that the collector ends that search
  const { signal } = (loading = new AbortController());
  list.clear();
  setSearching(true);
  try {
    for await (const events of search(filter, INITIAL_EVENTS, signal)) {
      if (signal.aborted) return;
      list.fill(events.reverse());
    }
  } catch {
    // The stream shows whether there is a connection, and brings new events once there is one.
  }
  if (!signal.aborted) setSearching(false);
}

// Totals, sessions and rejected parts, requested regularly while the page is visible.

let refreshing = 0;
let isRefreshing = false;
let shownRejected = -1;
let shownCrashes = -1;
let shownFaults = 0; // the panel is hidden until there are any
let summarizedAt = -Infinity;
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
    sessions.show(page.sessions, stats.sessions, stats.outcomes);
    const crashCount = stats.types.crash ?? 0;
    const isDue = performance.now() - summarizedAt >= SUMMARY_INTERVAL;
    const due = [];
    if (stats.rejected !== shownRejected) due.push(showRejected(stats.rejected));
    if (isDue) due.push(summarize());
    if (isDue || crashCount !== shownCrashes) due.push(showCrashes(crashCount));
    if (stats.faults !== shownFaults) due.push(showFaults(stats.faults));
    await Promise.all(due);
  } catch {
    // See loadHistory().
  }
  isRefreshing = false;
  clearTimeout(refreshing);
  if (!document.hidden) refreshing = setTimeout(refresh, REFRESH_INTERVAL);
}

async function showRejected(count) {
  rejected.show((await request("/api/rejected", { limit: MAX_REJECTED })).rejected, count);
  shownRejected = count;
}

async function showCrashes(count) {
  const groups = (await request("/api/crashes", { limit: MAX_GROUPS, data: "text" })).crashes;
  crashes.show(groups);
  $("crashes-empty").hidden = groups.length > 0;
  shownCrashes = count;
}

async function showFaults(count) {
  faults.show((await request("/api/faults", { limit: MAX_GROUPS, data: "text" })).faults);
  $("faults-panel").hidden = !count;
  shownFaults = count;
}

async function summarize() {
  const [byVersion, times] = await Promise.all([
    request("/api/versions", { limit: MAX_VERSIONS }),
    request("/api/frames", { limit: MAX_VERSIONS }),
  ]);
  versions.show(byVersion.versions);
  frameTimes.show(times.frames);
  summarizedAt = performance.now();
}

function showTile(name, text, note = "", isNoteworthy = false) {
  const tile = $(`tile-${name}`);
  setText(tile, text);
  tile.dataset.bad = String(isNoteworthy);
  setText($(`tile-${name}-note`), note);
}

function showStorage(storage) {
  $("storage").hidden = !storage;
  $("storage-low").hidden = !storage?.isLow;
  if (!storage) return;
  setText($("storage"), storageInWords(storage));
  if (storage.isLow) setText($("storage-low"), storageWarning(storage));
}

/** Show what is missing, without the sessions that claim absurd numbers, which would drown the others. */
function showMissing(stats) {
  const { implausibleSessions: count, implausibleMissing: claimed } = stats;
  const missing = Number(BigInt(String(stats.missing)) - BigInt(String(claimed)));
  const lost = Object.fromEntries(Object.entries(stats.lost).filter(([, number]) => number <= MAX_PLAUSIBLE));
  const claims = count ? `not counted: ${counted(count, "session")} that ${count === 1 ? "claims" : "claim"} ${number(claimed)} numbers` : "";
  showTile("missing", number(missing), [causes(lost), claims].filter(Boolean).join("; "), isBad(missing, lost));
}

function showStats(stats) {
  const left = Object.values(stats.sampled).reduce((sum, count) => sum + count, 0);
  const { share: free, ended, bad } = crashFree(stats.outcomes);
  showTile("events", number(stats.events), left ? `about ${number(stats.events + left)} before sampling` : "");
  showTile("sessions", number(stats.sessions));
  showTile("free", ended ? share(free) : "–", ended ? `of ${number(ended)} ended${bad ? `: ${bad}` : ""}` : "");
  showMissing(stats);
  showTile("repeats", number(stats.repeats));
  showTile("faults", number(stats.faults), `${share(stats.faults / stats.events)} of the events`);
  $("faults-tile").hidden = !stats.faults;
  $("faults-filter").hidden = !stats.faults && !inputs.fault.value;
  showTile("rejected", number(stats.rejected), "", stats.rejected > 0);
  sampled.show(stats.sampled, stats.types);
  const isEmpty = stats.events + stats.rejected + stats.sessions === 0;
  $("empty").hidden = !isEmpty;
  $("flow").hidden = $("columns").hidden = isEmpty;
  $("trouble").hidden = !stats.lastError;
  setText($("trouble"), stats.lastError ? `Events can't be stored, so they are not acknowledged: ${stats.lastError}` : "");
  showStorage(stats.storage);
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

const socket = address("/telemetry").href.replace(/^http/, "ws");
const snippet = [
  "from redvsblue_telemetry import start_telemetry",
  `telemetry = start_telemetry(enabled=True, url="${socket}")`,
  'telemetry.emit("hello", {"from": "my game"})',
].join("\n");
$("snippet").textContent = snippet;
$("copy-snippet").hidden = !navigator.clipboard;
$("copy-snippet").addEventListener("click", () => copy($("copy-snippet"), snippet));

const parameters = new URLSearchParams(location.search);
for (const [name, input] of Object.entries(inputs)) {
  input.value = name === "context" ? textOf(parameters.getAll(name)) : parameters.get(name) ?? "";
}
filter = read();
$("clear").hidden = !isFiltered();
$("faults-filter").hidden = !filter.fault;
listen();
refresh();
$("not-loaded").hidden = true;
