"""`falconer quickstart`: train, chat, evaluate and report with the embedded model and dialogues."""

import os
import time
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from rich.console import Console
from rich.text import Text

from falconer import jobs
from falconer.config import load
from falconer.errors import FalconerError
from falconer.evaluate.needs import check_packages
from falconer.evaluate.report.score_table import score_table
from falconer.files.locks import lock_run
from falconer.model.engine import Decoding
from falconer.run.folder import REPORT_HTML, Chat, adapter_hashes, write_chat
from falconer.train.loop import train

PERSONA = ("I have two dogs.", "I work as a teacher.", "I love to cook Italian food.", "My favorite color is green.")
QUESTIONS = ("Hi! How are you doing today?", "Do you have any pets?", "What do you do for a living?")
# Overrides of the preset.
SIZES: Mapping[str, tuple[str, ...]] = MappingProxyType({
    "short": (),
    # Two epochs over all dialogues, more replies: about 20 minutes.
    "full": ("train.epochs=2", "evaluate.max_dialogues=203", "evaluate.max_replies=800"),
})  # fmt: skip


def run_quickstart(run: Path, size: str, console: Console) -> None:
    """Run all stages in the folder `run`; an earlier run of that name is renamed.

    Raises:
        FalconerError: `size` is neither "short" nor "full".
    """
    if size not in SIZES:
        raise FalconerError(f"There is no quickstart of size '{size}'.", f"Allowed: {', '.join(SIZES)}.")
    if os.path.exists(run):
        kept = next(path for number in range(1, 10_000) if not (path := run.with_name(f"{run.name}-{number}")).exists())
        run.rename(kept)
        console.print(f"An earlier run was moved to {kept}.", soft_wrap=True)
    check_packages()  # now, rather than after minutes of training
    started = time.perf_counter()
    config = load("quickstart", SIZES[size])
    console.rule("1  Train", align="left")
    result = train(config, run, resume=False, console=console)
    if result.ended == "interrupted":
        console.print(f"Interrupted. Continue with:  falconer train --run {run} --resume", soft_wrap=True)
        raise SystemExit(130)
    console.rule("2  Chat", align="left")
    opened = jobs.open_run(run)
    session = jobs.open_session(opened, list(PERSONA), Decoding(max_new_tokens=32, repetition_penalty=1.2))
    console.print("persona: " + " ".join(PERSONA), style="dim")
    exchanges = []
    for question in QUESTIONS:
        answer = "".join(session.reply(question))
        console.print(f"you:       {question}\nassistant: {answer}", markup=False, soft_wrap=True)
        exchanges.append((question, answer))
    console.rule("3  Evaluate the base and the tuned model", align="left")
    with lock_run(run):
        write_chat(run, Chat(PERSONA, tuple(exchanges), adapter_hashes(run)))
        metrics = jobs.evaluate_run(opened, config, console)
    console.print(score_table({"base": metrics.base, "tuned": metrics.tuned}, metrics.baselines))
    console.rule(f"Done in {(time.perf_counter() - started) / 60:.1f} minutes", align="left")
    for name, what in (
        ("report", str(run / REPORT_HTML)),
        ("chat", f"falconer chat --run {run}"),
        ("the data", "falconer data show"),
        ("your data", "falconer train --preset quickstart data.train=FILE --run runs/mine"),
        ("Falcon-7B", "falconer plan --preset falcon-7b"),
        ("", "falconer train --preset falcon-7b    (needs a GPU and access to the hub)"),
    ):
        console.print(Text.assemble((f"{name:<10}", "bold"), f" {what}"), soft_wrap=True)
