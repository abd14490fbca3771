// Blind votes between base and tuned: pairs in random order, sides shuffled, and what the votes say so far.

const Z95 = 1.959964;

// Wilson's interval of a share, in per cent; it holds for few votes and near 0 and 100, where the usual one fails.
function wilson(wins, count) {
  if (!count) return null;
  const share = wins / count,
    square = Z95 * Z95;
  const middle = (share + square / (2 * count)) / (1 + square / count);
  const half = (Z95 / (1 + square / count)) * Math.sqrt((share * (1 - share)) / count + square / (4 * count * count));
  return { share: 100 * share, low: 100 * Math.max(0, middle - half), high: 100 * Math.min(1, middle + half) };
}

// mulberry32: small, and the same seed gives the same order in every browser.
function randomNumbers(seed) {
  return () => {
    seed = (seed + 0x6d2b79f5) | 0;
    let mixed = Math.imul(seed ^ (seed >>> 15), 1 | seed);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 4294967296;
  };
}

// Each pair once: its row, and which of the two systems stands on the left.
function shuffledPairs(rows, seed) {
  const random = randomNumbers(seed),
    order = [...rows];
  for (let i = order.length - 1; i > 0; i--) {
    const j = Math.floor(random() * (i + 1));
    [order[i], order[j]] = [order[j], order[i]];
  }
  return order.map((row) => ({ row, left: random() < 0.5 ? 0 : 1 }));
}

// Votes are "left", "right" or "tie", in the order of the pairs.
function tally(pairs, votes) {
  const counts = [0, 0];
  let ties = 0;
  votes.forEach((vote, i) => {
    if (vote === "tie") ties++;
    else counts[vote === "left" ? pairs[i].left : 1 - pairs[i].left]++;
  });
  return { counts, ties, rate: wilson(counts[1], counts[0] + counts[1]) };
}

