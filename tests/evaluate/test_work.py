"""What is said of the work before it begins is what the passes then compute."""

import re
from pathlib import Path
from typing import Any

import pytest

from engines import engine_of
from falconer.config import EvaluateConfig
from falconer.evaluate.measure import measure_likelihood, predict, rank_gold, reply_turns
from falconer.evaluate.work import work_in_words
from falconer.model.engine import Decoding
from falconer.model.generate.generic_prefix import PrefixPass
from falconer.model.load import load_model
from falconer.records import Dialogue, Turn
from tiny import save_tiny_model

pytestmark = pytest.mark.usefixtures("one_thread")

TEXTS = ("i like dogs .", "yes .", "what do you do ?", "hello , how are you today ?")
DIALOGUE = Dialogue("a", ("i like dogs .", "i have two ."), tuple(
    turn for number in range(4)
    for turn in (Turn("partner", f"what is number {number} ?"), Turn("self", TEXTS[number], TEXTS))
))  # fmt: skip
SETTINGS = EvaluateConfig(max_new_tokens=5)


def ignore(*_: Any) -> None:
    """Nothing is shown."""


@pytest.mark.parametrize("shares", [True, False])
def test_the_tokens_are_those_that_are_computed(shares: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not shares:
        monkeypatch.setattr(PrefixPass, "works", lambda *_: False)
    model = load_model(str(save_tiny_model(tmp_path, "llama")), quantization="none", dtype="fp32", device="cpu").model
    engine = engine_of(model)
    said = work_in_words(engine, [DIALOGUE], SETTINGS)
    assert ("can't be shared" in said) != shares
    numbers = [int(number.replace(",", "")) for number in re.findall(r"\d[\d,]*", said.replace("hits@1", ""))]
    perplexity, prompts, replies, num_replies, again, candidates, num_candidates = numbers
    assert (replies, num_replies, num_candidates) == (20, 4, 16)
    measure_likelihood(engine, [DIALOGUE], ignore)  # what is tried once is over
    counts: list[int] = []
    model.get_input_embeddings().register_forward_pre_hook(lambda _, read: counts.append(read[0].numel()))
    measure_likelihood(engine, [DIALOGUE], ignore)
    assert perplexity <= sum(counts) < perplexity + 8
    counts.clear()
    turns, decoding = reply_turns([DIALOGUE]), Decoding(max_new_tokens=5, stops=())
    predict(engine, dict(enumerate(turns)), decoding, batch_size=1 if not shares else 4, on_progress=ignore)
    assert prompts < sum(counts) <= prompts + replies
    counts.clear()
    rank_gold(engine, turns, ignore, seed=1)
    # With padding, and an end token where each candidate has its own prompt.
    assert again + candidates <= sum(counts) <= (1.4 if shares else 1.7) * (again + candidates)
