"""What a run is made of before its first step: its folder, and its dialogues turned into examples."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from falconer.config import Config, differences, may_have_moved
from falconer.data.encode import Encoder, Truncation, check_examples
from falconer.data.language import NAMES, language_of
from falconer.data.prompt import NEXT_TURN, PromptFormat
from falconer.data.recorded import EvaluationData, RunDialogues
from falconer.data.splits import Splits, load_splits
from falconer.data.text import is_spaced, restyle
from falconer.errors import FalconerError
from falconer.model.limits import check_token, context_of
from falconer.model.load import LoadedModel
from falconer.model.lora import recorded_bos
from falconer.records import Dialogue, Example
from falconer.run.folder import CONFIG, RECORD, read_config, read_record, read_splits


@dataclass(frozen=True, slots=True)
class Examples:
    """The encoded splits; `lengths` are the training examples' tokens, `notes` what the run's user should know."""

    train: list[Example]
    valid: list[Example]
    lengths: list[int]
    truncation: Truncation
    valid_truncation: Truncation
    notes: tuple[str, ...]


def check_run(run: Path, config: Config, resume: bool) -> None:
    """Refuse a folder that this run must not write into.

    Raises:
        FalconerError: a run is there already and `resume` is off, there is none to resume, or it had other settings.
    """
    if not resume:
        if (run / CONFIG).exists():
            raise FalconerError(
                f"'{run}' holds a run already.", "Go on with --resume, or name another folder with --run."
            )
        return
    before = read_config(run)
    changed = [key for key in differences(before, config) if not may_have_moved(key, before, config)]
    if changed:
        raise FalconerError(
            f"'{run}' was started with other settings: {', '.join(changed)} differ.",
            f"Resume it as it is (falconer train --run {run} --resume), or start anew with another --run.",
        )


def load_dialogues(config: Config) -> Splits:
    """Load the splits that a configuration names, in its text style; of training those that `max_dialogues` chooses."""
    data = config.data
    splits = load_splits(
        data.train, data.valid, data.test, format=data.format, valid_share=data.valid_share, seed=config.train.seed,
        on_bad_row=data.on_bad_row, max_train=data.max_dialogues,
    )  # fmt: skip
    return splits if data.text == "raw" else _natural(splits, language_of(splits.train))


def run_dialogues(run: Path, config: Config) -> RunDialogues:
    """Return the way to the dialogues of an existing run; `config` may name its files where they lie now.

    Raises:
        FalconerError: the folder holds no run, or a damaged record.
    """
    before = read_config(run)
    return RunDialogues(
        run, read_record(run).get("data"), read_splits(run), before.data, config.data, before.train.seed
    )


def resume_dialogues(run: Path, config: Config) -> tuple[Splits, list[str]]:
    """Load what a run trains and validates on, exactly as it began; the test split stays where it is.

    Returns:
        The splits, and a sentence for each file that has moved.

    Raises:
        FalconerError: a file has changed since the run began, or is gone; it names them.
    """
    dialogues = run_dialogues(run, config)
    moved = dialogues.check(("train", "valid"))
    splits = dialogues.splits()
    if config.data.text != "raw":
        splits = _natural(splits, recorded_format(run, config, dialogues).language)
    return splits, moved


def evaluation_data(run: Path, config: Config) -> EvaluationData:
    """Return what a run is to be evaluated on: exactly its recorded test split, or the file that `config` names.

    Raises:
        FalconerError: a file of the run that is needed is gone, or has changed since it began.
    """
    dialogues = run_dialogues(run, config)
    return dialogues.for_evaluation(recorded_format(run, config, dialogues), config.data.text)


def _natural(splits: Splits, language: str) -> Splits:
    train, valid, test = (
        tuple(restyle(dialogue, "natural", language) for dialogue in split)
        for split in (splits.train, splits.valid, splits.test)
    )
    return dataclasses.replace(splits, train=train, valid=valid, test=test)


def prompt_format(splits: Splits, bos: str) -> PromptFormat:
    """Return what the prompts of a new run look like; its training dialogues decide.

    Args:
        bos: what the base model's tokenizer puts before every text.
    """
    replies = [dialogue.turns[index].text.strip() for dialogue in splits.train for index in dialogue.replies]
    return PromptFormat(
        bos=bos,
        language=language_of(splits.train),
        multi_line=any("\n" in text for text in replies),
        quotes_tags=any(NEXT_TURN.search(text) for text in replies),
        is_spaced=is_spaced(turn.text for dialogue in splits.train for turn in dialogue.turns),
    )


def in_words(format: PromptFormat) -> str:
    """Return what a prompt format means for the model's replies, in one line."""
    text = "lower case and spaced punctuation, as in Persona-Chat" if format.is_spaced else "text as the data has it"
    lines = "replies may have several lines" if format.multi_line else "a line break ends a reply"
    lines += ", which may begin with a tag such as 'User:'" if format.quotes_tags else ""
    language = "" if format.language == "en" else f"; language: {NAMES.get(format.language, format.language)}"
    return f"{text}; {lines}{language}"


