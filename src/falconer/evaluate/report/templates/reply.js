// A context and the replies to it, from the page's packed data.

const replies = data.replies && {
  count: data.replies.rows.length,
  systems: data.replies.systems,
  main: data.replies.systems.at(-1),
  at(index) {
    const [context, turn, length, gold, ...rest] = data.replies.rows[index];
    const [dialogue, persona, turns, speakers] = data.replies.contexts[context];
    const history = turns
      .slice(0, length)
      .map((text, i) => ({ side: speakers[i] === "s" ? "self" : "partner", text }));
    const said = data.replies.systems.map((name, i) => {
      const [text, tenths, bits] = rest.slice(3 * i, 3 * i + 3);
      return { name, text, f1: tenths / 10, failures: data.replies.failures.filter((_, bit) => bits & (1 << bit)) };
    });
    return { index, dialogue, turn, persona, history, gold, said };
  },
};

function personaChips(persona) {
  return persona.length
    ? make(
        "ul",
        { class: "persona", "aria-label": "Persona" },
        persona.map((line) => make("li", {}, line)),
      )
    : null;
}

function bubble(side, who, text) {
  const shown = text.trim() || "(empty)";
  return make(
    "p",
    { class: `bubble ${side}${text.trim() ? "" : " empty"}` },
    make("span", { class: "hidden" }, `${who}: `),
    shown,
  );
}

function talk(turns) {
  return turns.map(({ side, text }) => bubble(side, side, text));
}

// Underlines, in a group of replies that is already on the page, what each shares with gold.
function compareWithGold(group) {
  const texts = Object.fromEntries(
    [...group.querySelectorAll(".reply")].map((reply) => [reply.classList[1], reply.querySelector(".bubble")]),
  );
  const gold = pieces(texts.gold.textContent),
    main = texts.tuned ? "tuned" : "base";
  for (const [name, element] of Object.entries(texts)) {
    if (name === "gold" || element.classList.contains("empty")) continue;
    const parts = pieces(element.textContent),
      [shared, sharedGold] = commonWords(wordsOf(parts), wordsOf(gold));
    element.replaceChildren(...markShared(parts, shared));
    if (name === main) texts.gold.replaceChildren(...markShared(gold, sharedGold));
  }
}

function replyRow(name, text, f1, failures = []) {
  const shown = make("p", { class: `bubble${text.trim() ? "" : " empty"}` }, text.trim() || "(empty)");
  const tags = failures.length
    ? make(
        "span",
        { class: "tags" },
        failures.map(([, label]) => make("span", {}, label)),
      )
    : null;
  return make(
    "div",
    { class: `reply ${name}` },
    make("span", { class: "who" }, name),
    make("div", {}, shown, tags),
    f1 === undefined || !data.has_f1 ? null : make("span", { class: "f1" }, `F1 ${Math.round(f1)}`),
  );
}

function replyCard(row) {
  const title = `reply-${row.index}`;
  const group = make(
    "div",
    { class: "replies" },
    replyRow("gold", row.gold),
    row.said.map((said) => replyRow(said.name, said.text, said.f1, said.failures)),
  );
  compareWithGold(group);
  const inside = make("div", {});
  const fillInside = () => {
    if (inside.firstChild) return;
    inside.append(
      ...[
        personaChips(row.persona),
        make("div", { class: "talk" }, talk(row.history)),
        ...row.said.map((said) =>
          make(
            "p",
            { class: "difference" },
            make("b", {}, `gold → ${said.name}: `),
            ...editDifference(row.gold, said.text),
          ),
        ),
      ].filter(Boolean),
    );
  };
  return make(
    "li",
    {},
    make(
      "article",
      { class: "card sample", "aria-labelledby": title },
      make(
        "header",
        {},
        make("h3", { id: title }, `Reply ${number(row.index + 1)}`),
        make("span", { class: "where" }, `dialogue ${row.dialogue}, turn ${row.turn}`),
      ),
      row.history.length ? make("div", { class: "talk" }, talk(row.history.slice(-1))) : null,
      group,
      make("details", { toggle: fillInside }, make("summary", {}, "Persona, history and differences"), inside),
    ),
  );
}
