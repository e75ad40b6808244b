// The figures at the top of the overview.

import { causes, crashFree, isBad } from "./outcome.js";
import { counted, number, setText, share } from "./text.js";

const MAX_PLAUSIBLE = 1e12; // missing events of a session, as in the collector

const $ = (id) => document.getElementById(id);

export function showTile(name, text, note = "", isNoteworthy = false) {
  const tile = $(`tile-${name}`);
  setText(tile, text);
  tile.dataset.bad = String(isNoteworthy);
  setText($(`tile-${name}-note`), note);
}

export function showTiles(stats) {
  const left = Object.values(stats.sampled).reduce((sum, count) => sum + count, 0);
  const { share: free, ended, bad } = crashFree(stats.outcomes);
  showTile("events", number(stats.events), left ? `about ${number(stats.events + left)} before sampling` : "");
  showTile("sessions", number(stats.sessions));
  showTile("free", ended ? share(free) : "–", ended ? `of ${number(ended)} ended${bad ? `: ${bad}` : ""}` : "");
  showMissing(stats);
  showTile("repeats", number(stats.repeats));
  showTile("faults", number(stats.faults), `${share(stats.faults / stats.events)} of the events`);
  $("faults-tile").hidden = !stats.faults;
  showTile("rejected", number(stats.rejected), "", stats.rejected > 0);
}

/** Show how many are missing, without the sessions that claim absurd numbers, which would drown the others. */
function showMissing(stats) {
  const { implausibleSessions: count, implausibleMissing: claimed } = stats;
  const missing = Number(BigInt(String(stats.missing)) - BigInt(String(claimed)));
  const lost = Object.fromEntries(Object.entries(stats.lost).filter(([, number]) => number <= MAX_PLAUSIBLE));
  const claims = count ? `not counted: ${counted(count, "session")} that ${count === 1 ? "claims" : "claim"} ${number(claimed)} numbers` : "";
  showTile("missing", number(missing), [causes(lost), claims].filter(Boolean).join("; "), isBad(missing, lost));
}
