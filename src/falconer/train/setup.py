"""Preparing a run: checking its folder, loading its dialogues, and encoding them in its prompt format."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from falconer.config import Config, differences, may_have_moved
from falconer.data.distractors import Distractors
from falconer.data.encode import Encoder, Truncation, check_examples
from falconer.data.language import NAMES, language_of
from falconer.data.prompt import NEXT_TURN, PromptFormat
from falconer.data.recorded import EvaluationData, RunDialogues
from falconer.data.sources import Reading, open_source
from falconer.data.splits import Splits, describe, load_split, load_splits
from falconer.data.text import is_spaced, joins_line_end, restyle
from falconer.errors import FalconerError
from falconer.model.adapter_record import adapter_format, format_from
from falconer.model.limits import check_token, context_of
from falconer.model.load import LoadedModel
from falconer.records import Dialogue, Example
from falconer.run.folder import CONFIG, RECORD, read_config, read_record, read_splits


@dataclass(frozen=True, slots=True)
class Examples:
    """The encoded splits; `lengths` are the token counts of the training examples, `notes` are for the user.

    `distractors` and `valid_distractors` are those of the two splits, None without a ranking objective.
    """

    train: list[Example]
    valid: list[Example]
    lengths: list[int]
    truncation: Truncation
    valid_truncation: Truncation
    notes: tuple[str, ...]
    distractors: Distractors | None = None
    valid_distractors: Distractors | None = None


def check_packages() -> None:
    """Refuse to start without the packages that are loaded when the first results are written.

    Raises:
        FalconerError: naming those that are missing, and what to type.
    """
    missing = " ".join(name for name in ("matplotlib", "tensorboard") if find_spec(name) is None)
    if missing:
        raise FalconerError(
            f"Training needs the package {missing.replace(' ', ' and ')}.", f"Run: pip install {missing}"
        )


def check_run(run: Path, config: Config, resume: bool) -> None:
    """Check that this run may write into the folder.

    Raises:
        FalconerError: the folder already contains a run and `resume` is off, it contains none to resume, or the run has
            other settings.
    """
    if not resume:
        if (run / CONFIG).exists():
            raise FalconerError(
                f"'{run}' already contains a run.", "Continue it with --resume, or choose another folder with --run."
            )
        return
    before = read_config(run)
    changed = [key for key in differences(before, config) if not may_have_moved(key, before, config)]
    if changed:
        raise FalconerError(
            f"'{run}' was started with other settings: {', '.join(changed)} differ.",
            f"Resume it without settings (falconer train --run {run} --resume), or start a new run with another --run.",
        )


def load_dialogues(config: Config) -> Splits:
    """Load the splits of a configuration in its text style; for training, `max_dialogues` of them."""
    data = config.data
    splits = load_splits(
        data.train, data.valid, data.test, reading=Reading(data.format, data.on_bad_row, data.max_gib),
        valid_share=data.valid_share, seed=config.train.seed, max_train=data.max_dialogues,
        partner_too=data.learned_turns == "both",
    )  # fmt: skip
    return splits if data.text == "raw" else _natural(splits, language_of(splits.train))


def run_dialogues(run: Path, config: Config) -> RunDialogues:
    """Return the dialogues of an existing run; `config` may contain the new paths of its files.

    Raises:
        FalconerError: the folder contains no run, or its record is damaged.
    """
    before = read_config(run)
    return RunDialogues(
        run, read_record(run).get("data"), read_splits(run), before.data, config.data, before.train.seed
    )


def resume_dialogues(run: Path, config: Config) -> tuple[Splits, list[str]]:
    """Load exactly the training and validation dialogues that a run was started with; the test split is not read.

    Returns:
        The splits, and a sentence for each file that has moved.

    Raises:
        FalconerError: a file has changed since the run was started, or is missing.
    """
    dialogues = run_dialogues(run, config)
    moved = dialogues.check(("train", "valid"))
    splits = dialogues.splits()
    if config.data.text != "raw":
        splits = _natural(splits, recorded_format(run, config, dialogues).language)
    return splits, moved


def evaluation_data(run: Path, config: Config) -> EvaluationData:
    """Return the data for an evaluation: exactly the run's recorded test split, or the file that `config` names.

    Raises:
        FalconerError: a file of the run is missing, or has changed since the run was started.
    """
    if "imported" in read_record(run):
        return given_data(config, recorded_format(run, config))
    dialogues = run_dialogues(run, config)
    return dialogues.for_evaluation(recorded_format(run, config, dialogues), config.data.text)


def given_data(config: Config, format: PromptFormat) -> EvaluationData:
    """Return the dialogues of `data.test` for an adapter that was not trained here.

    Raises:
        FalconerError: the file can't be read.
    """
    data = config.data
    split, loaded = load_split(open_source(str(data.test), data.format), "test", data.on_bad_row)
    shown = tuple(restyle(dialogue, data.text, format.language) for dialogue in loaded.dialogues)
    unknown = "the adapter was trained elsewhere, so its training data is unknown"
    return EvaluationData(
        shown, {"test": describe(loaded, split, "given to this evaluation")}, unknown, None, (), format
    )


def _natural(splits: Splits, language: str) -> Splits:
    train, valid, test = (
        tuple(restyle(dialogue, "natural", language) for dialogue in split)
        for split in (splits.train, splits.valid, splits.test)
    )
    return dataclasses.replace(splits, train=train, valid=valid, test=test)


def prompt_format(splits: Splits, bos: str) -> PromptFormat:
    """Return the prompt format of a new run, which depends on its training dialogues.

    Args:
        bos: what the tokenizer of the base model puts before every text.
    """
    replies = [dialogue.turns[index].text.strip() for dialogue in splits.train for index in dialogue.replies]
    return PromptFormat(
        bos=bos,
        language=language_of(splits.train),
        multi_line=any("\n" in text for text in replies),
        quotes_tags=any(NEXT_TURN.search(text) for text in replies),
        is_spaced=is_spaced(turn.text for dialogue in splits.train for turn in dialogue.turns),
        joins_persona_end=joins_line_end(line for dialogue in splits.train for line in dialogue.persona),
    )


def in_words(format: PromptFormat) -> str:
    """Describe a prompt format in one line."""
    text = "lower case and spaced punctuation, as in Persona-Chat" if format.is_spaced else "text as in the data"
    lines = "replies may have several lines" if format.multi_line else "each reply ends at its first line break"
    lines += ", which may begin with a tag such as 'User:'" if format.quotes_tags else ""
    language = "" if format.language == "en" else f"; language: {NAMES.get(format.language, format.language)}"
    return f"{text}; {lines}{language}"


def continued_format(format: PromptFormat, init_adapter: str | None) -> PromptFormat:
    """Return a new run's format with the BOS token of the adapter that it continues from, if that is recorded."""
    before = adapter_format(Path(init_adapter)) if init_adapter else None
    return format if before is None else dataclasses.replace(format, bos=before.bos)


