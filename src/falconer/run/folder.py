"""The files in a run's folder: their names, and reading and writing those that are text.

No other module spells these names. The commands that write them, and when:

    splits.json              train, at its start    hashes of the dialogues in each split
    run.json                 train, at its start    versions, hashes, the path that runs and why
    manifest.json            train, at its start    hashes of these files and of config.yaml, see manifest.py
    config.yaml              train, at its start    the configuration, every key resolved; from here on it is a run
    steps.jsonl              train, at each step    a row for each optimiser step and each validation
    tensorboard/             train, at each step    the same for TensorBoard
    pairs.jsonl              prefer, at its start   the pairs of replies of a preference training, see pairs.py
    reference.json           prefer, at its start   what the first adapter thinks of them, see train/objectives
    adapter/                 train, at a validation the adapter with the lowest validation loss
    checkpoints/last/        train, at checkpoints   what --resume needs
    loss_curve.png           train, at checkpoints   the plot of the losses
    training.json            train, when it stops   how and why it stopped ("running" until then), state.py
    .lock                    train, evaluate        held by the process that works in the folder, see locks.py
    chat.json                quickstart             a short chat for the report
    predictions-NAME.jsonl   evaluate               the replies of base, tuned, and each ablation
    metrics.json             evaluate               the figures, see metrics.py
    evaluation.json          evaluate               what else the report shows: settings, hashes, the command
    report.html, report.md   evaluate, report       made from the files above
    evaluation.new/          evaluate               for a moment: all files of an evaluation, see files/together.py
"""

import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import yaml

from falconer.config import Config, from_recorded
from falconer.errors import FalconerError
from falconer.files.json_record import object_in, read_object, read_text
from falconer.files.json_value import NotJson, load_value
from falconer.files.replace import replace_file
from falconer.files.together import finish_together
from falconer.files.yaml_value import NotPlainYaml, yaml_value
from falconer.records import StepRow
from falconer.run.manifest import (
    MANIFEST,
    check_content,
    check_seal,
    file_sha256,
    hashes_of,
    read_manifest,
    replace_manifest,
    sealed,
    text_sha256,
)
from falconer.run.metrics import Metrics, Record, checked

CONFIG = "config.yaml"
RECORD = "run.json"
# The hashes of all dialogues are long, so they are not in run.json.
SPLITS = "splits.json"
PAIRS = "pairs.jsonl"
REFERENCE = "reference.json"
STEPS = "steps.jsonl"
TENSORBOARD = "tensorboard"
ADAPTER = "adapter"
LAST = "checkpoints/last"
CURVE = "loss_curve.png"
TRAINING = "training.json"
CHAT = "chat.json"
METRICS = "metrics.json"
EVALUATION = "evaluation.json"
REPORT_HTML = "report.html"
REPORT_MD = "report.md"
# The set of files that an evaluation replaces together.
EVALUATION_SET = "evaluation"
_HINT = "Restore the file that this run wrote."


@dataclass(frozen=True, slots=True)
class Chat:
    """A short conversation with the tuned model: pairs of a message and the model's reply, in order.

    `adapter_sha256` identifies the weights that were used, see `adapter_hashes`.
    """

    persona: tuple[str, ...]
    exchanges: tuple[tuple[str, str], ...]
    adapter_sha256: dict[str, str]


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What the report shows of an evaluation besides its metrics.

    Args:
        title: the report's heading.
        command: the command that repeats this evaluation.
        language: the code of the replies' language, which determines how words are counted.
        num_samples, sample_seed: how many replies the report shows, and the seed for choosing them.
        settings: every configuration key with its value, as section.key.
        notes: notes on the data.
        adapter: the adapter's folder in the run; for `adapter_sha256` see `adapter_hashes`.
        files: SHA-256 of the predictions and of metrics.json, by name, to check that they are from one evaluation.
    """

    title: str
    command: str
    language: str
    num_samples: int
    sample_seed: int
    settings: dict[str, str]
    notes: tuple[str, ...]
    adapter: str
    adapter_sha256: dict[str, str]
    files: dict[str, str] = field(default_factory=dict)


def predictions_name(system: str) -> str:
    """Return the name of the file with a system's replies: "base", "tuned", or an ablation's."""
    return f"predictions-{system}.jsonl"


def adapter_hashes(run: Path, adapter: str = ADAPTER) -> dict[str, str]:
    """Return the SHA-256 of the weights in an adapter's folder, by their paths in the run; none if it has no folder.

    Args:
        adapter: may be any text, as a damaged evaluation.json names it.
    """
    folder = run / adapter
    files = sorted(folder.glob("adapter*.safetensors")) if os.path.isdir(folder) else []
    return {f"{adapter}/{path.name}": file_sha256(path, _HINT) for path in files}


def check_files(run: Path, names: Iterable[str] | None = None) -> None:
    """Refuse files that are not what a run's last evaluation wrote.

    Args:
        names: which files; all that the evaluation wrote if it is None. Those that are missing are passed over, and so
            is an evaluation of a version that wrote no evaluation.json.

    Raises:
        FalconerError: naming the file; or one that can't be read.
    """
    evaluation = read_evaluation(run) if is_run(run) else None
    if evaluation is None:
        return
    hint = f"{_HINT} Or evaluate again: falconer evaluate --run {run}."
    for name in evaluation.files if names is None else names:
        path = run / name
        if name in evaluation.files and path.exists() and file_sha256(path, hint) != evaluation.files[name]:
            what = f"'{path}' was not written by the last evaluation: its hash differs from the one in {EVALUATION}."
            raise FalconerError(what, _evaluate(run).replace("Run:", "Evaluate again:"))


def is_run(folder: Path) -> bool:
    """Return whether a folder contains a run; False if it may not be read."""
    # os.path, because pathlib raises where the folder may not be entered.
    return os.path.isfile(folder / CONFIG)


def is_inside(run: Path, adapter: str) -> bool:
    """Return whether the name of an adapter's folder is that of one inside a run, which need not have it yet."""
    return (
        adapter == ADAPTER
        or adapter.startswith("checkpoints/")
        or (not os.path.isabs(adapter) and ".." not in Path(adapter).parts and os.path.isdir(run / adapter))
    )


