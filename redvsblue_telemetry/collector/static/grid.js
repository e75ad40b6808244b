// Tables of answers.

import { make } from "./text.js";

/**
 * Return a table. A column is `{ title, explained, className }`; a row is a list of cells, of which the first one names
 * it. A cell is a text, an element, or a list of these.
 */
export function grid(caption, columns, rows) {
  const box = make("div", "scroll");
  const table = make("table");
  table.append(make("caption", "visually-hidden", caption));
  const head = make("thead"), body = make("tbody"), titles = make("tr");
  for (const { title, explained = "", className = "" } of columns) {
    const cell = make("th", className, title);
    cell.scope = "col";
    if (explained) cell.title = explained;
    titles.append(cell);
  }
  head.append(titles);
  for (const cells of rows) {
    const row = make("tr");
    cells.forEach((content, at) => {
      const cell = make(at ? "td" : "th", columns[at].className ?? "");
      if (!at) cell.scope = "row";
      cell.append(...[content].flat().map((part) => (typeof part === "string" ? make("bdi", "", part) : part)));
      row.append(cell);
    });
    body.append(row);
  }
  table.append(head, body);
  box.append(table);
  box.tabIndex = 0; // so that the arrow keys can scroll it
  box.role = "group";
  box.ariaLabel = caption;
  return box;
}

/** Return a table that is folded up below its chart; `make` makes it when it is opened. */
export function folded(summary, makeTable) {
  const details = make("details", "folded");
  details.append(make("summary", "", summary));
  details.addEventListener("toggle", () => {
    if (details.open && details.children.length === 1) details.append(makeTable());
  });
  return details;
}

/** Return a list of facts, each `[name, value]`, maybe with an explanation; a value is a text or an element. */
export function facts(entries) {
  const list = make("dl", "facts");
  for (const [name, value, explained] of entries) {
    const fact = make("div"), term = make("dt", "", name), shown = make("dd");
    if (explained) term.title = shown.title = explained;
    shown.append(typeof value === "string" ? make("bdi", "", value) : value);
    fact.append(term, shown);
    list.append(fact);
  }
  return list;
}
