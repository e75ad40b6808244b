// The chart of a range in the past: a bar for each step of time, stacked by type. A part of it can be chosen, by
// dragging with the mouse or a finger, or with Shift and the arrow keys; Escape goes back to the range before.

import { barPen, described, fillTip, sum } from "./bars.js";
import { BOTTOM, LEFT, RIGHT, TOP, blank, drawScale, onLook, placeTip } from "./canvas.js";
import { COLORS, OTHERS } from "./colors.js";
import { inWords, offset } from "./range.js";
import { counted, formatter, number, setText } from "./text.js";

const MINUTE = 60_000, HOUR = 60 * MINUTE, DAY = 24 * HOUR; // milliseconds
const MONDAY = 4 * DAY; // the first one since 1970; weeks begin on it
const LABEL_STEPS = [
  ...[1, 5, 15, 30].map((count) => count * MINUTE),
  ...[1, 3, 6, 12].map((count) => count * HOUR),
  ...[1, 2, 7, 14, 28, 91, 364, 1820].map((count) => count * DAY),
];
const MIN_LABEL_PITCH = 72; // pixels
const MIN_DRAG = 4; // pixels; less is a click
const LENGTHS = [[DAY, "day"], [HOUR, "hour"], [MINUTE, "minute"]];

const TIME = formatter(Intl.DateTimeFormat, { hour: "2-digit", minute: "2-digit", hourCycle: "h23" });
const DATE = formatter(Intl.DateTimeFormat, { month: "short", day: "numeric" });
const MONTH = formatter(Intl.DateTimeFormat, { month: "short", year: "numeric" });

export class Past {
  /** `onSelect` gets the first and the last moment of a part that was chosen. */
  constructor({ canvas, tip, legend, colors, note, status, onSelect, onZoomOut }) {
    Object.assign(this, { canvas, tip, legend, colors, note, status, onSelect, onZoomOut });
    this.clear();
    this.isDrawing = false;
    onLook(canvas, () => this.draw());
    canvas.addEventListener("pointerdown", (event) => this.press(event));
    canvas.addEventListener("pointermove", (event) => this.move(event));
    canvas.addEventListener("pointerup", (event) => this.release(event));
    canvas.addEventListener("pointercancel", () => this.select(null));
    canvas.addEventListener("pointerleave", () => this.point(null));
    canvas.addEventListener("blur", () => this.select(null));
    canvas.addEventListener("keydown", (event) => this.type(event));
  }

  clear() {
    this.history = { from: 0, to: 0, step: 1, types: {}, total: 0 };
    this.size = 0; // bars
    this.pointed = null; // a bar
    this.selection = null; // the bars at which it began and is now
    this.pressed = null; // where a drag began, in pixels
    setText(this.note, "");
    this.draw?.();
  }

  /** Show these counts. */
  show(history) {
    const { from, to, step, types } = history;
    const isOther = from !== this.history.from || step !== this.history.step;
    this.history = history;
    this.size = Math.round((to - from) / step);
    if (isOther) this.pointed = this.selection = this.pressed = null;
    const sums = Object.entries(types).map(([type, counts]) => [type, sum(counts)]);
    const ranked = sums.filter(([type]) => type !== OTHERS);
    const rest = sums.find(([type]) => type === OTHERS)?.[1] ?? 0;
    this.colors.assign(ranked.map(([type]) => type));
    this.legend.show(ranked, rest);
    setText(this.note, `${counted(history.total, "event")}, ${lengthOf(step)} each bar`);
    this.draw();
  }

  /** Return the counts of one bar by color; the shared color is last. */
  stack(at) {
    const stack = new Array(COLORS + 1).fill(0);
    for (const [type, counts] of Object.entries(this.history.types)) stack[this.colors.slotOf(type)] += counts[at];
    return stack;
  }

  /** Return the counts of some bars together by color. */
  stackOf([first, last]) {
    const stacks = Array.from({ length: last - first + 1 }, (_, at) => this.stack(first + at));
    return stacks.reduce((all, stack) => all.map((count, slot) => count + stack[slot]));
  }

  /** The first and the last bar that are chosen. */
  get chosen() {
    return this.selection && [Math.min(...this.selection), Math.max(...this.selection)];
  }

  /** Return when a bar begins. */
  timeOf(at) {
    return this.history.from + at * this.history.step;
  }

  wordsFor([first, last]) {
    return inWords({ from: this.timeOf(first), to: this.timeOf(last + 1) });
  }

  get pitch() {
    return (this.canvas.clientWidth - LEFT - RIGHT) / this.size;
  }

  /** Return the bar at an x, or the nearest one. */
  barAt(x) {
    return Math.max(0, Math.min(this.size - 1, Math.floor((x - LEFT) / this.pitch)));
  }

  isWithin(x) {
    return this.size > 0 && x >= LEFT && x <= this.canvas.clientWidth - RIGHT;
  }

  // The mouse, or a finger.

  press(event) {
    if (event.button !== 0 || !this.isWithin(event.offsetX)) return;
    this.canvas.setPointerCapture(event.pointerId);
    this.pressed = event.offsetX;
  }

