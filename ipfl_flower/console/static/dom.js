// Elements and numbers, as every view writes them.

const SVG = "http://www.w3.org/2000/svg";

const heard = new WeakMap(); // of each element, its listeners by type

function listen(element, type, listener) {
  if (!heard.has(element)) heard.set(element, {});
  const listeners = heard.get(element);
  if (!(type in listeners)) element.addEventListener(type, (event) => listeners[type]?.(event));
  listeners[type] = listener;
}

/** Make an element; attributes that begin with "on" are listeners, null ones are left out. */
function make(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) listen(element, name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...flat(children));
  return element;
}

const flat = (children) => children.flat(Infinity).filter((child) => child !== null && child !== undefined);

export const el = (tag, attributes, ...children) =>
  make(document.createElement(tag), attributes, children);

export const svg = (tag, attributes, ...children) =>
  make(document.createElementNS(SVG, tag), attributes, children);

/**
 * Make a parent's children like the given ones. What is there already stays and is changed in place: a redraw takes
 * no slider from under a hand, no open choice, no focus and no scrolled table. Children with a data-key are known
 * by it, others by their tag. So a listener must find what it changes in the document when it is called: the
 * elements that were made beside it may not be those that are shown.
 */
export function show(parent, ...children) {
  const key = parent.contains(document.activeElement) ? document.activeElement.dataset.key : null;
  arrange(parent, flat(children));
  if (!key || parent.contains(document.activeElement)) return;
  parent.querySelector(`[data-key="${CSS.escape(key)}"]`)?.focus({ preventScroll: true }); // it was moved
}

function arrange(parent, wanted) {
  const keyed = new Map();
  const others = new Map();
  for (const child of parent.childNodes) {
    if (child.dataset?.key) keyed.set(child.dataset.key, child);
    else if (others.has(child.nodeName)) others.get(child.nodeName).push(child);
    else others.set(child.nodeName, [child]);
  }
  const kept = new Set();
  const arranged = wanted.map((given) => {
    const child = typeof given === "string" ? document.createTextNode(given) : given;
    const key = child.dataset?.key;
    const there = key ? keyed.get(key) : others.get(child.nodeName)?.shift();
    if (!there || there.nodeName !== child.nodeName || kept.has(there)) return child;
    kept.add(there);
    return become(there, child);
  });
  for (const child of [...parent.childNodes]) if (!kept.has(child)) child.remove();
  let place = parent.firstChild;
  for (const child of arranged) {
    if (child === place) place = place.nextSibling;
    else parent.insertBefore(child, place);
  }
}

/** Make what is there like another node of its kind, and return it. */
function become(there, wanted) {
  if (there.nodeType !== Node.ELEMENT_NODE) {
    if (there.data !== wanted.data) there.data = wanted.data;
    return there;
  }
  for (const { name } of [...there.attributes]) if (!wanted.hasAttribute(name)) there.removeAttribute(name);
  for (const { name, value } of wanted.attributes) if (there.getAttribute(name) !== value) there.setAttribute(name, value);
  const listeners = heard.get(wanted) ?? {};
  for (const type of Object.keys(heard.get(there) ?? {})) listen(there, type, listeners[type]);
  for (const [type, listener] of Object.entries(listeners)) listen(there, type, listener);
  const value = wanted.value; // before its options go over
  arrange(there, [...wanted.childNodes]);
  if (["SELECT", "INPUT"].includes(there.nodeName) && there.value !== value) there.value = value;
  return there;
}

/** Write micro-credits, a number or the digits of one, as credits, exactly. */
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