def continued_format(format: PromptFormat, init_adapter: str | None) -> PromptFormat:
    """Return a new run's format with the BOS of the adapter that it goes on from, where that one's is known."""
    bos = recorded_bos(Path(init_adapter)) if init_adapter else None
    return format if bos is None else dataclasses.replace(format, bos=bos)


def bos_notes(base: LoadedModel, format: PromptFormat) -> list[str]:
    """Tell, for an adapter of such a format, where its prompts do not begin as the tokenizer's texts do."""
    if format.bos == base.bos:
        return []
    return [
        f"this adapter was trained with {_begin(format.bos)} before each dialogue, its tokenizer puts "
        f"{_begin(base.bos)} there: it is used as it was trained, and so is the base model beside it"
    ]


def _begin(bos: str) -> str:
    return f"'{bos}'" if bos else "nothing"


def recorded_format(run: Path, config: Config, dialogues: RunDialogues | None = None) -> PromptFormat:
    """Return what the prompts of an existing run look like.

    A run of a version that did not record it was trained without BOS; for the rest its training dialogues are asked,
    where they still are what they were.

    Args:
        dialogues: the run's, from `run_dialogues`, which keeps what it has read; None: they are read for this alone.

    Raises:
        FalconerError: run.json is missing or damaged.
    """
    record = read_record(run)
    if "prompt_format" in record:
        return _format_from(record["prompt_format"], run / RECORD)
    try:
        dialogues = dialogues or run_dialogues(run, config)
        dialogues.check(("train", "valid"))
        found = prompt_format(dialogues.splits(), "")
    except FalconerError:
        return PromptFormat(is_spaced=config.data.text == "raw")
    # Natural text was made by the rules of English then.
    return found if config.data.text == "raw" else dataclasses.replace(found, is_spaced=False, language="en")


def _format_from(found: Any, file: Path) -> PromptFormat:
    kinds = {field.name: type(field.default) for field in dataclasses.fields(PromptFormat)}
    if not isinstance(found, dict) or any(type(value) is not kinds.get(key) for key, value in found.items()):
        raise FalconerError(
            f"'{file}' is damaged: no prompt looks like its prompt_format, {found!r}.",
            "Put back the file that this run wrote.",
        )
    return PromptFormat(**found)


def make_encoder(base: LoadedModel, max_tokens: int, format: PromptFormat) -> Encoder:
    """Return the encoder of a model; no example is longer than the model's own context."""
    context = context_of(base.model.config) or max_tokens
    serialised = base.tokenizer.backend_tokenizer.to_str()
    return Encoder(serialised, base.end_id, min(max_tokens, context), format, base.stop_ids)


def encode_splits(splits: Splits, base: LoadedModel, config: Config, format: PromptFormat) -> Examples:
    """Encode training and validation dialogues and refuse what could not be learned from."""
    encoder = make_encoder(base, config.data.max_tokens, format)
    leave_out = config.data.on_bad_row == "skip"
    train, truncation = encoder.encode(splits.train, leave_out=leave_out)
    valid, valid_truncation = encoder.encode(splits.valid, leave_out=leave_out)
    for name, examples, cut in (("training", train, truncation), ("validation", valid, valid_truncation)):
        if not examples and cut.num_left_out:
            raise FalconerError(
                f"All {cut.num_left_out} {name} dialogues are left out: persona and last reply do not fit into "
                f"{encoder.max_tokens} tokens.",
                "Raise data.max_tokens as far as the model's context goes.",
            )
        check_examples(examples, base.end_id)
    for example in (*train, *valid):
        where = f"Dialogue '{example.dialogue_id}', encoded by a tokenizer of {len(base.tokenizer):,} entries,"
        check_token(int(example.ids.max()), base.model.config, where)
    notes = [
        f"{cut.num_left_out} {name} dialogues are left out: persona and last reply do not fit into "
        f"{encoder.max_tokens} tokens"
        for name, cut in (("training", truncation), ("validation", valid_truncation))
        if cut.num_left_out
    ]
    notes += _room_notes(encoder, splits.test, config.evaluate.max_new_tokens)
    lengths = [len(example.ids) for example in train]
    return Examples(train, valid, lengths, truncation, valid_truncation, tuple(notes))


def _room_notes(encoder: Encoder, test: Sequence[Dialogue], max_new_tokens: int) -> list[str]:
    """Tell now, before training, of personas that leave too little room for evaluation's replies."""
    rooms = [encoder.room(dialogue.persona) for dialogue in test]
    tight = sum(room < max_new_tokens for room in rooms)
    if not tight:
        return []
    way_out = f"{min(rooms)} would fit all" if min(rooms) > 0 else "data.on_bad_row=skip leaves them out"
    return [
        f"{tight} of {len(test)} test dialogues can't be evaluated: behind the persona there is no room for "
        f"evaluate.max_new_tokens={max_new_tokens} in {encoder.max_tokens} tokens ({way_out})"
    ]
