// Changing what was said: a field in place of a bubble.

import { button, make } from "./dom.js";
import { textOf } from "./conversation.js";

// Enter saves, Shift-Enter breaks the line, Escape leaves the text as it was.
export function editor(turn, save, cancel) {
  const isReply = turn.who === "self";
  const field = make("textarea", { rows: "2", dir: "auto", maxlength: "100000", "aria-label": isReply ? "The reply’s text" : "Your message" });
  field.value = textOf(turn);
  const end = () => {
    const text = field.value.trim();
    if (!text || text === textOf(turn)) cancel();
    else save(text);
  };
  field.addEventListener("keydown", (event) => {
    if (event.key === "Escape") {
      event.stopPropagation();
      cancel();
    } else if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
      event.preventDefault();
      end();
    }
  });
  return make(
    "div",
    { class: "editor" },
    field,
    make("div", { class: "row" }, button(isReply ? "Save" : "Save and get a reply", end, { class: "button small main" }), button("Cancel", cancel)),
  );
}
