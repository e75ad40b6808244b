// The overview: what arrives, live; or all that arrived in a range of time. It is kept when another view is opened, so
// that a viewer who comes back finds it as it was.

import { address, request, search } from "../api.js";
import { Chart } from "../chart.js";
import { copy } from "../detail.js";
import { EventList } from "../events.js";
import { Filter, filterOf, isFilter } from "../filter.js";
import { FrameTimes } from "../frames.js";
import { Legend } from "../legend.js";
import { storageInWords, storageWarning } from "../storage.js";
import { Stream } from "../stream.js";
import { CRASHES, FAULTS, GroupList, RejectedList, SampledTable, SessionTable, VersionTable } from "../tables.js";
import { make, number, setText } from "../text.js";
import { showTiles } from "../tiles.js";

// Milliseconds.
const REFRESH_INTERVAL = 2_000, MIN_REFRESH_INTERVAL = 900; // the shorter one after a change
const SUMMARY_INTERVAL = 10_000; // of versions and frame times, which are costlier to ask for, and of old crashes
const SEARCH_DELAY = 400; // until a search counts as slow

const INITIAL_EVENTS = 100, MAX_SESSIONS = 100, MAX_REJECTED = 50, MAX_GROUPS = 50, MAX_VERSIONS = 30;

const $ = (id) => document.getElementById(id);

let overview = null;

export function open(root, state, tools) {
  overview ??= new Overview(tools);
  overview.start(state);
  return overview;
}

class Overview {
  constructor(tools) {
    this.tools = tools;
    this.isOpen = false;
    this.key = ""; // the range and the filter that are shown
    this.streamState = "connecting";
    this.total = 0;
    this.counts = "";
    this.isStale = false;
    this.refreshing = 0; // a timer
    this.isRefreshing = false;
    this.refreshedAt = 0;
    this.summarizedAt = -Infinity;
    this.shown = {}; // the counts for which crashes, faults and rejected parts are shown
    this.searching = 0; // a timer, while stored events are searched for
    this.loading = new AbortController();
    this.makeParts();
    this.makeSnippet();
    // A hidden page makes no requests, and leaves the browser's few connections per host to other pages.
    document.addEventListener("visibilitychange", () => {
      if (!this.isOpen) return;
      if (document.hidden) this.stream.close();
      else this.reload();
    });
  }

  makeParts() {
    const { colors, opened } = this.tools;
    this.filter = new Filter($("filters"), {
      clear: $("clear"),
      hint: $("context-hint"),
      faults: $("faults-filter"),
      onChange: (filter, isTyped) => this.tools.go(filter, { isReplaced: isTyped }),
    });
    const legend = new Legend({ list: $("legend"), colors, onType: (type) => this.filter.set({ type }) });
    this.chart = new Chart({
      canvas: $("chart"),
      tip: $("chart-tip"),
      legend,
      colors,
      note: $("chart-note"),
      status: $("chart-status"),
    });
    this.list = new EventList({
      list: $("events"),
      note: $("events-note"),
      empty: $("events-empty"),
      pause: $("pause"),
      colorOf: (type) => colors.of(type),
      onOpen: (event) => opened.event(event),
    });
    this.sessions = new SessionTable({
      body: $("sessions"),
      note: $("sessions-note"),
      empty: $("sessions-empty"),
      onOpen: (id) => opened.session(id),
    });
    this.versions = new VersionTable({ body: $("versions"), empty: $("versions-empty") });
    this.sampled = new SampledTable({ panel: $("sampled-panel"), body: $("sampled") });
    this.crashes = new GroupList(CRASHES, {
      list: $("crashes"),
      note: $("crashes-note"),
      onOpen: (group) => opened.crash(group),
    });
    this.faults = new GroupList(FAULTS, {
      list: $("faults"),
      note: $("faults-note"),
      onOpen: (group) => opened.fault(group),
    });
    this.frameTimes = new FrameTimes({
      panel: $("frames-panel"),
      canvas: $("frames-chart"),
      tip: $("frames-tip"),
      body: $("frames"),
      note: $("frames-note"),
      status: $("frames-status"),
    });
    this.rejected = new RejectedList({
      list: $("rejected"),
      note: $("rejected-note"),
      empty: $("rejected-empty"),
      onOpen: (part) => opened.rejected(part),
    });
    this.stream = new Stream({
      onUpdate: (update, isFirst) => this.showUpdate(update, isFirst),
      onState: (state) => {
        this.streamState = state;
        this.showState();
      },
    });
  }

