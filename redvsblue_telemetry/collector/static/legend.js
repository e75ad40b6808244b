// The types in a chart, with their colors and counts. A click on one shows only its events.

import { COLORS } from "./colors.js";
import { make, number, setText } from "./text.js";

export class Legend {
  constructor({ list, colors, onType }) {
    Object.assign(this, { list, colors, onType });
  }

  /** Show the types with their counts, the most frequent first; `rest` counts events of types that have no name here. */
  show(ranked, rest) {
    const entries = ranked.slice(0, COLORS);
    const count = ranked.slice(COLORS).reduce((sum, [, more]) => sum + more, rest);
    while (this.list.children.length > entries.length + (count ? 1 : 0)) this.list.lastChild.remove();
    entries.forEach(([type, sum], at) => this.entry(at, type, sum, this.colors.of(type)));
    if (count) this.entry(entries.length, null, count, `c${COLORS}`);
  }

  entry(at, type, sum, color) {
    const button = this.list.children[at]?.firstChild ?? this.add();
    button.type_ = type;
    button.disabled = type === null;
    const [dot, name, count] = button.children;
    dot.className = `dot ${color}`;
    setText(name, type ?? "other types");
    setText(count, number(sum));
    button.title = type === null ? "" : "Show only these events";
  }

  add() {
    const item = make("li");
    const button = make("button");
    button.type = "button";
    button.append(make("span"), make("span", "name"), make("span", "sum"));
    button.addEventListener("click", () => this.onType(button.type_));
    item.append(button);
    this.list.append(item);
    return button;
  }
}
