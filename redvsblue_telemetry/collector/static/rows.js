// Rows of tables and lists.

/** The rows of a table or list. They are updated in place, so that a row that has the keyboard's focus keeps it. */
export class Rows {
  /** `keyOf` returns what identifies a record; `add` makes a row, and `fill`, if there is one, shows a record in it. */
  constructor(body, { keyOf, add, fill = () => {} }) {
    Object.assign(this, { body, keyOf, add, fill });
    this.rows = new Map();
  }

  /** Show these records, in this order. */
  show(records) {
    const focused = document.activeElement;
    const keys = new Set(records.map(this.keyOf));
    for (const [key, row] of this.rows) {
      if (keys.has(key)) continue;
      row.remove();
      this.rows.delete(key);
    }
    records.forEach((record, at) => {
      const key = this.keyOf(record);
      if (!this.rows.has(key)) this.rows.set(key, this.add(record));
      const row = this.rows.get(key);
      if (this.body.children[at] !== row) this.body.insertBefore(row, this.body.children[at] ?? null);
      this.fill(row, record);
    });
    if (focused !== document.activeElement && focused?.isConnected) focused.focus({ preventScroll: true });
  }
}

/** Let the arrow keys move between the rows of a list, whose first children are buttons. One of them is a tab stop. */
export function moveWithArrows(list) {
  list.addEventListener("keydown", (event) => {
    const rows = [...list.children];
    const at = rows.indexOf(event.target.closest("li"));
    const to = { ArrowDown: at + 1, ArrowUp: at - 1, Home: 0, End: rows.length - 1 }[event.key];
    if (to === undefined || at < 0) return;
    event.preventDefault();
    const next = rows[Math.max(0, Math.min(rows.length - 1, to))].firstChild;
    for (const button of list.querySelectorAll('[tabindex="0"]')) button.tabIndex = -1;
    next.tabIndex = 0;
    next.focus();
  });
}