def bos_notes(base: LoadedModel, format: PromptFormat) -> list[str]:
    """Return a note if an adapter's prompts begin with another BOS token than the tokenizer's texts."""
    if format.bos == base.bos:
        return []
    return [
        f"this adapter was trained with {_begin(format.bos)} before each dialogue, but its tokenizer adds "
        f"{_begin(base.bos)}; base and tuned model both get prompts as in training"
    ]


def _begin(bos: str) -> str:
    return f"'{bos}'" if bos else "nothing"


def recorded_format(run: Path, config: Config, dialogues: RunDialogues | None = None) -> PromptFormat:
    """Return the prompt format of an existing run.

    Runs of versions that did not record it were trained without BOS; the rest follows from the training dialogues, if
    they have not changed.

    Args:
        dialogues: from `run_dialogues`, which caches what it has read; None: they are read here if needed.

    Raises:
        FalconerError: run.json is missing or damaged.
    """
    record = read_record(run)
    if "prompt_format" in record:
        return format_from(record["prompt_format"], run / RECORD)
    try:
        dialogues = dialogues or run_dialogues(run, config)
        dialogues.check(("train", "valid"))
        found = prompt_format(dialogues.splits(), "")
    except FalconerError:
        return PromptFormat(is_spaced=config.data.text == "raw")
    # Those versions always applied the rules of English to make natural text.
    return found if config.data.text == "raw" else dataclasses.replace(found, is_spaced=False, language="en")


def make_encoder(base: LoadedModel, max_tokens: int, format: PromptFormat) -> Encoder:
    """Return the encoder of a model; no example is longer than the model's context."""
    context = context_of(base.model.config) or max_tokens
    serialised = base.tokenizer.backend_tokenizer.to_str()
    return Encoder(serialised, base.end_id, min(max_tokens, context), format, base.stop_ids)


