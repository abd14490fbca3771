// The persona's editor: free text, examples of the server's, and a die.

import { byId, make, say } from "./dom.js";
import { keep, sentences, talk } from "./conversation.js";

export function startPersona(personas, changed) {
  const field = byId("persona"),
    examples = byId("examples");
  let last = -1;

  const take = (index) => {
    last = index;
    setPersona(personas[index].join("\n"));
    examples.value = String(index);
    changed();
    say(`Persona: ${personas[index].join(" ")}`);
  };
  field.addEventListener("input", () => {
    talk.persona = field.value;
    examples.value = "";
    keep();
    changed();
  });
  examples.append(...personas.map((lines, index) => make("option", { value: String(index) }, lines.slice(0, 2).join(" "))));
  examples.addEventListener("change", () => examples.value !== "" && take(Number(examples.value)));
  byId("dice").addEventListener("click", () => {
    // Another one each time.
    const step = 1 + Math.floor(Math.random() * Math.max(personas.length - 1, 1));
    take((last < 0 ? Math.floor(Math.random() * personas.length) : last + step) % personas.length);
  });
  byId("dice").disabled = examples.disabled = !personas.length;
  setPersona(talk.persona);
}

export function setPersona(text) {
  talk.persona = byId("persona").value = text;
  byId("examples").value = "";
  keep();
}

export const personaChips = () =>
  make("ul", { class: "persona", "aria-label": "Persona" }, sentences(talk.persona).map((line) => make("li", { dir: "auto" }, line)));
