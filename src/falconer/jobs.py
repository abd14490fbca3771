"""From a run's folder to a model that can be evaluated or talked to, and the evaluation that fills the folder."""

import json
import random
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from falconer import runtime
from falconer.config import Config, EvaluateConfig, differences
from falconer.curves import CURVE_FILE
from falconer.data.encode import Encoder
from falconer.data.language import resolve
from falconer.data.prompt import template_sha256
from falconer.data.recorded import EvaluationData
from falconer.data.splits import GIVEN, OWN_SPLIT
from falconer.errors import FalconerError
from falconer.evaluate.ablations import CONTROLS, run_controls
from falconer.evaluate.measure import Evaluated, evaluate_model, with_room
from falconer.evaluate.report.page import Report, Sample, write_report
from falconer.evaluate.report.tables import optional_parts
from falconer.evaluate.summary import NOT_MEASURED, Bootstrap, summarise
from falconer.evaluate.text.compare import System
from falconer.evaluate.text.predictions import write_predictions
from falconer.files import recover_folder, replace_file, sha256
from falconer.model.engine import Decoding, Engine
from falconer.model.load import LoadedModel, load_model
from falconer.model.lora import load_adapter
from falconer.model.nli import label_values
from falconer.model.tokenizer import set_template
from falconer.records import Dialogue, Score
from falconer.run_folder import read_config
from falconer.talk.session import Session
from falconer.train import setup
from falconer.train.loop import ADAPTER, LAST
from falconer.train.recorder import read_steps

METRICS = "metrics.json"


@dataclass(frozen=True, slots=True)
class Opened:
    """A run's tuned model, with everything it was trained with.

    Args:
        model: the tuned model, which `engine` asks.
        adapter: its adapter's folder inside the run.
        notes: what its user should know before use.
    """

    run: Path
    config: Config
    base: LoadedModel
    model: Any
    encoder: Encoder
    engine: Engine
    adapter: str = ADAPTER
    notes: tuple[str, ...] = ()


def open_run(run: Path, adapter: str = ADAPTER, config: Config | None = None) -> Opened:
    """Load a run's base model and adapter.

    Args:
        adapter: a folder inside the run: the best adapter, or "checkpoints/last".
        config: the run's, with `model.device`, `model.dtype` and `model.path` as the user wants them now.

    Raises:
        FalconerError: no run, no adapter yet, or a damaged one.
    """
    config = config or read_config(run)
    recover_folder(run / adapter)
    if not (run / adapter).is_dir() and adapter not in (ADAPTER, LAST):
        raise FalconerError(f"'{run}' has no folder '{adapter}'.", f"Give {ADAPTER} (the best) or {LAST}.")
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
    format = setup.recorded_format(run, config)
    set_template(base.tokenizer, format.bos)
    encoder = setup.make_encoder(base, config.data.max_tokens, format)
    engine = Engine(tuned, encoder, base.precision, model.path)
    return Opened(run, config, base, tuned, encoder, engine, adapter, tuple(setup.bos_notes(base, format)))


