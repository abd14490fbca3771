"""Every mistake of a user is one line that starts with "falconer: ", exit code 2, no traceback, nothing overwritten."""

import gzip
import json
import shutil
import sys
from pathlib import Path

import pytest
import yaml

from command_line import falconer, falconer_process
from falconer.files.replace import sha256
from falconer.model.lora import WEIGHTS
from small_runs import Small, write_dialogues

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with a finished run in it; look, but write nothing into it."""
    folder = tmp_path_factory.mktemp("trained")
    Small(folder).run(folder / "run", "train.max_steps=1", "evaluate.max_replies=2", "evaluate.max_new_tokens=3")
    return folder / "run"


@pytest.fixture
def run(trained, tmp_path):
    """A copy of it that may be damaged."""
    return Path(shutil.copytree(trained, tmp_path / "run"))


def snapshot(folder):
    return {path.relative_to(folder): sha256(path) for path in folder.rglob("*") if path.is_file()}


def refused(arguments, *parts, kept=None):
    """Run a command that can't work; return its one line."""
    before = snapshot(kept) if kept else {}
    result = falconer(*arguments)
    assert result.code == 2, result
    lines = result.err.splitlines()
    assert len(lines) == 1 and lines[0].startswith("falconer: "), result.err
    assert "Traceback" not in result.err + result.out
    for part in parts:
        assert part in lines[0], lines[0]
    if kept:
        assert snapshot(kept) == before, "nothing was overwritten"
    return lines[0]


def write(folder, name, content):
    path = folder / name
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        path.write_text(content, encoding="utf-8")
    return path


def row(**changes):
    turns = [{"speaker": "partner", "text": "hi"}, {"speaker": "self", "text": "hello"}]
    return json.dumps({"id": "mine-1", "persona": ["i like dogs"], "turns": turns} | changes) + "\n"


# Names that are not known


@pytest.mark.parametrize("command", ["train", "plan"])
@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["--preset", "quickstrat"], ["'quickstrat'", "Did you mean 'quickstart'?"]),
        (["--preset", "falcon7b"], ["Did you mean 'falcon-7b'?"]),
        (["--preset", "nothing.yaml"], ["no file 'nothing.yaml'"]),
        (["train.epoch=2"], ["'train.epoch'", "Did you mean 'train.epochs'?"]),
        (["train.lr=1"], ["'train.lr'", "Did you mean 'train.learning_rate'?"]),
        (["train.max_tokens=99"], ["'train.max_tokens'", "Did you mean 'data.max_tokens'?"]),
        (["lora.rank=8"], ["'lora.rank'", "Did you mean 'lora.r'?"]),
        (["lora.xyz=8"], ["Allowed: lora.alpha, lora.dropout, lora.init_adapter, lora.r, lora.targets."]),
        (["trian.epochs=2"], ["'trian'", "Did you mean 'train'?"]),
        (["epochs=2"], ["'epochs=2' is not of the form section.key=value", "section.key=value"]),
        (
            ["train.epochs=many"],
            ["train.epochs='many' is not allowed. Allowed: number > 0 and ≤ 10000.", "falconer train --keys"],
        ),
        (["lora.r=1.5"], ["lora.r='1.5' is not allowed. Allowed: whole number ≥ 1 and ≤ 65536."]),
        (["model.revision=x", "train.save_every=0"], ["Allowed: whole number ≥ 1, or null."]),
        (["train.epochs=nan"], ["train.epochs"]),
        (["data.max_tokens=4"], ["data.max_tokens", "32"]),
        (["model.quantization=int8"], ["model.quantization='int8'", "nf4"]),
        (["model.device=cuda"], ["torch sees no GPU", "model.device=auto"]),
        (["model.name=nobody/nothing"], ["'nobody/nothing' was not found", "HF_HUB_OFFLINE", "falcon-mini"]),
        (["data.train=nobody/nothing", "model.name=nobody/nothing"], ["nobody/nothing"]),
        (["data.train=persona-chat-sampel"], ["no file 'persona-chat-sampel'", "persona-chat-sample"]),
        (["lora.targets=q_proj"], ["'q_proj'", "query_key_value"]),
    ],
)
def test_settings(tmp_path, monkeypatch, command, arguments, parts):
    monkeypatch.chdir(tmp_path)
    refused([command, *arguments], *parts)
    assert not list(tmp_path.iterdir()), "no folder was left"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ["train", "--lr", "0.1"],
            "There is no option --lr. Settings are given as section.key=value, without dashes: ",
        ),
        (["train", "--lr=0.1"], "without dashes: train.learning_rate=VALUE."),
        (["evaluate", "--max-replies", "5"], "without dashes: evaluate.max_replies=VALUE."),
        (["plan", "--epochs", "5"], "without dashes: train.epochs=VALUE."),
    ],
)
def test_a_setting_given_as_an_option(arguments, said):
    refused(arguments, said)


