"""Making a report from the files in a run's folder: without a model, a GPU or torch."""

import random
import zlib
from collections.abc import Sequence
from pathlib import Path
from types import MappingProxyType

from falconer.config import Config
from falconer.errors import FalconerError
from falconer.evaluate.report.page import Report, Sample, write_report
from falconer.evaluate.text.predictions import read_predictions
from falconer.records import Prediction
from falconer.run.folder import (
    CHAT,
    CURVE,
    EVALUATION,
    REPORT_HTML,
    REPORT_MD,
    STEPS,
    Chat,
    Evaluation,
    adapter_hashes,
    check_files,
    check_steps,
    predictions_name,
    read_chat,
    read_config,
    read_evaluation,
    read_metrics,
    read_record,
    read_steps,
)
from falconer.run.metrics import Metrics

# How metrics.json calls a setting, and what the report says.
_LABELS = MappingProxyType({"arithmetic": "precision"})


def make_report(run: Path, *, results: Path | None = None) -> list[str]:
    """Write report.html and report.md of a run's last evaluation.

    Args:
        results: the folder with the files of the evaluation, where the report is written; None: the run's.

    Returns:
        A sentence for each thing that they lack because the folder does not hold it.

    Raises:
        FalconerError: the run was not evaluated, or a file of the evaluation is damaged or of another one.
    """
    into = results or run
    config, metrics = read_config(run), read_metrics(into)
    evaluation, chat = read_evaluation(into), read_chat(run)
    check_files(into)
    check_steps(run)
    replies = {name: _predictions(into, name) for name in ("base", "tuned")}
    _check_replies(run, metrics, replies)
    left_out = _left_out(run, evaluation, chat, replies)
    if chat and evaluation and chat.adapter_sha256 != evaluation.adapter_sha256:
        chat = None
    write_report(
        into, _report(run, config, metrics, evaluation or _of_older_version(run, config, metrics), chat, replies), run
    )
    return left_out


def _report(
    run: Path, config: Config, metrics: Metrics, evaluation: Evaluation, chat: Chat | None,
    replies: dict[str, Sequence[Prediction]],
) -> Report:  # fmt: skip
    ablations = {name.replace("_", " "): one for name, one in metrics.ablations.items()}
    return Report(
        title=evaluation.title,
        base=metrics.base,
        tuned=metrics.tuned,
        baselines=metrics.baselines,
        signatures=metrics.signatures,
        settings=_settings(metrics, evaluation),
        samples=choose_samples(replies, evaluation.num_samples, evaluation.sample_seed),
        curve_png=_picture(run),
        sample_chat=chat.exchanges if chat else (),
        command=evaluation.command,
        notes=(*evaluation.notes, *metrics.notes),
        gold=metrics.gold,
        sample_seed=evaluation.sample_seed,
        chat_persona=chat.persona if chat else (),
        predictions_base=replies["base"],
        predictions_tuned=replies["tuned"],
        steps=read_steps(run),
        intervals={**metrics.intervals, **{name: one.intervals for name, one in ablations.items()}},
        tests=metrics.tests,
        baseline_tests=metrics.baseline_tests,
        ablations={name: one.score for name, one in ablations.items()},
        decodings=metrics.decodings,
        slices=metrics.slices,
        legacy=metrics.legacy,
        ranking=metrics.ranking,
        not_measured=metrics.not_measured,
        language=evaluation.language,
        num_dialogues=metrics.bootstrap.num_dialogues if metrics.bootstrap else None,
        counts=metrics.settings.get("replies", ""),
    )


def choose_samples(replies: dict[str, Sequence[Prediction]], number: int, seed: int) -> list[Sample]:
    """Return contexts that the seed chooses, each with what base and tuned model replied; none without both."""
    pairs = list(zip(replies["base"], replies["tuned"], strict=False))
    chosen = random.Random(seed).sample(pairs, min(number, len(pairs)))
    return [
        Sample(
            dialogue_id=after.dialogue_id,
            turn=after.turn,
            persona=after.persona,
            history=after.history,
            gold=after.reference,
            base=before.prediction,
            tuned=after.prediction,
        )
        for before, after in chosen
    ]


def _settings(metrics: Metrics, evaluation: Evaluation) -> dict[str, str]:
    return {
        **{_LABELS.get(name, name): text for name, text in metrics.settings.items()},
        **{
            f"sha256 of {split} data": str(source["sha256"])
            for split, source in metrics.data.items()
            if "sha256" in source
        },
        **{f"sha256 of {file}": digest for file, digest in evaluation.adapter_sha256.items()},
        **evaluation.settings,
        **{f"version of {name}": text for name, text in metrics.environment.items()},
    }


