// Events per second, stacked by type. Drawn when something has changed, at most once a frame.

import { clock, counted, make, number, say } from "./text.js";

const HISTORY = 300; // seconds that are kept
const SPANS = [60, 120, 180, 240, 300]; // seconds that are shown: the least that holds what there is
const COLOURS = 8; // types with a colour of their own; the rest share one
const KEPT_TYPES = 40; // of one second; hostile clients may make up any number of them
const REST = ""; // the collector, too, counts those beyond so many as this one
const LEFT = 46, RIGHT = 8, TOP = 10, BOTTOM = 22, NARROWEST = 2.5;

export class Chart {
  constructor({ canvas, tip, legend, note, said, onType, onColours }) {
    Object.assign(this, { canvas, tip, legend, note, said, onType, onColours });
    this.seconds = new Map(); // by second: a Map of counts by type
    this.now = 0;
    this.slots = new Array(COLOURS).fill(null); // which type has which colour
    this.pointed = null;
    this.isDrawing = false;
    new ResizeObserver(() => this.draw()).observe(canvas);
    for (const query of ["(prefers-color-scheme: dark)", "(forced-colors: active)"]) {
      matchMedia(query).addEventListener("change", () => this.draw());
    }
    canvas.addEventListener("pointermove", (event) => this.point(this.secondAt(event.offsetX)));
    canvas.addEventListener("pointerleave", () => this.point(null));
    canvas.addEventListener("blur", () => this.point(null));
    canvas.addEventListener("keydown", (event) => this.step(event));
  }

  /** Take the counts of some seconds in, and the second that it is. */
  take(now, seconds) {
    for (const [second, counts] of seconds) this.seconds.set(second, folded(counts));
    if (now === this.now && !seconds.length) return;
    this.now = now;
    for (const second of this.seconds.keys()) {
      if (second < now - HISTORY || second > now) this.seconds.delete(second);
    }
    this.share();
    this.draw();
  }

  /** How many events came in the last whole second. */
  get rate() {
    return total(this.seconds.get(this.now - 1));
  }

  /** The class of a type's colour. */
  colourOf(type) {
    const slot = this.slots.indexOf(type);
    return `c${slot < 0 ? COLOURS : slot}`;
  }

  /** Give the most frequent types colours; one that has one keeps it. */
  share() {
    const sums = new Map();
    for (const counts of this.seconds.values()) {
      for (const [type, count] of counts) sums.set(type, (sums.get(type) ?? 0) + count);
    }
    const rest = sums.get(REST) ?? 0;
    sums.delete(REST);
    const ranked = [...sums].sort((a, b) => b[1] - a[1] || (a[0] < b[0] ? -1 : 1));
    const top = ranked.slice(0, COLOURS).map(([type]) => type);
    const before = this.slots.join("\n");
    this.slots = this.slots.map((type) => (top.includes(type) ? type : null));
    for (const type of top) {
      if (!this.slots.includes(type)) this.slots[this.slots.indexOf(null)] = type;
    }
    this.list(ranked, rest);
    if (this.slots.join("\n") !== before) this.onColours();
  }

  list(ranked, rest) {
    const entries = ranked.slice(0, COLOURS);
    const others = ranked.slice(COLOURS);
    const count = others.reduce((sum, [, more]) => sum + more, rest);
    while (this.legend.children.length > entries.length + (count ? 1 : 0)) this.legend.lastChild.remove();
    entries.forEach(([type, sum], at) => this.entry(at, type, sum, this.colourOf(type)));
    if (count) this.entry(entries.length, null, count, `c${COLOURS}`);
  }

  entry(at, type, sum, colour) {
    let button = this.legend.children[at]?.firstChild;
    if (!button) {
      const item = make("li");
      button = make("button");
      button.type = "button";
      button.append(make("span"), make("span", "name"), make("span", "sum"));
      button.addEventListener("click", () => this.onType(button.type_));
      item.append(button);
      this.legend.append(item);
    }
    button.type_ = type;
    button.disabled = type === null;
    const [dot, name, count] = button.children;
    dot.className = `dot ${colour}`;
    say(name, type ?? "all others");
    say(count, number(sum));
    if (type !== null) button.title = "Show only these events";
  }

