// The graph of a round: who bought from whom, and why.

import { get, part, Refused } from "./api.js";
import { credits, el, percent, real, show, signed, svg, table } from "./dom.js";

const SIZE = 560;
const CENTRE = SIZE / 2;
const RING = 175;
const RING_BARE = 255;
const NAMED_MAX = 40;
const THICK_MAX = 40;
const DRAWN_MAX = 2000;
const TABBABLE_MAX = 150;

// The pair that is explained, the one that the form asks about, and how often there was something to explain.
const state = { round: null, buyer: null, seller: null, asked: { buyer: null, seller: null }, turn: 0 };

export async function market(status, session, redraw) {
  if (status.rounds === 0) return el("p", { class: "card" }, "No round has begun yet.");
  const last = status.last_settled ?? status.rounds - 1;
  const round = Math.min(state.round ?? last, status.rounds - 1);
  const graph = await get(`rounds/${round}/market`);
  state.turn += 1;
  const choose = async (buyer, seller) => {
    Object.assign(state, { buyer, seller, asked: { buyer, seller } });
    const turn = ++state.turn;
    mark();
    const content = await explain(graph, buyer, seller);
    if (turn === state.turn) show(document.getElementById("why"), content); // else it is of another pair or round
  };
  const names = graph.nodes.map((node) => node.name);
  const panel = el("section", { class: "card", "aria-live": "polite", id: "why" }, await reasons(graph, session, names));
  return [
    slider(status, round, last, redraw),
    el("div", { class: "split" },
      el("section", { class: "card" }, heading(graph), draw(graph, choose)),
      el("div", { class: "stack" }, session.role === "operator" ? pairs(names, choose) : null, panel)),
    el("section", { class: "card" }, institutions(graph)),
    el("section", { class: "card" }, purchases(graph, choose)),
  ];
}

/** Tell whether the pair chosen last can be explained in this round, too. */
function explained(graph, session, names) {
  const { buyer, seller } = state;
  if (session.role !== "operator") return graph.edges.some((edge) => edge.buyer === buyer && edge.seller === seller);
  return graph.selection !== null && names.includes(buyer) && names.includes(seller);
}

async function reasons(graph, session, names) {
  if (!explained(graph, session, names)) return [el("h2", {}, "Why?"), el("p", { class: "soft" }, "Choose an arrow, or a buyer and a seller.")];
  const { buyer, seller } = state;
  const content = await explain(graph, buyer, seller);
  return state.buyer === buyer && state.seller === seller ? content : reasons(graph, session, names);
}

function slider(status, round, last, redraw) {
  const go = (number) => {
    state.round = number === last ? null : Math.max(0, Math.min(status.rounds - 1, number));
    redraw();
  };
  const range = el("input", {
    type: "range", min: 0, max: Math.max(0, status.rounds - 1), value: round, id: "round", "data-key": "round",
    "aria-valuetext": `round ${round}`, oninput: (event) => go(Number(event.target.value)),
  });
  range.value = round;
  return el("div", { class: "row card" },
    el("label", { for: "round" }, "Round ", el("output", { for: "round", id: "round-number" }, String(round))),
    el("button", { type: "button", "data-key": "earlier", disabled: round === 0, "aria-label": "Earlier round", onclick: () => go(round - 1) }, "‹"),
    range,
    el("button", { type: "button", "data-key": "later", disabled: round >= status.rounds - 1, "aria-label": "Later round", onclick: () => go(round + 1) }, "›"),
    el("button", { type: "button", "data-key": "newest", disabled: state.round === null, onclick: () => go(last) }, "Newest"));
}

function heading(graph) {
  const volume = graph.edges.reduce((sum, edge) => sum + BigInt(edge.price), 0n);
  return [
    el("h2", {}, `Round ${graph.round}: ${graph.state.toLowerCase()}`),
    el("p", { class: "soft" },
      `${graph.edges.length} purchases, ${credits(volume)} credits`,
      graph.density === null ? "" : `, ${percent(graph.density)} of all pairs`,
      graph.detail ? `; ${graph.detail}` : ""),
  ];
}

const keyOf = (buyer, seller) => JSON.stringify([buyer, seller]);

/** Mark the pair that is explained, in the graph and in the form. */
function mark() {
  for (const edge of document.querySelectorAll(".edge")) {
    edge.classList.toggle("chosen", edge.dataset.pair === keyOf(state.buyer, state.seller));
  }
  for (const role of ["buyer", "seller"]) {
    const box = document.getElementById(role); // an institution has none
    if (box) box.value = state[role];
  }
}

