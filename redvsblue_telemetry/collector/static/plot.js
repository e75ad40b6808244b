// Charts of answers, as SVG: crisp at every size, in the colors of the style sheet, and with text that can be found.
//
// A chart is drawn anew when its width changes. It can be read with a pointer and with the arrow keys, stop by stop;
// the table below it has the same figures.

import { clock, formatter, make, setText, visible, when } from "./text.js";
import { brief } from "./words.js";

const LEFT = 54, RIGHT = 14, TOP = 12, BOTTOM = 26; // pixels around the plot
const LABEL_WIDTH = 76, LABEL_HEIGHT = 44; // pixels that a label of a scale takes, with room around it
const GAP = 3; // steps without a point after which a line starts anew
const DASHES = ["", "7 3", "2 3", "9 3 2 3", "4 4", "12 4", "1 4", "6 2 2 2"]; // for those who can't distinguish colors

const SECOND = 1_000, MINUTE = 60 * SECOND, HOUR = 60 * MINUTE, DAY = 24 * HOUR; // milliseconds
const TIMES = [
  SECOND, 5 * SECOND, 15 * SECOND, MINUTE, 2 * MINUTE, 5 * MINUTE, 10 * MINUTE, 15 * MINUTE, 30 * MINUTE,
  HOUR, 2 * HOUR, 3 * HOUR, 6 * HOUR, 12 * HOUR, DAY, 2 * DAY, 7 * DAY, 14 * DAY, 30 * DAY, 91 * DAY, 365 * DAY,
];

let made = 0; // charts, for ids

/** Return a new SVG element. */
export function shape(tag, attributes = {}, text = "") {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  if (text) element.textContent = visible(text);
  return element;
}

/** Return a bar for a cell of a table, as long as a part (0 to 1) of its width. */
export function bar(part, color = "c0") {
  const svg = shape("svg", { class: "bar", "aria-hidden": "true" });
  svg.append(shape("rect", { class: "rail", width: "100%", height: "100%", rx: 3 }));
  if (part > 0) svg.append(shape("rect", { class: color, width: `${Math.max(0.5, Math.min(100, part * 100))}%`, height: "100%", rx: 3 }));
  return svg;
}

/** Return the key of a line: a short piece of it. */
export function stroke(at) {
  const svg = shape("svg", { class: "stroke-key", width: 24, height: 8, "aria-hidden": "true" });
  svg.append(shape("path", { class: `line c${at % 8}`, d: "M0 4H24", "stroke-dasharray": DASHES[at % 8] }));
  return svg;
}

/** Return the names of a chart's lines, with their keys. */
export function legend(names) {
  const list = make("ul", "lines");
  names.forEach((name, at) => {
    const item = make("li");
    item.append(stroke(at), make("bdi", "", name));
    list.append(item);
  });
  return list;
}

/** What a chart is drawn with: its SVG, its size, and the edges of the plot. */
class Pen {
  constructor(svg, width, height) {
    Object.assign(this, { svg, width, height, left: LEFT, right: width - RIGHT, top: TOP, bottom: height - BOTTOM });
  }

  add(tag, attributes, text) {
    const element = shape(tag, attributes, text);
    this.svg.append(element);
    return element;
  }

  label(text, x, y, { anchor = "middle", className = "scale" } = {}) {
    return this.add("text", { x: round(x), y: round(y), "text-anchor": anchor, class: className }, text);
  }

  /** Draw the lines and labels of a vertical scale; return the y of a value. */
  up(low, high, format = brief) {
    const count = Math.max(2, Math.floor((this.bottom - this.top) / LABEL_HEIGHT));
    const { from, to, step } = ticks(low, high, count);
    const y = (value) => this.bottom - ((value - from) / (to - from)) * (this.bottom - this.top);
    for (let value = from; value <= to + step / 2; value += step) {
      const at = Math.round(y(value)) + 0.5;
      this.add("line", { x1: this.left, x2: this.right, y1: at, y2: at, class: "grid" });
      this.label(format(settled(value, step)), this.left - 8, at + 4, { anchor: "end" });
    }
    return y;
  }

