"""What a run's folder says of its model: everything that a model card states, read once and checked."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from falconer.config import Config
from falconer.data.prompt import PromptFormat
from falconer.errors import FalconerError
from falconer.evaluate.text.predictions import read_predictions
from falconer.model.lora import RECORD as ADAPTER_RECORD
from falconer.records import Prediction
from falconer.run.folder import (
    ADAPTER,
    METRICS,
    adapter_hashes,
    check_files,
    predictions_name,
    read_chat,
    read_config,
    read_evaluation,
    read_metrics,
    read_record,
    read_steps,
)
from falconer.run.metrics import Metrics
from falconer.run.state import best_loss, state_of, steps_done
from falconer.share.memorised import Memorised, memorised
from falconer.share.origin import Origin
from falconer.train.setup import recorded_format

# A path of the machine that wrote a record; what remains is the name of the file.
_PATH = re.compile(r"(?<![\w:/.])(?:~|\.{1,2})?/(?:[^\s'\",;:()/]+/)*([^\s'\",;:()/]+)")
# Of an example conversation.
_EXCHANGES = 4


@dataclass(frozen=True, slots=True)
class Training:
    """How a model was trained, with losses in nats per target token.

    Args:
        seconds: of the training steps, without loading and validation; None if the run does not say.
        learning_rate: the highest one; None if the run does not say.
        device: the hardware's name.
        state: how the training ended.
    """

    steps: int
    planned: int | None
    seconds: float | None
    best_loss: float | None
    best_step: int
    learning_rate: float | None
    device: str
    num_ranks: int
    num_dialogues: int
    num_replies: int
    num_parameters: int
    precision: str
    path: str
    state: str


@dataclass(frozen=True, slots=True)
class Talk:
    """A conversation with the model: its persona, and pairs of a message and a reply."""

    persona: tuple[str, ...]
    exchanges: tuple[tuple[str, str], ...]
    how: str


@dataclass(frozen=True, slots=True)
class Facts:
    """What the card of a run's model is made from.

    Args:
        metrics: None if the run has not been evaluated.
        memorised: the table, or the reason why there is none.
        talk: None if the run has neither a chat nor replies.
        format: of the prompts.
        versions: of the libraries that trained it.
        notes: what a reader should know of the figures.
    """

    config: Config
    origin: Origin
    training: Training
    metrics: Metrics | None
    memorised: Memorised | str
    talk: Talk | None
    format: PromptFormat
    versions: Mapping[str, str]
    language: str
    notes: tuple[str, ...]
    data: Mapping[str, Any]


def read_facts(run: Path, origin: Origin, adapter: str = ADAPTER) -> Facts:
    """Return what a run's folder says.

    Args:
        adapter: the folder of the shared adapter inside the run.

    Raises:
        FalconerError: a file of the run is missing or damaged, or the figures are those of another adapter.
    """
    config, record = read_config(run), read_record(run)
    metrics = read_metrics(run) if (run / METRICS).is_file() else None
    evaluation = read_evaluation(run)
    if metrics:
        check_files(run)
    if (
        evaluation
        and evaluation.adapter_sha256
        and _weights(evaluation.adapter_sha256) != _weights(adapter_hashes(run, adapter))
    ):
        raise FalconerError(
            f"The figures of '{run}' are those of other weights than '{adapter}' holds now.",
            f"Evaluate again: falconer evaluate --run {run}{'' if adapter == ADAPTER else f' --adapter {adapter}'}.",
        )
    format = recorded_format(run, config)
    environment = dict(record.get("environment", {}))
    notes = [*(metrics.notes if metrics else ()), *(evaluation.notes if evaluation else ()), *record.get("notes", ())]
    return Facts(
        config=config,
        origin=origin,
        training=_training(run, config, record, environment),
        metrics=metrics,
        memorised=memorised(run),
        talk=_talk(run, adapter),
        format=format,
        versions={name: text for name, text in environment.items() if name not in ("platform", "device")},
        language=evaluation.language if evaluation else format.language,
        notes=tuple(dict.fromkeys(public(note) for note in notes)),
        data=record.get("data", {}),
    )


def public(text: str) -> str:
    """Return a text without paths: of each, the last part remains."""
    return _PATH.sub(lambda match: match[1], text)


def check_adapter_record(folder: Path) -> None:
    """Refuse an adapter that was saved by another program: its card could not say what its prompts look like.

    Raises:
        FalconerError: it has no record.
    """
    if not (folder / ADAPTER_RECORD).is_file():
        raise FalconerError(
            f"'{folder}' has no {ADAPTER_RECORD}, which says what the prompts look like.",
            "Share a run that falconer has trained.",
        )


def _training(run: Path, config: Config, record: Mapping[str, Any], environment: Mapping[str, str]) -> Training:
    rows = read_steps(run)
    times = [row["time_s"] for row in rows if "time_s" in row]
    loss, step = best_loss(rows)
    mode, train = record.get("mode", {}), record.get("data", {}).get("train", {})
    planned = record.get("num_steps")
    rate = config.train.learning_rate or record.get("learning_rate")  # null: chosen by the model's size
    return Training(
        steps=steps_done(rows), planned=planned if isinstance(planned, int) else None,
        seconds=max(times, default=None), best_loss=loss if step else None, best_step=step,
        learning_rate=rate if isinstance(rate, float) else None,
        device=environment.get("device", "not recorded"), num_ranks=int(record.get("num_ranks", 1)),
        num_dialogues=int(record.get("num_train_dialogues", train.get("num_dialogues", 0))),
        num_replies=int(train.get("num_replies", 0)), num_parameters=int(record.get("trainable_parameters", 0)),
        precision=str(record.get("precision", config.model.dtype)).partition(":")[0],
        path="fast" if mode.get("path") == "falcon" else "generic", state=state_of(run).stage,
    )  # fmt: skip


def _weights(hashes: Mapping[str, str]) -> set[str]:
    return set(hashes.values())


def _talk(run: Path, adapter: str) -> Talk | None:
    """Return the run's own chat or, without one, generated replies to one test dialogue, each after the gold history.

    The dialogue is the first one with several replies, so that none is chosen for its quality.
    """
    chat = read_chat(run)
    if chat and chat.exchanges and chat.adapter_sha256 == adapter_hashes(run, adapter):
        return Talk(chat.persona, chat.exchanges[:_EXCHANGES], "A conversation with the model, not chosen:")
    path = run / predictions_name("tuned")
    if not path.is_file():
        return None
    by_dialogue: dict[str, list[Prediction]] = {}
    for row in read_predictions(path):
        by_dialogue.setdefault(row.dialogue_id, []).append(row)
    rows = next((found for found in by_dialogue.values() if len(found) >= 2), next(iter(by_dialogue.values()), []))
    exchanges = [(row.history[-1].text if row.history else "", row.prediction) for row in rows[:_EXCHANGES]]
    if not exchanges:
        return None
    how = (
        "The first dialogue of the test data; the model's replies, each of which it wrote with the human "
        "conversation before it as history:"
    )
    return Talk(rows[0].persona, tuple(exchanges), how)


def leaked(metrics: Metrics | None) -> str:
    """Return in words what the test dialogues share with training; "" if that is unknown."""
    shared = metrics.leakage if metrics else None
    if not isinstance(shared, Mapping) or not shared:
        return ""
    parts = (("dialogues", "dialogues"), ("persona_sets", "personas"), ("replies", "replies"))
    return ", ".join(f"{shared[f'shared_{key}']:,} of {shared[f'num_{key}']:,} {what}" for key, what in parts)
