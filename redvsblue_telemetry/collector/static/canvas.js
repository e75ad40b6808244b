// What the two charts have in common: a canvas that fits the screen, a scale, and the box beside the pointer.

import { formatter, number } from "./text.js";

export const LEFT = 46; // pixels around the plot
export const RIGHT = 8;
export const TOP = 10;
export const BOTTOM = 22;

/** Call back when a chart needs to be drawn again: its size or its colors have changed. */
export function onLook(canvas, draw) {
  new ResizeObserver(draw).observe(canvas);
  for (const query of ["(prefers-color-scheme: dark)", "(forced-colors: active)"]) {
    matchMedia(query).addEventListener("change", draw);
  }
}

/** Clear a canvas and return the pen, the size in CSS pixels and the colors; null while it is not shown. */
export function blank(canvas) {
  const width = canvas.clientWidth, height = canvas.clientHeight, scale = devicePixelRatio || 1;
  if (!width || !height) return null;
  if (canvas.width !== Math.round(width * scale) || canvas.height !== Math.round(height * scale)) {
    canvas.width = Math.round(width * scale);
    canvas.height = Math.round(height * scale);
  }
  const style = getComputedStyle(canvas);
  const color = (name) => style.getPropertyValue(name).trim();
  const pen = canvas.getContext("2d");
  pen.setTransform(scale, 0, 0, scale, 0, 0);
  pen.clearRect(0, 0, width, height);
  pen.font = style.font;
  return { pen, width, height, color };
}

/** Draw the lines and labels of a scale from 0, and return the y of a value. */
export function drawScale({ pen, width, height, color }, peak) {
  const { top, step } = ceiling(peak);
  const floor = height - BOTTOM, y = (value) => floor - (value / top) * (floor - TOP);
  pen.textBaseline = "middle";
  pen.textAlign = "right";
  for (let value = 0; value <= top; value += step) {
    pen.fillStyle = color("--rule");
    pen.fillRect(LEFT, Math.round(y(value)), width - LEFT - RIGHT, 1);
    pen.fillStyle = color("--quiet");
    pen.fillText(short(value), LEFT - 8, y(value), LEFT - 10); // narrower letters rather than some cut off
  }
  pen.textBaseline = "alphabetic";
  return y;
}

/** Return the top of the scale, a round number at or above the peak, and the step between its lines. */
function ceiling(peak) {
  const rough = Math.max(peak, 4) / 4;
  const power = 10 ** Math.floor(Math.log10(rough));
  const steps = [1, 2, 2.5, 5, 10].map((part) => part * power);
  const step = steps.find((size) => size >= rough && size % 1 === 0) ?? Math.ceil(rough);
  return { top: step * Math.ceil(Math.max(peak, 4) / step), step };
}

const SHORT = formatter(Intl.NumberFormat, { notation: "compact", maximumFractionDigits: 1 });

/** Return a number that fits beside the scale: "7,500", "800K", "2.5M". */
function short(value) {
  if (value >= 1e15) return value.toExponential().replace("+", "");
  return value >= 10000 ? SHORT.format(value) : number(value);
}

/** Place a box beside a point of a chart. */
export function placeTip(tip, x, width) {
  const isRight = x > width / 2;
  tip.style.left = isRight ? "auto" : `${x + 12}px`;
  tip.style.right = isRight ? `${width - x + 12}px` : "auto";
}
