// The tables and lists beside the events: sessions, versions, sampled types, crashes, faults and rejected parts.

import { causes, isBad, makeOutcome, outcomeOf, showOutcome, summary } from "./outcome.js";
import { Rows } from "./rows.js";
import { between, counted, make, number, setCut, setText, share, shortened, showTime, when } from "./text.js";

const MAX_VERSION_LENGTH = 16;

export class SessionTable {
  constructor({ body, note, empty, onOpen }) {
    Object.assign(this, { note, empty });
    const add = (session) => sessionRow(session, onOpen);
    this.rows = new Rows(body, { keyOf: (session) => session.sessionId, add, fill: fillSession });
  }

  /** Show these sessions, of `count` in all, which stand as `outcomes` counts. */
  show(sessions, count, outcomes) {
    const order = [...sessions].sort(
      (a, b) => b.connected - a.connected || b.firstReceived - a.firstReceived || (a.sessionId < b.sessionId ? -1 : 1),
    );
    this.rows.show(order);
    this.empty.hidden = sessions.length > 0;
    const shown = count > sessions.length ? `newest ${number(sessions.length)} of ${number(count)}` : "";
    setText(this.note, [summary(outcomes), shown].filter(Boolean).join("; "));
  }
}

function sessionRow(session, onOpen) {
  const row = make("tr");
  const head = make("th");
  head.scope = "row";
  const button = make("button", "link");
  button.type = "button";
  button.title = "Show gaps and types";
  button.addEventListener("click", () => onOpen(session.sessionId));
  button.append(make("bdi", "", shortened(session.sessionId, 12)));
  head.append(button, make("bdi", "version"), makeOutcome());
  row.append(head, make("td"), make("td"), make("td"));
  for (const cell of [row.children[2], row.children[3]]) cell.append(make("span", "cut"), make("span", "sub"));
  return row;
}

function fillSession(row, session) {
  const [head, length, events, missing] = row.children;
  const { word } = outcomeOf(session);
  const since = session.outcome === "running" ? `${word} since` : word;
  setText(head.children[1], session.version ? shortened(session.version, MAX_VERSION_LENGTH) : "");
  showOutcome(head.lastChild, session, `${since} ${when(session.since)}`);
  setCut(length, between(session.firstTimestamp, session.lastTimestamp));
  setCut(events.firstChild, number(session.events));
  setCut(events.lastChild, session.deleted ? `${number(session.deleted)} deleted` : "");
  const part = session.missing ? ` (${share(session.missing / (session.missing + session.events))})` : "";
  setCut(missing.firstChild, number(session.missing) + part);
  const lost = { ...session.lost, waiting: session.waiting };
  setCut(missing.lastChild, causes(lost));
  missing.className = isBad(session.missing, lost) ? "bad" : "";
}

export class VersionTable {
  /** `hrefOf` returns the address of a view that compares a version with others. */
  constructor({ body, empty, hrefOf }) {
    this.empty = empty;
    const fill = (row, health) => fillVersion(row, health, hrefOf);
    this.rows = new Rows(body, { keyOf: (health) => health.version, add: versionRow, fill });
  }

  /** Show how the sessions of each version stand and ended; the newest version is first. */
  show(versions) {
    this.rows.show(versions);
    this.empty.hidden = versions.length > 0;
  }
}

function versionRow({ version }) {
  const row = make("tr");
  const head = make("th");
  head.scope = "row";
  const name = make("bdi", "", version ? shortened(version, 40) : "no version");
  if (version) {
    const link = make("a", "link");
    link.title = "Compare this version with another";
    link.append(name);
    head.append(link);
  } else {
    head.append(name);
  }
  head.append(make("span", "sub"));
  row.append(head, make("td"), make("td"), make("td"), make("td"));
  return row;
}

function fillVersion(row, health, hrefOf) {
  const [head, sessions, crashed, killed, free] = row.children;
  if (health.version) head.firstChild.href = hrefOf(health.version); // it has the range, which may have changed
  const { running, well, switchedOff, noWord } = health;
  setText(head.lastChild, summary({ running, well, switched_off: switchedOff, no_word: noWord }));
  setCut(sessions, number(health.sessions));
  for (const [cell, count] of [[crashed, health.crashed], [killed, health.killed]]) {
    setCut(cell, number(count));
    cell.className = count ? "bad" : "";
  }
  setText(free, health.crashFree === null ? "–" : share(health.crashFree));
}