@pytest.mark.parametrize(
    "arguments",
    [
        ["train", "--resum"],
        ["trian"],
        ["train", "--presett", "x"],
        ["data"],
        ["data", "shwo"],
        ["score"],
        ["chat", "--temperature", "-1"],
        ["chat", "--min-p", "2"],
        ["chat", "--no-repeat-ngram-size", "17"],
        ["chat", "--no-repeat-ngram-scope", "all"],
    ],
)
def test_usage(arguments):
    result = falconer(*arguments)
    assert result.code == 2
    assert "Usage: " in result.err + result.out
    assert "Traceback" not in result.err


# Data


@pytest.mark.parametrize(
    ("name", "content", "parts"),
    [
        ("empty.jsonl", "", ["empty.jsonl"]),
        ("blank.jsonl", "\n\n", ["blank.jsonl"]),
        ("no-reply.jsonl", row(turns=[{"speaker": "partner", "text": "hi"}]), ["no-reply.jsonl", "no reply"]),
        ("no-turns.jsonl", row(turns=[]), ["no-turns.jsonl", "1"]),
        ("half.jsonl", row() + '{"id": "x", "persona": [', ["half.jsonl", "line 2"]),
        ("speaker.jsonl", row(turns=[{"speaker": "me", "text": "hi"}]), ["speaker", "'me'", "unknown role"]),
        ("prose.txt", "Once upon a time.\nThere was no dialogue.\n", ["prose.txt"]),
        ("picture.png", b"\x89PNG\r\n\x1a\n\x00\xff\xfe", ["picture.png"]),
        ("broken.jsonl.gz", gzip.compress(row().encode(), mtime=0)[:-9], ["broken.jsonl.gz"]),
        ("strange.csv", "colour,size\nred,3\n", ["strange.csv"]),
    ],
)
@pytest.mark.parametrize("command", [["data", "show"], ["data", "stats"], ["data", "convert"], ["train"]])
def test_files(tmp_path, monkeypatch, command, name, content, parts):
    monkeypatch.chdir(tmp_path)
    path = write(tmp_path, name, content)
    target = write(tmp_path, "target.jsonl", "what was there before\n")
    arguments = {"convert": [*command, path, target], "train": [*command, f"data.train={path}"]}
    refused(arguments.get(command[-1], [*command, path]), *parts, kept=tmp_path)


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        (["--index", "2344"], ["no dialogue 2344", "0 to 2343"]),
        (["--index", "-1"], ["no dialogue -1"]),
        (["--split", "tset"], ["no split 'tset'", "Did you mean 'test'?"]),
        (["--text", "fancy"], ["--text fancy", "raw, natural"]),
        (["--on-bad-row", "maybe"], ["--on-bad-row maybe", "stop, skip"]),
        (["--format", "convai"], ["'convai'", "Did you mean 'convai2'?"]),
        (["--model", "nobody/nothing"], ["'nobody/nothing' was not found"]),
    ],
)
def test_options_of_data_show(options, parts):
    refused(["data", "show", *options], *parts)