function startVoting(ballot) {
  const differ = [];
  for (let i = 0; i < replies.count; i++) {
    const [one, other] = replies.at(i).said;
    if (one.text.trim() !== other.text.trim()) differ.push(i);
  }
  const key = `falconer-votes-${data.replies.fingerprint}`;
  const kept = readVotes(key);
  const seed = kept?.seed ?? crypto.getRandomValues(new Uint32Array(1))[0];
  const pairs = shuffledPairs(differ, seed),
    votes = kept?.votes.slice(0, pairs.length) ?? [];
  let isShown = false;

  const status = make("span", {}),
    context = make("div", {});
  const sides = ["left", "right"].map((side) =>
    make("button", { type: "button", class: "choice", "data-vote": side, click: () => vote(side) }),
  );
  const tie = make(
    "button",
    { type: "button", class: "choice tie", "data-vote": "tie", click: () => vote("tie") },
    "about equal",
    make("small", {}, make("kbd", {}, "↓")),
  );
  const undo = make("button", { type: "button", class: "button", click: takeBack }, "Undo", make("kbd", {}, "⌫"));
  const exported = make(
    "button",
    { type: "button", class: "button", id: "export", click: exportVotes },
    "Export JSON",
    make("kbd", {}, "E"),
  );
  const shown = make(
    "button",
    { type: "button", class: "button", id: "reveal", "aria-expanded": "false", click: toggleResult },
    "Show the result",
    make("kbd", {}, "R"),
  );
  const result = make("div", { class: "result", id: "result", hidden: true, "aria-live": "polite" });
  const spoken = make("p", { class: "hidden", "aria-live": "polite" });
  const left = replies.count - differ.length;
  const choices = make("div", { class: "choices" }, sides[0], tie, sides[1]);
  ballot.append(
    make("header", {}, status, make("span", {}, left ? `${plural(left, "pair")} of equal replies left out` : "")),
    context,
    choices,
    make("div", { class: "actions" }, undo, shown, exported),
    result,
    spoken,
  );

  function show() {
    const pair = pairs[votes.length];
    status.textContent = `${plural(votes.length, "vote")} of ${number(pairs.length)}`;
    undo.disabled = exported.disabled = shown.disabled = !votes.length;
    choices.hidden = !pair;
    if (pair) {
      const row = replies.at(pair.row),
        said = pair.left ? [...row.said].reverse() : row.said;
      context.replaceChildren(
        ...[personaChips(row.persona), make("div", { class: "talk" }, talk(row.history.slice(-4)))].filter(Boolean),
      );
      sides.forEach((side, i) =>
        side.replaceChildren(
          make("span", {}, said[i].text.trim() || "(empty)"),
          make("small", {}, `${"AB"[i]} `, make("kbd", {}, "←→"[i])),
        ),
      );
    } else {
      context.replaceChildren(make("p", {}, "You have voted on every pair. Export your votes, or undo the last one."));
    }
    // A button that is gone or disabled takes the keyboard with it.
    const focused = document.activeElement;
    if (ballot.contains(focused) && (focused.disabled || focused.closest("[hidden]"))) ballot.focus();
    showResult();
  }

  function vote(choice) {
    if (votes.length >= pairs.length) return;
    votes.push(choice);
    save();
    show();
    spoken.textContent = `Vote ${votes.length}: ${choice}. Next pair.`;
  }

  function takeBack() {
    if (!votes.length) return;
    votes.pop();
    save();
    show();
    spoken.textContent = "The last vote was undone.";
  }

  function save() {
    memory.write(key, votes.length ? JSON.stringify({ seed, votes }) : null);
  }

  function toggleResult() {
    isShown = !isShown;
    showResult();
  }

  function showResult() {
    isShown &&= votes.length > 0;
    result.hidden = !isShown;
    shown.setAttribute("aria-expanded", String(isShown));
    shown.firstChild.data = isShown ? "Hide the result" : "Show the result";
    if (!isShown) return;
    const { counts, ties, rate } = tally(pairs, votes),
      [base, tuned] = replies.systems;
    const range = rate && `95 % Wilson interval ${rate.low.toFixed(1)} to ${rate.high.toFixed(1)} %`;
    const decided = plural(counts[0] + counts[1], "decided vote");
    const tied = `${plural(ties, "tie")}.`;
    const part = (name, count) => make("i", { class: name, style: `flex-grow:${count}` });
    result.replaceChildren(
      make("p", { class: "large" }, rate ? `${tuned} wins ${rate.share.toFixed(0)} %` : "Only ties so far"),
      make(
        "p",
        { class: "soft" },
        rate ? `of ${decided}; ${range}. ${tuned} ${counts[1]}, ${base} ${counts[0]}, ${tied}` : tied,
      ),
      make(
        "div",
        { class: "shares", "aria-hidden": "true" },
        part("tuned", counts[1]),
        part("ties", ties),
        part("base", counts[0]),
      ),
      make(
        "p",
        { class: "below" },
        rate && (rate.low > 50 || rate.high < 50)
          ? "The interval does not include 50 %: the difference is significant."
          : "The interval includes 50 %: the votes so far show no significant difference.",
      ),
    );
  }

  function exportVotes() {
    if (!votes.length) return;
    const { counts, ties, rate } = tally(pairs, votes);
    const content = {
      report: data.title,
      replies: data.replies.fingerprint,
      seed,
      result: {
        [replies.systems[0]]: counts[0],
        [replies.systems[1]]: counts[1],
        ties,
        win_rate: rate?.share ?? null,
        wilson_95: rate && [rate.low, rate.high],
      },
      votes: votes.map((choice, i) => {
        const { row, left } = pairs[i],
          { dialogue, turn } = replies.at(row);
        const names = { left: replies.systems[left], right: replies.systems[1 - left] };
        return { dialogue_id: dialogue, turn, ...names, vote: choice, winner: names[choice] ?? null };
      }),
    };
    const address = URL.createObjectURL(
      new Blob([`${JSON.stringify(content, null, 2)}\n`], { type: "application/json" }),
    );
    make("a", { href: address, download: "falconer-votes.json" }).click();
    setTimeout(() => URL.revokeObjectURL(address), 10_000);
    spoken.textContent = `${plural(votes.length, "vote")} exported.`;
  }

  ballot.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const act = {
      ArrowLeft: () => vote("left"),
      a: () => vote("left"),
      ArrowRight: () => vote("right"),
      b: () => vote("right"),
      ArrowDown: () => vote("tie"),
      t: () => vote("tie"),
      Backspace: takeBack,
      u: takeBack,
      r: () => votes.length && toggleResult(),
      e: exportVotes,
    }[event.key.length === 1 ? event.key.toLowerCase() : event.key];
    if (!act) return;
    event.preventDefault();
    if (!event.repeat) act();
  });
  show();
}

function readVotes(key) {
  try {
    const kept = JSON.parse(memory.read(key));
    const isWhole =
      Number.isInteger(kept?.seed) &&
      Array.isArray(kept.votes) &&
      kept.votes.every((vote) => ["left", "right", "tie"].includes(vote));
    return isWhole ? kept : null;
  } catch {
    return null;
  }
}
