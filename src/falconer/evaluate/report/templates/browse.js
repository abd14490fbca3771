// Search, filter and order over all replies. Only what is scrolled to is made: thousands of cards would be slow.

const PAGE = 20;

function startBrowsing() {
  const rows = Array.from({ length: replies.count }, (_, index) => replies.at(index));
  const texts = rows.map((row) =>
    [...row.persona, ...row.history.map(({ text }) => text), row.gold, ...row.said.map((said) => said.text)].join("\n").toLowerCase(),
  );
  const [query, filter, order, shared] = ["query", "filter", "order", "shared"].map(byId);
  const list = byId("list"),
    more = byId("more");
  let found = [],
    shown = 0;

  const filters = filterChoices(),
    orders = orderChoices();
  filter.append(...groupedOptions(filters));
  order.append(...Object.entries(orders).map(([key, { label }]) => make("option", { value: key }, label)));

  function search() {
    const words = splitWords(query.value.toLowerCase());
    const { keep } = filters[filter.value];
    found = rows.filter((row) => keep(row) && words.every((word) => texts[row.index].includes(word)));
    const { by } = orders[order.value];
    if (by)
      found = found
        .map((row) => [by(row), row])
        .sort((a, b) => a[0] - b[0] || a[1].index - b[1].index)
        .map(([, row]) => row);
    byId("found").textContent =
      found.length === rows.length
        ? `All ${plural(rows.length, "reply", "replies")}`
        : `${number(found.length)} of ${plural(rows.length, "reply", "replies")}`;
    shown = 0;
    list.replaceChildren();
    showMore();
  }

  function showMore() {
    const next = found.slice(shown, shown + PAGE);
    list.append(...next.map(replyCard));
    shown += next.length;
    more.hidden = shown >= found.length;
    more.textContent = `Show ${Math.min(PAGE, found.length - shown)} more`;
    highlight(list, splitWords(query.value));
  }

  let waiting = 0;
  query.addEventListener("input", () => {
    clearTimeout(waiting);
    waiting = setTimeout(search, 120);
  });
  filter.addEventListener("change", search);
  order.addEventListener("change", search);
  byId("filters").addEventListener("submit", (event) => {
    event.preventDefault();
    search();
  });
  shared.addEventListener("change", () => list.classList.toggle("plain-words", !shared.checked));
  list.addEventListener("toggle", () => highlight(list, splitWords(query.value)), true);
  // By keyboard the focus goes on to the first new card's own control.
  more.addEventListener("click", () => {
    const from = shown;
    showMore();
    list.children[from]?.querySelector("summary").focus();
  });
  new IntersectionObserver(
    ([entry]) => {
      if (entry.isIntersecting && shown && !more.hidden) showMore();
    },
    { rootMargin: "600px" },
  ).observe(more);
  for (const button of document.querySelectorAll("[data-show]")) {
    button.addEventListener("click", () => {
      filter.value = button.dataset.show;
      query.value = "";
      search();
      byId("replies").scrollIntoView();
      filter.focus({ preventScroll: true });
    });
  }
  search();
}

function filterChoices() {
  const choices = { all: { label: "all replies", keep: () => true } };
  if (replies.systems.length === 2) {
    const [base, tuned] = replies.systems;
    if (data.has_f1) choices.gain = { label: `${tuned} has the higher F1`, keep: ({ said: [one, other] }) => other.f1 > one.f1 };
    if (data.has_f1) choices.loss = { label: `${base} has the higher F1`, keep: ({ said: [one, other] }) => one.f1 > other.f1 };
    choices.equal = { label: "both replies are equal", keep: ({ said: [one, other] }) => one.text === other.text };
  }
  replies.systems.forEach((name, i) => {
    for (const [key, label] of data.replies.failures) {
      choices[`${name}:${key}`] = {
        label,
        group: name,
        keep: (row) => row.said[i].failures.some((failure) => failure[0] === key),
      };
    }
  });
  return choices;
}

function groupedOptions(choices) {
  const groups = new Map();
  for (const [value, { label, group = "" }] of Object.entries(choices)) {
    groups.set(group, [...(groups.get(group) ?? []), make("option", { value }, label)]);
  }
  return [...groups].flatMap(([label, options]) => (label ? make("optgroup", { label }, options) : options));
}

function orderChoices() {
  const main = replies.systems.length - 1;
  return {
    file: { label: "as evaluated" },
    ...(data.has_f1 && {
      best: { label: `best F1 of ${replies.main} first`, by: (row) => -row.said[main].f1 },
      worst: { label: `worst F1 of ${replies.main} first`, by: (row) => row.said[main].f1 },
    }),
    ...(data.has_f1 &&
      main && {
        change: { label: "largest change of F1 first", by: (row) => -Math.abs(row.said[1].f1 - row.said[0].f1) },
      }),
    long: { label: `longest of ${replies.main} first`, by: (row) => -row.said[main].text.length },
    turn: { label: "by turn", by: (row) => row.turn },
  };
}

// Marks what was searched for without touching the page's nodes, where the browser can.
function highlight(list, words) {
  if (!window.Highlight) return;
  const ranges = [];
  const walker = document.createTreeWalker(list, NodeFilter.SHOW_TEXT);
  while (words.length && walker.nextNode()) {
    const text = walker.currentNode.data.toLowerCase();
    for (const word of words.map((given) => given.toLowerCase())) {
      for (let at = text.indexOf(word); at >= 0; at = text.indexOf(word, at + word.length)) {
        const range = new Range();
        range.setStart(walker.currentNode, Math.min(at, walker.currentNode.length));
        range.setEnd(walker.currentNode, Math.min(at + word.length, walker.currentNode.length));
        ranges.push(range);
      }
    }
  }
  CSS.highlights.set("search", new Highlight(...ranges));
}
