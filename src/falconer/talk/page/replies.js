// Getting replies: one request for each model that answers, all stopped together.

import { ask, events, Problem } from "./api.js";
import { history, keep, messages, sentences, talk } from "./conversation.js";
import { valuesOf } from "./decoding.js";

let running = null;

export const isWriting = () => running !== null;
export const stop = () => running?.abort();

// What is asked of every model of an exchange. A seed that nobody chose is a new one, noted so that the reply can be
// had again.
function decodingOf() {
  const values = valuesOf();
  return { ...values, seed: values.seed ?? crypto.getRandomValues(new Uint32Array(1))[0] };
}

export const newReply = (model, decoding) => ({ model, decoding, text: "", state: "writing" });

// The models that answer, in the order in which their replies are shown: at random where there is a vote.
export function answering() {
  const [first, second] = talk.models;
  if (talk.mode === "one") return [first];
  const isTurned = talk.mode === "blind" && crypto.getRandomValues(new Uint8Array(1))[0] < 128;
  return isTurned ? [second, first] : [first, second];
}

// Adds a turn of replies behind the last turn and writes it; `show` is called with each piece of a reply.
export async function answer(show) {
  const asked = messages(history());
  const decoding = decodingOf();
  const replies = answering().map((model) => newReply(model, decoding));
  const turn = { who: "self", replies, kept: 0, blind: talk.mode === "blind", vote: null, persona: sentences(talk.persona) };
  talk.turns.push(turn);
  keep();
  await write(turn, replies, asked, show);
}

async function write(turn, replies, asked, show) {
  running = new AbortController();
  const { signal } = running;
  show.start(turn);
  const kept = setInterval(keep, 1000);
  try {
    await Promise.all(replies.map((reply) => writeOne(reply, asked, signal, show)));
  } finally {
    clearInterval(kept);
    running = null;
    const good = replies.findIndex((reply) => reply.state === "done");
    const partial = replies.findIndex((reply) => reply.text);
    turn.kept = Math.max(0, good >= 0 ? good : partial);
    keep();
    show.end(turn);
  }
}

async function writeOne(reply, asked, signal, show) {
  const start = performance.now();
  try {
    const body = { model: reply.model, messages: asked, stream: true, stream_options: { include_usage: true }, ...reply.decoding };
    const response = await ask("v1/chat/completions", { body, signal });
    // Turns that did not fit into the model's context, oldest first.
    reply.dropped = Number(response.headers.get("X-Dropped-Turns"));
    for await (const event of events(response)) {
      const choice = event.choices?.[0];
      const piece = choice?.delta?.content;
      if (piece) {
        reply.text += piece;
        show.piece(reply, piece);
      }
      if (choice?.finish_reason) reply.finish = choice.finish_reason;
      if (event.usage) reply.tokens = event.usage.completion_tokens;
    }
    reply.state = "done";
  } catch (error) {
    if (error.name === "AbortError") {
      Object.assign(reply, { state: "stopped", note: "stopped" });
    } else {
      reply.state = "failed";
      reply.note = error instanceof Problem ? error.message : `The page failed: ${error.message}. Reload it.`;
    }
  }
  reply.seconds = (performance.now() - start) / 1000;
  show.done(reply);
}
