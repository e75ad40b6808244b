// The sessions and what was rejected. Rows are kept and their texts changed, so that nobody who is at one
// of them with the keyboard loses it.

import { clock, counted, duration, make, number, say, shortened } from "./text.js";

export class SessionTable {
  constructor({ body, note, none, onOpen }) {
    Object.assign(this, { body, note, none, onOpen });
    this.rows = new Map(); // by the session's id
  }

  /** Show these sessions, of so many. */
  show(sessions, count) {
    const order = [...sessions].sort(
      (a, b) => b.connected - a.connected || b.firstReceived - a.firstReceived || (a.sessionId < b.sessionId ? -1 : 1),
    );
    const focused = document.activeElement;
    const wanted = new Set(order.map((session) => session.sessionId));
    for (const [id, row] of this.rows) {
      if (wanted.has(id)) continue;
      row.remove();
      this.rows.delete(id);
    }
    order.forEach((session, at) => {
      const row = this.rows.get(session.sessionId) ?? this.add(session.sessionId);
      if (this.body.children[at] !== row) this.body.insertBefore(row, this.body.children[at] ?? null);
      fill(row, session);
    });
    if (focused !== document.activeElement && focused?.isConnected) focused.focus({ preventScroll: true });
    this.none.hidden = sessions.length > 0;
    const live = sessions.filter((session) => session.connected).length;
    const shown = count > sessions.length ? `the newest ${number(sessions.length)} of ${number(count)}` : "";
    say(this.note, [live ? `${number(live)} live` : "", shown].filter(Boolean).join(", "));
  }

  add(id) {
    const row = make("tr");
    const head = make("th");
    head.scope = "row";
    const button = make("button", "link");
    button.type = "button";
    button.title = "Gaps and types";
    button.addEventListener("click", () => this.onOpen(id));
    button.append(make("bdi", "", shortened(id, 12)));
    head.append(button, make("span", "state"));
    row.append(head, make("td"), make("td"), make("td"), make("td"));
    this.rows.set(id, row);
    return row;
  }
}

function fill(row, session) {
  const [head, length, events, missing, repeats] = row.children;
  const state = head.lastChild;
  state.dataset.live = String(Boolean(session.connected));
  const version = session.version ? ` · ${shortened(session.version, 16)}` : "";
  say(state, (session.connected ? "live" : `ended ${clock(session.lastReceived)}`) + version);
  say(length, duration(session.lastTimestamp - session.firstTimestamp));
  say(events, number(session.events));
  const share = session.missing ? ` (${shareOf(session.missing, session.missing + session.events)})` : "";
  say(missing, number(session.missing) + share);
  missing.className = session.missing ? "bad" : "";
  say(repeats, number(session.repeats));
}

function shareOf(part, whole) {
  const percent = (100 * part) / whole;
  return percent < 0.1 ? "<0.1%" : `${number(percent)}%`;
}

export class RejectedList {
  constructor({ list, note, none, onOpen }) {
    Object.assign(this, { list, note, none, onOpen });
  }

  /** Show these, of so many; the newest first. */
  show(rejected, count) {
    const known = new Map([...this.list.children].map((row) => [row.arrival, row]));
    const rows = rejected.map((part) => known.get(part.arrival) ?? this.row(part));
    const focused = document.activeElement;
    this.list.replaceChildren(...rows);
    if (focused !== document.activeElement && focused?.isConnected) focused.focus({ preventScroll: true });
    this.none.hidden = rejected.length > 0;
    const shown = count > rejected.length ? `the newest ${number(rejected.length)} of ${number(count)}` : counted(count, "part");
    say(this.note, count ? shown : "");
  }

  row(part) {
    const row = make("li");
    const button = make("button");
    button.type = "button";
    button.append(
      make("span", "time", clock(part.received)),
      make("span", "reason", shortened(part.reason, 200)),
      make("bdi", "data", shortened(part.text, 160)),
    );
    button.addEventListener("click", () => this.onOpen(part));
    row.arrival = part.arrival;
    row.append(button);
    return row;
  }
}