function draw(graph, choose) {
  const count = graph.nodes.length;
  const places = new Map(graph.nodes.map((node, i) => {
    const angle = (2 * Math.PI * i) / count - Math.PI / 2;
    const ring = count > NAMED_MAX ? RING_BARE : RING;
    return [node.name, { node, angle, x: CENTRE + ring * Math.cos(angle), y: CENTRE + ring * Math.sin(angle) }];
  }));
  const size = Math.max(4, Math.min(14, 160 / Math.max(1, count)));
  const edges = [...graph.edges].sort((a, b) => b.price - a.price).slice(0, DRAWN_MAX);
  const dearest = Math.max(1, ...edges.map((edge) => edge.price));
  const thickness = Math.max(0.15, Math.min(1, THICK_MAX / Math.max(1, edges.length)));
  const label = `Graph of round ${graph.round}: ${graph.edges.length} purchases between ${count} institutions; the table below has them all.`;
  return [
    svg("svg", { viewBox: `0 0 ${SIZE} ${SIZE}`, role: "group", "aria-label": label, id: "graph" },
      svg("defs", {}, svg("marker", { id: "tip", viewBox: "0 0 8 8", refX: 7, refY: 4, markerWidth: 9, markerHeight: 9, markerUnits: "userSpaceOnUse", orient: "auto" },
        svg("path", { d: "M0 0 8 4 0 8z", class: "arrow" }))),
      edges.reverse().map((edge) => arrow(edge, places, size, thickness / Math.sqrt(dearest), edges.length <= TABBABLE_MAX, choose)),
      [...places.values()].map((place) => dot(place, size, count))),
    el("p", { class: "soft" },
      "An arrow goes from the buyer to the seller; wider is dearer. Green: its accuracy has risen since its first model, trained alone.",
      graph.edges.length > DRAWN_MAX ? ` The ${DRAWN_MAX} dearest are drawn.` : ""),
  ];
}

function arrow(edge, places, size, scale, tabbable, choose) {
  const from = places.get(edge.buyer);
  const to = places.get(edge.seller);
  const [dx, dy] = [to.x - from.x, to.y - from.y];
  const long = Math.hypot(dx, dy) || 1;
  // Bent to its left, so that both directions of a pair can be seen.
  const [mx, my] = [(from.x + to.x) / 2 + 0.12 * dy, (from.y + to.y) / 2 - 0.12 * dx];
  const gap = size + 4;
  const end = Math.hypot(to.x - mx, to.y - my) || 1;
  const [ex, ey] = [to.x - (gap * (to.x - mx)) / end, to.y - (gap * (to.y - my)) / end];
  const start = Math.min(gap, long / 3) / (Math.hypot(mx - from.x, my - from.y) || 1);
  const [sx, sy] = [from.x + start * (mx - from.x), from.y + start * (my - from.y)];
  const d = `M${sx.toFixed(1)} ${sy.toFixed(1)}Q${mx.toFixed(1)} ${my.toFixed(1)} ${ex.toFixed(1)} ${ey.toFixed(1)}`;
  const said = `${edge.buyer} buys from ${edge.seller} for ${credits(edge.price)} credits`;
  const pick = () => choose(edge.buyer, edge.seller);
  const onkeydown = (event) => {
    if (event.key !== "Enter" && event.key !== " ") return;
    event.preventDefault();
    pick();
  };
  const pair = keyOf(edge.buyer, edge.seller);
  return [
    svg("path", { d, class: "edge-hit", role: "button", tabindex: tabbable ? "0" : "-1", "aria-label": said, "data-key": `edge ${pair}`, "data-pair": pair, onclick: pick, onkeydown },
      svg("title", {}, said)),
    svg("path", { d, class: pair === keyOf(state.buyer, state.seller) ? "edge chosen" : "edge", "data-key": `line ${pair}`, "data-pair": pair, "stroke-width": (0.6 + 4.4 * scale * Math.sqrt(edge.price)).toFixed(2), "marker-end": "url(#tip)" }),
  ];
}

function dot({ node, angle, x, y }, size, count) {
  const gain = node.accuracy_gain;
  const kind = !node.takes_part ? "absent" : gain === null || Math.abs(gain) < 0.0005 ? "none" : gain > 0 ? "up" : "down";
  const side = Math.cos(angle);
  const anchor = Math.abs(side) < 0.2 ? "middle" : side > 0 ? "start" : "end";
  const [tx, ty] = [x + (anchor === "middle" ? 0 : (size + 7) * Math.sign(side)), y + (size + 12) * Math.sin(angle) + 5];
  const short = node.name.length > 14 ? `${node.name.slice(0, 13)}…` : node.name;
  const below = node.balance === null ? "" : `balance ${credits(node.balance)}`;
  const up = Math.abs(side) < 0.2 && Math.sin(angle) < 0 ? -16 : 0;
  return svg("g", { class: "node" },
    svg("title", {}, `${node.name}: ${below || "its account is its own"}, accuracy ${percent(node.accuracy)} (${signed(gain)})`),
    svg("circle", { cx: x, cy: y, r: size, class: kind }),
    count > NAMED_MAX ? null : svg("text", { x: tx, y: ty + up, "text-anchor": anchor }, short),
    count > 16 || node.balance === null ? null
      : svg("text", { x: tx, y: ty + 17 + up, "text-anchor": anchor, class: "soft" }, `${real(node.balance / 1e6, 2)}${gain === null ? "" : ` · ${signed(gain)}`}`));
}

