// Showing the conversation: messages, replies as they are written, and what can be done with each.

import { button, byId, make, plural, say } from "./dom.js";
import { keptReply, talk } from "./conversation.js";
import { isWriting } from "./replies.js";
import { editor } from "./edit.js";
import { append, plain, shown } from "./text.js";
import { ballot, isOpen } from "./votes.js";

let acts = {},
  tones = new Map(),
  editing = null;
const bubbles = new Map();
const LETTERS = "AB";

// `actions` does what the buttons say; `models` are those of the server: each has a colour, the base its own.
export function startTurns(actions, models) {
  acts = actions;
  const adapters = models.filter((model) => !model.is_base);
  tones = new Map(models.map((model) => [model.name, model.is_base ? "base" : ["tuned", "gold"][adapters.indexOf(model) % 2]]));
  drawTurns();
}

export function drawTurns() {
  bubbles.clear();
  byId("turns").replaceChildren(...talk.turns.map(drawn));
  byId("conversation").setAttribute("aria-busy", String(isWriting()));
}

export function startEditing(turn) {
  editing = turn;
  drawTurns();
  byId("turns").querySelector(".editor textarea")?.focus();
}

function stopEditing(index) {
  editing = null;
  drawTurns();
  focusIn(index, "edit");
}

// Puts the focus back on a control that was drawn anew.
export function focusIn(index, act) {
  (byId("turns").children[index]?.querySelector(`[data-act="${act}"]`) ?? byId("message")).focus();
}

function drawn(turn, index) {
  if (editing === turn) {
    const save = (text) => {
      editing = null;
      acts.edit(index, text);
    };
    return make("li", { class: `turn ${turn.who}` }, editor(turn, save, () => stopEditing(index)));
  }
  return turn.who === "partner" ? message(turn, index) : answer(turn, index);
}

function message(turn, index) {
  const isLast = index === talk.turns.length - 1;
  return make(
    "li",
    { class: "turn partner" },
    make("span", { class: "hidden" }, "You: "),
    make("div", { class: "bubble", dir: "auto" }, shown(turn.text)),
    make("div", { class: "acts" }, act("Edit", "edit", () => startEditing(turn), "Edit your message"), isLast && !isWriting() && act("Get a reply", "answer", () => acts.answer())),
  );
}

const act = (label, name, does, described) => button(label, does, { class: "link", "data-act": name, disabled: isWriting(), "aria-label": described });

function answer(turn, index) {
  const isTwo = turn.replies.length > 1,
    isLast = index === talk.turns.length - 1;
  const can = make(
    "div",
    { class: "acts" },
    act("Regenerate", "regenerate", () => acts.regenerate(index), "Regenerate the reply"),
    !isOpen(turn) && act("Edit", "edit", () => startEditing(turn), "Edit the reply"),
  );
  // Below the reply that they are about; before a vote they are about both.
  const replies = turn.replies.map((reply, i) => drawnReply(turn, i, isLast, turn.kept === i && !isOpen(turn) ? can : null));
  const vote = isOpen(turn) && isLast && !isWriting() ? ballot(turn, () => acts.voted()) : null;
  return make("li", { class: `turn self${isTwo ? " two" : ""}` }, make("div", { class: "replies" }, replies), vote, isOpen(turn) && can);
}

// The name that a reply is shown under.
export const nameOf = (turn, reply) => (isOpen(turn) ? LETTERS[turn.replies.indexOf(reply)] : (reply.model ?? "imported"));

function drawnReply(turn, i, isLast, can) {
  const reply = turn.replies[i],
    name = nameOf(turn, reply),
    isTwo = turn.replies.length > 1,
    isKept = turn.kept === i;
  const bubble = make("div", { class: "bubble", dir: "auto" });
  bubbles.set(reply, bubble);
  if (reply.text) bubble.append(...shown(reply.text));
  else if (reply.state === "writing") bubble.append(make("span", { class: "dots", role: "img", "aria-label": "writing" }, make("i"), make("i"), make("i")));
  else bubble.append(make("span", { class: "empty" }, reply.state === "done" ? "(empty reply)" : "(no reply)"));
  const tone = isOpen(turn) ? "blind" : (tones.get(reply.model) ?? "plain");
  const letter = turn.blind && !isOpen(turn) ? `${LETTERS[i]}: ` : "";
  const goesOn = isTwo && !isOpen(turn) && !isWriting() ? goesOnMark(turn, i, isKept, isLast) : null;
  return make(
    "article",
    { class: `reply ${tone}${isTwo && !isKept && !isOpen(turn) && !isWriting() ? " aside" : ""}`, "aria-label": `Reply ${letter}${name}` },
    make("header", {}, make("span", { class: "who" }, letter, name), verdict(turn, i), goesOn),
    bubble,
    noteOf(turn, reply),
    make("footer", {}, make("p", { class: "meta" }, isOpen(turn) ? "" : factsOf(reply)), can),
  );
}

