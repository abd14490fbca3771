// On a narrow screen persona and settings are a sheet over the conversation.

import { byId } from "./dom.js";

export function startSheet() {
  const opener = byId("open-settings"),
    closer = byId("close-settings"),
    sheet = byId("settings"),
    narrow = matchMedia("(max-width: 60rem)");
  let isOpen = false;

  function show(open, andFocus = true) {
    isOpen = open;
    document.documentElement.classList.toggle("sheet-open", open);
    opener.setAttribute("aria-expanded", String(open));
    // What can't be seen can't be reached.
    sheet.inert = narrow.matches && !open;
    byId("main").inert = narrow.matches && open;
    if (andFocus) (open ? closer : opener).focus();
  }
  opener.addEventListener("click", () => show(!isOpen));
  closer.addEventListener("click", () => show(false));
  sheet.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && isOpen) {
      event.stopPropagation();
      show(false);
    }
  });
  narrow.addEventListener("change", () => show(false, false));
  show(false, false);
}
