// Frame times: a table of the versions, and a chart of one of them over time.

import { BOTTOM, LEFT, RIGHT, TOP, blank, drawScale, onLook, placeTip } from "./canvas.js";
import { Rows } from "./rows.js";
import { counted, duration, make, number, setCut, setText, shortened, when } from "./text.js";

const LINES = [ // a dash pattern each, for those who can't distinguish the colors
  { name: "p50", color: "--c0", dash: [] },
  { name: "p95", color: "--c1", dash: [6, 3] },
  { name: "p99", color: "--c2", dash: [2, 2] },
];
const GOALS = [[1000 / 60, "60 fps"], [1000 / 30, "30 fps"]]; // milliseconds a frame
const GAP = 3; // parts of the time without frames after which a line starts anew
const TIME_LABEL_WIDTH = 120, MIN_LABEL_HEIGHT = 24; // pixels; a label at the floor would be on the one above it

export class FrameTimes {
  constructor({ panel, canvas, tip, body, note, status }) {
    Object.assign(this, { panel, canvas, tip, note, status });
    this.summaries = [];
    this.chosen = undefined; // the version that the viewer has chosen
    this.pointed = null;
    this.isDrawing = false;
    this.rows = new Rows(body, {
      keyOf: ({ version }) => version,
      add: (summary) => this.row(summary),
      fill: (row, summary) => this.fill(row, summary),
    });
    onLook(canvas, () => this.draw());
    canvas.addEventListener("pointermove", (event) => this.point(this.nearest(event.offsetX)));
    canvas.addEventListener("pointerleave", () => this.point(null));
    canvas.addEventListener("blur", () => this.point(null));
    canvas.addEventListener("keydown", (event) => this.step(event));
  }

  /** Show these versions, the newest first. */
  show(summaries) {
    this.summaries = summaries;
    this.panel.hidden = summaries.length === 0;
    this.rows.show(summaries);
    this.draw();
  }

  /** The version in the chart: the chosen one, or else the newest. */
  get shown() {
    return this.summaries.find(({ version }) => version === this.chosen) ?? this.summaries[0];
  }

  /** The times in the chart. */
  get times() {
    return this.shown?.overTime ?? [];
  }

  row({ version }) {
    const row = make("tr");
    const head = make("th");
    head.scope = "row";
    const button = make("button", "link");
    button.type = "button";
    button.title = "Show this version in the chart";
    button.append(make("bdi", "", nameOf(version)));
    button.addEventListener("click", () => {
      this.chosen = version;
      this.pointed = null;
      this.show(this.summaries);
    });
    head.append(button);
    row.append(head, make("td"), make("td"), make("td"), make("td"), make("td"), make("td"));
    return row;
  }

  fill(row, summary) {
    const [head, p50, p95, p99, worst, hitches, time] = row.children;
    head.firstChild.setAttribute("aria-pressed", String(summary === this.shown));
    for (const [cell, value] of [[p50, summary.p50], [p95, summary.p95], [p99, summary.p99], [worst, summary.max]]) {
      setText(cell, digits(value));
    }
    setCut(hitches, number(summary.hitches));
    setCut(time, duration(summary.seconds * 1000));
  }

  draw() {
    if (this.isDrawing) return;
    this.isDrawing = true;
    requestAnimationFrame(() => {
      this.isDrawing = false;
      this.paint();
    });
  }

  /** Return a function from a time to its x. */
  across(width) {
    const { times } = this;
    const first = times[0]?.[0] ?? 0, last = times.at(-1)?.[0] ?? 0;
    const room = width - LEFT - RIGHT;
    return (time) => (first === last ? LEFT + room / 2 : LEFT + ((time - first) / (last - first)) * room);
  }

  nearest(x) {
    if (!this.times.length) return null;
    const xOf = this.across(this.canvas.clientWidth);
    const distances = this.times.map(([time]) => Math.abs(xOf(time) - x));
    return distances.indexOf(Math.min(...distances));
  }

  step(event) {
    const steps = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (event.key === "Escape") this.point(null);
    const count = this.times.length;
    if (!steps || !count) return;
    event.preventDefault();
    this.point(Math.max(0, Math.min(count - 1, (this.pointed ?? count) + steps)));
    const [time, ...values] = this.times[this.pointed];
    const parts = LINES.map(({ name }, at) => `${name} ${milliseconds(values[at])}`);
    setText(this.status, `${when(time)}: ${parts.join(", ")}`);
  }

