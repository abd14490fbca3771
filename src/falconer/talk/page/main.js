// Starts the page and does what its buttons say.

/* global startTheme -- of theme.js, which runs before the first paint */
import { askJson, Problem } from "./api.js";
import { canUndo, isSaid, keep, remember, talk, undo } from "./conversation.js";
import { startDecoding } from "./decoding.js";
import { button, byId, clearNotice, make, notify, plural, say } from "./dom.js";
import { BadFile, canExport, chooseOne, dialoguesIn, save } from "./files.js";
import { startModels } from "./models.js";
import { personaChips, setPersona, startPersona } from "./persona.js";
import { answer, isWriting, stop } from "./replies.js";
import { startSheet } from "./sheet.js";
import { drawTurns, focusIn, follow, show, startTurns, toEnd } from "./turns.js";
import { isOpen, skip, tally } from "./votes.js";

const STARTERS = ["Hi! How are you today?", "What do you do for a living?", "Do you have any pets?"];
const field = byId("message");
let isReady = false;

function update() {
  const isEmpty = !talk.turns.length;
  byId("welcome").hidden = !isEmpty;
  if (isEmpty) drawWelcome();
  byId("undo").disabled = !canUndo() || isWriting();
  byId("export").disabled = !canExport() || isWriting();
  byId("new").disabled = isEmpty || isWriting();
  byId("import").disabled = isWriting();
  byId("send").hidden = isWriting();
  byId("send").disabled = !isReady;
  byId("stop").hidden = !isWriting();
}

function drawWelcome() {
  const starters = STARTERS.map((text) => button(text, () => send(text), { class: "button" }));
  const names = talk.mode === "one" ? talk.models[0] : talk.models.join(" and ");
  const what = {
    one: "It plays the persona; without one, it speaks as it likes.",
    side: "Both answer each message. You choose by which reply the conversation goes on.",
    blind: "Both answer each message, in random order and without names. Your vote is saved, then the names are shown.",
  }[talk.mode];
  byId("welcome").replaceChildren(
    make("h2", {}, names ? `Talk to ${names}` : "Talk"),
    make("p", { class: "soft" }, what),
    talk.persona.trim() ? personaChips() : make("p", {}, button("Play a random persona", () => byId("dice").click(), { class: "button" })),
    make("div", { class: "row" }, starters),
  );
}

async function getReply() {
  if (isWriting()) return;
  try {
    const written = answer(show);
    update();
    await written;
  } finally {
    update();
  }
}

function send(text) {
  if (isWriting()) {
    say("A reply is being written. Press Escape to stop it.");
    return;
  }
  if (!text.trim() || !isReady) return;
  clearNotice();
  const last = talk.turns.at(-1);
  if (last?.who === "self" && isOpen(last)) skip(last);
  dropUnanswered();
  talk.turns.push({ who: "partner", text: text.trim() });
  setDraft("");
  getReply();
}

// A message that got no reply would stand twice in a row with the next one, which no model has seen in training.
function dropUnanswered() {
  const end = talk.turns.findLastIndex((turn) => turn.who === "self" && isSaid(turn)) + 1;
  if (end === talk.turns.length) return;
  remember();
  talk.turns.length = end;
  notify("The message without a reply was removed.", undoButton());
}

function setDraft(text) {
  talk.draft = field.value = text;
  fit();
  keep();
}

// Where the browser does not fit a field to its text itself.
function fit() {
  if (CSS.supports("field-sizing", "content")) return;
  field.rows = Math.min(8, field.value.split("\n").length);
}

function cutTo(length) {
  remember();
  const dropped = Math.max(0, talk.turns.length - length);
  talk.turns.length = Math.min(talk.turns.length, length);
  return dropped;
}

const undoButton = () => button("Undo", () => takeBack(), { id: "undo-now" });

function takeBack() {
  if (isWriting() || !canUndo()) return;
  undo();
  byId("persona").value = talk.persona;
  clearNotice();
  drawTurns();
  update();
  toEnd();
  say("Undone.");
  field.focus();
}