function pairs(names, choose) {
  const { asked } = state;
  ["buyer", "seller"].forEach((role, k) => {
    if (!names.includes(asked[role])) asked[role] = names[Math.min(k, names.length - 1)];
  });
  const select = (label, role) => {
    const box = el("select", { "data-key": role, id: role, onchange: (event) => { state.asked[role] = event.target.value; } },
      names.map((name) => el("option", { value: name }, name)));
    box.value = asked[role];
    return el("label", {}, label, box);
  };
  return el("form", { class: "row card", onsubmit: (event) => { event.preventDefault(); choose(state.asked.buyer, state.asked.seller); } },
    select("Buyer", "buyer"), select("Seller", "seller"), el("button", { type: "submit", "data-key": "ask" }, "Why?"));
}

async function explain(graph, buyer, seller) {
  let why;
  if (buyer === seller || graph.selection === null) {
    const text = buyer === seller ? "Nobody buys from itself: choose two." : "This round is not settled.";
    return [el("h2", {}, "Why?"), el("p", { class: "soft" }, text)];
  }
  try {
    why = await get(`rounds/${graph.round}/market/${part(buyer)}/${part(seller)}`);
  } catch (error) {
    if (!(error instanceof Refused) || error.status === 401) throw error;
    return [el("h2", {}, "Why?"), el("p", { class: "soft" }, error.message)];
  }
  const lines = [
    ["paid", why.paid === null ? null : credits(why.paid)],
    ["marginal gain", why.marginal_gain], ["gain alone", why.gain_alone],
    ["full price", why.full_price], ["seller's cost", why.cost], ["price of distance", why.distance_price],
    ["distance", why.distance],
    ["samples, as reported", why.samples], ["samples that count", why.samples_counted],
    ["volume beside it", why.volume],
    ["threshold volume", why.full_price === null ? null : (why.threshold ?? "endless")],
    ["buyer's budget", why.full_price === null ? null : (why.budget ?? "endless")],
    ["its bill would be", why.bill === null ? null : credits(why.bill)],
  ].filter(([, value]) => value !== null);
  return [
    el("h2", {}, why.bought ? `Why ${buyer} buys from ${seller}` : `Why ${buyer} does not buy from ${seller}`),
    el("p", { class: why.bought ? "good" : "bad", "data-reason": why.reason }, why.text),
    why.full_price === null ? null : bars(why),
    el("dl", {}, lines.map(([name, value]) => [el("dt", {}, name), el("dd", {}, typeof value === "number" ? real(value, 6) : value)])),
  ];
}

function bars(why) {
  const rows = [["adds", [["", why.marginal_gain]]], ["price", [["cost", why.cost], ["away", why.distance_price]]]];
  if (why.paid !== null) rows.push(["paid", [["paid", why.paid / 1e6]]]);
  const most = Math.max(1e-12, why.marginal_gain, why.full_price, (why.paid ?? 0) / 1e6);
  return svg("svg", { viewBox: `0 0 320 ${rows.length * 26}`, class: "bars", role: "img", "aria-label": `It adds ${real(why.marginal_gain)} at a full price of ${real(why.full_price)} credits.` },
    rows.map(([name, pieces], k) => {
      let x = 60;
      return [
        svg("text", { x: 0, y: k * 26 + 17 }, name),
        pieces.map(([kind, value]) => {
          const width = Math.max(0, (255 * value) / most);
          const piece = svg("rect", { x, y: k * 26 + 4, width, height: 18, class: kind || null });
          x += width;
          return piece;
        }),
      ];
    }));
}

function institutions(graph) {
  return table("Institutions", [["Name"], ["Accuracy", true], ["Gain", true], ["Utility", true], ["Net paid", true], ["Balance", true]],
    graph.nodes.map((node) => [
      node.name + (node.declined ? " (over its budget)" : "") + (node.takes_part ? "" : " (took no part)"),
      percent(node.accuracy), signed(node.accuracy_gain), real(node.utility), credits(node.net), credits(node.balance),
    ]));
}

function purchases(graph, choose) {
  const shown = graph.edges.slice(0, DRAWN_MAX);
  return table("Purchases", [["Buyer"], ["Seller"], ["Price", true], [""]],
    shown.map((edge) => [
      edge.buyer, edge.seller, credits(edge.price),
      el("button", {
        type: "button", "data-key": `why ${keyOf(edge.buyer, edge.seller)}`, "aria-label": `Why ${edge.buyer} buys from ${edge.seller}`,
        onclick: async () => {
          await choose(edge.buyer, edge.seller);
          document.getElementById("why").scrollIntoView({ block: "nearest" });
        },
      }, "Why?"),
    ]));
}
