"""Is what the benchmark's server serves what its setting says: different adapters on one base, and the same job?"""

import torch

from engines import requests
from falconer.bench import serve_model
from falconer.bench.serve_load import Talk
from falconer.bench.serve_process import Setting
from falconer.model.engine import Decoding, Engine
from falconer.model.lora import load_adapters

TALKS = [Talk(("I like dogs.",), ("Hello!", "How are you?"), ("Hi, I am tall.",))]


def test_adapters_differ_and_change_what_the_base_says(tmp_path) -> None:
    base = serve_model.open_base(Setting("tiny", None, None, "none", num_slots=2))
    before = {name: weight.clone() for name, weight in base.model.state_dict().items()}
    adapters = serve_model.make_adapters(base, ["one", "two"], tmp_path)
    assert adapters == {"one": tmp_path / "one", "two": tmp_path / "two"}
    after = base.model.state_dict()
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)
    prompt = base.encoder.encode_text(" i like dogs and cats")
    said = []
    model = load_adapters(base.model, adapters)
    for name in adapters:
        model.set_adapter(name)
        with Engine(model, base.encoder, base.precision) as engine:
            # The tiny model's own weights are so small that all tokens are about as likely.
            said.append(dict(engine.tokens(requests([prompt], Decoding(8, stops=()))))[0])
            alone = dict(engine.base.tokens(requests([prompt], Decoding(8, stops=()))))[0]
            assert said[-1] != alone
    assert said[0] != said[1]


def test_the_engine_alone_replies_to_every_turn(tmp_path) -> None:
    base = serve_model.open_base(Setting(None, "falcon-mini", None, "none", num_slots=2))
    adapters = serve_model.make_adapters(base, ["one"], tmp_path)
    assert base.encoder.max_tokens <= serve_model.MAX_TOKENS and base.targets == "auto"
    assert serve_model.offline_rate(base, adapters["one"], TALKS, 4, 2) > 0
    assert not hasattr(base.model, "peft_config") or not base.model.peft_config
