"""Models of many kinds get the ids that their own tokenizer gives the rendered dialogue, wherever they are called."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from falconer import config, jobs
from falconer.data import prompt
from falconer.data.sources import load_dialogues
from falconer.evaluate.run import measure_likelihood, predict, rank_gold, reply_turns
from falconer.model.generate import Decoding
from falconer.records import Dialogue, Turn
from falconer.train import loop
from small_runs import silent
from tokenizers_made import MADE, save_made

pytestmark = pytest.mark.usefixtures("one_thread")
TALKS = (
    Dialogue("with", ("i like to ski .", "I have 2 dogs."), (
        Turn("partner", "hello , how are you ?"), Turn("self", "(fine) , thanks !", ("no .", "(fine) , thanks !")),
        Turn("partner", "Great.\nWhat do you do?"), Turn("self", "i ski .", ("i ski .", "what ? 7 dogs .")),
    )),
    Dialogue("without", (), (Turn("partner", "hi ."), Turn("self", "Hello there.", ("Hello there.", "bye")))),
    Dialogue("opens", (), (Turn("self", "hi , i am ann ."), Turn("self", "and you ?"))),
)  # fmt: skip


def whole_text(dialogue: Dialogue, tokenizer: Any) -> str:
    spans = prompt.render(dialogue)
    return "".join(span.text + (tokenizer.eos_token if span.ends_turn else "") for span in spans)


def own_ids(text: str, tokenizer: Any) -> list[int]:
    """Return what the tokenizer itself makes of a text, without what it puts behind it."""
    ids = tokenizer(text).input_ids
    plain = tokenizer(text, add_special_tokens=False).input_ids
    start = next(at for at in range(len(ids)) if ids[at : at + len(plain)] == plain)
    return ids[: start + len(plain)]


def write(path: Path, dialogues: Any) -> Path:
    rows = [
        {"id": d.id, "persona": d.persona, "turns": [
            {"speaker": turn.speaker, "text": turn.text} | ({"candidates": turn.candidates} if turn.candidates else {})
            for turn in d.turns
        ]} for d in dialogues
    ]  # fmt: skip
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


class Calls:
    """The rows of ids that a model is called with; what is behind a row's end is cut off."""

    def __init__(self) -> None:
        self.rows: list[list[int]] = []

    def listen(self, model: Any) -> None:
        model.get_input_embeddings().register_forward_pre_hook(self._note)

    def _note(self, module: Any, inputs: tuple[torch.Tensor]) -> None:
        self.rows += inputs[0].tolist()

    def saw(self, ids: list[int]) -> bool:
        return any(row[: len(ids)] == ids for row in self.rows)


@pytest.mark.parametrize("architecture", MADE)
def test_every_call_of_the_model_has_the_tokenizers_own_ids(architecture, tmp_path, monkeypatch):
    folder, data = save_made(tmp_path / "model", architecture), write(tmp_path / "data.jsonl", TALKS)
    calls, load = Calls(), loop.load_model

    def load_and_listen(*args: Any, **options: Any) -> Any:
        base = load(*args, **options)
        calls.listen(base.model)
        return base

    monkeypatch.setattr(loop, "load_model", load_and_listen)
    monkeypatch.setattr(jobs, "load_model", load_and_listen)
    settings = config.load(None, [
        f"model.name={folder}", "model.quantization=none", "model.dtype=fp32", "model.device=cpu", f"data.train={data}",
        f"data.valid={data}", "lora.targets=all-linear", "train.max_steps=1", "evaluate.max_new_tokens=8",
    ])  # fmt: skip
    loop.train(settings, tmp_path / "run", resume=False, console=silent())
    opened = jobs.open_run(tmp_path / "run")
    tokenizer, encoder = opened.base.tokenizer, opened.encoder
    dialogues = load_dialogues(str(data)).dialogues
    whole = [own_ids(whole_text(dialogue, tokenizer), tokenizer) for dialogue in dialogues]
    for dialogue, ids in zip(dialogues, whole, strict=True):
        assert calls.saw(ids), f"training: {dialogue.id}"
        messages = prompt.messages(dialogue)
        assert tokenizer.apply_chat_template(messages, tokenize=True, return_dict=False) == ids
        assert ids[: len(opened.encoder._pieces.bos_ids)] == opened.encoder._pieces.bos_ids

    calls.rows.clear()
    measure_likelihood(opened.model, encoder, dialogues, None, lambda *_: None)
    assert all(calls.saw(ids) for ids in whole), "likelihood"

    calls.rows.clear()
    turns = reply_turns(dialogues)
    predict(
        opened.model, tokenizer, encoder, dialogues, Decoding(max_new_tokens=2, temperature=0), max_replies=None,
        batch_size=3, autocast=None, on_progress=lambda *_: None,
    )  # fmt: skip
    for dialogue, index in turns:
        before = whole_text(replace(dialogue, turns=dialogue.turns[:index]), tokenizer)
        ids = own_ids((before + "\nAssistant:").removeprefix("\n"), tokenizer)
        assert any(row[len(row) - len(ids) :] == ids for row in calls.rows), f"replies: {dialogue.id}, {index}"

    calls.rows.clear()
    ranked = rank_gold(opened.model, encoder, turns, None, lambda *_: None, seed=1)
    assert [rank is not None for rank in ranked] == [bool(d.turns[index].candidates) for d, index in turns]
    for dialogue, index in turns:
        for candidate in dialogue.turns[index].candidates:
            until = replace(dialogue, turns=(*dialogue.turns[:index], Turn("self", candidate)))
            assert calls.saw(own_ids(whole_text(until, tokenizer), tokenizer)), f"ranking: {candidate}"

    for persona in (("I ski.", "I have 2 dogs."), ()):
        calls.rows.clear()
        session = jobs.open_session(opened, list(persona), Decoding(max_new_tokens=3, temperature=0))
        "".join(session.reply("Hello! How are you?"))
        shown = tuple(session._inward(line) for line in session.persona)
        text = whole_text(Dialogue("d", shown, session.turns[:1]), tokenizer) + "\nAssistant:"
        assert own_ids(text, tokenizer) in calls.rows, "chat"
