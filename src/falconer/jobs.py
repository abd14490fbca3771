"""Opening a run's tuned model for evaluation or chat, and evaluating it with everything that is written."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

from rich.console import Console

from falconer.config import Config, EvaluateConfig
from falconer.data.encode import Encoder
from falconer.data.language import resolve
from falconer.data.prompt import PromptFormat, template_sha256
from falconer.data.recorded import EvaluationData
from falconer.evaluate.ablations import run_ablations
from falconer.evaluate.configured import choose_dialogues, decoding_of, measure
from falconer.evaluate.consistency import judge_with
from falconer.evaluate.dealing import ALONE, Dealing
from falconer.evaluate.facts import Setup, evaluation_record, with_facts
from falconer.evaluate.needs import check_adapter, check_needs
from falconer.evaluate.progress import show_progress
from falconer.evaluate.summary import Measured, summarise
from falconer.evaluate.work import work_in_words
from falconer.evaluate.write import write_results
from falconer.model.base_files import same_base
from falconer.model.engine import Decoding, Engine
from falconer.model.load import LoadedModel, load_model
from falconer.model.lora import check_adapter_files, load_adapter, lora_facts
from falconer.model.tokenizer import set_template
from falconer.records import Dialogue
from falconer.run.folder import ADAPTER, read_config, read_record
from falconer.run.metrics import Metrics
from falconer.talk.session import Session
from falconer.train import setup


@dataclass(frozen=True, slots=True)
class Opened:
    """A run's tuned model with its base model, encoder and engine.

    Args:
        model: the tuned model, which `engine` runs.
        adapter: its adapter's folder inside the run.
        notes: what the user should know before using it.
    """

    run: Path
    config: Config
    base: LoadedModel
    model: Any
    encoder: Encoder
    engine: Engine
    adapter: str = ADAPTER
    notes: tuple[str, ...] = ()


def open_run(
    run: Path, adapter: str = ADAPTER, config: Config | None = None, format: PromptFormat | None = None
) -> Opened:
    """Load a run's base model and adapter.

    Args:
        adapter: a folder inside the run: the best adapter, or "checkpoints/last".
        config: the run's, with `model.device`, `model.dtype` and `model.path` as the user wants them now.
        format: what the run's prompts look like, where that has been found already.

    Raises:
        FalconerError: no run, no adapter yet, or a damaged one.
    """
    config = config or read_config(run)
    check_adapter(run, adapter)
    check_adapter_files(run / adapter)
    record = read_record(run)
    return open_adapter(run, adapter, config, format or setup.recorded_format(run, config), record=record)


def open_adapter(
    run: Path, adapter: str, config: Config, format: PromptFormat, *, record: Mapping[str, Any] = MappingProxyType({}),
    is_whole: bool = False,
) -> Opened:  # fmt: skip
    """Load a base model and an adapter, which need not be of a run.

    Args:
        run, adapter: the adapter's folder is `run / adapter`.
        record: the run's run.json, if there is a run; its base model must not have changed.
        is_whole: the model is tuned itself, so no adapter is loaded.
        config: its model and the most tokens of a prompt are used.
        format: what the prompts look like.

    Raises:
        FalconerError: a model or adapter that can't be loaded.
    """
    model = config.model
    with same_base(record, model.name, model.revision):
        base = load_model(
            model.name, revision=model.revision, quantization=model.quantization, dtype=model.dtype, device=model.device
        )
    tuned = base.model if is_whole else load_adapter(base.model, run / adapter)
    set_template(base.tokenizer, format.bos)
    encoder = setup.make_encoder(base, config.data.max_tokens, format)
    engine = Engine(tuned, encoder, base.precision, model.path)
    return Opened(run, config, base, tuned, encoder, engine, adapter, tuple(setup.bos_notes(base, format)))


def evaluate_run(
    opened: Opened, config: Config, console: Console, *, data: EvaluationData | None = None, ablations: bool = False,
    dealing: Dealing = ALONE,
) -> Metrics:  # fmt: skip
    """Evaluate base and tuned model of a run on its test split; write predictions, metrics.json and the report.

    Args:
        config: the run's, with the overrides that `config.for_evaluation` allows.
        data: from `setup.evaluation_data`; loaded here if it is None.
        ablations: also evaluate the tuned model without persona, with a shuffled one, and without history.
        dealing: with several ranks, each measures some of the dialogues; all get the figures, and the first writes
            them.

    Raises:
        FalconerError: see `check_needs` and `setup.evaluation_data`; or the model's output is NaN.
    """
    settings = config.evaluate
    check_needs(opened.run, opened.adapter, settings.nli_model, settings.language)
    data = data or setup.evaluation_data(opened.run, config)
    for note in data.notes:
        console.print(note, markup=False, soft_wrap=True)
    dialogues, notes = choose_dialogues(
        opened.encoder, data.dialogues, settings, leave_out=config.data.on_bad_row == "skip"
    )
    opened = replace(opened, notes=(*opened.notes, *notes))
    language = resolve(settings.language, [d.turns[index].text for d in dialogues for index in d.replies])
    engine, generation = opened.engine, opened.engine.how(settings.batch_size)
    said = [f"note    {note}" for note in opened.notes]
    work = f"work    {work_in_words(engine, dialogues, settings)}; once for base and tuned model each"
    work += ", and up to three times for the ablations" if ablations else ""
    for line in (f"language of the replies: {language}", f"replies {generation}", *said, work):
        console.print(line, soft_wrap=True)
    engine.on_note(lambda note: console.print(f"note    {note}", soft_wrap=True))
    with show_progress(console) as on_progress:
        ask = partial(measure, settings, on_progress, dealing)
        base, tuned = ask(engine.base, "base", dialogues), ask(engine, "tuned", dialogues)
        altered = run_ablations(partial(ask, engine), dialogues, tuned, settings.seed) if ablations else {}
        measured = Measured(base, tuned, altered, dialogues, data.seen, language)
        on_progress("scores and intervals", 0, 1)
        judge = judge_with(settings.nli_model, settings.batch_size, config.model.device, on_progress)
        metrics = summarise(measured, settings.resamples, settings.seed, judge)
        on_progress("scores and intervals", 1, 1)
    facts = _setup(opened, settings, dialogues, generation)
    metrics = with_facts(metrics, config, facts, data, measured)
    if dealing.number == 0:
        write_results(opened.run, measured, metrics, evaluation_record(opened.run, config, facts, data, measured))
    return metrics


def _setup(opened: Opened, settings: EvaluateConfig, dialogues: Sequence[Dialogue], generation: str) -> Setup:
    base, encoder = opened.base, opened.encoder
    return Setup(
        adapter=opened.adapter, lora=lora_facts(opened.model), num_quantized=base.num_quantized,
        precision=f"{base.precision.name}: {base.precision.reason}", decoding=str(decoding_of(settings)),
        template_sha256=template_sha256(str(base.tokenizer.chat_template)), max_tokens=encoder.max_tokens,
        dropped=encoder.encode(dialogues)[1], generation=generation, notes=(*opened.notes, *opened.engine.notes),
    )  # fmt: skip


def open_session(opened: Opened, persona: list[str], decoding: Decoding) -> Session:
    """Start a conversation with a run's tuned model."""
    # In a short context, at least half is left for the history.
    most = min(decoding.max_new_tokens, opened.encoder.max_tokens // 2)
    return Session(opened.engine, persona, replace(decoding, max_new_tokens=most))
