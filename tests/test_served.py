"""What is served: adapters are found and checked before any weight is loaded, and answer as each does alone."""

import asyncio
import json
import shutil

import pytest

from falconer import jobs
from falconer.errors import FalconerError
from falconer.model.engine import Decoding, Request
from falconer.run.folder import read_config
from falconer.served import base_name, find_adapters, open_served
from falconer.talk.server.worker import Worker
from small_runs import Small

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two runs on one base, and one on another."""
    folder = tmp_path_factory.mktemp("served")
    small = Small(folder)
    for name, seed in (("one", 1), ("two", 2)):
        small.run(folder / name, "train.max_steps=3", "train.learning_rate=5e-2", f"train.seed={seed}")
    return folder


def test_the_run_and_further_adapters_are_found(folder):
    found = find_adapters(folder / "one", "adapter", [f"b={folder / 'two'}", f"c.1={folder / 'two' / 'adapter'}"])
    assert [one.name for one in found] == ["one", "b", "c.1"]
    assert found[1].folder == found[2].folder == folder / "two" / "adapter"
    assert found[0].format is None and found[1].format == found[2].format is not None


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ("two", "is not NAME=FOLDER. Write e.g. --adapter"),
        ("=two", "is not NAME=FOLDER"),
        ("a={0}/nothing", "contains neither a run nor an adapter"),
        ("one={0}/two", "Two models have the name 'one'"),
        ("falcon={0}/two", "Two models have the name 'falcon'"),
        ("a b={0}/two", "can't be the name of a model"),
        ("a/b={0}/two", "can't be the name of a model"),
    ],
)
def test_what_is_wrong_is_said_before_the_model_is_loaded(folder, given, says):
    with pytest.raises(FalconerError, match=says):
        find_adapters(folder / "one", "adapter", [given.format(folder)])


def test_an_adapter_of_another_base_is_refused(folder, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(folder / "two" / "adapter", other)
    config = json.loads((other / "adapter_config.json").read_text())
    (other / "adapter_config.json").write_text(json.dumps({**config, "base_model_name_or_path": "tiiuae/falcon-7b"}))
    with pytest.raises(FalconerError, match="was trained on 'tiiuae/falcon-7b', but this server's base is"):
        find_adapters(folder / "one", "adapter", [f"a={other}"])
    # One that names no base is known by its sizes.
    (other / "adapter_config.json").write_text(json.dumps({**config, "base_model_name_or_path": None}))
    path = other / "adapter_model.safetensors"
    raw = path.read_bytes()
    size = int.from_bytes(raw[:8], "little")
    head = json.loads(raw[8 : 8 + size])
    name = next(name for name in head if ".lora_A." in name)
    head[name]["shape"][-1] += 1
    text = json.dumps(head).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + raw[8 + size :])
    with pytest.raises(FalconerError, match=r"does not fit the base of this server: its layer .*lora_A.* has size 129"):
        find_adapters(folder / "one", "adapter", [f"a={other}"])
    path.write_bytes(b"\xff" * 30)
    with pytest.raises(FalconerError, match="is damaged"):
        find_adapters(folder / "one", "adapter", [f"a={other}"])


def test_a_run_of_another_base_is_refused(folder, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(folder / "two", run)
    text = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(text.replace(str(read_config(run).model.name), "tiiuae/falcon-7b"))
    (run / "manifest.json").unlink()
    with pytest.raises(FalconerError, match="was trained on 'tiiuae/falcon-7b'"):
        find_adapters(folder / "one", "adapter", [f"a={run}"])


def test_each_adapter_answers_as_it_does_alone(folder):
    runs = {name: folder / name for name in ("one", "two")}
    served = open_served(
        read_config(runs["one"]), runs["one"], find_adapters(runs["one"], "adapter", [f"two={runs['two']}"])
    )
    assert served.base_name == base_name(read_config(runs["one"])) == "falcon"
    assert list(served.encoders) == ["one", "two", "falcon"] and set(served.adapters) == {"one", "two"}
    prompt = served.encoders["one"].encode_prompt(("i like dogs",), (), 8)
    request = Request(prompt, Decoding(8, temperature=1.0, stops=()))

    async def ask():
        worker = Worker(served.engine.running(4), max_queued=4)
        await worker.start()
        streams = {name: await worker.submit(request, served.adapters.get(name)) for name in served.encoders}
        found = {name: [said.token async for some in stream for said in some] for name, stream in streams.items()}
        await worker.close(0)
        return found

    found = asyncio.run(ask())
    opened = {name: jobs.open_run(run) for name, run in runs.items()}
    alone = {name: dict(one.engine.tokens([request]))[0] for name, one in opened.items()}
    alone["falcon"] = dict(opened["one"].engine.base.tokens([request]))[0]
    assert found == alone and len(set(map(tuple, found.values()))) == 3
