"""Models of many kinds get the ids that their own tokenizer gives the rendered dialogue, wherever they are called."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer

from command_line import falconer
from falconer import config, jobs
from falconer.data import prompt
from falconer.data.encode import Encoder
from falconer.data.sources import load_dialogues
from falconer.evaluate.measure import measure_likelihood, predict, rank_gold, reply_turns
from falconer.model.engine import Decoding
from falconer.model.tokenizer import open_tokenizer
from falconer.records import Dialogue, Turn
from falconer.talk.text import Writer
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


def train(run: Path, model: Path, data: Path, *more: str) -> dict[str, Any]:
    """Train for one step and return the run's record."""
    settings = config.load(None, [
        f"model.name={model}", "model.quantization=none", "model.dtype=fp32", "model.device=cpu", f"data.train={data}",
        f"data.valid={data}", "lora.targets=all-linear", "train.max_steps=1", "evaluate.max_new_tokens=8", *more,
    ])  # fmt: skip
    loop.train(settings, run, resume=False, console=silent())
    return json.loads((run / "run.json").read_text())


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
    train(tmp_path / "run", folder, data)
    opened = jobs.open_run(tmp_path / "run")
    tokenizer, engine = opened.base.tokenizer, opened.engine
    dialogues = load_dialogues(str(data)).dialogues
    whole = [own_ids(whole_text(dialogue, tokenizer), tokenizer) for dialogue in dialogues]
    for dialogue, ids in zip(dialogues, whole, strict=True):
        assert calls.saw(ids), f"training: {dialogue.id}"
        messages = prompt.messages(dialogue)
        assert tokenizer.apply_chat_template(messages, tokenize=True, return_dict=False) == ids
        assert ids[: len(opened.encoder._pieces.bos_ids)] == opened.encoder._pieces.bos_ids

    calls.rows.clear()
    measure_likelihood(engine, dialogues, lambda *_: None)
    assert all(calls.saw(ids) for ids in whole), "likelihood"

    calls.rows.clear()
    turns = reply_turns(dialogues)
    decoding = Decoding(max_new_tokens=2, temperature=0)
    predict(engine, dict(enumerate(turns)), decoding, batch_size=3, on_progress=lambda *_: None)
    for dialogue, index in turns:
        before = whole_text(replace(dialogue, turns=dialogue.turns[:index]), tokenizer)
        ids = own_ids((before + "\nAssistant:").removeprefix("\n"), tokenizer)
        # A dialogue's prompts are computed once, with the longest of them.
        ends = (row[len(row) - len(ids) :] == ids for row in calls.rows)
        assert calls.saw(ids) or any(ends), f"replies: {dialogue.id}, {index}"

    calls.rows.clear()
    ranked = rank_gold(engine, turns, lambda *_: None, seed=1)
    assert [rank is not None for rank in ranked] == [bool(d.turns[index].candidates) for d, index in turns]
    for dialogue, index in turns:
        before = whole_text(replace(dialogue, turns=dialogue.turns[:index]), tokenizer)
        opened_ids = own_ids((before + "\nAssistant:").removeprefix("\n"), tokenizer)
        for candidate in dialogue.turns[index].candidates:
            until = replace(dialogue, turns=(*dialogue.turns[:index], Turn("self", candidate)))
            ids = own_ids(whole_text(until, tokenizer), tokenizer)
            # The candidate goes on from its prompt's cache, and its end token is only predicted.
            apart = calls.saw(opened_ids) and calls.saw(ids[len(opened_ids) : -1])
            assert calls.saw(ids) or (apart and ids[: len(opened_ids)] == opened_ids), f"ranking: {candidate}"

    for persona in (("I ski.", "I have 2 dogs."), ()):
        calls.rows.clear()
        session = jobs.open_session(opened, list(persona), Decoding(max_new_tokens=3, temperature=0))
        "".join(session.reply("Hello! How are you?"))
        writer = Writer(opened.encoder)
        persona = tuple(map(writer.persona_line, session.persona))
        (heard,) = (replace(turn, text=writer.as_trained(turn.text, "")) for turn in session.turns[:1])
        text = whole_text(Dialogue("d", persona, (heard,)), tokenizer) + "\nAssistant:"
        assert own_ids(text, tokenizer) in calls.rows, "chat"


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    """A model whose tokenizer puts "<s>" before a text, and dialogues."""
    folder = tmp_path_factory.mktemp("llama")
    return save_made(folder / "model", "llama"), write(folder / "data.jsonl", TALKS)


def as_before_bos(path: Path) -> None:
    """Make a record what an earlier version of falconer wrote."""
    record = json.loads(path.read_text())
    del record["prompt_format"]
    path.write_text(json.dumps(record))
    (path.parent / "manifest.json").unlink()