def encode_splits(splits: Splits, base: LoadedModel, config: Config, format: PromptFormat) -> Examples:
    """Encode training and validation dialogues, and check that they can be trained on."""
    encoder = make_encoder(base, config.data.max_tokens, format)
    leave_out = config.data.on_bad_row == "skip"
    partner_too = config.data.learned_turns == "both"
    train, truncation = encoder.encode(splits.train, leave_out=leave_out, partner_too=partner_too)
    valid, valid_truncation = encoder.encode(splits.valid, leave_out=leave_out)
    for name, examples, cut in (("training", train, truncation), ("validation", valid, valid_truncation)):
        if not examples and cut.num_left_out:
            raise FalconerError(
                f"All {cut.num_left_out} {name} dialogues were skipped: persona and last reply do not fit into "
                f"{encoder.max_tokens} tokens.",
                "Increase data.max_tokens, up to the model's context.",
            )
        check_examples(examples, base.end_id, partner_too=partner_too and examples is train)
    for example in (*train, *valid):
        where = f"Dialogue '{example.dialogue_id}', encoded by a tokenizer of {len(base.tokenizer):,} entries,"
        check_token(int(example.ids.max()), base.model.config, where)
    notes = [
        f"{cut.num_left_out} {name} dialogues were skipped: persona and last reply do not fit into "
        f"{encoder.max_tokens} tokens"
        for name, cut in (("training", truncation), ("validation", valid_truncation))
        if cut.num_left_out
    ]
    if partner_too:
        notes.append(
            "data.learned_turns=both: the training loss is that of both speakers' turns, the validation loss that of "
            "the replies alone"
        )
    notes += _room_notes(encoder, splits.test, config.evaluate.max_new_tokens)
    lengths = [len(example.ids) for example in train]
    encoded = Examples(train, valid, lengths, truncation, valid_truncation, tuple(notes))
    return _with_distractors(encoded, splits, encoder, config) if config.train.objective == "lm+ranking" else encoded


def _with_distractors(examples: Examples, splits: Splits, encoder: Encoder, config: Config) -> Examples:
    """Add the distractors of both splits.

    Raises:
        FalconerError: the training dialogues have no distractors.
    """
    settings = config.ranking

    def of(dialogues: Sequence[Dialogue], encoded: Sequence[Example], share: float) -> Distractors:
        # In the order of the dialogues, as the encoder leaves out those that do not fit.
        kept = dialogues if len(dialogues) == len(encoded) else [one for one in dialogues if encoder.fits(one)]
        return Distractors(
            kept, encoded, encoder, number=settings.distractors, share=share, seed=config.train.seed
        )  # fmt: skip

    distractors = of(splits.train, examples.train, settings.share)
    num_ranked, num_without = distractors.count(0)
    if not num_ranked:
        raise FalconerError(
            f"train.objective=lm+ranking needs {settings.distractors} distractors for a reply: other texts that its "
            "persona does not say. No reply of the training dialogues has as many.",
            "Use train.objective=lm, lower ranking.distractors, or give dialogues of several personas.",
        )
    source = (
        "the candidates of each turn and, where they are too few, other training dialogues"
        if distractors.has_candidates
        else "other training dialogues, never of the same persona, since the data has no candidates"
    )
    notes = [f"distractors of the ranking objective: {source}"]
    if num_without:
        notes.append(f"{num_without} of {num_ranked + num_without} replies are not ranked: too few distractors fit")
    # All replies: a validation is short, and its figures are compared with each other.
    valid = of(splits.valid, examples.valid, 1.0)
    return dataclasses.replace(
        examples, notes=(*examples.notes, *notes), distractors=distractors, valid_distractors=valid
    )  # fmt: skip


def _room_notes(encoder: Encoder, test: Sequence[Dialogue], max_new_tokens: int) -> list[str]:
    """Return a note, before training, if personas leave too few tokens for the replies of an evaluation."""
    rooms = [encoder.room(dialogue.persona) for dialogue in test]
    tight = sum(room < max_new_tokens for room in rooms)
    if not tight:
        return []
    way_out = f"{min(rooms)} would fit for all" if min(rooms) > 0 else "data.on_bad_row=skip skips them"
    return [
        f"{tight} of {len(test)} test dialogues can't be evaluated: with their persona, "
        f"evaluate.max_new_tokens={max_new_tokens} does not fit into {encoder.max_tokens} tokens ({way_out})"
    ]