def evaluate_run(
    opened: Opened, config: Config, console: Console, *, data: EvaluationData | None = None, controls: bool = False,
    chat_persona: Sequence[str] = (), sample_chat: Sequence[tuple[str, str]] = (),
) -> dict[str, Any]:  # fmt: skip
    """Evaluate base and tuned model of a run on its test split; write predictions, metrics.json and the report.

    Args:
        config: the run's, with what `config.for_evaluation` allows as the user wants it now.
        data: from `setup.evaluation_data`; loaded here if it is None.
        controls: evaluate the tuned model also without persona, with a shuffled one, and without history.
        chat_persona, sample_chat: a conversation for the report, as (said, replied) pairs.

    Returns:
        What metrics.json holds: `summarise`'s keys, and `settings`, `data`, `leakage`, `environment`.

    Raises:
        FalconerError: the model gives NaN, evaluate.nli_model can't be used, evaluate.language is unknown, or see
            `setup.evaluation_data`.
    """
    settings = config.evaluate
    if settings.nli_model:
        label_values(Path(settings.nli_model))  # refused now, not after the model has been measured
    data = data or setup.evaluation_data(opened.run, config)
    for note in data.notes:
        console.print(note, markup=False, soft_wrap=True)
    shared = f"{NOT_MEASURED}: {data.leakage}" if isinstance(data.leakage, str) else data.leakage
    chosen = data.dialogues[: settings.max_dialogues]
    leave_out = config.data.on_bad_row == "skip"
    dialogues = with_room(opened.encoder, chosen, settings.max_new_tokens, leave_out=leave_out)
    if left_out := len(chosen) - len(dialogues):
        opened = replace(opened, notes=(*opened.notes, f"{left_out} test dialogues do not fit and are left out"))
    language = resolve(settings.language, [d.turns[index].text for d in dialogues for index in d.replies])
    console.print(f"language of the replies: {language}", soft_wrap=True)
    decoding = decoding_of(settings)
    engine, generation = opened.engine, opened.engine.how(settings.batch_size)
    for line in (f"replies {generation}", *(f"note    {note}" for note in opened.notes)):
        console.print(line, soft_wrap=True)
    engine.on_note(lambda note: console.print(f"note    {note}", soft_wrap=True))
    with _progress(console) as on_progress:

        def measure(name: str, shown: Sequence[Dialogue], asked: Engine = engine) -> Evaluated:
            return evaluate_model(
                asked, shown, decoding, max_replies=settings.max_replies, max_ranked=settings.max_ranked,
                batch_size=settings.batch_size, seed=settings.seed,
                on_progress=lambda what, done, total: on_progress(f"{name}: {what}", done, total),
            )  # fmt: skip

        def judge(systems: Mapping[str, System]) -> tuple[dict[str, System], dict[str, Any]]:
            from falconer.evaluate import consistency

            folder = Path(settings.nli_model or "")
            return consistency.judge(systems, folder, settings.batch_size, config.model.device, on_progress)

        base = measure("base", dialogues, engine.base)
        tuned = measure("tuned", dialogues)
        altered = run_controls(measure, dialogues, tuned, settings.seed) if controls else {}
        on_progress("scores and intervals", 0, 1)
        summary = summarise(
            base, tuned, altered, dialogues, data.seen,
            Bootstrap(settings.resamples, settings.seed), judge if settings.nli_model else None,
            language,
        )  # fmt: skip
        on_progress("scores and intervals", 1, 1)
    opened = replace(opened, notes=(*opened.notes, *engine.notes))
    metrics = summary | {
        "settings": _facts(opened, config, data, dialogues, tuned)
        | {
            "language of the replies": str(language),
            "shared with training": str(shared),
            "generation": generation,
        }
        | ({"notes": "; ".join(opened.notes)} if opened.notes else {}),
        "data": data.sources,
        "leakage": shared if isinstance(shared, str) else asdict(shared),
        "environment": runtime.environment(runtime.pick_device(config.model.device)),
    }
    for control in CONTROLS:
        # Those of an earlier evaluation may be about other turns.
        (opened.run / f"predictions-{control}.jsonl").unlink(missing_ok=True)
    everything: list[tuple[str, Evaluated]] = [("base", base), ("tuned", tuned), *altered.items()]
    for name, evaluated in everything:
        write_predictions(evaluated.predictions, opened.run / f"predictions-{name}.jsonl")
    with replace_file(opened.run / METRICS) as aside:
        aside.write_text(json.dumps(metrics, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    curve = opened.run / CURVE_FILE
    before, after, floors = scores_of(metrics)
    report = Report(
        title=f"{config.model.name} on {Path(config.data.test or config.data.train).name}",
        base=before, tuned=after, floors=floors, signatures=metrics["signatures"],
        settings=metrics["settings"] | _hashes(opened, data.sources) | _every_setting(opened, config)
        | {f"version of {name}": text for name, text in metrics["environment"].items()},
        samples=_samples(base, tuned, settings), curve_png=curve.read_bytes() if curve.is_file() else None,
        sample_chat=sample_chat, command=_command(opened, config, controls), notes=[*data.notes, *metrics["notes"]],
        language=language.code,
        gold=Score(**metrics["gold"]), sample_seed=settings.seed, chat_persona=chat_persona,
        predictions_base=base.predictions, predictions_tuned=tuned.predictions, steps=read_steps(opened.run),
        **optional_parts(metrics),
    )  # fmt: skip
    write_report(opened.run, report)
    return metrics


def _facts(
    opened: Opened, config: Config, data: EvaluationData, dialogues: Sequence[Dialogue], tuned: Evaluated
) -> dict[str, str]:
    """Return what the figures depend on, in words."""
    model, lora = config.model, _lora(opened)
    test = data.sources["test"]
    made = "" if test["made"] in (GIVEN, OWN_SPLIT) else f", {test['made']}"
    _, dropped = opened.encoder.encode(dialogues)
    num_ranked = sum(row.ranks is not None for row in tuned.predictions)
    return {
        "base model": model.name + (f"@{model.revision}" if model.revision else ""),
        "quantisation": f"{model.quantization}, {opened.base.num_quantized} layers",
        "arithmetic": f"{opened.base.precision.name}: {opened.base.precision.reason}",
        "adapter": f"LoRA r={lora['r']}, alpha={lora['alpha']}, dropout={lora['dropout']} on {lora['targets']}"
        + ("" if opened.adapter == ADAPTER else f" ({opened.adapter})"),
        "test data": f"{', '.join(test['paths'])}: {len(dialogues)} dialogues{made}",
        "replies": f"{sum(one is not None for one in tuned.likelihoods)} for perplexity, "
        f"{len(tuned.predictions)} generated, {num_ranked} ranked among their candidates",
        "text": config.data.text,
        "history": f"all that fits into {opened.encoder.max_tokens} tokens; {dropped.num_turns} turns of "
        f"{dropped.num_dialogues} dialogues did not",
        "decoding": str(decoding_of(config.evaluate)),
        "prompt template": template_sha256(str(opened.base.tokenizer.chat_template))[:16],
    }


def open_session(opened: Opened, persona: list[str], decoding: Decoding) -> Session:
    """Start a conversation with a run's tuned model."""
    # In a short context, half of it is for what was said.
    most = min(decoding.max_new_tokens, opened.encoder.max_tokens // 2)
    return Session(opened.engine, persona, replace(decoding, max_new_tokens=most))


def decoding_of(settings: EvaluateConfig) -> Decoding:
    """Return how tokens are chosen according to a configuration."""
    return Decoding(
        max_new_tokens=settings.max_new_tokens, temperature=settings.temperature, top_p=settings.top_p,
        top_k=settings.top_k, repetition_penalty=settings.repetition_penalty, seed=settings.seed,
    )  # fmt: skip


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


def _lora(opened: Opened) -> dict[str, str]:
    """Return what the adapter itself says of its making; a run that continued another adapter may say less."""
    held = opened.model.peft_config["default"]
    targets = held.target_modules
    names = targets if isinstance(targets, str) else ", ".join(sorted(targets or ()))
    return {"r": str(held.r), "alpha": str(held.lora_alpha), "dropout": str(held.lora_dropout), "targets": names}


def _command(opened: Opened, config: Config, controls: bool) -> str:
    """Return what to type to get an evaluation again."""
    before = read_config(opened.run)
    values = config.model_dump()
    changed = [key.split(".") for key in differences(before, config)]
    words = ["falconer", "evaluate", "--run", str(opened.run)]
    words += ["--adapter", opened.adapter] if opened.adapter != ADAPTER else []
    words += ["--controls"] if controls else []
    return shlex.join([*words, *(f"{section}.{key}={_typed(values[section][key])}" for section, key in changed)])


def _typed(value: object) -> str:
    return "null" if value is None else str(value)


def _hashes(opened: Opened, sources: dict[str, dict[str, Any]]) -> dict[str, str]:
    """Return the sha256 of what a run's figures come from, for the report's header."""
    files = sorted((opened.run / opened.adapter).glob("adapter*.safetensors"))
    adapters = {f"sha256 of {opened.adapter}/{path.name}": sha256(path) for path in files}
    return {f"sha256 of {split} data": str(source["sha256"]) for split, source in sources.items()} | adapters


def _every_setting(opened: Opened, config: Config) -> dict[str, str]:
    sections = config.model_dump()
    sections["lora"] |= _lora(opened)
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