  /** Draw the labels of a horizontal scale of numbers; return the x of a value. */
  across(low, high, format = brief) {
    const x = (value) => this.left + ((value - low) / (high - low || 1)) * (this.right - this.left);
    const { from, to, step } = ticks(low, high, Math.max(2, Math.floor((this.right - this.left) / LABEL_WIDTH)));
    for (let value = from; value <= to + step / 2; value += step) {
      const at = x(value);
      if (at < this.left - 1 || at > this.right + 1) continue;
      this.add("line", { x1: at, x2: at, y1: this.bottom, y2: this.bottom + 4, class: "grid" });
      this.label(format(settled(value, step)), at, this.bottom + 18);
    }
    return x;
  }

  /** Draw the labels of a scale of time, at least `least` milliseconds apart; return the x of a time. */
  time(from, to, least = SECOND) {
    const room = this.right - this.left;
    const x = (time) => (to > from ? this.left + ((time - from) / (to - from)) * room : this.left + room / 2);
    const most = Math.max(1, Math.floor(room / LABEL_WIDTH));
    const step = TIMES.find((size) => size >= least && (to - from) / size <= most) ?? TIMES.at(-1) * Math.ceil((to - from) / TIMES.at(-1) / most);
    for (let time = firstTick(from, step); time <= to; time = nextTick(time, step)) {
      const at = x(time);
      this.add("line", { x1: at, x2: at, y1: this.bottom, y2: this.bottom + 4, class: "grid" });
      const anchor = at > this.right - 18 ? "end" : at < Math.max(this.left + 6, 26) ? "start" : "middle"; // at the edge, half of it would be cut off
      this.label(timeLabel(time, step), at, this.bottom + 18, { anchor });
    }
    return x;
  }

  /** Draw a line through points, with gaps where it has none for several steps; `at` chooses color and dashes. */
  line(points, at, step) {
    for (const run of runs(points, step)) {
      if (run.length === 1) {
        this.add("circle", { cx: round(run[0].x), cy: round(run[0].y), r: 2.5, class: `c${at % 8}` });
        continue;
      }
      const d = run.map(({ x, y }, index) => `${index ? "L" : "M"}${round(x)} ${round(y)}`).join("");
      this.add("path", { d, class: `line c${at % 8}`, "stroke-dasharray": DASHES[at % 8] });
    }
  }
}

export class Plot {
  /** `label` names the chart for those who can't see it. */
  constructor(label, height = 230) {
    Object.assign(this, { height, draw: null, stops: [], pointed: null, width: 0 });
    this.element = make("div", "plot");
    this.svg = shape("svg", { role: "img", tabindex: 0, height });
    this.tip = make("div", "tip");
    this.tip.hidden = true;
    this.tip.ariaHidden = "true";
    const help = make("p", "visually-hidden", "Use the left and right arrow keys to read it value by value.");
    help.id = `plot-help-${++made}`;
    this.svg.setAttribute("aria-describedby", help.id);
    this.status = make("p", "visually-hidden");
    this.status.role = "status";
    this.element.append(this.svg, this.tip, help, this.status);
    this.name(label);
    new ResizeObserver(() => this.element.clientWidth !== this.width && this.paint()).observe(this.element);
    this.svg.addEventListener("pointermove", (event) => this.point(this.nearest(event)));
    this.svg.addEventListener("pointerdown", (event) => this.point(this.nearest(event)));
    this.svg.addEventListener("pointerleave", () => this.point(null));
    this.svg.addEventListener("blur", () => this.point(null));
    this.svg.addEventListener("keydown", (event) => this.step(event));
  }

  name(label) {
    this.svg.setAttribute("aria-label", visible(label));
  }

  /**
   * Show a picture. `draw(pen)` draws it and returns its stops from left to right: `{ x, title, rows }`, where a row is
   * `{ name, value, key }` and `key` makes an element that shows its color.
   */
  show(draw, { label, height = this.height } = {}) {
    if (label) this.name(label);
    Object.assign(this, { draw, height, pointed: null });
    this.svg.setAttribute("height", height);
    this.paint();
  }

  paint() {
    this.width = this.element.clientWidth;
    if (!this.width || !this.draw) return;
    this.svg.setAttribute("viewBox", `0 0 ${this.width} ${this.height}`);
    this.svg.replaceChildren();
    this.pen = new Pen(this.svg, this.width, this.height);
    this.stops = this.draw(this.pen);
    this.cursor = shape("line", { y1: this.pen.top, y2: this.pen.bottom, class: "cursor", visibility: "hidden" });
    this.svg.append(this.cursor);
    this.look();
  }

