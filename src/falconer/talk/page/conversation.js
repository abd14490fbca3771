// The conversation and the user's choices: one object, kept in this browser tab over a reload, with undo.

// A turn is {who: "partner", text} or {who: "self", replies, kept, blind, vote}: `kept` is the reply by which the
// conversation goes on, `blind` that names are hidden until there is a vote ("left", "right", "tie" or "skipped").
// A reply is {model, text, state: "writing" | "done" | "stopped" | "failed", ...} with what is known about it.

const NAME = "falconer-conversation";
const MOST_UNDONE = 30;

const empty = () => ({ persona: "", turns: [], mode: "one", models: [], decoding: {}, draft: "", votes: [] });

export const talk = read() ?? empty();
const before = [];

function read() {
  try {
    const kept = JSON.parse(sessionStorage.getItem(NAME));
    if (typeof kept?.persona !== "string" || !Array.isArray(kept.turns)) return null;
    for (const turn of kept.turns) {
      for (const reply of turn.replies ?? []) {
        if (reply.state === "writing") Object.assign(reply, { state: "stopped", note: "stopped by a reload of the page" });
      }
    }
    return { ...empty(), ...kept };
  } catch {
    return null;
  }
}

// A page that is left loses its requests: what it makes of that is not what the user did, and is not kept.
let isLeft = false;
addEventListener("pagehide", () => {
  keep();
  isLeft = true;
});
addEventListener("pageshow", () => {
  isLeft = false;
});

// If the browser's store is full or closed, the conversation lasts as long as the page.
export function keep() {
  if (isLeft) return;
  try {
    sessionStorage.setItem(NAME, JSON.stringify(talk));
  } catch {}
}

export function remember() {
  before.push(structuredClone({ persona: talk.persona, turns: talk.turns }));
  if (before.length > MOST_UNDONE) before.shift();
}

export const canUndo = () => before.length > 0;

export function undo() {
  Object.assign(talk, before.pop() ?? {});
  keep();
}

// The sentences of a persona; blank lines are none.
export const sentences = (persona) =>
  persona
    .split("\n")
    .map((line) => line.trim())
    .filter(Boolean);

export const keptReply = (turn) => turn.replies[turn.kept];
export const textOf = (turn) => (turn.who === "self" ? keptReply(turn).text : turn.text);
// A reply that failed before its first word is none.
export const isSaid = (turn) => turn.who === "partner" || Boolean(keptReply(turn).text) || keptReply(turn).state === "done";

// The turns that a reply to turn `end` sees, and that a file holds.
export const history = (end = talk.turns.length) =>
  talk.turns
    .slice(0, end)
    .filter(isSaid)
    .map((turn) => ({ speaker: turn.who, text: textOf(turn) }));

export function messages(turns) {
  const persona = sentences(talk.persona).join("\n");
  const said = turns.map(({ speaker, text }) => ({ role: speaker === "self" ? "assistant" : "user", content: text || "..." }));
  return persona ? [{ role: "system", content: persona }, ...said] : said;
}
