// Blind votes: which of two replies is better, saved by the server before the names are shown.

import { askJson, Problem } from "./api.js";
import { button, make, notify, plural, say } from "./dom.js";
import { history, keep, talk } from "./conversation.js";

const SIDES = ["left", "right"];
const LETTERS = "AB";

export const isOpen = (turn) => turn.blind && !turn.vote;
export const canVote = (turn) => isOpen(turn) && turn.replies.every((reply) => reply.state === "done");

// The buttons under two replies, or what there is to say instead of a vote. `voted` is called once names may be shown.
export function ballot(turn, voted) {
  const [left, right] = turn.replies;
  if (!canVote(turn)) return row("A vote needs two whole replies.", skipButton(turn, voted));
  if (left.text.trim() === right.text.trim()) return row("Both replies are the same, so there is nothing to vote on.", skipButton(turn, voted));
  const cast = (vote) => castVote(turn, vote, voted);
  const choices = [
    button(["A is better", make("kbd", {}, "←")], () => cast("left")),
    button(["About equal", make("kbd", {}, "↓")], () => cast("tie")),
    button(["B is better", make("kbd", {}, "→")], () => cast("right")),
  ];
  const group = make("div", { class: "ballot", role: "group", tabindex: "0", "aria-label": "Which reply is better? Left arrow: A, right arrow: B, down arrow: about equal." },
    make("p", { "aria-hidden": "true" }, "Which reply is better?"),
    make("div", { class: "row" }, choices, skipButton(turn, voted)),
  );
  group.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.repeat) return;
    const vote = { ArrowLeft: "left", a: "left", ArrowRight: "right", b: "right", ArrowDown: "tie", t: "tie" }[event.key];
    if (!vote) return;
    event.preventDefault();
    cast(vote);
  });
  return group;
}

const row = (text, skip) => make("div", { class: "ballot", tabindex: "-1" }, make("p", {}, text), make("div", { class: "row" }, skip));

function skipButton(turn, voted) {
  return button("Show the names without a vote", () => {
    skip(turn);
    voted();
  }, { class: "link" });
}

export function skip(turn) {
  turn.vote = "skipped";
  keep();
}

async function castVote(turn, vote, voted) {
  if (turn.voting || turn.vote) return;
  turn.voting = true;
  const end = talk.turns.indexOf(turn);
  const told = ({ model, text, decoding }) => ({ model, text, decoding });
  const [left, right] = turn.replies.map(told);
  const body = { persona: turn.persona, history: history(end), left, right, vote };
  try {
    const { file } = await askJson("page/data/votes", { body });
    turn.vote = vote;
    // The conversation goes on by the better reply.
    if (vote !== "tie") turn.kept = SIDES.indexOf(vote);
    talk.votes.push(vote === "tie" ? null : turn.replies[turn.kept].model);
    say(`${spoken(turn)} Saved in ${file}.`);
    voted();
  } catch (error) {
    if (!(error instanceof Problem)) throw error;
    notify(error.message, button("Try again", () => castVote(turn, vote, voted)));
  } finally {
    delete turn.voting;
    keep();
  }
}

const spoken = (turn) =>
  (turn.vote === "tie" ? "About equal. " : `${LETTERS[turn.kept]} is better. `) +
  turn.replies.map((reply, i) => `${LETTERS[i]} was ${reply.model}.`).join(" ");

// What the votes of this tab say so far.
export function tally() {
  if (!talk.votes.length) return "";
  const counts = new Map();
  for (const winner of talk.votes) counts.set(winner ?? "about equal", (counts.get(winner ?? "about equal") ?? 0) + 1);
  return `${plural(talk.votes.length, "vote")}: ${[...counts].map(([name, count]) => `${name} ${count}`).join(", ")}`;
}
