"""Preference training of a run's tuned model: the settings of the new run, its dialogues and its pairs."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console

from falconer import jobs
from falconer.config import USED_ANYHOW, Config, differences, load, may_have_moved
from falconer.data.encode import Encoder
from falconer.data.leakage import Contents, contents
from falconer.data.recorded import pack
from falconer.data.splits import Splits
from falconer.errors import FalconerError
from falconer.evaluate.needs import check_adapter
from falconer.evaluate.progress import show_progress
from falconer.model.lora import check_adapter_files
from falconer.model.tokenizer import open_tokenizer
from falconer.prefer_config import PreferConfig
from falconer.preference_pairs import Built, Material, Sources, build_pairs, parse_sources
from falconer.run.folder import ADAPTER, RECORD, read_config, read_record, read_splits
from falconer.run.pairs import write_pairs
from falconer.train import setup
from falconer.train.loop import PreferenceStart, TrainResult, train

# A preference training starts from a tuned model; the rate of its own training would undo that.
_RATE = 0.1
# Keys of the training before that say nothing about the new one, which learns from pairs alone.
_FRESH = ("objective=lm", "epochs=1", "max_steps=null", "validate_every=null", "save_every=null")


def config_for(tuned: Path, pairs: str, overrides: Sequence[str]) -> Config:
    """Return the configuration of a preference training: that of the run, one epoch at a tenth of its rate, overrides.

    The objective of the run before, such as lm+ranking, is not repeated beside the preference loss.

    Raises:
        FalconerError: the folder contains no run, or an override would make it another model or other data.
    """
    before = read_config(tuned)
    if before.prefer.pairs is None:
        # What the run before recorded without using it may be the defaults of an older version.
        before = before.model_copy(update={"prefer": PreferConfig()})
    rate = before.train.learning_rate or _recorded_rate(tuned)
    base = load(
        None,
        [
            f"lora.init_adapter={tuned / ADAPTER}", f"prefer.pairs={pairs}",
            f"train.learning_rate={rate * _RATE!r}", *(f"train.{one}" for one in _FRESH),
        ],
        base=before,
    )  # fmt: skip
    config = load(None, overrides, base=base)
    if config.train.objective != base.train.objective:
        raise FalconerError(
            f"A preference training can't have train.objective={config.train.objective}: it learns from its pairs.",
            "Leave it out; prefer.sft_weight sets how much of the usual loss on the better replies is added.",
        )
    own = ("train.", "prefer.", "evaluate.")
    refused = [
        key
        for key in differences(base, config)
        if not (key.startswith(own) or key in USED_ANYHOW or may_have_moved(key, base, config))
    ]
    if refused:
        raise FalconerError(
            f"A preference training can't change {', '.join(refused)}: it continues the run '{tuned}'.",
            f"You can set train.*, prefer.*, evaluate.* and {', '.join(sorted(USED_ANYHOW))}.",
        )
    return config


def _recorded_rate(tuned: Path) -> float:
    """Return the rate that was chosen for a run by its model's size."""
    rate = read_record(tuned).get("learning_rate")
    if isinstance(rate, bool) or not isinstance(rate, int | float) or not 0 < rate < math.inf:
        raise FalconerError(
            f"'{tuned / RECORD}' is damaged: learning_rate is {rate!r}.",
            "Restore this file from a copy, or train again.",
        )
    return float(rate)


def prefer(tuned: Path, out: Path, config: Config, console: Console) -> TrainResult:
    """Build pairs of replies, and train a run's adapter on them into a new run.

    Args:
        tuned: the folder of the run.
        out: the folder of the new run.
        config: from `config_for`.

    Raises:
        FalconerError: the run has no adapter, its data has changed, a source of pairs can't be used, or see `train`.
    """
    sources = parse_sources(str(config.prefer.pairs), config.evaluate.nli_model)
    check_adapter(tuned, ADAPTER)
    check_adapter_files(tuned / ADAPTER)
    record = read_record(tuned)
    if "imported" in record:
        raise FalconerError(
            f"'{tuned}' was not trained here, so its training dialogues are unknown.",
            "Give a run that falconer train wrote.",
        )
    splits = _splits(tuned, config)
    beginning = _Beginning(tuned, config, splits, sources, console)
    return train(
        config, out, resume=False, console=console,
        start=PreferenceStart(splits, setup.recorded_format(tuned, config), beginning.write_pairs),
    )  # fmt: skip


def _splits(tuned: Path, config: Config) -> Splits:
    """Return the dialogues that a run was trained with, its test split included.

    Raises:
        FalconerError: a file has changed, or this version reads other dialogues from it.
    """
    setup.run_dialogues(tuned, config).check(("train", "valid", "test"))
    splits = setup.load_dialogues(config.model_copy(update={"train": read_config(tuned).train}))
    before = read_splits(tuned)
    if before is not None and pack(splits)["dialogues"] != before["dialogues"]:
        raise FalconerError(
            f"This version of falconer reads other dialogues than the run '{tuned}' was trained with.",
            "Use the version that its record names, or train the run again.",
        )
    return splits


@dataclass(frozen=True, slots=True)
class _Beginning:
    """How a preference training begins."""

    tuned: Path
    config: Config
    splits: Splits
    sources: Sources
    console: Console

    def write_pairs(self, out: Path) -> tuple[Splits, tuple[str, ...]]:
        """Build the pairs and write them; return the splits with what training will have seen of them, and notes."""
        built = self._build()
        write_pairs(out, built.pairs)
        # A vote may have another reply than the dialogue that it is on, so that this is not known by its first turns.
        ids = {vote.id for vote in built.voted}
        shown = [dialogue for dialogue in self.splits.test if dialogue.id in ids]
        trained = _union(self.splits.trained, contents([*built.voted, *shown]))
        leakage = trained.shared_with(self.splits.test)
        notes = list(built.notes)
        if (known := leakage.shared_dialogues - self.splits.leakage.shared_dialogues) > 0:
            notes.append(
                f"the votes are on {known:,} of {leakage.num_dialogues:,} test dialogues, so figures on these are no "
                "longer of unseen dialogues"
            )
        return replace(self.splits, trained=trained, leakage=leakage), tuple(notes)

    def _build(self) -> Built:
        language = setup.recorded_format(self.tuned, self.config).language
        with show_progress(self.console) as on_progress:
            if self.sources.needs_model:
                opened = jobs.open_run(self.tuned, ADAPTER, self.config)
                with opened.engine as engine:
                    material = Material(
                        self.splits.train, self.splits.valid, self.tuned, opened.encoder, engine, language
                    )
                    return build_pairs(self.sources, material, self.config, on_progress)
            material = Material(self.splits.train, self.splits.valid, self.tuned, self._encoder(), None, language)
            return build_pairs(self.sources, material, self.config, on_progress)

    def _encoder(self) -> Encoder:
        """Return the run's encoder, without its model."""
        opened = open_tokenizer(self.config.model.name, self.config.model.revision)
        serialised = opened.tokenizer.backend_tokenizer.to_str()
        format = setup.recorded_format(self.tuned, self.config)
        return Encoder(serialised, opened.end_id, self.config.data.max_tokens, format)


def _union(one: Contents, other: Contents) -> Contents:
    return Contents(*(getattr(one, name) | getattr(other, name) for name in Contents.__slots__))
