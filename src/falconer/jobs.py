"""From a run's folder to a model that can be evaluated or talked to, and the evaluation that fills the folder."""

import dataclasses
import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from falconer import runtime
from falconer.config import Config, EvaluateConfig
from falconer.curves import CURVE_FILE
from falconer.data.encode import Encoder
from falconer.data.prompt import template_sha256
from falconer.errors import FalconerError
from falconer.evaluate.metrics import signatures, text_score
from falconer.evaluate.predictions import write_predictions
from falconer.evaluate.report import Report, Sample, write_report
from falconer.evaluate.report_tables import optional_parts
from falconer.evaluate.run import Evaluated, evaluate_model, score_floors
from falconer.files import replace_file, sha256
from falconer.model.generate import Decoding
from falconer.model.load import LoadedModel, load_model
from falconer.model.lora import load_adapter, without_adapter
from falconer.records import Score
from falconer.talk.session import Session
from falconer.train import setup
from falconer.train.loop import ADAPTER
from falconer.train.record import read_steps

METRICS = "metrics.json"


@dataclass(frozen=True, slots=True)
class Opened:
    """A run's tuned model, with everything it was trained with."""

    run: Path
    config: Config
    base: LoadedModel
    model: Any
    encoder: Encoder


def open_run(run: Path, adapter: str = ADAPTER) -> Opened:
    """Load a run's base model and adapter.

    Args:
        adapter: a folder inside the run: the best adapter, or "checkpoints/last".

    Raises:
        FalconerError: no run, no adapter yet, or a damaged one.
    """
    config = setup.read_config(run)
    if not (run / adapter).is_dir():
        raise FalconerError(
            f"'{run}' has no '{adapter}' yet: its training has not come to a validation.",
            f"Go on with: falconer train --run {run} --resume.",
        )
    model = config.model
    base = load_model(
        model.name, revision=model.revision, quantization=model.quantization, dtype=model.dtype, device=model.device
    )
    tuned = load_adapter(base.model, run / adapter)
    return Opened(run, config, base, tuned, setup.make_encoder(base, config.data.max_tokens))


def evaluate_run(
    opened: Opened, config: Config, console: Console, *,
    chat_persona: Sequence[str] = (), sample_chat: Sequence[tuple[str, str]] = (),
) -> dict[str, Any]:  # fmt: skip
    """Evaluate base and tuned model of a run on its test split; write predictions, metrics.json and the report.

    Args:
        config: the run's, with `evaluate` and `data.test` as the user wants them now.
        chat_persona, sample_chat: a conversation for the report, as (said, replied) pairs.

    Returns:
        What metrics.json holds.
    """
    settings, lora = config.evaluate, config.lora
    splits = setup.load_dialogues(config)
    dialogues = splits.test[: settings.max_dialogues]
    decoding = decoding_of(settings)
    with _progress(console) as on_progress:

        def measure(name: str) -> Evaluated:
            return evaluate_model(
                opened.model, opened.base.tokenizer, opened.encoder, dialogues, decoding,
                max_replies=settings.max_replies, batch_size=settings.batch_size,
                autocast=opened.base.precision.autocast,
                on_progress=lambda what, done, total: on_progress(f"{name}: {what}", done, total),
            )  # fmt: skip

        with without_adapter(opened.model):
            base = measure("base")
        tuned = measure("tuned")
        on_progress("floors", 0, 1)
        floors = score_floors(tuned.predictions)
        references = [prediction.reference for prediction in tuned.predictions]
        gold = text_score(references, references)
        on_progress("floors", 1, 1)
    _, dropped = opened.encoder.encode(dialogues)
    num_replies = sum(turn.speaker == "self" for dialogue in dialogues for turn in dialogue.turns)
    facts = {
        "base model": config.model.name + (f"@{config.model.revision}" if config.model.revision else ""),
        "quantisation": f"{config.model.quantization}, {opened.base.num_quantized} layers",
        "arithmetic": f"{opened.base.precision.name}: {opened.base.precision.reason}",
        "adapter": f"LoRA r={lora.r}, alpha={lora.alpha}, dropout={lora.dropout} on {lora.targets}",
        "test data": f"{config.data.test or config.data.train}: {len(dialogues)} dialogues",
        "replies": f"{num_replies} for perplexity, {len(tuned.predictions)} generated",
        "text": config.data.text,
        "history": f"all that fits into {opened.encoder.max_tokens} tokens; {dropped.num_turns} turns of "
        f"{dropped.num_dialogues} dialogues did not",
        "decoding": str(decoding),
        "prompt template": template_sha256()[:16],
    }
    metrics = {
        "base": dataclasses.asdict(base.score),
        "tuned": dataclasses.asdict(tuned.score),
        "floors": {name: dataclasses.asdict(score) for name, score in floors.items()},
        "gold": dataclasses.asdict(gold),
        "signatures": signatures(),
        "settings": facts,
        "data": splits.sources,
        "environment": runtime.environment(runtime.pick_device(config.model.device)),
    }
    write_predictions(base.predictions, opened.run / "predictions-base.jsonl")
    write_predictions(tuned.predictions, opened.run / "predictions-tuned.jsonl")
    with replace_file(opened.run / METRICS) as aside:
        aside.write_text(json.dumps(metrics, indent=2) + "\n", encoding="utf-8")
    curve = opened.run / CURVE_FILE
    report = Report(
        title=f"{config.model.name} on {Path(config.data.train).name}",
        base=base.score, tuned=tuned.score, floors=floors, signatures=metrics["signatures"],
        settings=facts | _hashes(opened.run, splits.sources) | _every_setting(config)
        | {f"version of {name}": value for name, value in metrics["environment"].items()},
        samples=_samples(base, tuned, settings), curve_png=curve.read_bytes() if curve.is_file() else None,
        sample_chat=sample_chat, command=f"falconer evaluate --run {opened.run}", notes=[],
        gold=gold, sample_seed=settings.seed, chat_persona=chat_persona,
        predictions_base=base.predictions, predictions_tuned=tuned.predictions, steps=read_steps(opened.run),
        **optional_parts(metrics),
    )  # fmt: skip
    write_report(opened.run, report)
    return metrics