@pytest.mark.parametrize(
    "arguments",
    [
        ["train", "data.train=long.jsonl", "data.valid=long.jsonl", "data.max_tokens=64"],
        ["data", "stats", "long.jsonl", "--max-tokens", "64"],
    ],
)
def test_a_persona_longer_than_the_context(tmp_path, monkeypatch, arguments):
    monkeypatch.chdir(tmp_path)
    write(tmp_path, "long.jsonl", row(persona=["i like dogs and cats"] * 40))
    refused(arguments, "persona in dialogue 'mine-1'", "64", "data.max_tokens", kept=tmp_path)


@pytest.mark.parametrize("command", [["data", "convert", "persona-chat-sample"], ["data", "stats", "--plot"]])
def test_a_target_that_is_a_folder(tmp_path, command):
    refused([*command, tmp_path], "can't be written", "Choose another name")


# Models


@pytest.mark.parametrize(
    ("name", "change", "parts"),
    [
        ("config.json", None, ["can't be read as a model", "config.json"]),
        ("config.json", "{", ["config.json' is damaged: line 1, column 2: not JSON"]),
        ("tokenizer.json", "{}", ["can't be read as a model"]),
        ("tokenizer.json", '{"added_tokens": [], "model": {}}', ["can't be read as a model"]),
        ("config.json", "[]", ["config.json' is damaged: it is not a JSON object"]),
        ("model.safetensors", b"not weights", ["can't be read as a model"]),
        ("tokenizer_config.json", "no end token", ["has no end token", "eos_token"]),
    ],
)
def test_damaged_models(tmp_path, monkeypatch, trained, name, change, parts):
    monkeypatch.chdir(tmp_path)
    model = Path(shutil.copytree(trained.parent / "falcon", tmp_path / "model"))
    if change is None:
        (model / name).unlink()
    elif change == "no end token":
        settings = json.loads((model / name).read_text())
        (model / name).write_text(json.dumps({key: value for key, value in settings.items() if key != "eos_token"}))
    else:
        write(model, name, change)
    refused(["train", f"model.name={model}", "model.quantization=none"], *parts, kept=tmp_path)


# Runs


def test_an_existing_run(trained):
    small = ["train", "--run", trained, "data.max_dialogues=4", "train.max_steps=1"]
    refused(small, "already contains a run", "--resume", "--run", kept=trained)


@pytest.mark.parametrize("command", ["evaluate", "chat", "train"])
def test_a_folder_that_is_no_run(tmp_path, command):
    more = ["--resume"] if command == "train" else []
    refused([command, "--run", tmp_path, *more], f"'{tmp_path}' contains no run", "config.yaml")
    refused([command, "--run", tmp_path / "nothing", *more], "contains no run")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("command", ["evaluate", "chat"])
def test_a_run_without_adapter(run, command):
    shutil.rmtree(run / "adapter")
    refused([command, "--run", run], "has no 'adapter' any more", "--adapter checkpoints/last", kept=run)


@pytest.mark.parametrize("command", ["evaluate", "chat"])
@pytest.mark.parametrize(
    ("name", "content", "parts"),
    [
        (WEIGHTS, b"\x10\x00\x00\x00\x00\x00\x00\x00{}", ["adapter", "damaged"]),
        (WEIGHTS, b"", ["adapter", "damaged"]),
        (WEIGHTS, None, ["is incomplete: adapter_model.safetensors is missing"]),
        ("adapter_config.json", None, ["is incomplete: adapter_config.json is missing"]),
        ("adapter_config.json", "{", ["adapter", "damaged"]),
        ("adapter_config.json", "[]", ["adapter"]),
        ("adapter_config.json", "{}", ["adapter"]),
        ("adapter_config.json", b"\xff\xfe", ["adapter"]),
    ],
)
def test_a_damaged_adapter(run, command, name, content, parts):
    if content is None:
        (run / "adapter" / name).unlink()
    else:
        write(run / "adapter", name, content)
    refused([command, "--run", run], *parts, kept=run)


@pytest.mark.parametrize(
    ("content", "part"),
    [
        ("{", "config.yaml' is damaged"),
        ("just text", "config.yaml' is damaged"),
        (b"\xff\xfe\x00", "config.yaml' is damaged"),
        ("train: {epochs: many}", "train.epochs='many'"),
        ("trian: {}", "Unknown section 'trian'"),
    ],
)
def test_a_damaged_configuration(run, content, part):
    write(run, "config.yaml", content)
    refused(["evaluate", "--run", run], part, kept=run)