def _of_older_version(run: Path, config: Config, metrics: Metrics) -> Evaluation:
    """Return what can be told of an evaluation by a version that wrote no evaluation.json."""
    text = metrics.signatures.get("text", "")
    return Evaluation(
        title=f"{config.model.name} on {_test_name(run, config, metrics)}",
        command="",
        language=text.removeprefix("language:").partition("|")[0] or "en",
        num_samples=config.evaluate.num_samples,
        sample_seed=metrics.bootstrap.seed if metrics.bootstrap else config.evaluate.seed,
        settings={},
        notes=(),
        adapter="",
        adapter_sha256={},
    )


def _test_name(run: Path, config: Config, metrics: Metrics) -> str:
    """Return what the evaluated dialogues are called: the run's data, or the file that was given to the evaluation."""
    match metrics.data.get("test"), read_record(run).get("data"):
        case {"paths": [path, *_], "sha256": evaluated}, {"test": {"sha256": own}} if evaluated != own:
            return Path(str(path)).name
    return Path(config.data.test or config.data.train).name


def _picture(run: Path) -> bytes | None:
    """Return the losses as a picture; None without one, or where it is damaged."""
    path = run / CURVE
    try:
        # Whatever else has that name is left alone: reading a pipe would wait for ever.
        data = path.read_bytes() if path.is_file() else b""
    except OSError:
        return None
    return data if _is_png(data) else None


def _is_png(data: bytes) -> bool:
    """Return whether a PNG is whole: each of its chunks has a CRC (RFC 2083, section 3.2)."""
    place, kind = 8, b""
    if data[:place] != b"\x89PNG\r\n\x1a\n":
        return False
    while kind != b"IEND":
        end = place + 8 + int.from_bytes(data[place : place + 4], "big")
        kind = data[place + 4 : place + 8]
        if len(data) < end + 4 or zlib.crc32(data[place + 4 : end]) != int.from_bytes(data[end : end + 4], "big"):
            return False
        place = end + 4
    return place == len(data)


def _predictions(run: Path, system: str) -> Sequence[Prediction]:
    path = run / predictions_name(system)
    return read_predictions(path) if path.is_file() else ()


def _check_replies(run: Path, metrics: Metrics, replies: dict[str, Sequence[Prediction]]) -> None:
    """Refuse replies that metrics.json is not about, which the hashes tell except for evaluations of older versions.

    Raises:
        FalconerError: naming the file.
    """
    turns = [[(row.dialogue_id, row.turn, row.reference) for row in rows] for rows in replies.values() if rows]
    for name, rows in replies.items():
        score = metrics.base if name == "base" else metrics.tuned
        if rows and (len(rows) != score.num_replies or any(one != turns[0] for one in turns)):
            file = run / predictions_name(name)
            raise FalconerError(
                f"'{file}' and the other files of the evaluation are not about the same replies.",
                f"Evaluate again: falconer evaluate --run {run}.",
            )


def _left_out(
    run: Path, evaluation: Evaluation | None, chat: Chat | None, replies: dict[str, Sequence[Prediction]]
) -> list[str]:
    again = f"falconer evaluate --run {run} writes it."
    left_out = [
        f"{predictions_name(name)} is missing, so the report has no samples, plots or search that need it."
        for name, rows in replies.items()
        if not rows
    ]
    if _picture(run) is None:
        left_out.append(f"{CURVE} is missing or damaged, so {REPORT_MD} has no loss curve.")
    if not read_steps(run):
        left_out.append(f"{STEPS} is missing or empty, so {REPORT_HTML} has no loss curve.")
    if evaluation is None:
        left_out.append(
            f"{EVALUATION} is missing, as in runs that an older version evaluated, so the report lists no settings, no "
            f"hash of the adapter and no command. {again}"
        )
    elif not (hashes := adapter_hashes(run, evaluation.adapter)):
        left_out.append(
            f"The adapter in '{run / evaluation.adapter}' has been removed since the evaluation; the report is about "
            "it all the same."
        )
    elif hashes != evaluation.adapter_sha256:
        left_out.append(
            f"The adapter in '{run / evaluation.adapter}' has changed since the evaluation, so the report is about an "
            f"earlier adapter. To evaluate the new one: falconer evaluate --run {run}"
        )
    if chat is None:
        left_out.append(f"{CHAT} is missing, so the report has no sample chat. falconer quickstart writes one.")
    elif evaluation and chat.adapter_sha256 != evaluation.adapter_sha256:
        left_out.append(f"{CHAT} was written with another adapter, so the report has no sample chat.")
    return left_out
