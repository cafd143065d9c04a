// Lines over rounds.

import { el, svg } from "./dom.js";

const [WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM] = [640, 300, 86, 12, 12, 34];
const TICKS = 5;
const TICKS_MAX = 20;
const COLOURS = 8;
const lit = new Map();

/** Round steps that cut [low, high] into some TICKS parts. */
function ticks(low, high) {
  const raw = (high - low) / TICKS || 1;
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].find((unit) => unit * power >= raw) * power;
  const found = [];
  const start = Math.ceil(low / step);
  // Counted: a step may be less than what tells two large numbers apart.
  for (let k = 0; k < TICKS_MAX; k += 1) {
    const value = (start + k) * step + 0; // and never −0
    if (!(value <= high + step * 1e-9)) break;
    if (value !== found.at(-1)) found.push(value);
  }
  return found;
}

/** Draw series, each {name, values, dashed}, by round; a press on a name brings out its line. */
export function lines(title, unit, rounds, series, format) {
  const all = series.flatMap((item) => item.values).filter((value) => value !== null);
  if (all.length === 0) return [el("h2", {}, title), el("p", { class: "soft" }, "Nothing is known yet.")];
  const [low, high] = [Math.min(...bounds(all, Math.min)), Math.max(...bounds(all, Math.max))];
  const pad = (high - low) * 0.05 || Math.abs(high) * 0.05 || 1;
  const [first, last] = [rounds[0], rounds.at(-1)];
  const x = (round) => LEFT + ((WIDTH - LEFT - RIGHT) * (round - first)) / Math.max(1, last - first);
  const y = (value) => HEIGHT - BOTTOM - ((HEIGHT - TOP - BOTTOM) * (value - low + pad)) / (high - low + 2 * pad);
  const chosen = series.some((item) => item.name === lit.get(title)) ? lit.get(title) : null;
  const legend = el("div", { class: "legend", role: "group", "aria-label": "Bring out a line" }, series.map((item, k) => el("button", {
    type: "button", "data-name": item.name, "data-key": `${title} ${item.name}`,
    onclick: ({ currentTarget }) => light(currentTarget.closest(".plot"), title, currentTarget.getAttribute("aria-pressed") === "true" ? null : item.name),
  }, svg("svg", { viewBox: "0 0 16 8", "aria-hidden": "true" }, svg("path", { d: "M0 4H16", class: `line s${k % COLOURS}${item.dashed ? " dashed" : ""}` })), item.name)));
  const plot = el("div", { class: "plot", "data-key": `plot ${title}` },
    el("h2", {}, title),
    svg("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, class: "chart", role: "img", "aria-label": `${title}, ${unit}, rounds ${first} to ${last}, from ${format(low)} to ${format(high)}` },
      ticks(low - pad, high + pad).map((value) => [
        svg("line", { x1: LEFT, x2: WIDTH - RIGHT, y1: y(value), y2: y(value), class: "grid" }),
        svg("text", { x: LEFT - 6, y: y(value) + 5, "text-anchor": "end", class: "axis" }, format(value)),
      ]),
      ticks(first, last).filter(Number.isInteger).map((round) =>
        svg("text", { x: x(round), y: HEIGHT - 10, "text-anchor": "middle", class: "axis" }, String(round))),
      series.map((item, k) => trace(item, k, rounds, x, y))),
    legend);
  light(plot, title, chosen);
  return plot;
}

/** Bring out the line called `name`, or none. */
function light(plot, title, name) {
  lit.set(title, name);
  for (const path of plot.querySelectorAll(".chart .line")) path.classList.toggle("faint", name !== null && path.dataset.name !== name);
  for (const button of plot.querySelectorAll(".legend button")) button.setAttribute("aria-pressed", String(button.dataset.name === name));
}

/** Reduce in pieces: a call takes only so many arguments. */
function bounds(values, pick) {
  const found = [];
  for (let k = 0; k < values.length; k += 10000) found.push(pick(...values.slice(k, k + 10000)));
  return found;
}

function trace(item, k, rounds, x, y) {
  let d = "";
  let pen = "M";
  item.values.forEach((value, place) => {
    if (value === null) {
      pen = "M";
      return;
    }
    // A single point shows as a short stroke.
    d += `${pen}${x(rounds[place]).toFixed(1)} ${y(value).toFixed(1)}${pen === "M" ? "h1" : ""}`;
    pen = "L";
  });
  return svg("path", { d, "data-name": item.name, class: `line s${k % COLOURS}${item.dashed ? " dashed" : ""}` },
    svg("title", {}, item.name));
}