  makeSnippet() {
    const socket = address("/telemetry").href.replace(/^http/, "ws");
    const snippet = [
      "from redvsblue_telemetry import start_telemetry",
      `telemetry = start_telemetry(enabled=True, url="${socket}")`,
      'telemetry.emit("hello", {"from": "my game"})',
    ].join("\n");
    $("snippet").textContent = snippet;
    $("copy-snippet").hidden = !navigator.clipboard;
    $("copy-snippet").addEventListener("click", () => copy($("copy-snippet"), snippet));
  }

  // The state.

  start(state) {
    this.isOpen = true;
    this.key = "";
    this.update(state);
  }

  update(state) {
    this.range = state.range;
    this.wanted = filterOf(state);
    this.filter.show(this.wanted);
    const { words, isOpen, query } = this.range;
    const key = JSON.stringify([words && isOpen ? words : query, this.wanted]);
    if (key !== this.key) this.listen();
    this.key = key;
    this.refresh();
  }

  close() {
    this.isOpen = false;
    this.stream.close();
    this.loading.abort();
    clearTimeout(this.refreshing);
  }

  /** Ask for everything anew. */
  reload() {
    this.listen();
    this.refresh();
  }

  recolor() {
    this.list.recolor();
  }

  // Live updates.

  /** Show the state of the stream; or that a search runs, since until it ends nobody knows what is stored. */
  showState() {
    const state = this.streamState === "live" && this.list.isSlow ? "searching" : this.streamState;
    if (this.isOpen && this.range.isOpen) this.tools.showState(state, state === "searching" ? "searching…" : state);
  }

  /** Note that a search has begun or ended; a quick one is not worth a word. */
  setSearching(isSearching) {
    clearTimeout(this.searching);
    this.list.setSearching(isSearching);
    this.searching = setTimeout(() => {
      this.list.setSlow(isSearching);
      this.showState();
    }, isSearching ? SEARCH_DELAY : 0);
  }

  showUpdate(update, isFirst) {
    const isRestarted = isFirst && update.total < this.total;
    this.total = update.total;
    if (isRestarted) this.loadEvents();
    this.chart.add(update.now, update.seconds);
    this.noteCounts(`${update.total} ${update.repeats} ${update.rejected} ${update.connections}`);
    setText($("tile-rate"), number(this.chart.rate));
    setText($("tile-connections"), number(update.connections));
    // The first update brings events from before it, which its counts don't include.
    if (isFirst) this.list.fill(update.events);
    else this.list.add(update.events, isFilter(this.wanted) ? update.matching : update.arrived);
  }

  listen() {
    if (this.range.isOpen) this.stream.open(address("/api/live", { ...this.wanted, data: "text" }));
    else this.stream.close();
    this.loadEvents();
  }

  /** Show the newest stored events. */
  async loadEvents() {
    this.loading.abort(); // so that the collector ends that search
    const { signal } = (this.loading = new AbortController());
    this.list.clear();
    this.setSearching(true);
    try {
      for await (const events of search({ ...this.wanted, ...this.range.query }, INITIAL_EVENTS, signal)) {
        if (signal.aborted) return;
        this.list.fill(events.reverse());
      }
    } catch {
      // The header shows whether there is a connection, and the stream brings new events once there is one.
    }
    if (!signal.aborted) this.setSearching(false);
  }