  point(at) {
    if (at === this.pointed) return;
    this.pointed = at;
    this.draw();
  }

  paint() {
    const area = blank(this.canvas);
    if (!area || !this.shown) return;
    const { pen, width, height, color } = area;
    const { times } = this;
    const y = drawScale(area, Math.max(0, ...times.map((part) => part[3])));
    const xOf = this.across(width), floor = height - BOTTOM;

    for (const [goal] of GOALS) {
      if (y(goal) < TOP) continue;
      pen.setLineDash([1, 3]);
      pen.strokeStyle = color("--quiet");
      stroke(pen, [[LEFT, y(goal)], [width - RIGHT, y(goal)]]);
    }
    this.labelTimes(pen, xOf, width, height, color("--quiet"));

    const usual = median(times.slice(1).map(([time], at) => time - times[at][0]));
    LINES.forEach(({ color: name, dash }, line) => {
      pen.strokeStyle = pen.fillStyle = color(name);
      pen.lineWidth = 1.8;
      pen.setLineDash(dash);
      for (const run of runs(times, usual * GAP)) {
        const points = run.map((part) => [xOf(part[0]), y(part[line + 1])]);
        if (points.length === 1) pen.fillRect(points[0][0] - 2, points[0][1] - 2, 4, 4);
        else stroke(pen, points);
      }
    });
    pen.setLineDash([]);
    pen.textAlign = "right";
    pen.lineWidth = 4;
    pen.strokeStyle = color("--panel"); // an edge, so that the label can be read on the lines
    pen.fillStyle = color("--quiet");
    for (const [goal, label] of GOALS) {
      if (y(goal) < TOP || floor - y(goal) < MIN_LABEL_HEIGHT) continue;
      pen.strokeText(label, width - RIGHT, y(goal) - 4);
      pen.fillText(label, width - RIGHT, y(goal) - 4);
    }
    pen.lineWidth = 1;

    const { version, frames } = this.shown;
    setText(this.note, `${nameOf(version)}, ${counted(frames, "frame")}`);
    const part = this.pointed === null ? undefined : times[this.pointed];
    this.tip.hidden = part === undefined;
    if (part === undefined) return;
    pen.strokeStyle = color("--quiet");
    stroke(pen, [[xOf(part[0]), TOP], [xOf(part[0]), floor]]);
    const list = make("ul");
    LINES.forEach(({ name }, line) => {
      const item = make("li");
      item.append(make("span", `stroke ${name}`), make("span", "name", name));
      item.append(make("span", "sum", milliseconds(part[line + 1])));
      list.append(item);
    });
    this.tip.replaceChildren(make("strong", "", when(part[0])), list);
    placeTip(this.tip, xOf(part[0]), width);
  }

  labelTimes(pen, xOf, width, height, color) {
    const { times } = this;
    if (!times.length) return;
    const first = times[0][0], last = times.at(-1)[0];
    const count = first === last ? 0 : Math.max(1, Math.min(6, Math.floor((width - LEFT) / TIME_LABEL_WIDTH)));
    pen.fillStyle = color;
    for (let at = 0; at <= count; at++) {
      const time = first + ((last - first) * at) / Math.max(count, 1);
      pen.textAlign = count === 0 ? "center" : at === 0 ? "left" : at === count ? "right" : "center";
      pen.fillText(when(time), xOf(time), height - 5, TIME_LABEL_WIDTH - 8);
    }
  }
}

function nameOf(version) {
  return version === null ? "no version" : shortened(version, 40);
}

function digits(value) {
  if (value >= 1e9) return value.toExponential(1).replace("+", "");
  return value < 100 ? value.toFixed(1) : number(Math.round(value));
}

function milliseconds(value) {
  return `${digits(value)} ms`;
}

function median(values) {
  return [...values].sort((a, b) => a - b)[Math.floor(values.length / 2)] ?? 0;
}

/** Split the parts of the time where frames are missing for longer than `limit` milliseconds. */
function runs(times, limit) {
  const found = [];
  for (const part of times) {
    const run = found.at(-1);
    if (run && part[0] - run.at(-1)[0] <= limit) run.push(part);
    else found.push([part]);
  }
  return found;
}

function stroke(pen, points) {
  pen.beginPath();
  points.forEach(([x, y], at) => (at ? pen.lineTo(x, y) : pen.moveTo(x, y)));
  pen.stroke();
}
