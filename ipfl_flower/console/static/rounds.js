// How the rounds went: phases and times, whom one waits for, who failed and why.

import { get } from "./api.js";
import { credits, el, real, seconds, table, time } from "./dom.js";

const AT_ONCE = 50;
const state = { before: null };

export async function rounds(status, session, redraw) {
  if (status.rounds === 0) return el("p", { class: "card" }, "No round has begun yet.");
  const query = state.before === null ? "" : `&before=${state.before}`;
  const found = await get(`rounds?limit=${AT_ONCE}${query}`);
  const oldest = found.rounds.at(-1)?.number ?? 0;
  const go = (before) => {
    state.before = before === null || before >= found.total ? null : before;
    redraw();
  };
  return [
    now(status),
    el("section", { class: "card" },
      list(found, session),
      el("div", { class: "row" },
        el("button", { type: "button", "data-key": "newer", disabled: state.before === null, onclick: () => go(state.before + AT_ONCE) }, "Newer"),
        el("button", { type: "button", "data-key": "older", disabled: oldest === 0, onclick: () => go(oldest) }, "Older"))),
  ];
}

function now(status) {
  const line = status.now;
  const waits = line.state === "COLLECTING";
  return el("section", { class: "card" },
    el("h2", {}, `Round ${line.number}: ${line.state.toLowerCase()}`),
    el("dl", {},
      el("dt", {}, "replied"), el("dd", {}, `${line.reported} of ${line.asked}, quorum ${line.quorum}`),
      waits && line.waiting.length ? [el("dt", {}, "waits for"), el("dd", {}, line.waiting.join(", "))] : null,
      waits ? [el("dt", {}, "until"), el("dd", {}, time(line.deadline_at))] : null,
      status.server ? [el("dt", {}, "served by"), el("dd", {}, status.server)] : null,
      status.last_event ? [el("dt", {}, "last event"), el("dd", {}, status.last_event)] : null,
      Object.entries(status.expelled).map(([name, reason]) => [el("dt", {}, "expelled"), el("dd", {}, reason ? `${name}: ${reason}` : name)])));
}

function list(found, session) {
  const operator = session.role === "operator";
  const columns = [["Round", true], ["State"], ["Replied", true], ["Collecting took", true], ["Last to reply"], ["Begun"], ["Ended"], ["What went wrong"]];
  if (operator) columns.splice(3, 0, ["Purchases", true], ["Credits", true], ["Welfare", true]);
  else columns.splice(4, 1); // who replied last
  return table("Rounds", columns, found.rounds.map((line) => {
    const wrong = Object.entries(line.failed).map(([name, reason]) => `${name}: ${reason}`);
    if (line.detail) wrong.push(line.detail);
    const cells = [
      String(line.number), line.state.toLowerCase(), `${line.reported} of ${line.asked}`, seconds(line.collecting_s),
      line.slowest === null ? "–" : `${line.slowest}, ${seconds(line.slowest_s)}`, time(line.opened_at), time(line.ended_at),
      wrong.map((what) => el("div", { class: "bad" }, what)),
    ];
    if (operator) cells.splice(3, 0, real(line.purchases, 0), credits(line.volume), real(line.welfare));
    else cells.splice(4, 1);
    return cells;
  }));
}
