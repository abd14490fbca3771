// Asking the server: with the key if it wants one, replies as they are written, and its errors in plain words.

import { byId } from "./dom.js";

const KEY = "falconer-key";
// Where the browser keeps nothing for this page, the key lasts as long as the page.
let key = read();
const address = (path) => new URL(path, document.baseURI);

function read() {
  try {
    return sessionStorage.getItem(KEY);
  } catch {
    return null;
  }
}

function take(given) {
  key = given;
  try {
    sessionStorage.setItem(KEY, key);
  } catch {}
}

// What went wrong and what to do; `message` is for people.
export class Problem extends Error {}

// Returns the response of a request, once the server has accepted its key.
export async function ask(path, { body, signal } = {}) {
  for (;;) {
    const headers = {},
      used = key;
    if (used) headers.Authorization = `Bearer ${used}`;
    if (body !== undefined) headers["Content-Type"] = "application/json";
    let response;
    try {
      response = await fetch(address(path), {
        method: body === undefined ? "GET" : "POST",
        headers,
        body: body === undefined ? undefined : JSON.stringify(body),
        signal,
        cache: "no-store",
        credentials: "same-origin",
      });
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw unreachable();
    }
    if (response.status === 401) {
      // Another request may have been given the right one meanwhile.
      if (used === key) await askForKey(Boolean(used), signal);
    } else if (response.ok) return response;
    else throw await problemOf(response);
  }
}

export async function askJson(path, options) {
  const response = await ask(path, options);
  try {
    return await response.json();
  } catch {
    throw new Problem("The server’s answer can’t be read. Is another program listening at this address?");
  }
}

export const unreachable = () =>
  new Problem("The server can’t be reached. Check that falconer serve is still running, then try again.");

// The page asks once, also if two replies wait for the same key.
let waiting = null;
function askForKey(wasWrong, signal) {
  waiting ??= entered(wasWrong).finally(() => {
    waiting = null;
  });
  if (!signal) return waiting;
  return Promise.race([
    waiting,
    new Promise((_, reject) => signal.addEventListener("abort", () => reject(new DOMException("stopped", "AbortError")))),
  ]);
}

// Takes the key that the user enters; rejects if they close the dialog instead.
function entered(wasWrong) {
  const dialog = byId("key-dialog"),
    field = byId("key"),
    problem = byId("key-problem"),
    listeners = new AbortController();
  problem.textContent = wasWrong ? "The server does not accept this key." : "";
  field.value = "";
  field.setAttribute("aria-invalid", String(wasWrong));
  dialog.showModal();
  field.focus();
  return new Promise((resolve, reject) => {
    const on = (target, event, act) => target.addEventListener(event, act, { signal: listeners.signal });
    on(byId("key-form"), "submit", (event) => {
      event.preventDefault();
      const given = field.value.trim();
      // What can't stand in a header is no key: it would only look like a lost connection.
      if (!/^[\x21-\x7e]+$/.test(given)) {
        problem.textContent = "A key has letters, digits and signs of ASCII only, without spaces.";
        return;
      }
      take(given);
      resolve();
      dialog.close();
    });
    on(dialog, "close", () => {
      field.value = "";
      listeners.abort();
      reject(new Problem("This server needs an API key, and none was entered."));
    });
  });
}

async function problemOf(response) {
  const { status } = response;
  let said = "";
  let code = "";
  try {
    const { error } = await response.json();
    said = error.message ?? "";
    code = error.code ?? "";
  } catch {
    // A proxy answers with a page of its own, which says less than the status.
  }
  const waitS = Math.min(Number(response.headers.get("Retry-After")) || 0, 3600);
  const later = waitS ? `Try again in ${waitS} seconds.` : "Try again in a moment.";
  const words = {
    403: "The server refuses this request.",
    404: "The server does not know this address or model. Reload the page.",
    408: "The request arrived too slowly. Check the connection, then try again.",
    413: "The conversation is too large for the server. Start a new one, or shorten it.",
    429: `The server is busy. ${later}`,
    502: "The proxy in front of the server can’t reach it. Check that falconer serve is running, then try again.",
    503: `The server is starting or shutting down. ${later}`,
    504: "The reply took too long. Try again, or ask for fewer tokens.",
  };
  // Where the server knows more than the status says.
  const isTold = (status < 500 && status !== 429) || code === "votes_file" || code === "engine_failed";
  const message = (isTold && said) || words[status] || `${said || `The server failed (status ${status}).`} Its log may say more.`;
  return new Problem(message);
}

// Yields the data of a stream of server-sent events, each parsed; ends at [DONE].
export async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      let piece;
      try {
        piece = await reader.read();
      } catch (error) {
        if (error.name === "AbortError") throw error;
        throw new Problem("The connection was lost, so the reply is not complete. Check the server, then regenerate.");
      }
      if (piece.done) throw new Problem("The reply broke off before its end. Check the server, then regenerate.");
      rest += piece.value;
      const lines = rest.split(/\r?\n/);
      rest = lines.pop();
      for (const line of lines) {
        if (!line.startsWith("data:")) continue;
        const data = line.slice(5).trim();
        if (data === "[DONE]") return;
        yield parsed(data);
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

function parsed(data) {
  let event;
  try {
    event = JSON.parse(data);
  } catch {
    throw new Problem("The server’s answer can’t be read. Is a proxy changing it?");
  }
  if (event.error) throw new Problem(event.error.message || "The server failed while it wrote the reply.");
  return event;
}
