// Elements and numbers, as every view writes them.

const SVG = "http://www.w3.org/2000/svg";

/** Make an element; attributes that begin with "on" are listeners, null ones are left out. */
function make(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined));
  return element;
}

export const el = (tag, attributes, ...children) =>
  make(document.createElement(tag), attributes, children);

export const svg = (tag, attributes, ...children) =>
  make(document.createElementNS(SVG, tag), attributes, children);

/** Put new children in place of the old ones; who had the focus, by its data-key, keeps it. */
export function show(parent, ...children) {
  const key = parent.contains(document.activeElement) ? document.activeElement.dataset.key : null;
  const scrolled = [...parent.querySelectorAll(".scroll[data-key]")].map((box) => [box.dataset.key, box.scrollTop]);
  parent.replaceChildren(...children.flat(Infinity).filter((child) => child !== null && child !== undefined));
  const find = (name) => parent.querySelector(`[data-key="${CSS.escape(name)}"]`);
  if (key) find(key)?.focus({ preventScroll: true });
  for (const [name, top] of scrolled) {
    const box = find(name);
    if (box) box.scrollTop = top;
  }
}

/** Write micro-credits as credits, exactly. */
export function credits(micro) {
  if (micro === null) return "–";
  const amount = BigInt(micro);
  const size = amount < 0n ? -amount : amount;
  const whole = (size / 1000000n).toLocaleString("en");
  return `${amount < 0n ? "−" : ""}${whole}.${String(size % 1000000n).padStart(6, "0")}`;
}

export const real = (value, digits = 3) =>
  value === null || value === undefined ? "–" : value.toLocaleString("en", { maximumFractionDigits: digits }).replace("-", "−");

export const percent = (value) => (value === null || value === undefined ? "–" : `${(100 * value).toFixed(1)} %`);

export const signed = (value) =>
  value === null || value === undefined ? "–" : `${value < 0 ? "−" : "+"}${Math.abs(100 * value).toFixed(1)}`;

export const time = (iso) => (iso ? new Date(iso).toLocaleString() : "–");

export function seconds(value) {
  if (value === null) return "–";
  if (value < 120) return `${value.toFixed(1)} s`;
  return value < 7200 ? `${(value / 60).toFixed(1)} min` : `${(value / 3600).toFixed(1)} h`;
}

/** Make a table: columns are [heading, isNumber]; a row is its cells, strings or elements. */
export function table(caption, columns, rows) {
  const kind = (i) => (columns[i][1] ? "number" : null);
  return el("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": caption, "data-key": `table ${caption}` },
    el("table", {},
      el("caption", {}, caption),
      el("thead", {}, el("tr", {}, columns.map(([heading], i) => el("th", { scope: "col", class: kind(i) }, heading)))),
      el("tbody", {}, rows.map((cells) => el("tr", {}, cells.map((cell, i) => el("td", { class: kind(i) }, cell)))))));
}