  move(event) {
    if (this.pressed === null) {
      this.point(this.isWithin(event.offsetX) ? this.barAt(event.offsetX) : null);
    } else if (this.selection || Math.abs(event.offsetX - this.pressed) >= MIN_DRAG) {
      this.select([this.barAt(this.pressed), this.barAt(event.offsetX)]);
    }
  }

  release(event) {
    const isChosen = this.pressed !== null && this.selection;
    this.pressed = null;
    if (isChosen) this.choose();
    else if (event.pointerType === "touch" && this.isWithin(event.offsetX)) this.point(this.barAt(event.offsetX));
  }

  // The keyboard.

  type(event) {
    const to = { ArrowLeft: -1, ArrowRight: 1, Home: -Infinity, End: Infinity }[event.key];
    if (to && this.size) {
      event.preventDefault();
      this.step(to, event.shiftKey);
    } else if (event.key === "Enter" && this.selection) {
      event.preventDefault();
      this.choose();
    } else if (event.key === "Escape") {
      if (this.selection || this.pointed !== null) this.select(null);
      else this.onZoomOut();
    }
  }

  step(by, isExtending) {
    const start = this.selection?.[1] ?? this.pointed ?? this.size;
    const next = Math.max(0, Math.min(this.size - 1, start + by));
    if (isExtending) this.select([this.selection?.[0] ?? this.pointed ?? next, next]);
    else {
      this.selection = null;
      this.point(next);
    }
    const bars = this.chosen ?? [next, next];
    const what = described(this.wordsFor(bars), this.stackOf(bars), this.colors);
    setText(this.status, this.selection ? `Selected ${what}. Press Enter to show this range.` : what);
  }

  select(selection) {
    this.selection = selection;
    this.pointed = selection?.[1] ?? null;
    if (!selection) this.pressed = null;
    this.draw();
  }

  choose() {
    const [first, last] = this.chosen;
    this.select(null);
    this.onSelect(this.timeOf(first), this.timeOf(last + 1));
  }

  point(at) {
    if (at === this.pointed || (at === null && this.selection)) return;
    this.pointed = at;
    this.draw();
  }

  draw() {
    if (this.isDrawing) return;
    this.isDrawing = true;
    requestAnimationFrame(() => {
      this.isDrawing = false;
      this.paint();
    });
  }

  paint() {
    const area = blank(this.canvas);
    if (!area) return;
    const { pen, width, height, color } = area;
    const { size, pitch } = this;
    const stacks = Array.from({ length: size }, (_, at) => this.stack(at));
    const y = drawScale(area, Math.max(0, ...stacks.map(sum)));
    pen.fillStyle = color("--quiet");
    this.label(pen, width, height);
    const drawBar = barPen(area, pitch, y);
    stacks.forEach((stack, at) => drawBar(at, stack, at === this.pointed && !this.selection));
    const bars = this.chosen ?? (this.pointed === null ? null : [this.pointed, this.pointed]);
    if (this.chosen) this.shade(area, this.chosen);
    this.tip.hidden = !bars;
    if (!bars) return;
    fillTip(this.tip, this.wordsFor(bars), this.stackOf(bars), this.colors);
    placeTip(this.tip, LEFT + (this.pointed + 0.5) * pitch, width);
  }

  shade({ pen, height, color }, [first, last]) {
    const x = LEFT + first * this.pitch, width = (last - first + 1) * this.pitch;
    pen.fillStyle = pen.strokeStyle = color("--accent");
    pen.globalAlpha = 0.16;
    pen.fillRect(x, TOP, width, height - BOTTOM - TOP);
    pen.globalAlpha = 1;
    pen.lineWidth = 1;
    pen.strokeRect(x + 0.5, TOP + 0.5, width - 1, height - BOTTOM - TOP - 1);
  }

  /** Write the times below the bars: those that begin a round part of the day, or a week. */
  label(pen, width, height) {
    const { step } = this.history;
    const wanted = (MIN_LABEL_PITCH / this.pitch) * step;
    const every = LABEL_STEPS.find((each) => each >= wanted && each % step === 0) ?? Math.ceil(wanted / step) * step;
    let edge = -Infinity; // where the label before ends
    for (let at = 0; at < this.size; at++) {
      const from = this.timeOf(at);
      if ((from + offset() * MINUTE - MONDAY) % every !== 0) continue;
      const text = labelOf(from, every, step), room = pen.measureText(text).width;
      const x = Math.max(LEFT - 8, Math.min(width - RIGHT - room, LEFT + at * this.pitch - (at ? room / 2 : 0)));
      if (x < edge + 10) continue;
      pen.textAlign = "left";
      pen.fillText(text, x, height - 5);
      edge = x + room;
    }
  }
}

function labelOf(from, every, step) {
  if (every >= 300 * DAY) return MONTH.format(from);
  if (step >= DAY) return DATE.format(from + step / 2); // it may begin an hour before, after a change of the clock
  const time = TIME.format(from);
  return time === "00:00" || every >= DAY ? DATE.format(from) : time;
}

/** Return a step's length in words: "1 hour". */
function lengthOf(step) {
  const [length, unit] = LENGTHS.find(([length]) => step % length === 0) ?? [1, "millisecond"];
  return counted(step / length, unit);
}