export class SampledTable {
  constructor({ panel, body }) {
    this.panel = panel;
    this.rows = new Rows(body, { keyOf: ([type]) => type, add: sampledRow, fill: fillSampled });
  }

  /** Show the types of which events were left out, with estimated totals: reports may be half a minute old. */
  show(sampled, types) {
    const ranked = Object.entries(sampled).map(([type, left]) => [type, left, types[type] ?? 0]);
    ranked.sort((a, b) => b[1] - a[1] || (a[0] < b[0] ? -1 : 1));
    this.panel.hidden = ranked.length === 0;
    this.rows.show(ranked);
  }
}

function sampledRow([type]) {
  const row = make("tr");
  const head = make("th");
  head.scope = "row";
  head.append(make("bdi", "type", shortened(type, 60)));
  row.append(head, make("td"), make("td"), make("td"));
  return row;
}

function fillSampled(row, [, left, stored]) {
  const [, all, kept, part] = row.children;
  setCut(all, `about ${number(left + stored)}`);
  setCut(kept, number(stored));
  setText(part, share(stored / (left + stored)));
}

/** The groups of crashes: their nouns, what identifies a group, and the lines that describe it. */
export const CRASHES = {
  nouns: ["crash", "crashes"],
  title: "Show the stack, and the events before it",
  keyOf: ({ exception, place }) => JSON.stringify([exception, place]),
  lines: [
    ["reason", ({ exception }) => shortened(exception, 120)],
    ["message", ({ message }) => shortened(message, 200)],
    ["place", ({ place }) => shortened(place, 200)],
  ],
};

/** The groups of events with a fault. */
export const FAULTS = {
  nouns: ["event"],
  title: "Show the newest of these events",
  keyOf: ({ type, fault }) => JSON.stringify([type, fault]),
  lines: [
    ["type", ({ type }) => shortened(type, 120)],
    ["fault", ({ fault }) => shortened(fault, 300)],
  ],
};

export class GroupList {
  constructor({ nouns, title, keyOf, lines }, { list, note, onOpen }) {
    Object.assign(this, { nouns, note });
    const add = (group) => groupRow(group, { title, lines, onOpen });
    this.rows = new Rows(list, { keyOf, add, fill: (row, group) => fillGroup(row, group, lines) });
  }

  /** Show these groups, newest first. */
  show(groups) {
    this.rows.show(groups);
    const count = groups.reduce((sum, group) => sum + group.count, 0);
    setText(this.note, count ? `${counted(count, ...this.nouns)}, ${counted(groups.length, "kind")}` : "");
  }
}

function groupRow(group, { title, lines, onOpen }) {
  const row = make("li");
  const button = make("button");
  button.type = "button";
  button.title = title;
  button.append(make("span", "time"), ...lines.map(([name]) => make("bdi", name)), make("span", "sub"));
  button.addEventListener("click", () => onOpen(row.group));
  row.append(button);
  return row;
}

function fillGroup(row, group, lines) {
  const [time, ...shown] = row.firstChild.children;
  const spread = shown.pop();
  row.group = group;
  showTime(time, group.last);
  lines.forEach(([, textOf], at) => setText(shown[at], textOf(group)));
  const versions = group.versions.map((version) => shortened(version, MAX_VERSION_LENGTH)).join(", ");
  const times = `${counted(group.count, "time")} in ${counted(group.sessions, "session")}`;
  setText(spread, [times, versions].filter(Boolean).join(" · "));
}

export class RejectedList {
  constructor({ list, note, empty, onOpen }) {
    Object.assign(this, { note, empty });
    this.rows = new Rows(list, { keyOf: (part) => part.arrival, add: (part) => rejectedRow(part, onOpen), fill: fillRejected });
  }

  /** Show these parts, newest first, of `count` in all. */
  show(rejected, count) {
    this.rows.show(rejected);
    this.empty.hidden = rejected.length > 0;
    const shown = count > rejected.length ? `newest ${number(rejected.length)} of ${number(count)}` : counted(count, "part");
    setText(this.note, count ? shown : "");
  }
}

function rejectedRow(part, onOpen) {
  const row = make("li");
  const button = make("button");
  button.type = "button";
  button.append(
    make("span", "time"),
    make("span", "reason", shortened(part.reason, 200)),
    make("bdi", "data", shortened(part.text, 160)),
  );
  button.addEventListener("click", () => onOpen(part));
  row.append(button);
  return row;
}

function fillRejected(row, part) {
  showTime(row.firstChild.firstChild, part.received);
}
