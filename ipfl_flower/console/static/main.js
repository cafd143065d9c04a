// Who is logged in, which view is shown, and whether the market has got on.

import { get, logIn, logOut, Refused } from "./api.js";
import { el, show } from "./dom.js";
import { learning } from "./learning.js";
import { market } from "./market.js";
import { money } from "./money.js";
import { rounds } from "./rounds.js";

const LOOK_EVERY_MS = 2000;
const VIEWS = { market, rounds, money, learning };

const at = (id) => document.getElementById(id);
let session = null;
let status = null;
let looking = null; // the look that is under way
let shown = 0;
let known = false; // whether it was asked who is logged in
let failed = false; // whether what is shown says so

function current() {
  const name = location.hash.slice(1);
  return name in VIEWS ? name : "market";
}

/** Draw the view that the address names; what an older call brings late is thrown away. */
async function draw() {
  const name = current();
  const mine = ++shown;
  for (const tab of at("tabs").children) {
    if (tab.hash === `#${name}`) tab.setAttribute("aria-current", "page");
    else tab.removeAttribute("aria-current");
  }
  document.title = `${name[0].toUpperCase()}${name.slice(1)} · market`;
  try {
    const content = await VIEWS[name](status, session, draw);
    if (mine === shown) show(at("view"), content);
  } catch (error) {
    if (mine === shown) fail(error);
  }
}

function headline() {
  if (status.rounds === 0) return "no round has begun";
  const now = status.now;
  const waiting = now.waiting.length ? `, waiting for ${now.waiting.join(", ")}` : "";
  const served = status.served ? "" : "; nobody serves the market now";
  return `round ${now.number}: ${now.state.toLowerCase()}, ${now.reported} of ${now.asked} replied${waiting}${served}`;
}

/** Look whether the market has got on: one look at a time, however long it takes. */
function look() {
  looking ??= lookNow().finally(() => { looking = null; });
  return looking;
}

async function lookNow() {
  if (!known) await begin();
  const who = session;
  if (who === null) return;
  try {
    const found = await get("status");
    if (session !== who) return; // logged out meanwhile
    const changed = JSON.stringify(found) !== JSON.stringify(status);
    status = found;
    if (!changed && !failed) return;
    failed = false;
    at("now").textContent = headline();
    await draw();
  } catch (error) {
    if (session === who) fail(error);
  }
}

function fail(error) {
  if (error instanceof Refused && error.status === 401) {
    enter(null);
    return;
  }
  failed = true;
  if (error instanceof Refused) show(at("view"), el("p", { class: "bad card" }, error.message));
  else at("now").textContent = "the console can't be reached; trying again";
}

function enter(who) {
  session = who;
  shown += 1; // what is being drawn is of another
  known = true;
  status = null;
  at("login").hidden = who !== null;
  at("tabs").hidden = at("view").hidden = who === null;
  at("logout").hidden = who === null || !who.tokens;
  at("who").textContent = who === null ? "" : (who.name ?? "operator");
  at("now").textContent = who === null ? "" : "…";
  if (who === null) {
    show(at("view"));
    at("login").token.focus();
  }
}

at("login").addEventListener("submit", async (event) => {
  event.preventDefault();
  at("refused").textContent = "";
  try {
    enter(await logIn(at("login").token.value.trim()));
    at("login").reset();
    await looking;
    await look();
  } catch (error) {
    at("refused").textContent = error instanceof Refused ? error.message : "the console can't be reached";
  }
});

at("logout").addEventListener("click", async () => {
  await logOut();
  enter(null);
});

function setTheme(theme) {
  document.documentElement.dataset.theme = theme;
  at("theme").textContent = theme === "dark" ? "Light" : "Dark";
}
setTheme(localStorage.getItem("theme") ?? (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light"));
at("theme").addEventListener("click", () => {
  setTheme(document.documentElement.dataset.theme === "dark" ? "light" : "dark");
  localStorage.setItem("theme", document.documentElement.dataset.theme);
});

addEventListener("hashchange", () => {
  if (status === null) return;
  draw().then(() => at("view").focus({ preventScroll: true }));
});

async function begin() {
  try {
    const who = await get("session");
    enter(who.role === "nobody" ? null : who);
  } catch (error) {
    fail(error);
  }
}

await look();
setInterval(look, LOOK_EVERY_MS);
