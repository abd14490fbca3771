// Who answers: one model, two side by side, or two in a blind vote.

import { byId, make } from "./dom.js";
import { keep, talk } from "./conversation.js";

export function startModels(models, changed) {
  const names = models.map((model) => model.name);
  const first = names.find((name) => !models.find((model) => model.name === name).is_base) ?? names[0];
  const second = models.find((model) => model.is_base && model.name !== first)?.name ?? names.find((name) => name !== first);
  // What an earlier server of this tab offered may be gone.
  const isKnown = (name) => names.includes(name);
  if (!talk.models.length || !talk.models.every(isKnown)) talk.models = [first, second].filter(Boolean);
  if (names.length < 2) talk.mode = "one";
  byId("modes").hidden = names.length < 2;
  for (const radio of byId("modes").querySelectorAll("input")) {
    radio.checked = radio.value === talk.mode;
    radio.addEventListener("change", () => {
      talk.mode = radio.value;
      draw();
    });
  }
  draw();

  function draw() {
    const isTwo = talk.mode !== "one";
    byId("models").replaceChildren(
      ...(names.length < 2 ? [make("span", { class: "soft" }, names[0])] : [select(0, isTwo ? "First model" : "Model"), isTwo && make("span", { class: "soft" }, "and"), isTwo && select(1, "Second model")].filter(Boolean)),
    );
    keep();
    changed();
  }

  function select(place, label) {
    const options = names.map((name) => make("option", { value: name }, name));
    const chosen = make("select", { "aria-label": label, id: `model-${place}` }, options);
    chosen.value = talk.models[place];
    chosen.addEventListener("change", () => {
      // Two of the same say nothing: then they change places.
      if (talk.models[1 - place] === chosen.value) talk.models[1 - place] = talk.models[place];
      talk.models[place] = chosen.value;
      draw();
      byId(`model-${place}`).focus();
    });
    return chosen;
  }
}
