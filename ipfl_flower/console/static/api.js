// Requests to the console's API. The browser sends ETags along, and keeps what is not modified.

export class Refused extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

// JSON.parse would round an amount of 2⁵³ micro-credits and more: such a number is kept as the string that it is.
const TOKEN = /"(?:[^"\\]|\\.)*"|-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?/g;
const LONG = /^-?\d{16,}$/;
const parse = (text) => JSON.parse(text.replace(TOKEN, (token) => (LONG.test(token) ? `"${token}"` : token)));

async function call(path, options) {
  const response = await fetch(`/api/v1/${path}`, { cache: "no-cache", credentials: "same-origin", ...options });
  if (response.ok) return response.status === 204 ? null : parse(await response.text());
  const said = await response.json().catch(() => ({}));
  throw new Refused(response.status, typeof said.detail === "string" ? said.detail : response.statusText);
}

export const get = (path) => call(path, {});
export const logIn = (token) =>
  call("login", { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify({ token }) });
export const logOut = () => call("logout", { method: "POST" });
export const part = encodeURIComponent;