def test_a_base_model_that_is_gone(run):
    config = yaml.safe_load((run / "config.yaml").read_text())
    config["model"]["name"] = "nobody/nothing"
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    (run / "manifest.json").unlink()
    refused(["evaluate", "--run", run], "'nobody/nothing' was not found", kept=run)


@pytest.mark.parametrize(
    ("overrides", "parts"),
    [
        (["evaluate.batchsize=3"], ["'evaluate.batchsize'", "Did you mean 'evaluate.batch_size'?"]),
        (["evaluate.top_p=2"], ["evaluate.top_p"]),
        (["data.test=nothing.jsonl"], ["no file 'nothing.jsonl'"]),
        (["evaluate.nli_model=nothing"], ["evaluate.nli_model: 'nothing' is not a folder with config.json"]),
        (["evaluate.resamples=10"], ["evaluate.resamples"]),
        (["--controls", "evaluate.max_ranked=-1"], ["evaluate.max_ranked"]),
    ],
)
def test_settings_of_an_evaluation(run, overrides, parts):
    refused(["evaluate", "--run", run, *overrides], *parts, kept=run)


def test_a_persona_too_long_to_chat(run):
    refused(["chat", "--run", run, "--persona", "I like dogs. " * 900], "The persona is", "tokens too long", kept=run)


# Predictions


@pytest.mark.parametrize(
    ("name", "content", "parts"),
    [
        ("nothing.jsonl", None, ["nothing.jsonl"]),
        ("empty.jsonl", "", ["contains no predictions", "prediction"]),
        ("half.jsonl", '{"prediction": "a", "reference": "b"}\n{"pred', ["line 2", "not JSON"]),
        ("list.jsonl", "[1, 2]\n", ["line 1", "a list"]),
        (
            "field.jsonl",
            '{"prediction": "a", "refrence": "b"}\n',
            ["line 1", "field 'reference' is missing", "'refrence'"],
        ),
        ("number.jsonl", '{"prediction": 3, "reference": "b"}\n', ["line 1", "'prediction' is a number"]),
        ("gold.jsonl", '{"prediction": "a", "reference": ""}\n', ["line 1", "reference"]),
        ("bytes.jsonl", b'{"prediction": "\xff", "reference": "b"}\n', ["line 1", "UTF-8"]),
        ("packed.jsonl.gz", b"not gzip", ["packed.jsonl.gz"]),
        ("one.tsv", "a\tb\nonly one\n", ["line 2", "1 column instead of 2", "prediction<TAB>reference"]),
        ("gold.tsv", "a\t\n", ["line 1", "reference is empty"]),
        ("latin.tsv", "é\tb\n".encode("latin-1"), ["line 1", "UTF-8"]),
        ("replies.txt", "a\nb\n", ["neither JSON Lines nor tab-separated", "--reference"]),
        (
            "nan.jsonl",
            '{"prediction": "a", "reference": "b", "likelihood": {"nll": NaN, "nll_text": 1, "num_tokens": 2, '
            '"num_words": 1, "num_chars": 1}}',
            ["line 1", "'likelihood.nll' is nan", "model.dtype=fp32"],
        ),
    ],
)
@pytest.mark.parametrize("options", [[], ["--json"]])
def test_predictions(tmp_path, name, content, parts, options):
    if content is not None:
        write(tmp_path, name, content)
    refused(["score", tmp_path / name, *options], *parts)


def test_a_folder_of_predictions(tmp_path):
    refused(["score", tmp_path], str(tmp_path))


def test_two_files_that_do_not_belong_together(tmp_path):
    replies, golds = write(tmp_path, "replies.txt", "a\nb\n"), write(tmp_path, "gold.txt", "a\nb\nc\n")
    arguments = ["score", replies, "--reference", golds]
    refused(arguments, "replies.txt' has 2 lines", "gold.txt' has 3", "an empty reply is an empty line")
    refused(["score", replies, "--reference", tmp_path / "none.txt"], "no file", "none.txt")
    write(tmp_path, "gold.txt", "a\n\n")
    refused(arguments, "gold.txt, line 2: the reference is empty")


