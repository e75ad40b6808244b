// What the dialog shows of an event, a session, a crash, a fault and a rejected part.

import { answer, request } from "./api.js";
import { termFor } from "./context.js";
import { fields } from "./json.js";
import { causeOf, outcomeOf } from "./outcome.js";
import { between, moment, number, shortened } from "./text.js";

const EVENTS_BEFORE = 20; // that are shown with a crash

export class Opened {
  /**
   * `onFilter` gets the filter that a button in the dialog asks for, `onDelete` the session that another one does;
   * `rowOf` makes a row of the list of events, and `timelineOf` returns the address of a session's timeline.
   */
  constructor({ detail, onFilter, onDelete, rowOf, timelineOf }) {
    Object.assign(this, { detail, onFilter, onDelete, rowOf, timelineOf });
  }

  async event({ arrival, type }) {
    try {
      const page = { after: arrival - 1, before: arrival + 1, limit: 1, data: "text" };
      const [event] = (await request("/api/events", page)).events;
      if (!event) throw new Error("it was deleted");
      const facts = [["session", event.sessionId], ["sequence number", number(event.seq)]];
      facts.push(["timestamp", moment(event.timestamp)], ["received", moment(event.received)], ["id", event.id]);
      if (event.version !== undefined) facts.push(["version", event.version]);
      if (event.fault !== undefined) facts.unshift(["fault", event.fault, () => this.onFilter(onlyLike(event))]);
      for (const [name, value] of fields(event.context ?? "")) facts.push(this.contextFact(name, value));
      const onFilter = () => this.onFilter({ session: event.sessionId });
      const timeline = this.timelineOf(event.sessionId);
      this.detail.show({ title: event.type, facts, text: event.data, isJson: true, onFilter, timeline });
    } catch (error) {
      this.detail.show({ title: type, facts: [["can't show this event", error.message]], text: "" });
    }
  }

  /** Return the fact for a field of a context; name and value are JSON texts. */
  contextFact(name, value) {
    const term = termFor(name, value);
    const shown = term.slice(JSON.parse(name).length + 1);
    return [`context: ${JSON.parse(name)}`, shown, () => this.onFilter({ context: [term] })];
  }

  async session(id) {
    const onFilter = () => this.onFilter({ session: id });
    try {
      const { body: session, allowed } = await answer(`/api/sessions/${encodeURIComponent(id)}`);
      const onDelete = allowed.includes("DELETE") ? () => this.onDelete(session) : null;
      const { word, meaning } = outcomeOf(session);
      const facts = [["session", id], ["outcome", word, null, meaning], ["since", moment(session.since)]];
      if (session.outcome === "running") facts.push(["connected", session.connected ? "yes" : "no"]);
      if (session.reason) facts.push(["reported reason", session.reason]);
      if (session.version !== null) facts.push(["version", session.version]);
      if (session.startedAt) facts.push(["started", moment(session.startedAt)]);
      if (session.events) {
        facts.push(["first event", moment(session.firstTimestamp)], ["last event", moment(session.lastTimestamp)]);
        facts.push(["duration", between(session.firstTimestamp, session.lastTimestamp)]);
      }
      facts.push(["events", number(session.events), null, deletedOf(session)], ["missing", number(session.missing)]);
      if (session.waiting) facts.push(["still to come", number(session.waiting)]);
      facts.push(["repeats", number(session.repeats)], ["highest sequence number", number(session.highest)]);
      if (session.crashes) facts.push(["crashes", number(session.crashes)]);
      if (session.faults) facts.push(["faults", number(session.faults), () => this.onFilter({ session: id, fault: "any" })]);
      facts.push(["last report", session.reported === null ? "none" : moment(session.reported)]);
      this.detail.show({ title: "Session", facts, text: sessionText(session), onFilter, onDelete, timeline: this.timelineOf(id) });
    } catch (error) {
      const facts = [["session", id], ["can't show this session", error.message]];
      this.detail.show({ title: "Session", facts, text: "", onFilter });
    }
  }