const actions = {
  answer: getReply,
  regenerate(index) {
    // The reply itself is not counted: it is what the user asked to replace.
    const dropped = cutTo(index) - 1;
    if (dropped > 0) notify(`${plural(dropped, "later turn")} dropped.`, undoButton());
    field.focus();
    getReply();
  },
  edit(index, text) {
    const turn = talk.turns[index],
      dropped = cutTo(index + 1);
    if (dropped) notify(`${plural(dropped, "later turn")} dropped.`, undoButton());
    if (turn.who === "partner") {
      talk.turns[index] = { who: "partner", text };
      drawTurns();
      field.focus();
      getReply();
      return;
    }
    const kept = { ...turn.replies[turn.kept], text, edited: true, state: "done", note: undefined, finish: undefined };
    talk.turns[index] = { who: "self", replies: [kept], kept: 0, blind: false, vote: null };
    keep();
    drawTurns();
    update();
    focusIn(index, "edit");
  },
  continueWith(turn, place) {
    turn.kept = place;
    keep();
    drawTurns();
    focusIn(talk.turns.indexOf(turn), `keep-${place}`);
    update();
  },
  voted() {
    clearNotice();
    drawTurns();
    drawTally();
    toEnd();
    field.focus();
    update();
  },
  ended: update,
};

function drawTally() {
  byId("tally").textContent = tally();
}

async function open(file) {
  try {
    const chosen = await chooseOne(await dialoguesIn(file));
    if (!chosen) return;
    cutTo(0);
    talk.turns = chosen.turns;
    setPersona(chosen.persona);
    drawTurns();
    toEnd();
    notify(`Opened a conversation of ${plural(chosen.turns.length, "turn")}.`, undoButton());
  } catch (error) {
    if (!(error instanceof BadFile)) throw error;
    notify(error.message);
  }
  update();
}

function startComposer() {
  byId("composer").addEventListener("submit", (event) => {
    event.preventDefault();
    send(field.value);
  });
  field.addEventListener("input", () => {
    talk.draft = field.value;
    fit();
  });
  field.addEventListener("change", keep);
  field.addEventListener("keydown", (event) => {
    // Enter also ends the composition of a word in Chinese or Japanese, which sends nothing.
    if (event.key !== "Enter" || event.shiftKey || event.isComposing || event.keyCode === 229) return;
    event.preventDefault();
    send(field.value);
  });
  byId("stop").addEventListener("click", () => {
    stop();
    field.focus();
  });
  addEventListener("keydown", (event) => {
    if (event.key === "Escape" && isWriting() && !document.querySelector("dialog[open]")) stop();
  });
  setDraft(talk.draft);
}

function startButtons() {
  byId("new").addEventListener("click", () => {
    cutTo(0);
    drawTurns();
    notify("A new conversation.", undoButton());
    update();
    field.focus();
  });
  byId("undo").addEventListener("click", takeBack);
  byId("export").addEventListener("click", save);
  byId("import").addEventListener("click", () => byId("file").click());
  byId("file").addEventListener("change", ({ target }) => {
    const [file] = target.files;
    // So that the same file can be chosen again.
    target.value = "";
    if (file) open(file);
  });
}

async function connect() {
  try {
    const [settings, { personas }] = await Promise.all([askJson("page/data/settings"), askJson("page/data/personas")]);
    byId("serving").textContent = `${plural(settings.models.length, "model")}, version ${settings.version}`;
    startDecoding(settings.decoding);
    startPersona(personas, update);
    startModels(settings.models, update);
    startTurns(actions, settings.models);
    isReady = true;
    clearNotice();
    toEnd();
    // Where it opens no keyboard over the page.
    if (matchMedia("(pointer: fine)").matches && document.activeElement === document.body) field.focus();
  } catch (error) {
    if (!(error instanceof Problem)) throw error;
    notify(error.message, button("Try again", connect));
  }
  update();
}

startTheme(byId("theme"));
startSheet();
startComposer();
startButtons();
follow();
drawTally();
update();
connect();