  // Totals, sessions and rejected parts, requested regularly while the page is visible.

  /** Refresh early if the counts have changed. */
  noteCounts(counts) {
    this.isStale ||= counts !== this.counts;
    this.counts = counts;
    if (this.isStale && !this.isRefreshing && performance.now() - this.refreshedAt >= MIN_REFRESH_INTERVAL) this.refresh();
  }

  async refresh() {
    clearTimeout(this.refreshing);
    this.isRefreshing = true;
    this.isStale = false;
    this.refreshedAt = performance.now();
    const { query } = this.range;
    try {
      const requests = [request("/api/stats", query), request("/api/sessions", { ...query, limit: MAX_SESSIONS })];
      const [stats, page] = await Promise.all(requests);
      this.showStats(stats);
      this.sessions.show(page.sessions, stats.sessions, stats.outcomes);
      const crashes = stats.types.crash ?? 0;
      const isDue = performance.now() - this.summarizedAt >= SUMMARY_INTERVAL;
      const due = [];
      if (stats.rejected !== this.shown.rejected) due.push(this.showRejected(stats.rejected));
      if (isDue) due.push(this.summarize());
      if (isDue || crashes !== this.shown.crashes) due.push(this.showCrashes(crashes));
      if (stats.faults !== (this.shown.faults ?? 0)) due.push(this.showFaults(stats.faults));
      await Promise.all(due);
    } catch {
      // See loadEvents().
    }
    this.isRefreshing = false;
    clearTimeout(this.refreshing);
    if (!document.hidden && this.isOpen) this.refreshing = setTimeout(() => this.refresh(), REFRESH_INTERVAL);
  }

  async showRejected(count) {
    this.rejected.show((await request("/api/rejected", { ...this.range.query, limit: MAX_REJECTED })).rejected, count);
    this.shown.rejected = count;
  }

  async showCrashes(count) {
    const wanted = { ...this.range.query, limit: MAX_GROUPS, data: "text" };
    const groups = (await request("/api/crashes", wanted)).crashes;
    this.crashes.show(groups);
    $("crashes-empty").hidden = groups.length > 0;
    this.shown.crashes = count;
  }

  async showFaults(count) {
    this.faults.show((await request("/api/faults", { ...this.range.query, limit: MAX_GROUPS, data: "text" })).faults);
    $("faults-panel").hidden = !count;
    this.shown.faults = count;
  }

  async summarize() {
    const wanted = { ...this.range.query, limit: MAX_VERSIONS };
    const [byVersion, times] = await Promise.all([request("/api/versions", wanted), request("/api/frames", wanted)]);
    this.versions.show(byVersion.versions);
    this.frameTimes.show(times.frames);
    this.summarizedAt = performance.now();
  }

  showStats(stats) {
    showTiles(stats);
    $("faults-filter").hidden = !stats.faults && !this.wanted.fault;
    this.sampled.show(stats.sampled, stats.types);
    const isEmpty = stats.events + stats.rejected + stats.sessions === 0;
    $("empty").hidden = !isEmpty;
    $("flow").hidden = $("columns").hidden = isEmpty;
    $("trouble").hidden = !stats.lastError;
    setText($("trouble"), stats.lastError ? `Events can't be stored, so they are not acknowledged: ${stats.lastError}` : "");
    showStorage(stats.storage);
    showOptions($("types"), Object.keys(stats.types).slice(0, 100));
  }
}

function showStorage(storage) {
  $("storage").hidden = !storage;
  $("storage-low").hidden = !storage?.isLow;
  if (!storage) return;
  setText($("storage"), storageInWords(storage));
  if (storage.isLow) setText($("storage-low"), storageWarning(storage));
}

function showOptions(list, values) {
  if ([...list.children].map((option) => option.value).join("\n") === values.join("\n")) return;
  list.replaceChildren(...values.map((value) => Object.assign(make("option"), { value })));
}
