"""From an evaluation's settings to what is measured: which dialogues, how many replies, and the decoding."""

from collections.abc import Sequence

from falconer.config import EvaluateConfig
from falconer.data.encode import Encoder
from falconer.evaluate.dealing import Dealing
from falconer.evaluate.measure import Evaluated, Limits, OnProgress, evaluate_model, with_room
from falconer.model.engine import Decoding, Engine
from falconer.records import Dialogue


def choose_dialogues(
    encoder: Encoder, dialogues: Sequence[Dialogue], settings: EvaluateConfig, *, leave_out: bool
) -> tuple[list[Dialogue], tuple[str, ...]]:
    """Return the dialogues that are evaluated, and a note where some do not fit; see `with_room`."""
    chosen = dialogues[: settings.max_dialogues]
    fitting = with_room(encoder, chosen, settings.max_new_tokens, leave_out=leave_out)
    num_left_out = len(chosen) - len(fitting)
    what = "test dialogue does" if num_left_out == 1 else "test dialogues do"
    notes = (f"{num_left_out:,} {what} not fit into the context and will be left out",) if num_left_out else ()
    return fitting, notes


def decoding_of(settings: EvaluateConfig) -> Decoding:
    """Return how tokens are chosen."""
    return Decoding(
        max_new_tokens=settings.max_new_tokens, temperature=settings.temperature, top_p=settings.top_p,
        top_k=settings.top_k, repetition_penalty=settings.repetition_penalty, seed=settings.seed,
    )  # fmt: skip


def measure(
    settings: EvaluateConfig, on_progress: OnProgress, dealing: Dealing, engine: Engine, name: str,
    shown: Sequence[Dialogue],
) -> Evaluated:  # fmt: skip
    """Measure one system on dialogues; `name` stands before what the progress bar says."""
    return evaluate_model(
        engine, shown, decoding_of(settings),
        Limits(settings.max_replies, settings.max_ranked, settings.batch_size, settings.seed),
        lambda what, done, total: on_progress(f"{name}: {what}", done, total), dealing,
    )  # fmt: skip
