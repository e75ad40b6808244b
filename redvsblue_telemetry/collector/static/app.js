// The shell around the views: the header with the navigation and the range, the dialogs, and the view that is open.

import { limited, request } from "./api.js";
import { Colors } from "./colors.js";
import { Deletion } from "./deletion.js";
import { Detail } from "./detail.js";
import { rowOf } from "./events.js";
import { Opened } from "./opened.js";
import { RangePicker, resolve } from "./range.js";
import { Router, VIEWS } from "./router.js";
import { make, setText } from "./text.js";
import * as field from "./views/field.js";
import * as funnel from "./views/funnel.js";
import * as overview from "./views/overview.js";
import * as query from "./views/query.js";
import * as retention from "./views/retention.js";
import * as session from "./views/session.js";
import * as values from "./views/values.js";
import * as versions from "./views/versions.js";

const MODULES = { field, funnel, overview, query, retention, session, values, versions };

const RETRY_DELAY = 2_000; // milliseconds until a range is asked for again that could not be
const SLOW = 200; // milliseconds until the header says that an answer is awaited

const $ = (id) => document.getElementById(id);

const router = new Router(show);
const picker = new RangePicker($("range"), (changes) => router.go(changes));

const links = [...VIEWS].filter(([, label]) => label).map(([view, label]) => {
  const link = make("a", "", label);
  link.dataset.view = view;
  const item = make("li");
  item.append(link);
  $("views").append(item);
  return link;
});

const colors = new Colors(() => open?.recolor?.());

const detail = new Detail($("detail"), (event) => opened.event(event));

const deletion = new Deletion($("deletion"), () => {
  $("detail").close();
  if (open?.reload) open.reload();
  else show();
});

const opened = new Opened({
  detail,
  onDelete: (session) => deletion.ask(session),
  onFilter: (changes) => router.go({ view: "overview", ...changes }),
  rowOf: (event) => rowOf(event, colors.of(event.type)),
  timelineOf: (session) => router.href({ view: "session", session }),
});

// The state of the connection, in the header.

let waiting = 0; // requests that have no answer yet
let slowTimer = 0;

function showState(state, text = state) {
  $("connection").dataset.state = state;
  setText($("connection"), text);
}

/** Request something for a view, and show in the header that its answer is awaited. */
async function requestFor(path, parameters, signal) {
  if (waiting++ === 0) {
    clearTimeout(slowTimer);
    slowTimer = setTimeout(() => showState("searching", "loading…"), SLOW);
  }
  let state = "loaded";
  try {
    return await request(path, parameters, limited(signal));
  } catch (error) {
    if (error.name !== "AbortError" && !error.response) state = "reconnecting";
    throw error;
  } finally {
    if (--waiting === 0 && !signal.aborted) {
      clearTimeout(slowTimer);
      showState(state);
    }
  }
}

// The view that is open.

let open = null;
let view = "";
let asked = new AbortController(); // aborts what the view has asked for
let turn = new AbortController(); // aborts a change of the state that another one has overtaken

/** Show the state that the address has. */
async function show() {
  turn.abort();
  const { signal } = (turn = new AbortController());
  const { view: wanted, parameters } = router.current;
  for (const link of links) {
    link.href = router.href({ view: link.dataset.view });
    if (link.dataset.view === wanted) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  document.title = wanted === "overview" ? "Telemetry" : `${VIEWS.get(wanted) ?? "Session"} – Telemetry`;
  picker.mark(parameters);
  const module = MODULES[wanted];
  let range;
  try {
    range = await resolve(parameters, signal);
  } catch (error) {
    if (signal.aborted) return;
    $("not-loaded").hidden = true;
    if (error.response?.status === 400 || error.name === "Error") {
      picker.fail(error);
      leave(); // figures of another range would be taken for those of this one
    } else {
      showState("reconnecting");
      setTimeout(() => signal.aborted || show(), RETRY_DELAY);
    }
    return;
  }
  if (signal.aborted) return;
  $("not-loaded").hidden = true;
  picker.show(range);
  $("range").hidden = module.hasRange === false;
  asked.abort();
  asked = new AbortController();
  const state = { view: wanted, range, get: (name) => parameters.get(name) ?? "", all: (name) => parameters.getAll(name) };
  if (wanted === view) {
    open.update(state);
    return;
  }
  leave();
  view = wanted;
  const root = view === "overview" ? $("overview") : $("view");
  root.hidden = false;
  open = module.open(root, state, tools);
}

/** Close the view that is open. */
function leave() {
  open?.close();
  open = null;
  view = "";
  $("overview").hidden = $("view").hidden = true;
  $("view").replaceChildren();
}

const tools = {
  request: (path, parameters) => requestFor(path, parameters, asked.signal),
  go: (changes, options) => router.go(changes, options),
  href: (changes) => router.href(changes),
  router,
  refresh: show, // reads the range again, whose words may mean another time by now
  showState,
  colors,
  colorOf: (type) => colors.of(type),
  opened,
};

show();