  async crash(group) {
    const { newest } = group;
    const facts = [["message", shortened(group.message, 500)], ...this.groupFacts(group)];
    const rows = [];
    try {
      const page = { session: newest.sessionId, before: newest.arrival, order: "desc", limit: EVENTS_BEFORE, data: "text" };
      rows.push(...(await request("/api/events", page)).events.map((event) => this.rowOf(event)));
    } catch (error) {
      facts.push(["can't show the events before it", error.message]);
    }
    const onFilter = () => this.onFilter({ session: newest.sessionId });
    const title = group.exception || "Crash", rowsTitle = "Events before it, newest first";
    const timeline = this.timelineOf(newest.sessionId);
    this.detail.show({ title, facts, ...stackOf(newest.data), onFilter, timeline, rows, rowsTitle });
  }

  fault(group) {
    const facts = [["fault", group.fault], ...this.groupFacts(group)];
    const onFilter = () => this.onFilter(onlyLike(group));
    const filterText = "Show only these events", text = group.newest.data;
    this.detail.show({ title: group.type, facts, text, isJson: true, onFilter, filterText });
  }

  /** Return the facts about a group of events. */
  groupFacts({ count, sessions, versions, first, last, newest }) {
    const facts = [["times", number(count)], ["sessions", number(sessions)]];
    if (versions.length) facts.push(["versions", versions.map((version) => shortened(version, 40)).join(", ")]);
    facts.push(["first", moment(first)], ["last", moment(last)], ["newest in session", newest.sessionId]);
    for (const [name, value] of fields(newest.context ?? "")) facts.push(this.contextFact(name, value));
    return facts;
  }

  rejected(part) {
    const facts = [["reason", part.reason], ["received", moment(part.received)]];
    this.detail.show({ title: "Rejected", facts, text: part.text });
  }
}

/** Return the filter for the events with the type and the fault of an event, or of a group of them. */
function onlyLike({ type, fault }) {
  return { type, fault };
}

/** Return a crash's stack as text; or all of its data, if that is not what the SDK sends. */
function stackOf(data) {
  let stack;
  try {
    stack = JSON.parse(data).stack;
  } catch {
    // The data is shown as it is.
  }
  const isStack = Array.isArray(stack) && stack.length > 0 && stack.every((line) => typeof line === "string");
  return isStack ? { text: stack.join("\n") } : { text: data, isJson: true };
}

function sessionText({ losses, sampled, types, partial }) {
  const parts = [];
  if (losses.length) {
    const runs = losses.map(({ first, last }) => (String(first) === String(last) ? `${first}` : `${first} to ${last}`));
    const width = Math.max(...runs.map((run) => run.length));
    const lines = losses.map(({ cause }, at) => `  ${runs[at].padEnd(width)}  ${causeOf(cause, { isExplained: true })}`);
    parts.push(["Missing sequence numbers", ...lines]);
  }
  const left = Object.entries(sampled).sort((a, b) => b[1] - a[1]);
  if (left.length) {
    const lines = left.map(([type, count]) => {
      const stored = types[type] ?? 0;
      return `${column(count)}  ${type}: about ${number(count + stored)} in all, ${number(stored)} stored`;
    });
    parts.push(["Left out by sampling and rate limits", ...lines]);
  }
  const counts = Object.entries(types).map(([type, count]) => `${column(count)}  ${type}`);
  if (counts.length) parts.push([partial ? "The first of its events by type" : "Events by type", ...counts]);
  return parts.map((lines) => lines.join("\n")).join("\n\n");
}

/** Return how many events of a session are no longer stored. */
function deletedOf({ deleted = 0 }) {
  return deleted ? `${number(deleted)} of them deleted, for their age or to save room` : "";
}

function column(count) {
  return number(count).padStart(10);
}
