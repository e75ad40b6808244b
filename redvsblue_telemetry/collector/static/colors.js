// The colors of the types. The most frequent ones have one each, and the others share one.

export const COLORS = 8;
export const OTHERS = ""; // the collector, too, counts the types beyond its limit under this name

export class Colors {
  /** `onChange` is called when a type has another color than before. */
  constructor(onChange) {
    this.onChange = onChange;
    this.slots = new Array(COLORS).fill(null); // the type of each color
  }

  /** Assign the colors to these types, the most frequent ones first; a type that has one keeps it. */
  assign(types) {
    const top = types.slice(0, COLORS);
    const before = this.slots.join("\n");
    this.slots = this.slots.map((type) => (top.includes(type) ? type : null));
    for (const type of top) {
      if (!this.slots.includes(type)) this.slots[this.slots.indexOf(null)] = type;
    }
    if (this.slots.join("\n") !== before) this.onChange();
  }

  /** Return the number of a type's color. */
  slotOf(type) {
    const slot = type === OTHERS ? -1 : this.slots.indexOf(type);
    return slot < 0 ? COLORS : slot;
  }

  /** Return the CSS class of a type's color. */
  of(type) {
    return `c${this.slotOf(type)}`;
  }
}
