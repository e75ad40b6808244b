// The overview: what arrives, live; or all that arrived in a range of time. It is kept when another view is opened, so
// that a viewer who comes back finds it as it was.

import { address, request, search } from "../api.js";
import { Chart } from "../chart.js";
import { copy } from "../detail.js";
import { EventList } from "../events.js";
import { Filter, filterOf, isFilter } from "../filter.js";
import { FrameTimes } from "../frames.js";
import { Legend } from "../legend.js";
import { Past } from "../past.js";
import { longer, named, offset, span } from "../range.js";
import { storageInWords, storageWarning } from "../storage.js";
import { Stream } from "../stream.js";
import { CRASHES, FAULTS, GroupList, RejectedList, SampledTable, SessionTable, VersionTable } from "../tables.js";
import { make, number, setText, shortened } from "../text.js";
import { showTiles } from "../tiles.js";

// Milliseconds.
const REFRESH_INTERVAL = 2_000, MIN_REFRESH_INTERVAL = 900; // the shorter one after a change
const SUMMARY_INTERVAL = 10_000; // of versions and frame times, which are costlier to ask for, and of old crashes
const RANGE_INTERVAL = 10_000; // of a range that ends now
const SEARCH_DELAY = 400; // until a search counts as slow

const EVENTS = 100, MAX_SESSIONS = 100, MAX_REJECTED = 50, MAX_GROUPS = 50, MAX_VERSIONS = 30;

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
    this.answered = new Set(); // the parts that show an answer for the range
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
    const shown = { legend, colors, note: $("chart-note"), status: $("chart-status") };
    this.chart = new Chart({ canvas: $("chart"), tip: $("chart-tip"), ...shown });
    this.past = new Past({
      canvas: $("past"),
      tip: $("past-tip"),
      ...shown,
      onSelect: (from, to) => this.select(from, to),
      onZoomOut: () => this.zoomOut(),
    });
    $("zoom-out").addEventListener("click", () => this.zoomOut());
    this.list = new EventList({
      list: $("events"),
      note: $("events-note"),
      empty: $("events-empty"),
      pause: $("pause"),
      older: $("older"),
      newest: $("newest"),
      end: $("events-end"),
      colorOf: (type) => colors.of(type),
      onOpen: (event) => opened.event(event),
      onOlder: (arrival) => this.loadOlder(arrival),
      onNewest: () => this.loadEvents(),
    });
    this.sessions = new SessionTable({
      body: $("sessions"),
      note: $("sessions-note"),
      empty: $("sessions-empty"),
      onOpen: (id) => opened.session(id),
    });
    this.versions = new VersionTable({
      body: $("versions"),
      empty: $("versions-empty"),
      hrefOf: (version) => this.tools.href({ view: "versions", version }),
    });
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
    this.showFieldsLink(this.wanted.type);
    const { words, isOpen, isLive, query } = this.range;
    const range = JSON.stringify(words && isOpen ? words : query);
    const key = range + JSON.stringify(this.wanted);
    if (range !== this.shownRange) this.enter(isLive);
    if (key !== this.key) this.listen();
    this.shownRange = range;
    this.key = key;
    this.refresh();
  }

  /** Offer the fields of the type that the events are filtered by. */
  showFieldsLink(type) {
    $("fields-hint").hidden = !type;
    $("fields-link").href = this.tools.href({ view: "field", type });
    setText($("fields-link"), `The numbers in ${shortened(type, 40)} over time`);
  }

  /** Show another range. Its figures are on their way; those of the range before are faded until then. */
  enter(isLive) {
    $("overview").dataset.loading = String(this.shownRange !== undefined);
    $("chart-box").hidden = !isLive;
    $("past-box").hidden = isLive;
    setText($("chart-title"), isLive ? "Events per second" : "Events over time");
    setText($("events-title"), isLive ? "Newest events" : "Events, newest first");
    this.list.setLive(this.range.isOpen);
    for (const tile of document.querySelectorAll(".tiles .now")) tile.hidden = !this.range.isOpen;
    $("zoom-out").hidden = isLive || this.range.from === null;
    setText($("chart-note"), "");
    this.past.clear();
    if (isLive) this.chart.rank();
    this.summarizedAt = -Infinity;
    this.shown = {};
    this.answered.clear();
  }

  /** Show a part of the range. */
  select(from, to) {
    const { parameters } = this.tools.router.current;
    const wider = Object.fromEntries(["range", "from", "to"].map((name) => [name, parameters.get(name) ?? ""]));
    this.tools.go(span(from, to), { note: { wider } });
  }

  /** Go back to the range that this one is a part of; or to a longer one. */
  zoomOut() {
    if (this.range.isLive) return;
    this.tools.go(history.state?.wider ?? longer(this.range));
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
    this.chart.add(update.now, update.seconds, this.range.isLive);
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
  loadEvents() {
    this.list.clear();
    return this.load((events) => this.list.fill(events.reverse()));
  }

  /** Show more events, from before the last one that is shown. */
  loadOlder(arrival) {
    return this.load((events) => this.list.append(events), arrival);
  }

  async load(show, before) {
    this.loading.abort(); // so that the collector ends that search
    const { signal } = (this.loading = new AbortController());
    this.setSearching(true);
    let found = 0;
    try {
      for await (const events of search({ ...this.wanted, ...this.range.query }, EVENTS, signal, before)) {
        if (signal.aborted) return;
        found += events.length;
        show(events);
      }
      this.list.setFirst(found < EVENTS);
    } catch (error) {
      // The header shows whether there is a connection, and the stream brings new events once there is one.
      if (error.response) this.list.fail(error.message);
    }
    if (!signal.aborted) this.setSearching(false);
  }

  // Totals, sessions and rejected parts, requested regularly while the page is visible.

  /** Refresh early if the counts have changed. */
  noteCounts(counts) {
    this.isStale ||= counts !== this.counts;
    this.counts = counts;
    if (!this.range.isLive) return;
    if (this.isStale && !this.isRefreshing && performance.now() - this.refreshedAt >= MIN_REFRESH_INTERVAL) this.refresh();
  }

  async refresh() {
    clearTimeout(this.refreshing);
    const turn = (this.turn = {});
    this.isRefreshing = true;
    this.isStale = false;
    this.refreshedAt = performance.now();
    const isDue = !this.range.isLive || performance.now() - this.summarizedAt >= SUMMARY_INTERVAL;
    const figures = this.ask(turn, "/api/stats");
    const parts = [this.part("figures", this.showFigures(turn, figures), turn)];
    parts.push(this.part("sessions-panel", this.showSessions(turn, figures), turn));
    if (!this.range.isLive) parts.push(this.part("flow", this.showPast(turn), turn));
    if (isDue) {
      parts.push(this.part("versions-panel", this.showVersions(turn), turn));
      parts.push(this.part("frames-panel", this.showFrames(turn), turn));
      parts.push(this.part("crashes-panel", this.showCrashes(turn), turn));
      this.summarizedAt = performance.now();
    }
    const results = await Promise.allSettled(parts);
    if (turn !== this.turn) return;
    const hasFailed = results.some(({ status }) => status === "rejected");
    this.isRefreshing = false;
    $("overview").dataset.loading = "false";
    clearTimeout(this.refreshing);
    if (document.hidden || !this.isOpen) return;
    if (hasFailed) this.summarizedAt = -Infinity;
    if (this.range.isLive || hasFailed) this.refreshing = setTimeout(() => this.refresh(), REFRESH_INTERVAL);
    else if (this.range.isOpen) this.refreshing = setTimeout(() => this.tools.refresh(), RANGE_INTERVAL);
  }

  /** Show in a part of the page why there is no answer for it, unless it shows an earlier one for this range. */
  async part(id, work, turn) {
    try {
      await work;
      if (turn !== this.turn) return;
      this.answered.add(id);
      showFailure($(id), "");
    } catch (error) {
      const isAnswer = error.response || error.name === "TimeoutError";
      if (turn === this.turn && isAnswer && !this.answered.has(id)) showFailure($(id), error.message);
      throw error;
    }
  }

  /** Request a part of the page for its range; null if another range is shown when the answer comes. */
  async ask(turn, path, parameters = {}) {
    const wanted = { ...this.range.query, ...parameters };
    // The header shows how the stream does, if there is one.
    const answer = await (this.range.isOpen ? request(path, wanted) : this.tools.request(path, wanted));
    return turn === this.turn ? answer : null;
  }

  async showFigures(turn, figures) {
    const stats = await figures;
    if (!stats) return;
    this.showStats(stats);
    const crashes = stats.types.crash ?? 0;
    const due = [];
    if (stats.rejected !== this.shown.rejected) due.push(this.showRejected(turn, stats.rejected));
    if (this.range.isLive && crashes !== (this.shown.crashes ?? crashes)) due.push(this.showCrashes(turn));
    if (stats.faults !== this.shown.faults) due.push(this.showFaults(turn, stats.faults));
    this.shown.crashes = crashes;
    await Promise.all(due);
  }

  async showSessions(turn, figures) {
    const [page, stats] = await Promise.all([this.ask(turn, "/api/sessions", { limit: MAX_SESSIONS }), figures]);
    if (page && stats) this.sessions.show(page.sessions, stats.sessions, stats.outcomes);
  }

  async showPast(turn) {
    const history = await this.ask(turn, "/api/history", { offset: offset() });
    if (history) this.past.show(history);
  }

  async showRejected(turn, count) {
    const page = count ? await this.ask(turn, "/api/rejected", { limit: MAX_REJECTED }) : { rejected: [] };
    if (!page) return;
    this.rejected.show(page.rejected, count);
    this.shown.rejected = count;
  }

  async showCrashes(turn) {
    const page = await this.ask(turn, "/api/crashes", { limit: MAX_GROUPS, data: "text" });
    if (!page) return;
    this.crashes.show(page.crashes);
    $("crashes-empty").hidden = page.crashes.length > 0;
  }

  async showFaults(turn, count) {
    const page = count ? await this.ask(turn, "/api/faults", { limit: MAX_GROUPS, data: "text" }) : { faults: [] };
    if (!page) return;
    this.faults.show(page.faults);
    $("faults-panel").hidden = !count;
    this.shown.faults = count;
  }

  async showVersions(turn) {
    const page = await this.ask(turn, "/api/versions", { limit: MAX_VERSIONS });
    if (page) this.versions.show(page.versions);
  }

  async showFrames(turn) {
    const page = await this.ask(turn, "/api/frames", { limit: MAX_VERSIONS });
    if (page) this.frameTimes.show(page.frames);
  }

  showStats(stats) {
    showTiles(stats);
    $("faults-filter").hidden = !stats.faults && !this.wanted.fault;
    this.sampled.show(stats.sampled, stats.types);
    const isEmpty = stats.events + stats.rejected + stats.sessions === 0;
    $("empty").hidden = !isEmpty || !this.range.isLive;
    $("nothing").hidden = !isEmpty || this.range.isLive;
    $("nothing-all").href = this.tools.href(named("all"));
    $("flow").hidden = $("columns").hidden = isEmpty;
    $("trouble").hidden = !stats.lastError;
    setText($("trouble"), stats.lastError ? `Events can't be stored, so they are not acknowledged: ${stats.lastError}` : "");
    showStorage(stats.storage, this.range.isLive);
    showOptions($("types"), Object.keys(stats.types).slice(0, 100));
  }
}

/** Show why a part of the page can't be shown; an empty reason ends that. */
function showFailure(part, reason) {
  part.dataset.failed = String(Boolean(reason));
  let line = part.querySelector(":scope > .failure");
  if (!line && !reason) return;
  line ??= part.appendChild(make("p", "failure"));
  line.hidden = !reason;
  if (reason) part.hidden = false;
  setText(line, `Can't be shown: ${reason.replace(/^\d+: /, "")}`);
}

function showStorage(storage, isLive) {
  $("storage").hidden = !storage || !isLive;
  $("storage-low").hidden = !storage?.isLow;
  if (!storage) return;
  setText($("storage"), storageInWords(storage));
  if (storage.isLow) setText($("storage-low"), storageWarning(storage));
}

function showOptions(list, values) {
  if ([...list.children].map((option) => option.value).join("\n") === values.join("\n")) return;
  list.replaceChildren(...values.map((value) => Object.assign(make("option"), { value })));
}
