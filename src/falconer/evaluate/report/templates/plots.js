// Which charts this report has: the losses of the training, F1 by turn, and the lengths of the replies.

function drawPlots() {
  if (data.curve) drawLosses(byId("curve"), data.curve);
  if (byId("turns")) drawTurns(byId("turns"), data.turns);
  if (byId("lengths")) drawLengths(byId("lengths"), data.lengths);
}

function drawLosses(figure, { note, width, train, valid, epochs }) {
  const losses = [
    {
      name: width > 1 ? "" : "training",
      kind: "train",
      style: width > 1 ? "faint" : "line",
      digits: 3,
      points: train.map((row) => [row[0], row[1]]),
    },
  ];
  if (width > 1)
    losses.push({
      name: `training, median of ${width} steps`,
      kind: "train",
      style: "line",
      digits: 3,
      points: train.map((row) => [row[0], row[2]]),
    });
  if (valid.length)
    losses.push({ name: "validation", kind: "valid", style: "dots", digits: 4, best: true, points: valid });
  drawChart(figure, {
    title: "Training and validation loss",
    note,
    x: "optimiser step",
    marks: epochs.map(([step, epoch]) => [step, `epoch ${epoch}`]),
    panels: [
      { height: 250, y: "loss", series: losses },
      {
        height: 64,
        y: "learning rate",
        low: 0,
        series: [
          {
            name: "learning rate",
            kind: "rate",
            style: "line",
            digits: "short",
            points: train.map((row) => [row[0], row[3]]),
          },
        ],
      },
    ],
  });
}

function drawTurns(figure, turns) {
  drawChart(figure, {
    title: "F1 by position in the dialogue",
    note: "Mean F1 of the first, second, third, ... reply of each dialogue, with 95 % intervals.",
    x: "reply number",
    panels: [
      {
        height: 210,
        y: "F1",
        low: 0,
        series: Object.entries(turns).map(([name, points]) => ({ name, kind: name, style: "dots", digits: 1, points })),
      },
    ],
  });
}

function drawLengths(figure, { unit, last, shares }) {
  drawChart(figure, {
    title: "Length of the replies",
    note: `Share of replies by number of ${unit}; ${last} means ${last} or more.`,
    x: unit,
    panels: [
      {
        height: 210,
        y: "% of replies",
        low: 0,
        series: Object.entries(shares)
          .sort(([name]) => (name === "gold" ? -1 : 1))
          .map(([name, points]) => ({
            name,
            kind: name,
            style: name === "gold" ? "area" : "line",
            digits: 1,
            unit: " %",
            points: points.map((share, length) => [length, share]),
          })),
      },
    ],
  });
}