function verdict(turn, i) {
  if (!turn.vote || turn.vote === "skipped") return null;
  if (turn.vote === "tie") return make("span", { class: "tag" }, "about equal");
  return turn.vote === ["left", "right"][i] ? make("span", { class: "tag chosen" }, "your choice") : null;
}

// By which of two replies the conversation goes on. Once it has gone on, that is history.
function goesOnMark(turn, i, isKept, isLast) {
  if (!isLast) return isKept ? make("span", { class: "tag" }, "continued") : null;
  return button(isKept ? "Continues" : "Continue with this", () => acts.continueWith(turn, i), {
    class: "tag pick",
    "aria-pressed": String(isKept),
    "data-act": `keep-${i}`,
  });
}

function noteOf(turn, reply) {
  const notes = [];
  if (reply.state === "failed" || reply.state === "stopped") notes.push(reply.note);
  if (reply.finish === "length" && !isOpen(turn)) notes.push("Cut off at the most tokens; “Most tokens” in the settings allows longer replies.");
  if (reply.dropped) notes.push(`The oldest ${reply.dropped === 1 ? "turn" : `${reply.dropped} turns`} did not fit into the model’s context and ${reply.dropped === 1 ? "was" : "were"} left out.`);
  return notes.length ? make("p", { class: `note${reply.state === "failed" ? " bad" : ""}` }, notes.join(" ")) : null;
}

function factsOf(reply) {
  const facts = [];
  if (reply.tokens) facts.push(plural(reply.tokens, "token"));
  if (reply.seconds) facts.push(`${reply.seconds.toFixed(reply.seconds < 10 ? 1 : 0)} s`);
  if (reply.decoding) facts.push(reply.decoding.temperature === 0 ? "greedy" : `seed ${reply.decoding.seed}`);
  if (reply.edited) facts.push("edited");
  return facts.join(" · ");
}

// Keeps the end in sight while it grows, unless the reader has scrolled up.
let isFollowing = true,
  isWaiting = false,
  lastTop = 0;
export function follow() {
  const area = byId("conversation");
  area.addEventListener(
    "scroll",
    () => {
      const { scrollTop, scrollHeight, clientHeight } = area;
      // The end also moves away when the text grows faster than it is scrolled.
      if (scrollTop < lastTop) isFollowing = false;
      if (scrollHeight - scrollTop - clientHeight < 60) isFollowing = true;
      lastTop = scrollTop;
    },
    { passive: true },
  );
}

export function toEnd() {
  const area = byId("conversation");
  area.scrollTop = area.scrollHeight;
  isFollowing = true;
}

function grow() {
  if (!isFollowing || isWaiting) return;
  isWaiting = true;
  requestAnimationFrame(() => {
    isWaiting = false;
    if (isFollowing) toEnd();
  });
}

// What `replies.answer` calls while replies are written.
export const show = {
  start() {
    drawTurns();
    toEnd();
  },
  piece(reply, piece) {
    const bubble = bubbles.get(reply);
    if (reply.text.length === piece.length) bubble.replaceChildren();
    append(bubble, piece);
    grow();
  },
  done() {},
  end(turn) {
    drawTurns();
    grow();
    for (const reply of turn.replies) {
      const said = reply.text || (reply.state === "done" ? "an empty reply" : "no reply");
      say(`${nameOf(turn, reply)}: ${plain(said)}${reply.note ? `. ${reply.note}` : ""}`);
    }
    acts.ended(turn, keptReply(turn));
  },
};
