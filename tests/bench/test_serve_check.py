"""Are 64 conversations at once with a real server not mixed up, and would it be noticed if they were?"""

from dataclasses import replace
from pathlib import Path

import pytest

from falconer.bench.serve import talks_of
from falconer.bench.serve_check import compare_replies
from falconer.bench.serve_load import Load, run_load
from falconer.bench.serve_model import make_adapters, open_base
from falconer.bench.serve_process import ServerProcess, Setting
from falconer.data.sources import load_dialogues
from falconer.model.engine import Engine
from falconer.model.lora import load_adapter
from tiny import save_tiny_model

pytestmark = pytest.mark.usefixtures("one_thread")
NUM_STREAMS, NUM_TURNS, NUM_TOKENS = 64, 3, 6


def test_64_streams_get_the_replies_that_each_would_get_alone(tmp_path: Path) -> None:
    model = str(save_tiny_model(tmp_path / "falcon"))
    found = talks_of(load_dialogues("persona-chat-sample", split="test").dialogues)
    talks = tuple(replace(talk, turns=talk.turns[:NUM_TURNS]) for talk in found)
    options = {
        "max_tokens": NUM_TOKENS, "temperature": 0, "repetition_penalty": 1, "no_repeat_ngram_size": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
    }  # fmt: skip
    # In bf16, tokens that are about as likely change places with the size of the batch.
    setting = Setting(None, model, None, "none", num_slots=NUM_STREAMS, dtype="fp32")
    with ServerProcess(setting) as server:
        load = Load(
            server.host, server.serve(), server.models, talks, NUM_STREAMS, spread_s=0.0, seconds=60, options=options,
            most_talks=1,
        )  # fmt: skip
        done = run_load(load, 1)
    assert len(done) == NUM_STREAMS * NUM_TURNS and not [one.answer.problem for one in done if one.answer.problem]
    base = open_base(setting)
    adapted = load_adapter(base.model, make_adapters(base, server.models, tmp_path)[server.models[0]])
    with Engine(adapted, base.encoder, base.precision) as engine:
        compared = compare_replies(done, talks, engine, NUM_TOKENS)
        assert compared.num_replies == len(done) and compared.wrong == ()
        some = compare_replies(done, talks, engine, NUM_TOKENS, batch_size=16, num_prompts=20)
        assert some.num_prompts == 20 <= some.num_replies < len(done) and some.wrong == ()
        *before, last = [one for one in done if one.stream == 0]
        swapped = replace(last, answer=replace(last.answer, text=last.answer.text + " i"))
        ((wrong, right),) = compare_replies([*before, swapped], talks, engine, NUM_TOKENS, batch_size=4).wrong
    assert wrong is swapped and right == last.answer.text
