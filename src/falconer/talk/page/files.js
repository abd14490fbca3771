// A conversation as a line of falconer's JSON Lines format, and back.

import { byId, make, plural } from "./dom.js";
import { history, sentences, talk } from "./conversation.js";

const MOST_BYTES = 20_000_000;
const CONVERT = "If it is another format, first run: falconer data convert FILE TO.jsonl";

// What is wrong with a file, for people.
export class BadFile extends Error {}

// Empty turns have no place in data: they would be bad rows.
export function exported() {
  const turns = history().filter(({ text }) => text.trim());
  return { id: `chat-${new Date().toISOString().slice(0, 19).replaceAll(":", "")}`, persona: sentences(talk.persona), partner_persona: [], turns };
}

export const canExport = () => exported().turns.some(({ speaker }) => speaker === "self");

export function save() {
  const row = exported();
  const url = URL.createObjectURL(new Blob([`${JSON.stringify(row)}\n`], { type: "application/x-ndjson" }));
  make("a", { href: url, download: `falconer-${row.id}.jsonl` }).click();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
}

// Returns the dialogues of a file; a BadFile says which line and field is wrong, and what to do.
export async function dialoguesIn(file) {
  const name = `“${file.name}”`;
  if (file.size > MOST_BYTES) {
    throw new BadFile(`${name} has ${(file.size / 1e6).toFixed(0)} MB; at most ${MOST_BYTES / 1e6} MB can be opened here. Take some lines of it.`);
  }
  const text = await textOf(file, name);
  const lines = text.split(/\r?\n/).map((line, index) => [index + 1, line]).filter(([, line]) => line.trim());
  if (!lines.length) throw new BadFile(`${name} is empty.`);
  return lines.map(([number, line]) => dialogueOf(line, `${name}, line ${number}`));
}

async function textOf(file, name) {
  const bytes = new Uint8Array(await file.arrayBuffer());
  if (bytes[0] === 0x1f && bytes[1] === 0x8b) throw new BadFile(`${name} is compressed. Unpack it first.`);
  try {
    return new TextDecoder("utf-8", { fatal: true }).decode(bytes);
  } catch {
    throw new BadFile(`${name} is not text in UTF-8. ${CONVERT}`);
  }
}

function dialogueOf(line, where) {
  let row;
  try {
    row = JSON.parse(line);
  } catch {
    throw new BadFile(`${where}: not JSON. Expected a dialogue on each line. ${CONVERT}`);
  }
  if (typeof row !== "object" || row === null || Array.isArray(row) || !("turns" in row)) {
    throw new BadFile(`${where}: the field 'turns' is missing. ${CONVERT}`);
  }
  const persona = row.persona ?? [];
  if (!Array.isArray(persona) || persona.some((item) => typeof item !== "string")) {
    throw new BadFile(`${where}: 'persona' is no list of sentences.`);
  }
  if (!Array.isArray(row.turns) || !row.turns.length) throw new BadFile(`${where}: 'turns' is no list of turns.`);
  return { persona: persona.join("\n"), turns: merged(row.turns.map((turn, i) => turnOf(turn, `${where}: 'turns[${i}]'`))) };
}

function turnOf(turn, where) {
  if (typeof turn !== "object" || turn === null) throw new BadFile(`${where} is no object.`);
  if (!["self", "partner"].includes(turn.speaker)) {
    throw new BadFile(`${where} has the speaker ${JSON.stringify(turn.speaker) ?? "nobody"}; allowed: "self", whom the model plays, and "partner".`);
  }
  if (typeof turn.text !== "string" || !turn.text.trim()) throw new BadFile(`${where} has no text.`);
  return turn.speaker === "partner"
    ? { who: "partner", text: turn.text }
    : { who: "self", replies: [{ model: null, text: turn.text, state: "done" }], kept: 0, blind: false, vote: null };
}

// Turns in a row of one speaker become one, as they do in training.
function merged(turns) {
  const kept = [];
  for (const turn of turns) {
    const last = kept.at(-1);
    if (last?.who !== turn.who) kept.push(turn);
    else if (turn.who === "partner") last.text += ` ${turn.text}`;
    else last.replies[0].text += ` ${turn.replies[0].text}`;
  }
  return kept;
}

// Lets the user choose where a file has several dialogues; null if they choose none.
export function chooseOne(dialogues) {
  if (dialogues.length === 1) return Promise.resolve(dialogues[0]);
  const dialog = byId("choice-dialog"),
    list = byId("choice");
  byId("choice-label").textContent = `The file has ${plural(dialogues.length, "dialogue")}.`;
  const opening = ({ turns: [first] }) => (first.text ?? first.replies[0].text).slice(0, 80);
  list.replaceChildren(...dialogues.slice(0, 1000).map((dialogue, i) => make("option", { value: String(i) }, `${i + 1}. ${opening(dialogue)}`)));
  list.value = "0";
  return new Promise((resolve) => {
    const listeners = new AbortController();
    const end = (dialogue) => {
      listeners.abort();
      dialog.close();
      resolve(dialogue);
    };
    const on = (target, event, act) => target.addEventListener(event, act, { signal: listeners.signal });
    on(byId("choice-form"), "submit", (event) => {
      event.preventDefault();
      end(dialogues[Number(list.value)]);
    });
    on(list, "dblclick", () => end(dialogues[Number(list.value)]));
    on(byId("choice-cancel"), "click", () => end(null));
    on(dialog, "cancel", () => end(null));
    dialog.showModal();
    list.focus();
  });
}