def read_config(run: Path) -> Config:
    """Return the resolved configuration of a run.

    Raises:
        FalconerError: the folder contains no run, or its configuration is damaged.
    """
    path = run / CONFIG
    if not is_run(run) and (os.access(run, os.X_OK) or not os.path.isdir(run)):
        raise FalconerError(
            f"'{run}' contains no run ({CONFIG} is missing).", "Give the folder that falconer train --run wrote."
        )
    try:
        tree = yaml_value(_text(path))
    except NotPlainYaml as error:
        raise FalconerError(f"'{path}' is damaged: {error}.", _HINT) from error
    if not isinstance(tree, dict):
        raise FalconerError(f"'{path}' is damaged: it does not contain sections.", _HINT)
    try:
        config = from_recorded(tree)
    except FalconerError as error:
        raise FalconerError(f"'{path}': {error.message}", error.hint) from error
    _check_unchanged(run, CONFIG)
    return config


def write_config(run: Path, config: Config) -> None:
    """Replace the resolved configuration of a run."""
    text = _config_text(config)
    if hashes := read_manifest(run, _HINT):
        # Both are valid until the next change, so a kill between the two files costs nothing.
        replace_manifest(run, hashes | {CONFIG: [file_sha256(run / CONFIG, _HINT), text_sha256(text)]})
    _write(run / CONFIG, text)


def write_run(
    run: Path, config: Config, record: dict[str, Any], splits: dict[str, Any] | None = None, files: Sequence[str] = ()
) -> None:
    """Write what a run has when it starts: hashes of its dialogues, record, manifest and, last, the configuration.

    Args:
        record: versions, hashes and the path that runs.
        splits: the hashes of the dialogues, see `data.recorded.pack`.
        files: names of files that are in the folder already, whose hashes belong in the manifest.
    """
    texts = {} if splits is None else {SPLITS: json.dumps(splits) + "\n"}
    texts[RECORD] = json.dumps(record, indent=2) + "\n"
    for name, text in texts.items():
        _write(run / name, text)
    configuration = _config_text(config)
    written = {name: [file_sha256(run / name, _HINT)] for name in files}
    replace_manifest(run, hashes_of({**texts, CONFIG: configuration}) | written)
    _write(run / CONFIG, configuration)


def read_record(run: Path) -> dict[str, Any]:
    """Return the record that a run wrote when it was started.

    Raises:
        FalconerError: run.json is missing or damaged.
    """
    record = _read_tree(run / RECORD)
    _check_unchanged(run, RECORD)
    return record


def read_splits(run: Path) -> dict[str, Any] | None:
    """Return the hashes of a run's dialogues; None for a run of a version that did not write them.

    Raises:
        FalconerError: splits.json is damaged.
    """
    _check_unchanged(run, SPLITS)
    return _read_tree(run / SPLITS) if os.path.lexists(run / SPLITS) else None