def open_session(opened: Opened, persona: list[str], decoding: Decoding) -> Session:
    """Start a conversation with a run's tuned model."""
    return Session(
        opened.model,
        opened.base.tokenizer,
        opened.encoder,
        persona,
        decoding,
        opened.config.data.text,
        opened.base.precision.autocast,
    )


def decoding_of(settings: EvaluateConfig) -> Decoding:
    """Return how tokens are chosen according to a configuration."""
    return Decoding(
        settings.max_new_tokens, settings.temperature, settings.top_p, settings.repetition_penalty, settings.seed
    )


def scores_of(metrics: dict[str, Any]) -> tuple[Score, Score, dict[str, Score]]:
    """Return base, tuned and floors of a metrics.json as records."""
    return Score(**metrics["base"]), Score(**metrics["tuned"]), {k: Score(**v) for k, v in metrics["floors"].items()}


def _samples(base: Evaluated, tuned: Evaluated, settings: EvaluateConfig) -> list[Sample]:
    pairs = list(zip(base.predictions, tuned.predictions, strict=True))
    chosen = random.Random(settings.seed).sample(pairs, min(settings.num_samples, len(pairs)))
    return [
        Sample(
            dialogue_id=after.dialogue_id, turn=after.turn, persona=after.persona, history=after.history,
            gold=after.reference, base=before.prediction, tuned=after.prediction,
        )
        for before, after in chosen
    ]  # fmt: skip


def _hashes(run: Path, sources: dict[str, dict[str, Any]]) -> dict[str, str]:
    """Return the sha256 of what a run's figures come from, for the report's header."""
    files = sorted((run / ADAPTER).glob("*.safetensors"))
    adapters = {f"sha256 of {ADAPTER}/{path.name}": sha256(path) for path in files}
    return {f"sha256 of {split} data": str(source["sha256"]) for split, source in sources.items()} | adapters


def _every_setting(config: Config) -> dict[str, str]:
    sections = config.model_dump()
    return {f"{section}.{key}": str(value) for section, values in sections.items() for key, value in values.items()}


class _progress:
    """A progress bar whose lines appear as the work names them."""

    def __init__(self, console: Console) -> None:
        self._bar = Progress(
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
            console=console, disable=not console.is_terminal,
        )  # fmt: skip
        self._tasks: dict[str, Any] = {}

    def __enter__(self) -> Callable[[str, int, int], None]:
        self._bar.start()
        return self._show

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def _show(self, what: str, done: int, total: int) -> None:
        if what not in self._tasks:
            self._tasks[what] = self._bar.add_task(what, total=total)
        self._bar.update(self._tasks[what], completed=done)
