"""Draw the loss curve of a pre-training run.

    python recipes/falcon-mini/plot_curve.py recipes/falcon-mini/results.json recipes/falcon-mini/curve.png

Solid lines are dialogue, dashed lines prose.
"""

import argparse
import json
from pathlib import Path

from matplotlib.figure import Figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path, help="the record that pretrain.py wrote")
    parser.add_argument("png", type=Path)
    args = parser.parse_args()
    record = json.loads(args.results.read_text(encoding="utf-8"))
    steps = [row["step"] for row in record["curve"]]
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    axes.plot(steps, [row["train"] for row in record["curve"]], "k", label="training batches (with dropout)")
    for name, row in record["held_out"].items():
        if name in record["curve"][0]["valid"]:
            style = "-" if row["kind"] == "dialogue" else "--"
            axes.plot(steps, [point["valid"][name] for point in record["curve"]], style, label=f"held out: {name}")
    axes.set(xlabel="step", ylabel="nats per token", title="falcon-mini: loss while pre-training")
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small", ncols=2)
    figure.savefig(args.png, dpi=110)


if __name__ == "__main__":
    main()
