// How tokens are chosen: a slider and a number for each field that the server names, with its bounds and its default.

import { byId, make } from "./dom.js";
import { keep, talk } from "./conversation.js";

// What a field is called, what it does, and the part of its range where it is of use, which the slider has; the number
// beside it takes all that the server allows.
const WORDS = {
  temperature: { label: "Temperature", hint: "0 always takes the likeliest token", usual: [0, 1.5], step: 0.05 },
  top_p: { label: "Top-p", hint: "samples from the likeliest tokens of this total probability", usual: [0.05, 1], step: 0.01 },
  top_k: { label: "Top-k", hint: "samples from so many tokens; 0: from all", usual: [0, 100], step: 1 },
  min_p: { label: "Min-p", hint: "samples from tokens at least this share as likely as the likeliest; 0: from all", usual: [0, 0.5], step: 0.01 },
  repetition_penalty: { label: "Repetition penalty", hint: "makes repeated tokens less likely; 1: off", usual: [1, 1.5], step: 0.01 },
  no_repeat_ngram_size: { label: "No repeated n-gram", hint: "says no sequence of so many tokens twice; 0: off", usual: [0, 8], step: 1 },
  max_tokens: { label: "Most tokens", hint: "of a reply", usual: [1, 256], step: 1 },
  seed: { label: "Seed", hint: "empty: a new one for each reply; the same seed gives the same reply" },
};
// Of no use where the likeliest token is taken.
const SAMPLING = ["top_p", "top_k", "min_p", "seed"];

let fields = [];
const inputs = new Map();

// The values in use: the user's, else the server's.
export function valuesOf() {
  return Object.fromEntries(
    fields.map(({ name, default: value }) => [name, talk.decoding[name] ?? value]).filter(([, value]) => value !== null),
  );
}

export function startDecoding(found) {
  const order = Object.keys(WORDS);
  fields = found.toSorted((one, other) => order.indexOf(one.name) - order.indexOf(other.name));
  const known = new Set(fields.map((field) => field.name));
  talk.decoding = Object.fromEntries(Object.entries(talk.decoding).filter(([name]) => known.has(name)));
  byId("decoding").replaceChildren(...fields.map(control));
  byId("reset").addEventListener("click", () => {
    talk.decoding = {};
    update();
  });
  update();
}

function control(field) {
  const { name, least, most, is_whole: isWhole } = field;
  const words = WORDS[name] ?? { label: name, hint: "" };
  const hint = make("span", { class: "hint", id: `hint-${name}` }, words.hint);
  const number = make("input", {
    type: "number", id: `decoding-${name}`, "aria-describedby": `hint-${name}`, inputmode: isWhole ? "numeric" : "decimal",
    min: field.above ? false : String(least), max: String(most), step: isWhole ? "1" : "any",
    placeholder: field.default === null ? "random" : false,
    change: (event) => choose(field, event.target.value),
  });
  let slider = null;
  if (words.usual) {
    slider = make("input", {
      type: "range", "aria-label": `${words.label}, slider`, "aria-describedby": `hint-${name}`,
      min: String(Math.max(words.usual[0], least)), max: String(Math.min(words.usual[1], most)), step: String(words.step),
      input: (event) => choose(field, event.target.value),
    });
  }
  inputs.set(name, { number, slider });
  return make("div", { class: "knob" }, make("label", { for: number.id }, words.label), number, slider, hint);
}

// A value that the server would refuse is put right at once, and shown as it is then.
function choose(field, written) {
  const value = Number(written);
  if (written.trim() === "" || Number.isNaN(value)) delete talk.decoding[field.name];
  else {
    const least = field.above && value <= field.least ? 0.01 : field.least;
    // The server's seeds have 64 bits, of which a number of JavaScript has 53.
    const most = Math.min(field.most, Number.MAX_SAFE_INTEGER);
    const bounded = Math.min(Math.max(value, least, Number.MIN_SAFE_INTEGER), most);
    talk.decoding[field.name] = field.is_whole ? Math.trunc(bounded) : bounded;
  }
  update();
}

function update() {
  keep();
  const values = valuesOf();
  for (const field of fields) {
    const { number, slider } = inputs.get(field.name);
    const value = values[field.name];
    number.value = value === undefined ? "" : String(value);
    if (slider) slider.value = String(value);
    const isIdle = values.temperature === 0 && SAMPLING.includes(field.name);
    for (const input of [number, slider]) if (input) input.disabled = isIdle;
    number.closest(".knob").classList.toggle("changed", field.name in talk.decoding && talk.decoding[field.name] !== field.default);
  }
  byId("reset").disabled = !Object.keys(talk.decoding).length;
}
