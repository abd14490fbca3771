"""Settings choose the dialogues and the decoding, and what does not fit is told."""

import pytest

from falconer.config import EvaluateConfig
from falconer.data.encode import Encoder
from falconer.errors import FalconerError
from falconer.evaluate.configured import choose_dialogues, decoding_of
from falconer.model.tokenizer import load_tokenizer
from falconer.records import Dialogue, Turn

SHORT = Dialogue("short", ("i ski .",), (Turn("partner", "hi"), Turn("self", "hello")))
LONG = Dialogue("long", ("i ski and sing and run " * 20,), SHORT.turns)


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    tokenizer, end_id = load_tokenizer("falcon-mini")
    return Encoder(tokenizer.backend_tokenizer.to_str(), end_id, 64)


def test_the_first_so_many_are_chosen(encoder: Encoder) -> None:
    settings = EvaluateConfig(max_dialogues=1, max_new_tokens=8)
    assert choose_dialogues(encoder, [SHORT, LONG], settings, leave_out=False) == ([SHORT], ())


def test_what_does_not_fit_is_refused_or_left_out_with_a_note(encoder: Encoder) -> None:
    settings = EvaluateConfig(max_new_tokens=8)
    with pytest.raises(FalconerError, match="does not fit behind the persona of dialogue 'long'"):
        choose_dialogues(encoder, [SHORT, LONG], settings, leave_out=False)
    found = choose_dialogues(encoder, [SHORT, LONG], settings, leave_out=True)
    assert found == ([SHORT], ("1 test dialogue does not fit into the context and will be left out",))


NEW = (
    "min_p", "no_repeat_ngram_size", "no_repeat_ngram_scope", "repetition_penalty_scope", "num_beams", "length_penalty",
)  # fmt: skip


def test_the_decoding_is_that_of_the_settings() -> None:
    settings = EvaluateConfig(
        max_new_tokens=7, temperature=0.5, top_k=3, top_p=0.8, repetition_penalty=1.2, seed=5, min_p=0.1,
        no_repeat_ngram_size=3, no_repeat_ngram_scope="own", repetition_penalty_scope="reply", length_penalty=0.5,
    )  # fmt: skip
    decoding = decoding_of(settings)
    for name in ("max_new_tokens", "temperature", "top_k", "top_p", "repetition_penalty", "seed", *NEW):
        assert getattr(decoding, name) == getattr(settings, name)
