// Text of models, files and people as it is shown: as text alone, with characters that act instead of being seen made
// visible.

import { make } from "./dom.js";

// Controls but for line break and tab; marks that turn the direction of what follows; separators that break lines;
// invisible tags; halves of surrogate pairs. Joiners and direction marks belong to scripts and emoji and stay.
const ACTING =
  /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u2028\u2029\u202a-\u202e\u2066-\u2069\ufeff\ufff9-\ufffb]|[\u{e0000}-\u{e007f}]|[\ud800-\udfff]/gu;

// The letters of Unicode's pictures of controls where there is one, else the code point.
function sign(character) {
  const code = character.codePointAt(0);
  if (code < 0x20) return String.fromCodePoint(0x2400 + code);
  return code === 0x7f ? "\u2421" : `U+${code.toString(16).toUpperCase().padStart(4, "0")}`;
}

// Returns the nodes that show a text.
export function shown(text) {
  const nodes = [];
  let end = 0;
  for (const { 0: character, index } of text.matchAll(ACTING)) {
    if (index > end) nodes.push(document.createTextNode(text.slice(end, index)));
    const code = character.codePointAt(0).toString(16).toUpperCase().padStart(4, "0");
    nodes.push(make("span", { class: "control", title: `control character U+${code}` }, sign(character)));
    end = index + character.length;
  }
  if (end < text.length) nodes.push(document.createTextNode(text.slice(end)));
  return nodes;
}

// A growing text: a piece costs as much as it is long, however long the text is already.
export function append(element, piece) {
  ACTING.lastIndex = 0;
  const last = element.lastChild;
  if (last?.nodeType === Node.TEXT_NODE && piece.search(ACTING) < 0) last.appendData(piece);
  else element.append(...shown(piece));
}

// A text in a plain string, such as what is read out or an attribute.
export const plain = (text) => text.replace(ACTING, sign);