def read_steps(run: Path) -> list[StepRow]:
    """Return the rows of a run's steps.jsonl; empty before the first step.

    A last line without a line break was cut off, for instance by a power failure, and is ignored.

    Raises:
        FalconerError: a line is damaged; the message names it.
    """
    path = run / STEPS
    lines = _text(path).split("\n")[:-1] if os.path.lexists(path) else []
    rows: list[StepRow] = []
    for number, line in enumerate(lines, start=1):
        try:
            row = load_value(line)
        except NotJson as error:
            raise FalconerError(f"'{path}' is damaged: line {number} is not JSON: {error.reason}.", _HINT) from error
        if not isinstance(row, dict) or type(row.get("step")) is not int:
            raise FalconerError(f"'{path}' is damaged: line {number} has no step.", _HINT)
        if wrong := [name for name in StepRow.__annotations__ if type(row.get(name, 0)) not in (int, float)]:
            raise FalconerError(f"'{path}' is damaged: line {number}, '{wrong[0]}' is not a number.", _HINT)
        rows.append(row)  # type: ignore[arg-type]
    return rows


def check_steps(run: Path) -> None:
    """Refuse a steps.jsonl that lacks rows of the last checkpoint, or has other ones; passed over without a checkpoint.

    Raises:
        FalconerError: naming the command that restores it.
    """
    read_steps(run)  # tells which line is damaged
    path, copy = run / STEPS, run / LAST / STEPS
    hint = f"Restore it: falconer train --run {run} --resume copies the rows from the last checkpoint."
    check_content(copy, read_manifest(copy.parent, hint), hint)
    if path.is_file() and copy.is_file() and not path.read_bytes().startswith(copy.read_bytes()):
        raise FalconerError(f"'{path}' is damaged: it differs from the rows in '{copy.parent}'.", hint)


def write_steps(run: Path, rows: Sequence[StepRow]) -> None:
    """Write steps.jsonl anew; the recorder appends to it from there."""
    _write(run / STEPS, "".join(json.dumps(row) + "\n" for row in rows))


def metrics_text(metrics: Metrics) -> str:
    """Return what metrics.json holds."""
    return json.dumps(metrics.to_json(), indent=2, allow_nan=False) + "\n"


def read_metrics(run: Path) -> Metrics:
    """Return the metrics of a run's last evaluation.

    Raises:
        FalconerError: the run has not been evaluated, or metrics.json is damaged; the message names the key.
    """
    finish_together(run, EVALUATION_SET)
    path = run / METRICS
    if not os.path.lexists(path):
        raise FalconerError(f"'{run}' has not been evaluated ({METRICS} is missing).", _evaluate(run))
    metrics = Metrics.from_json(_text(path), path, f"{_HINT} Or evaluate again: falconer evaluate --run {run}.")
    check_files(run, [METRICS])
    return metrics


def evaluation_text(evaluation: Evaluation) -> str:
    """Return what evaluation.json holds."""
    return json.dumps(sealed(asdict(evaluation)), indent=2) + "\n"


def read_evaluation(run: Path) -> Evaluation | None:
    """Return what the report shows besides the metrics; None for an evaluation of a version that did not write it.

    Raises:
        FalconerError: evaluation.json is damaged.
    """
    finish_together(run, EVALUATION_SET)
    return sealed_record(Evaluation, run / EVALUATION, _evaluate(run))


def write_chat(run: Path, chat: Chat) -> None:
    """Write a short chat for the report."""
    _write(run / CHAT, json.dumps(sealed(asdict(chat)), indent=2, ensure_ascii=False) + "\n")


def read_chat(run: Path) -> Chat | None:
    """Return the chat that the report shows; None where none was written.

    Raises:
        FalconerError: chat.json is damaged.
    """
    path = run / CHAT
    return sealed_record(Chat, path, f"Restore it, or remove it: rm {path}.")


def sealed_record(kind: type[Record], path: Path, hint: str) -> Record | None:
    """Return the record in a JSON file that carries its own hash; None without a file.

    Raises:
        FalconerError: the file is damaged or can't be read.
    """
    if not os.path.lexists(path):
        return None
    text = _text(path)
    check_seal(object_in(text, path, hint), path, hint)
    return checked(kind, text, path, hint)


def _evaluate(run: Path) -> str:
    return f"Run: falconer evaluate --run {run}."


def _write(path: Path, text: str) -> None:
    with replace_file(path) as aside:
        aside.write_text(text, encoding="utf-8")


def _text(path: Path) -> str:
    return read_text(path, _HINT)


def _check_unchanged(run: Path, name: str) -> None:
    """Compare a file with the run's manifest; a run of an older version has none."""
    hashes = read_manifest(run, "Restore it, or delete it: the run's settings are then read unchecked.")
    mine = f"{_HINT} If you changed it yourself, delete '{run / MANIFEST}': the run's settings are then read unchecked."
    check_content(run / name, hashes, mine)


def _config_text(config: Config) -> str:
    return str(yaml.safe_dump(config.model_dump(), sort_keys=False))


def _read_tree(path: Path) -> dict[str, Any]:
    return read_object(path, _HINT)