  /** The counts of one second by colour, the rest last. */
  stack(second) {
    const stack = new Array(COLOURS + 1).fill(0);
    for (const [type, count] of this.seconds.get(second) ?? []) {
      const slot = type === REST ? -1 : this.slots.indexOf(type);
      stack[slot < 0 ? COLOURS : slot] += count;
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

  /** How many seconds are shown, and how wide each is. */
  measure() {
    const width = this.canvas.clientWidth - LEFT - RIGHT;
    const oldest = Math.min(this.now, ...this.seconds.keys());
    const wanted = SPANS.find((span) => span >= this.now - oldest) ?? HISTORY;
    const fitting = SPANS.filter((span) => width / span >= NARROWEST).at(-1) ?? SPANS[0];
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
    const counts = this.stack(this.pointed);
    const types = this.slots.filter((type, slot) => type !== null && counts[slot]);
    const told = types.map((type) => `${type} ${number(counts[this.slots.indexOf(type)])}`);
    const sum = counts.reduce((a, b) => a + b, 0);
    say(this.said, `${clock(this.pointed * 1000)}: ${[counted(sum, "event"), ...told].join(", ")}`);
  }

  point(second) {
    if (second === this.pointed) return;
    this.pointed = second;
    this.draw();
  }

  paint() {
    const { canvas } = this;
    const width = canvas.clientWidth, height = canvas.clientHeight, scale = devicePixelRatio || 1;
    if (!width || !height) return;
    if (canvas.width !== Math.round(width * scale) || canvas.height !== Math.round(height * scale)) {
      canvas.width = Math.round(width * scale);
      canvas.height = Math.round(height * scale);
    }
    const style = getComputedStyle(canvas);
    const colour = (name) => style.getPropertyValue(name).trim();
    const pen = canvas.getContext("2d");
    pen.setTransform(scale, 0, 0, scale, 0, 0);
    pen.clearRect(0, 0, width, height);
    pen.font = style.font;
    const { span, pitch } = this.measure();
    const first = this.now - span;
    let peak = 0;
    for (let second = first; second < this.now; second++) peak = Math.max(peak, total(this.seconds.get(second)));
    const { top, step } = ceiling(peak);
    const floor = height - BOTTOM, y = (count) => floor - (count / top) * (floor - TOP);

    pen.textBaseline = "middle";
    pen.textAlign = "right";
    for (let count = 0; count <= top; count += step) {
      pen.fillStyle = colour("--rule");
      pen.fillRect(LEFT, Math.round(y(count)), width - LEFT - RIGHT, 1);
      pen.fillStyle = colour("--quiet");
      pen.fillText(short(count), LEFT - 8, y(count));
    }
    pen.textBaseline = "alphabetic";
    const every = span <= 120 ? 15 : 60;
    for (let ago = 0; ago <= span; ago += span / pitch > 0 && pitch * every < 55 ? every * 2 : every) {
      pen.textAlign = ago === 0 ? "right" : ago === span ? "left" : "center";
      const label = ago === 0 ? "now" : ago % 60 ? `−${ago} s` : `−${ago / 60} min`;
      pen.fillText(label, width - RIGHT - ago * pitch, height - 5);
    }

    const colours = Array.from({ length: COLOURS + 1 }, (_, slot) => colour(`--c${slot}`));
    const bar = pitch > 4 ? pitch - 1 : pitch - 0.5;
    for (let second = first; second < this.now; second++) {
      const x = LEFT + (second - first) * pitch;
      if (second === this.pointed) {
        pen.fillStyle = colour("--rule");
        pen.fillRect(x - 1, TOP, pitch + 1, floor - TOP);
      }
      if (!this.seconds.has(second)) continue;
      let base = 0;
      this.stack(second).forEach((count, slot) => {
        if (!count) return;
        pen.fillStyle = colours[slot];
        pen.fillRect(x, y(base + count), bar, y(base) - y(base + count));
        base += count;
      });
    }
    say(this.note, peak ? `peak ${number(peak)}, last ${span / 60} min` : "");
    this.tell(first, span, pitch, width);
  }

  /** What the second that is pointed at had. */
  tell(first, span, pitch, width) {
    const { tip, pointed } = this;
    tip.hidden = pointed === null || pointed < first || pointed >= first + span;
    if (tip.hidden) return;
    const stack = this.stack(pointed);
    const list = make("ul");
    stack.forEach((count, slot) => {
      if (!count) return;
      const item = make("li");
      item.append(make("span", `dot c${slot}`), make("span", "name", this.slots[slot] ?? "all others"));
      item.append(make("span", "sum", number(count)));
      list.append(item);
    });
    const sum = stack.reduce((a, b) => a + b, 0);
    tip.replaceChildren(make("strong", "", `${clock(pointed * 1000)}  ·  ${counted(sum, "event")}`), list);
    const x = LEFT + (pointed - first + 0.5) * pitch;
    const isRight = x > width / 2;
    tip.style.left = isRight ? "auto" : `${x + 12}px`;
    tip.style.right = isRight ? `${width - x + 12}px` : "auto";
  }
}

/** The counts with all but the most frequent types as one. */
function folded(counts) {
  const ranked = Object.entries(counts).filter(([type]) => type !== REST);
  if (ranked.length > KEPT_TYPES) ranked.sort((a, b) => b[1] - a[1]);
  const kept = new Map(ranked.slice(0, KEPT_TYPES));
  const rest = ranked.slice(KEPT_TYPES).reduce((sum, [, count]) => sum + count, counts[REST] ?? 0);
  if (rest) kept.set(REST, rest);
  return kept;
}

function total(counts) {
  let sum = 0;
  for (const count of counts?.values() ?? []) sum += count;
  return sum;
}

/** A round number that is no less than the peak, and the step of the lines below it. */
function ceiling(peak) {
  const rough = Math.max(peak, 4) / 4;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 2.5, 5, 10].map((part) => part * power).find((part) => part >= rough && part % 1 === 0) ?? Math.ceil(rough);
  return { top: step * Math.ceil(Math.max(peak, 4) / step), step };
}

function short(count) {
  return count >= 10000 ? `${number(count / 1000)}k` : number(count);
}
