// The table of sessions and the list of rejected parts. Rows are updated in place, so that a row that has the
// keyboard's focus keeps it.

import { clock, counted, duration, make, number, setText, shortened } from "./text.js";

export class SessionTable {
  constructor({ body, note, empty, onOpen }) {
    Object.assign(this, { body, note, empty, onOpen });
    this.rows = new Map(); // by session id
  }

  /** Show these sessions, of `count` in all. */
  show(sessions, count) {
    const order = [...sessions].sort(
      (a, b) => b.connected - a.connected || b.firstReceived - a.firstReceived || (a.sessionId < b.sessionId ? -1 : 1),
    );
    const focused = document.activeElement;
    const ids = new Set(order.map((session) => session.sessionId));
    for (const [id, row] of this.rows) {
      if (ids.has(id)) continue;
      row.remove();
      this.rows.delete(id);
    }
    order.forEach((session, at) => {
      const row = this.rows.get(session.sessionId) ?? this.add(session.sessionId);
      if (this.body.children[at] !== row) this.body.insertBefore(row, this.body.children[at] ?? null);
      fill(row, session);
    });
    if (focused !== document.activeElement && focused?.isConnected) focused.focus({ preventScroll: true });
    this.empty.hidden = sessions.length > 0;
    const live = sessions.filter((session) => session.connected).length;
    const shown = count > sessions.length ? `newest ${number(sessions.length)} of ${number(count)}` : "";
    setText(this.note, [live ? `${number(live)} live` : "", shown].filter(Boolean).join(", "));
  }

  add(id) {
    const row = make("tr");
    const head = make("th");
    head.scope = "row";
    const button = make("button", "link");
    button.type = "button";
    button.title = "Show gaps and types";
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
  setText(state, (session.connected ? "live" : `ended ${clock(session.lastReceived)}`) + version);
  setText(length, duration(session.lastTimestamp - session.firstTimestamp));
  setText(events, number(session.events));
  const share = session.missing ? ` (${shareOf(session.missing, session.missing + session.events)})` : "";
  setText(missing, number(session.missing) + share);
  missing.className = session.missing ? "bad" : "";
  setText(repeats, number(session.repeats));
}

function shareOf(part, whole) {
  const percent = (100 * part) / whole;
  return percent < 0.1 ? "<0.1%" : `${number(percent)}%`;
}

export class RejectedList {
  constructor({ list, note, empty, onOpen }) {
    Object.assign(this, { list, note, empty, onOpen });
  }

  /** Show these parts, newest first, of `count` in all. */
  show(rejected, count) {
    const known = new Map([...this.list.children].map((row) => [row.arrival, row]));
    const rows = rejected.map((part) => known.get(part.arrival) ?? this.row(part));
    const focused = document.activeElement;
    this.list.replaceChildren(...rows);
    if (focused !== document.activeElement && focused?.isConnected) focused.focus({ preventScroll: true });
    this.empty.hidden = rejected.length > 0;
    const shown = count > rejected.length ? `newest ${number(rejected.length)} of ${number(count)}` : counted(count, "part");
    setText(this.note, count ? shown : "");
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
