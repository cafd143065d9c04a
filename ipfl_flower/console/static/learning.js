// How well the institutions' models do, beside the first one that each trained alone.

import { get } from "./api.js";
import { lines } from "./chart.js";
import { el, percent, signed, table } from "./dom.js";

const state = { name: "" };

export async function learning(status, session, redraw) {
  const found = await get("learning");
  const last = (values) => values.findLast((value) => value !== null) ?? null;
  const select = el("select", { "data-key": "learner", id: "learner", onchange: (event) => { state.name = event.target.value; redraw(); } },
    el("option", { value: "" }, "everybody"), found.institutions.map((item) => el("option", { value: item.name }, item.name)));
  const one = found.institutions.find((item) => item.name === state.name);
  select.value = one ? one.name : "";
  const series = one
    ? [
      { name: "best so far", values: one.best },
      { name: "trained in the round", values: one.trained },
      { name: "first, trained alone", values: one.best.map(() => one.first), dashed: true },
    ]
    : found.institutions.map((item) => ({ name: item.name, values: item.best.map((value, k) => value ?? item.trained[k]) }));
  const gain = (item) => {
    const now = last(item.best) ?? last(item.trained);
    return now === null || item.first === null ? null : now - item.first;
  };
  return [
    el("section", { class: "card" },
      el("div", { class: "row" }, el("label", {}, "Show", select)),
      lines(one ? `Test accuracy of ${one.name}` : "Test accuracy of each institution's best model", "accuracy", found.rounds, series, percent),
      el("p", { class: "soft" }, "As the institutions report it, each on its own test data. Who shares no metrics has no line.")),
    el("section", { class: "card" },
      table("Accuracy now, and of the first model, trained alone", [["Name"], ["First", true], ["Now", true], ["Gain", true]],
        found.institutions.map((item) => [item.name, percent(item.first), percent(last(item.best) ?? last(item.trained)), signed(gain(item))]))),
  ];
}