  nearest({ clientX }) {
    if (!this.stops.length) return null;
    const x = clientX - this.svg.getBoundingClientRect().left;
    const distances = this.stops.map((stop) => Math.abs(stop.x - x));
    return distances.indexOf(Math.min(...distances));
  }

  step(event) {
    if (event.key === "Escape") this.point(null);
    const last = this.stops.length - 1;
    const to = { ArrowLeft: (this.pointed ?? last + 1) - 1, ArrowRight: (this.pointed ?? -1) + 1, Home: 0, End: last }[event.key];
    if (to === undefined || last < 0) return;
    event.preventDefault();
    this.point(Math.max(0, Math.min(last, to)));
    const { title, rows } = this.stops[this.pointed];
    setText(this.status, `${title}: ${rows.map(({ name, value }) => (name ? `${name} ${value}` : value)).join(", ")}`);
  }

  point(at) {
    if (at === this.pointed) return;
    this.pointed = at;
    this.look();
  }

  /** Show the figures of the stop that is pointed at. */
  look() {
    const stop = this.stops[this.pointed];
    this.tip.hidden = !stop;
    this.cursor?.setAttribute("visibility", stop ? "visible" : "hidden");
    if (!stop) return;
    this.cursor.setAttribute("x1", stop.x);
    this.cursor.setAttribute("x2", stop.x);
    const list = make("ul");
    for (const { name, value, key } of stop.rows) {
      const item = make("li");
      if (key) item.append(key());
      item.append(make("span", "name", name), make("span", "sum", value));
      list.append(item);
    }
    this.tip.replaceChildren(make("strong", "", stop.title), list);
    const isRight = stop.x > this.width / 2;
    this.tip.style.left = isRight ? "auto" : `${stop.x + 12}px`;
    this.tip.style.right = isRight ? `${this.width - stop.x + 12}px` : "auto";
  }
}

/** Return round numbers around a range: the first, the last, and the step between them. */
function ticks(low, high, count) {
  const span = high - low || Math.abs(high) || 1;
  const power = 10 ** Math.floor(Math.log10(span / count));
  const step = [1, 2, 2.5, 5, 10].map((part) => part * power).find((size) => size * count >= span * 0.999);
  return { from: Math.floor(low / step + 1e-9) * step, to: Math.max(Math.ceil(high / step - 1e-9), Math.floor(low / step + 1e-9) + 1) * step, step };
}

/** Return a value on a scale without the noise of its sums: 0.3 instead of 0.30000000000000004. */
function settled(value, step) {
  return Math.abs(value) < step / 1e6 ? 0 : Number(value.toPrecision(12));
}

/** Return the first time at or after another one that is a whole step of the viewer's day. */
function firstTick(from, step) {
  const day = new Date(from);
  day.setHours(0, 0, 0, 0);
  let time = day.getTime();
  while (time < from) time = nextTick(time, Math.min(step, DAY)); // a longer step may begin on any day
  return time;
}

function nextTick(time, step) {
  if (step < DAY) return time + step;
  const next = new Date(time);
  next.setDate(next.getDate() + Math.round(step / DAY)); // days of 23 and 25 hours included
  return next.getTime();
}

const DAYS = formatter(Intl.DateTimeFormat, { month: "short", day: "numeric" });
const MONTHS = formatter(Intl.DateTimeFormat, { month: "short", year: "numeric" });

function timeLabel(time, step) {
  const date = new Date(time);
  if (step >= 91 * DAY) return MONTHS.format(date);
  const isMidnight = date.getHours() + date.getMinutes() + date.getSeconds() === 0;
  if (step >= DAY || isMidnight) return DAYS.format(date);
  return step < MINUTE ? clock(time) : clock(time).slice(0, 5);
}

/** Return the time of a step, or its day if it is one. */
export function stepName(time, step) {
  if (step < DAY) return when(time);
  const days = Math.round(step / DAY);
  return days === 1 ? DAYS.format(time) : `${days} days from ${DAYS.format(time)}`;
}

/** Split points where they are further apart than a few steps. */
function runs(points, step) {
  const found = [];
  for (const point of points) {
    const run = found.at(-1);
    if (run && point.at - run.at(-1).at <= step * GAP) run.push(point);
    else found.push([point]);
  }
  return found;
}

function round(value) {
  return Math.round(value * 10) / 10;
}
