// The chart of events per second, stacked by type. It is redrawn after a change, at most once a frame.

import { barPen, described, fillTip } from "./bars.js";
import { LEFT, RIGHT, blank, drawScale, onLook, placeTip } from "./canvas.js";
import { COLORS, OTHERS } from "./colors.js";
import { clock, number, setText } from "./text.js";

const HISTORY = 300; // seconds
const SPANS = [60, 120, 180, 240, 300]; // seconds; the chart shows the shortest that covers all events
const MAX_TYPES = 40; // per second; a hostile client can make up any number of types
const MIN_PITCH = 2.5, MIN_LABEL_PITCH = 55; // pixels

export class Chart {
  constructor({ canvas, tip, legend, colors, note, status }) {
    Object.assign(this, { canvas, tip, legend, colors, note, status });
    this.seconds = new Map(); // from a second to a Map of counts by type
    this.now = 0;
    this.pointed = null;
    this.isDrawing = false;
    onLook(canvas, () => this.draw());
    canvas.addEventListener("pointermove", (event) => this.point(this.secondAt(event.offsetX)));
    canvas.addEventListener("pointerleave", () => this.point(null));
    canvas.addEventListener("blur", () => this.point(null));
    canvas.addEventListener("keydown", (event) => this.step(event));
  }

  /** Add the counts of some seconds, and note the current second; rank the types if they are shown. */
  add(now, seconds, isShown) {
    for (const [second, counts] of seconds) this.seconds.set(second, limited(counts));
    if (now === this.now && !seconds.length) return;
    this.now = now;
    for (const second of this.seconds.keys()) {
      if (second < now - HISTORY || second > now) this.seconds.delete(second);
    }
    if (!isShown) return;
    this.rank();
    this.draw();
  }

  /** The number of events in the last full second. */
  get rate() {
    return total(this.seconds.get(this.now - 1));
  }

  /** Rank the types by their counts, and give the most frequent ones their colors. */
  rank() {
    const sums = new Map();
    for (const counts of this.seconds.values()) {
      for (const [type, count] of counts) sums.set(type, (sums.get(type) ?? 0) + count);
    }
    const rest = sums.get(OTHERS) ?? 0;
    sums.delete(OTHERS);
    const ranked = [...sums].sort((a, b) => b[1] - a[1] || (a[0] < b[0] ? -1 : 1));
    this.colors.assign(ranked.map(([type]) => type));
    this.legend.show(ranked, rest);
  }

  /** Return the counts of one second by color; the shared color is last. */
  stack(second) {
    const stack = new Array(COLORS + 1).fill(0);
    for (const [type, count] of this.seconds.get(second) ?? []) {
      stack[this.colors.slotOf(type)] += count;
    }
    return stack;
  }

  draw() {
    if (this.isDrawing) return;
    this.isDrawing = true;
    requestAnimationFrame(() => {
      this.isDrawing = false;
      this.paint();
    });
  }

  /** Return how many seconds fit, and the pixels from one to the next. */
  measure() {
    const width = this.canvas.clientWidth - LEFT - RIGHT;
    const oldest = Math.min(this.now, ...this.seconds.keys());
    const wanted = SPANS.find((span) => span >= this.now - oldest) ?? HISTORY;
    const fitting = SPANS.filter((span) => width / span >= MIN_PITCH).at(-1) ?? SPANS[0];
    const span = Math.min(wanted, fitting);
    return { span, pitch: width / span };
  }

  secondAt(x) {
    const { span, pitch } = this.measure();
    const at = Math.floor((x - LEFT) / pitch);
    return at >= 0 && at < span ? this.now - span + at : null;
  }

  step(event) {
    const steps = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (event.key === "Escape") this.point(null);
    if (!steps) return;
    event.preventDefault();
    const { span } = this.measure();
    const next = (this.pointed ?? this.now) + steps;
    this.point(Math.max(this.now - span, Math.min(this.now - 1, next)));
    setText(this.status, described(clock(this.pointed * 1000), this.stack(this.pointed), this.colors));
  }

  point(second) {
    if (second === this.pointed) return;
    this.pointed = second;
    this.draw();
  }

  paint() {
    const area = blank(this.canvas);
    if (!area) return;
    const { pen, width, height, color } = area;
    const { span, pitch } = this.measure();
    const first = this.now - span;
    let peak = 0;
    for (let second = first; second < this.now; second++) peak = Math.max(peak, total(this.seconds.get(second)));
    const y = drawScale(area, peak);

    pen.fillStyle = color("--quiet");
    const interval = span <= 120 ? 15 : 60;
    const every = pitch * interval < MIN_LABEL_PITCH ? interval * 2 : interval;
    for (let ago = 0; ago <= span; ago += every) {
      pen.textAlign = ago === 0 ? "right" : ago === span ? "left" : "center";
      const label = ago === 0 ? "now" : ago % 60 ? `−${ago} s` : `−${ago / 60} min`;
      pen.fillText(label, width - RIGHT - ago * pitch, height - 5);
    }

    const drawBar = barPen(area, pitch, y);
    for (let second = first; second < this.now; second++) {
      drawBar(second - first, this.stack(second), second === this.pointed);
    }
    setText(this.note, peak ? `peak ${number(peak)}, last ${span / 60} min` : "");
    this.showTip(first, span, pitch, width);
  }

  /** Show the counts of the second under the pointer. */
  showTip(first, span, pitch, width) {
    const { tip, pointed } = this;
    tip.hidden = pointed === null || pointed < first || pointed >= first + span;
    if (tip.hidden) return;
    fillTip(tip, clock(pointed * 1000), this.stack(pointed), this.colors);
    const x = LEFT + (pointed - first + 0.5) * pitch;
    placeTip(tip, x, width);
  }
}

/** Return the counts with all but the most frequent types merged. */
function limited(counts) {
  const ranked = Object.entries(counts).filter(([type]) => type !== OTHERS);
  if (ranked.length > MAX_TYPES) ranked.sort((a, b) => b[1] - a[1]);
  const kept = new Map(ranked.slice(0, MAX_TYPES));
  const rest = ranked.slice(MAX_TYPES).reduce((sum, [, count]) => sum + count, counts[OTHERS] ?? 0);
  if (rest) kept.set(OTHERS, rest);
  return kept;
}

function total(counts) {
  let sum = 0;
  for (const count of counts?.values() ?? []) sum += count;
  return sum;
}
