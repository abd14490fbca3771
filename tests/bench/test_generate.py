"""The generation benchmark on a tiny shape: every system has its row, and the file is what the README is made of."""

import json

import pytest

from command_line import falconer
from falconer.bench import generate as bench
from falconer.data.encode import Encoder
from falconer.data.sources import load_dialogues
from falconer.errors import FalconerError
from falconer.evaluate.measure import reply_turns
from falconer.model.engine import Decoding, Request
from falconer.model.tokenizer import load_tokenizer

pytestmark = pytest.mark.usefixtures("one_thread")
KEYS = {"system", "what", "batch", "seconds", "replies_per_s", "tok_s", "peak_gib", "how"}


def test_the_command_writes_a_row_for_each_system(tmp_path, monkeypatch):
    monkeypatch.setattr(bench, "STREAM_TOKENS", 6)
    out = tmp_path / "figures.json"
    options = ("--shape", "tiny", "--replies", "9", "--hf-replies", "4", "--ranked", "2", "--out", str(out))
    result = falconer("bench", "generate", *options)
    assert result.code == 0, result.err
    content = json.loads(out.read_text())
    assert {"what", "gpu", "driver", "versions", "rows", "dialogues", "tokenizer"} <= content.keys()
    rows = content["rows"]
    assert all(set(row) == KEYS and row["seconds"] > 0 and row["replies_per_s"] > 0 for row in rows)
    assert [row["system"] for row in rows] == [
        "HF generate, bf16", "falconer, bf16", "falconer, bf16", "HF generate, NF4", "falconer, NF4"
    ]  # fmt: skip
    assert [row["what"].split(",")[0] for row in rows] == [
        "4 replies of 32 tokens", "9 replies of 32 tokens", "gold's rank among 40 candidates of 2 turns",
        "single stream", "single stream",
    ]  # fmt: skip
    assert rows[1]["how"] == "falcon: unquantised weights" and rows[4]["how"].startswith("falcon: 4-bit weights, ")
    assert result.out.count("falconer, ") == 3 and str(out) in result.out.replace("\n", "")
    assert falconer("bench", "generate", "--shape", "huge").err == (
        "falconer: --shape huge is not allowed. Allowed: falcon-7b, falcon-11b, falcon-40b, tiny.\n"
    )


class OfTwo:
    """Two ranks as one of them sees them."""

    count = 2

    def __init__(self, number):
        self.number = number


def test_each_turn_is_of_one_rank_and_a_dialogue_stays_together():
    turns = reply_turns(load_dialogues("persona-chat-sample", split="test").dialogues)[:40]
    parts = [bench._own(turns, OfTwo(number)) for number in range(2)]
    assert sorted(map(turns.index, parts[0] + parts[1])) == list(range(40))
    assert not {d.id for d, _ in parts[0]} & {d.id for d, _ in parts[1]}
    with pytest.raises(FalconerError, match="of 1 dialogues, fewer than the 2 processes"):
        bench._own(turns[:2], OfTwo(0))


def test_a_batch_without_room_is_halved(monkeypatch):
    tried = []

    def generate(model, rows, count, device):
        tried.append(len(rows))
        if len(rows) > 2:
            raise bench.torch.OutOfMemoryError
        return len(rows) * count

    monkeypatch.setattr(bench, "_hf_generate", generate)
    assert bench._hf_replies(None, [[1]] * 5, bench.torch.device("cpu")) == 5 * bench.NEW_TOKENS
    assert tried == [5, 2, 3, 1, 2]
    monkeypatch.setattr(bench, "_hf_generate", lambda *_: (_ for _ in ()).throw(bench.torch.OutOfMemoryError()))
    with pytest.raises(bench.torch.OutOfMemoryError):
        bench._hf_replies(None, [[1]], bench.torch.device("cpu"))


def test_both_systems_generate_the_same_tokens(monkeypatch):
    """The benchmark compares like with like: same model, same prompts, no stop."""
    device, dtype = bench.runtime.pick_device("cpu"), bench.torch.float32
    shape = bench.sizes_of("tiny", None) | {"vocab_size": 10240, "initializer_range": 0.1}
    model = bench.untrained_falcon(shape, device, dtype, nf4=False)
    tokenizer, end_id = load_tokenizer("falcon-mini")
    encoder = Encoder(tokenizer.backend_tokenizer.to_str(), end_id, 1024)
    dialogue = load_dialogues("persona-chat-sample", split="test").dialogues[0]
    prompts = [encoder.encode_prompt(dialogue.persona, dialogue.turns[:index]) for index in (1, 3, 5)]
    kept = {}
    generated = model.generate

    def keep(**options):
        output = generated(**options)
        for row in output.tolist():
            kept[len(kept)] = row[-bench.NEW_TOKENS :]
        return output

    monkeypatch.setattr(model, "generate", keep)
    assert bench._hf_replies(model, prompts, device) == 3 * bench.NEW_TOKENS
    monkeypatch.setattr(bench, "DTYPE", dtype)
    with bench._engine(model, encoder) as engine:
        assert bench._our_replies(engine, prompts) == 3 * bench.NEW_TOKENS
        decoding = Decoding(bench.NEW_TOKENS, stops=())
        ours = dict(engine.tokens([Request(prompt, decoding) for prompt in prompts]))
        talk = engine.conversation()
        assert list(talk.reply(Request(prompts[0], decoding))) == ours[0]
        assert bench._our_stream(talk, prompts[0], 7, 5) == 5
    # transformers got the longest first.
    assert [ours[index] for index in (2, 1, 0)] == [kept[row] for row in range(3)]