@pytest.mark.parametrize("command", ["against", "compare"])
def test_files_about_other_turns(tmp_path, command):
    ours = write(tmp_path, "ours.tsv", "x\ta\nx\tb\n")

    def compare(theirs):
        return ["score", ours, "--against", theirs] if command == "against" else ["compare", theirs, ours]

    other = write(tmp_path, "other.tsv", "x\ta\nx\tc\n")
    refused(compare(other), "not reply to the same turns: in row 2, reference is 'c' in the first and 'b'")
    fewer = write(tmp_path, "fewer.tsv", "x\ta\n")
    refused(compare(fewer), "has 1 replies and", "has 2; the first 1 are to the same turns")
    refused(compare(ours), "ours.tsv")
    refused(compare(tmp_path / "none.tsv"), "no file", "none.tsv")


def test_what_cannot_be_compared(tmp_path, trained):
    refused(["compare", trained], "needs at least two systems")
    refused(["compare", tmp_path, trained], f"'{tmp_path}' has no predictions-tuned.jsonl", "falconer evaluate --run")


# As a user runs it


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["train", "--preset", "quickstrat"], ["Did you mean 'quickstart'?"]),
        (["train", "model.name=nobody/nothing"], ["'nobody/nothing' was not found", "HF_HUB_OFFLINE"]),
        (["score", "mine.jsonl"], ["mine.jsonl", "line 1"]),
        (["evaluate", "--run", "."], ["'.' contains no run"]),
    ],
)
def test_in_a_process_of_its_own(tmp_path, arguments, parts):
    write_dialogues(tmp_path / "mine.jsonl", 2, seed=1)
    before = snapshot(tmp_path)
    result = falconer_process(*arguments, cwd=tmp_path)
    assert (result.code, result.out) == (2, "")
    (line,) = result.err.splitlines()
    assert line.startswith("falconer: ")
    for part in parts:
        assert part in line
    assert snapshot(tmp_path) == before


def test_a_library_that_is_missing(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "sacrebleu.metrics", None)
    path = write(tmp_path, "mine.jsonl", '{"prediction": "a", "reference": "b"}\n')
    refused(["score", path], "'sacrebleu.metrics' is not installed", "pip install")


@pytest.mark.parametrize("name", ["x" * 300, f"./{'x' * 5000}"], ids=["long", "longer"])
@pytest.mark.parametrize(
    "before",
    [
        ["train", "--run"], ["train", "--resume", "--run"], ["evaluate", "--run"], ["evaluate", "--adapter"],
        ["report", "--run"], ["runs"], ["compare", "a"], ["score"], ["chat", "--run"], ["chat", "--adapter"],
        ["serve", "--run"], ["merge", "--out", "m", "--run"], ["merge", "--out", "m", "--model", "m", "--adapter"],
        ["gguf", "--out", "m.gguf", "--run"], ["certify", "--run"], ["certify", "--adapter"], ["data", "stats"],
        ["data", "convert", "a.jsonl"], ["data", "show"], ["prefer", "--out", "o", "--run"], ["plan", "--preset"],
        ["share", "--repo", "me/mine", "--run"],
    ],
    ids=" ".join,
)  # fmt: skip
def test_names_that_no_file_can_have(before, name, tmp_path, monkeypatch):
    """The operating system refuses them with errors that are not "no such file"."""
    monkeypatch.chdir(tmp_path)
    refused([*before, name])


@pytest.mark.parametrize("key", ["data.train", "data.valid", "model.name", "lora.init_adapter"])
@pytest.mark.parametrize("name", ["x" * 300, f"/{'x' * 5000}"], ids=["long", "longer"])
def test_settings_that_name_what_no_file_can_be_called(key, name, tmp_path):
    given = {setting.partition("=")[0]: setting for setting in Small(tmp_path).settings}
    refused(["train", "--run", tmp_path / "run", *(given | {key: f"{key}={name}"}).values()])
