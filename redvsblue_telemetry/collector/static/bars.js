// Bars that are stacked by type, as both charts of events have them.

import { BOTTOM, LEFT, TOP } from "./canvas.js";
import { COLORS } from "./colors.js";
import { counted, make, number } from "./text.js";

/** Return a function that draws the bar at a place: its counts by color, the shared color last. */
export function barPen({ pen, height, color }, pitch, y) {
  const fills = Array.from({ length: COLORS + 1 }, (_, slot) => color(`--c${slot}`));
  const width = pitch > 4 ? pitch - 1 : pitch > 2 ? pitch - 0.5 : pitch;
  return (at, stack, isPointed) => {
    const x = LEFT + at * pitch;
    if (isPointed) {
      pen.fillStyle = color("--rule");
      pen.fillRect(x - 1, TOP, pitch + 1, height - BOTTOM - TOP);
    }
    let base = 0;
    stack.forEach((count, slot) => {
      if (!count) return;
      pen.fillStyle = fills[slot];
      pen.fillRect(x, y(base + count), width, y(base) - y(base + count));
      base += count;
    });
  };
}

/** Show in the box beside the pointer a time, and the counts by color. */
export function fillTip(tip, time, stack, colors) {
  const list = make("ul");
  stack.forEach((count, slot) => {
    if (!count) return;
    const item = make("li");
    item.append(make("span", `dot c${slot}`), make("span", "name", colors.slots[slot] ?? "other types"));
    item.append(make("span", "sum", number(count)));
    list.append(item);
  });
  tip.replaceChildren(make("strong", "", `${time}  ·  ${counted(sum(stack), "event")}`), list);
}

/** Return a time and the counts by color in words. */
export function described(time, stack, colors) {
  const parts = colors.slots.flatMap((type, slot) => (type !== null && stack[slot] ? `${type} ${number(stack[slot])}` : []));
  return `${time}: ${[counted(sum(stack), "event"), ...parts].join(", ")}`;
}

export function sum(numbers) {
  return numbers.reduce((total, number) => total + number, 0);
}