def test_a_run_records_what_its_prompts_begin_with(llama, tmp_path):
    record = train(tmp_path, *llama)
    adapter = json.loads((tmp_path / "adapter" / "falconer.json").read_text())
    assert record["prompt_format"]["bos"] == adapter["prompt_format"]["bos"] == "<s>"
    assert (
        record["template_sha256"] == adapter["template_sha256"] == prompt.template_sha256(prompt.chat_template("<s>"))
    )
    assert record["notes"] == [] and jobs.open_run(tmp_path).notes == ()


def test_an_adapter_trained_without_bos_is_used_as_it_was_trained(llama, tmp_path, capsys):
    train(tmp_path, *llama)
    as_before_bos(tmp_path / "run.json")
    opened = jobs.open_run(tmp_path)
    assert opened.encoder.format.bos == ""
    assert opened.base.tokenizer.chat_template == prompt.CHAT_TEMPLATE
    (note,) = opened.notes
    assert "trained with nothing before each dialogue, but its tokenizer adds '<s>'" in note
    example = opened.encoder.encode(load_dialogues(str(llama[1])).dialogues[:1])[0][0]
    assert example.ids[0] != opened.base.tokenizer.bos_token_id
    limits = ("evaluate.max_replies=2", "evaluate.resamples=100", "evaluate.max_new_tokens=4")
    result = falconer("evaluate", "--run", tmp_path, *limits)
    assert result.code == 0 and result.err.count("both get prompts as in training") == 1
    assert "both get prompts as in training" in json.loads((tmp_path / "metrics.json").read_text())["settings"]["notes"]
    result = falconer("chat", "--run", tmp_path, stdin="hello\n/quit\n")
    assert result.code == 0 and result.err.count("both get prompts as in training") == 1


def test_a_run_goes_on_from_an_adapter_as_that_was_trained(llama, tmp_path):
    train(tmp_path / "first", *llama)
    as_before_bos(tmp_path / "first" / "adapter" / "falconer.json")
    start = f"lora.init_adapter={tmp_path / 'first' / 'adapter'}"
    record = train(tmp_path / "second", *llama, start)
    assert record["prompt_format"]["bos"] == "" and "both get prompts as in training" in record["notes"][0]
    assert record["template_sha256"] == prompt.template_sha256()
    saved = AutoTokenizer.from_pretrained(tmp_path / "second" / "adapter")
    assert saved.chat_template == prompt.CHAT_TEMPLATE
    # Nothing is known of an adapter that falconer did not save.
    (tmp_path / "first" / "adapter" / "falconer.json").unlink()
    record = train(tmp_path / "third", *llama, start)
    assert record["prompt_format"]["bos"] == "<s>" and record["notes"] == []


def test_dialogues_that_do_not_fit_are_left_out_on_request(llama, tmp_path):
    model, _ = llama
    loud = Dialogue("loud", (), (Turn("partner", "hi"), Turn("self", "la " * 600)))
    told = Dialogue("told", ("i sing . " * 60,), (Turn("partner", "hi"), Turn("self", "ok .")))
    data = write(tmp_path / "data.jsonl", (*TALKS, loud, told))
    opened = open_tokenizer(str(model))
    encoder = Encoder(opened.tokenizer.backend_tokenizer.to_str(), opened.end_id, 512, prompt.PromptFormat(bos="<s>"))
    most = 512 - encoder.room(told.persona) + 20
    settings = (
        f"model.name={model}", "model.quantization=none", "model.device=cpu", f"data.train={data}",
        f"data.valid={data}", f"data.max_tokens={most}", "train.max_steps=1", "lora.targets=all-linear",
        "evaluate.max_new_tokens=40",
    )  # fmt: skip
    result = falconer("train", "--run", tmp_path / "refused", *settings)
    assert result.code == 2 and "reply at turn 1 (from 0) of dialogue 'loud' is too long" in result.err
    assert not (tmp_path / "refused").exists()
    run = tmp_path / "run"
    result = falconer("train", "--run", run, *settings, "data.on_bad_row=skip")
    assert result.code == 0, result.err
    assert (
        f"note    1 training dialogues were skipped: persona and last reply do not fit into {most} tokens" in result.err
    )
    assert "note    1 of 5 test dialogues can't be evaluated" in result.err
    record = json.loads((run / "run.json").read_text())
    assert record["truncation"]["num_left_out"] == record["valid_truncation"]["num_left_out"] == 1
    assert record["num_train_dialogues"] == record["num_valid_dialogues"] == 4
    limits = ("evaluate.max_replies=9", "evaluate.resamples=100")
    result = falconer("evaluate", "--run", run, *limits)
    assert result.code == 0 and "2 test dialogues do not fit into the context and will be left out" in result.err
    options = ("--model", model, "--max-tokens", str(most), "--on-bad-row", "skip", "--plot", tmp_path / "lengths.png")
    result = falconer("data", "stats", data, *options)
    assert result.code == 0 and "dialogues whose persona and last reply do not fit" in result.out
    assert re.search(r"left out +1 ", result.out)
