// Making elements without ever parsing a text as markup.

export const byId = (id) => document.getElementById(id);

// A function is a listener, true an attribute without value, null and false nothing. A child that is a string is text.
export function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") element.addEventListener(name, value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== null && value !== false) element.setAttribute(name, value);
  }
  for (const child of children.flat()) if (child !== null && child !== undefined && child !== false) element.append(child);
  return element;
}

export function button(label, act, attributes = {}) {
  return make("button", { type: "button", class: "button small", click: act, ...attributes }, label);
}

export const plural = (count, one, many = `${one}s`) => `${count.toLocaleString("en-US")} ${count === 1 ? one : many}`;

// Says something to a screen reader, once. Whatever was said before has been read and goes away.
export function say(text) {
  const spoken = byId("spoken");
  while (spoken.childElementCount > 4) spoken.firstElementChild.remove();
  spoken.append(make("p", {}, text));
}

// A line above the message with what can be done about it; it stays until the next one, since people read at their pace.
export function notify(text, ...actions) {
  const notice = byId("notice");
  const close = button("Dismiss", () => {
    clearNotice();
    byId("message").focus();
  });
  notice.replaceChildren(make("span", { dir: "auto" }, text), make("span", { class: "row" }, actions, close));
  notice.hidden = false;
}

export function clearNotice() {
  byId("notice").hidden = true;
  byId("notice").replaceChildren();
}
