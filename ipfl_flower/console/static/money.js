// Accounts, statements, utilities, and whether the ledger is whole.

import { get, part } from "./api.js";
import { lines } from "./chart.js";
import { credits, el, real, seconds, table, time } from "./dom.js";

const SPAN = 10;
const state = { name: null, first: null };

export async function money(status, session, redraw) {
  const found = await get("money");
  const names = found.accounts.map((account) => account.name);
  if (!names.includes(state.name)) Object.assign(state, { name: names[0] ?? null, first: null });
  return [
    ledger(found),
    el("div", { class: "split" },
      el("section", { class: "card" },
        table("Accounts, in credits", [["Name"], ["Balance", true], ["Paid", true], ["Earned", true], ["Utility", true]],
          found.accounts.map((item) => [item.name, credits(item.balance), credits(item.paid), credits(item.earned), real(item.utility)])),
        el("p", {}, el("a", { href: "/api/v1/accounts.csv", download: true }, "Accounts as CSV"))),
      el("section", { class: "card" },
        lines("Utility, summed over the rounds", "credits", found.rounds, found.utilities, (value) => real(value, 2)))),
    state.name === null ? null : await statement(status, names, redraw),
  ];
}

function ledger(found) {
  const { state: how, at, seconds: took, head, problems } = found.verification;
  const said = { pending: "is being verified", verified: "is whole", broken: "is NOT whole", failed: "could not be verified" }[how];
  return el("section", { class: "card", id: "verification" },
    el("h2", {}, "The ledger ", el("span", { class: how === "verified" ? "good" : how === "pending" ? "soft" : "bad" }, said)),
    el("p", { class: "soft" },
      at ? `Every round was cleared again on ${time(at)}, in ${seconds(took)}. ` : "",
      found.total === null ? "" : `All balances sum to ${credits(found.total)}.`),
    head ? el("p", { class: "soft" }, "Head ", el("code", {}, head.slice(0, 16), "…")) : null,
    problems.map((problem) => el("p", { class: "bad" }, problem)));
}

async function statement(status, names, redraw) {
  const first = state.first ?? Math.max(0, status.rounds - SPAN);
  const last = first + SPAN - 1;
  const found = status.rounds === 0 ? { lines: [], opening: 0, closing: 0 }
    : await get(`accounts/${part(state.name)}/statement?first=${first}&last=${last}`);
  const go = (number) => {
    state.first = number >= status.rounds - SPAN ? null : Math.max(0, number);
    redraw();
  };
  const select = el("select", { "data-key": "account", id: "account", onchange: (event) => { Object.assign(state, { name: event.target.value, first: null }); redraw(); } },
    names.map((name) => el("option", { value: name }, name)));
  select.value = state.name;
  const direction = (line, which) => (line.direction === which ? credits(line.amount) : "");
  return el("section", { class: "card" },
    el("div", { class: "row" },
      el("label", {}, "Statement of", select),
      el("button", { type: "button", "data-key": "before", disabled: first === 0, onclick: () => go(first - SPAN) }, "Earlier"),
      el("button", { type: "button", "data-key": "after", disabled: state.first === null, onclick: () => go(first + SPAN) }, "Later"),
      el("a", { href: `/api/v1/accounts/${part(state.name)}/statement.csv`, download: true }, "Whole statement as CSV")),
    table(`Rounds ${first} to ${Math.min(last, Math.max(0, status.rounds - 1))}, balance ${credits(found.opening)} before`,
      [["Round", true], ["Counterparty"], ["Paid", true], ["Earned", true], ["Balance", true]],
      found.lines.map((line) => [String(line.round), line.counterparty, direction(line, "paid"), direction(line, "earned"), credits(line.balance)])));
}
