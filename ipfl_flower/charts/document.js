"use strict";
// Steps one at a time, with a slider; a light or dark page; and what a node of a graph is tied to.

for (const steps of document.querySelectorAll(".steps")) {
  const parts = [...steps.querySelectorAll(":scope > details.step")];
  if (parts.length < 2) continue;
  const { name, shown } = steps.dataset;
  const make = (tag, properties, ...children) => {
    const made = Object.assign(document.createElement(tag), properties);
    made.append(...children);
    return made;
  };
  const range = make("input", { type: "range", min: 0, max: parts.length - 1, id: `${steps.id}-at` });
  const output = make("output", {});
  output.setAttribute("for", range.id);
  const [earlier, later] = ["‹", "›"].map((sign) => make("button", { type: "button" }, sign));
  earlier.setAttribute("aria-label", `Earlier ${name.toLowerCase()}`);
  later.setAttribute("aria-label", `Later ${name.toLowerCase()}`);
  const go = (at) => {
    const place = Math.max(0, Math.min(parts.length - 1, at));
    parts.forEach((part, k) => { part.open = k === place; });
    const said = parts[place].querySelector("summary").textContent;
    range.value = place;
    range.setAttribute("aria-valuetext", said);
    output.textContent = said.split(":")[0];
    earlier.disabled = place === 0;
    later.disabled = place === parts.length - 1;
  };
  range.addEventListener("input", () => go(Number(range.value)));
  earlier.addEventListener("click", () => go(Number(range.value) - 1));
  later.addEventListener("click", () => go(Number(range.value) + 1));
  range.setAttribute("aria-label", name);
  steps.prepend(make("div", { className: "stepper" }, output, earlier, range, later));
  steps.classList.add("stepping");
  go(Number(shown));
}

const theme = document.getElementById("theme");
const isDark = () => {
  const chosen = document.documentElement.dataset.theme;
  return chosen ? chosen === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
};
const name = () => { theme.textContent = isDark() ? "Light" : "Dark"; };
theme.addEventListener("click", () => {
  document.documentElement.dataset.theme = isDark() ? "light" : "dark";
  name();
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", name);
theme.hidden = false;
name();

for (const graph of document.querySelectorAll("svg.graph")) {
  if (!graph.querySelector("[data-of]")) continue; // too many to tell apart
  graph.querySelectorAll(".node").forEach((node, k) => {
    const light = (on) => {
      graph.classList.toggle("picking", on);
      for (const edge of graph.querySelectorAll("[data-of]")) {
        edge.classList.toggle("lit", on && edge.dataset.of.split(" ").includes(String(k)));
      }
    };
    node.addEventListener("pointerenter", () => light(true));
    node.addEventListener("pointerleave", () => light(false));
  });
}

// What is folded is not printed: open it for the time of printing, where that is few pages.
let opened = [];
addEventListener("beforeprint", () => {
  const folds = [...document.querySelectorAll("details:not(.step):not([open])")];
  const rows = folds.reduce((sum, fold) => sum + fold.querySelectorAll("tr").length, 0);
  opened = rows <= 1000 ? folds : [];
  for (const fold of opened) fold.open = true;
});
addEventListener("afterprint", () => {
  for (const fold of opened) fold.open = false;
});
