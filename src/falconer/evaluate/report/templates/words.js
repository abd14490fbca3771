// Which words of two replies are the same: the longest common subsequence, as in ROUGE-L, without stemming.

// A text as words and what stands between them, alternately: [between, word, between, word, ..., between]. As for F1,
// "i'm" is two words, case does not count, and an English article (null here) is like no other word. A letter of a
// script without spaces between words is a word.
const scripts = ["Han", "Hiragana", "Katakana", "Bopomofo", "Thai", "Lao", "Khmer", "Myanmar", "Tibetan"];
const letter = `(?:[々ー]|${scripts.map((name) => `\\p{Script=${name}}`).join("|")})`;
const word = new RegExp(`((?!\\p{M})${letter}\\p{M}*|(?:(?!${letter})[\\p{L}\\p{N}\\p{M}])+)`, "u");
const pieces = (text) => text.trim().split(word);
const articles = data.language === "en" ? ["a", "an", "the"] : [];
const wordsOf = (parts) =>
  parts
    .filter((_, i) => i % 2)
    .map((word) => word.toLowerCase().normalize())
    .map((word) => (articles.includes(word) ? null : word));

// Returns for each word of both whether it belongs to the common subsequence.
function commonWords(a, b) {
  const width = b.length + 1;
  const areSame = (i, j) => a[i] !== null && a[i] === b[j];
  const longest = new Uint16Array((a.length + 1) * width);
  for (let i = a.length - 1; i >= 0; i--) {
    for (let j = b.length - 1; j >= 0; j--) {
      longest[i * width + j] = areSame(i, j)
        ? longest[(i + 1) * width + j + 1] + 1
        : Math.max(longest[(i + 1) * width + j], longest[i * width + j + 1]);
    }
  }
  const inA = a.map(() => false),
    inB = b.map(() => false);
  for (let i = 0, j = 0; i < a.length && j < b.length;) {
    if (areSame(i, j)) inA[i++] = inB[j++] = true;
    else if (longest[(i + 1) * width + j] >= longest[i * width + j + 1]) i++;
    else j++;
  }
  return [inA, inB];
}

// The text again, letter for letter, with its runs of shared words in spans.
function markShared(parts, shared) {
  const isShared = (i) => (i % 2 ? shared[(i - 1) / 2] : Boolean(shared[i / 2 - 1] && shared[i / 2]));
  const nodes = [];
  for (let start = 0; start < parts.length;) {
    let end = start + 1;
    while (end < parts.length && isShared(end) === isShared(start)) end++;
    const text = parts.slice(start, end).join("");
    nodes.push(isShared(start) ? make("span", { class: "same" }, text) : text);
    start = end;
  }
  return nodes;
}

// From gold to a reply as an editor would show it: what gold alone has is struck, what the reply alone has is inserted.
function editDifference(gold, reply) {
  // Without spaces between words, letters are compared, and stand together again.
  const between = data.has_spaces ? " " : "";
  const from = data.has_spaces ? splitWords(gold) : [...gold.trim()],
    to = data.has_spaces ? splitWords(reply) : [...reply.trim()];
  const plain = (word) => word.toLowerCase();
  const [kept, held] = commonWords(from.map(plain), to.map(plain));
  const nodes = [];
  const take = (words, flags, position, flag) => {
    let end = position;
    while (end < words.length && flags[end] === flag) end++;
    return words.slice(position, end);
  };
  for (let i = 0, j = 0; i < from.length || j < to.length;) {
    const gone = take(from, kept, i, false),
      come = take(to, held, j, false);
    i += gone.length;
    j += come.length;
    const same = [];
    for (; i < from.length && kept[i] && j < to.length && held[j]; i++) same.push(to[j++]);
    if (gone.length) nodes.push(make("del", {}, gone.join(between)), between);
    if (come.length) nodes.push(make("ins", {}, come.join(between)), between);
    if (same.length) nodes.push(`${same.join(between)}${between}`);
  }
  return nodes;
}

const splitWords = (text) => text.split(/\s+/).filter(Boolean);
