"""The snippets of a card, taken from it and run: each replies as falconer does."""

import importlib.util
import json
import os
import re
import shlex
import subprocess
import sys

import pytest
from huggingface_hub import ModelCard

from command_line import ok
from fake_hub import BASE, REPOSITORY, environment
from falconer import jobs
from falconer.data.prompt import PromptFormat
from falconer.files.replace import sha256
from falconer.model.engine import Decoding, Request
from falconer.model.export.merge import merge_adapter
from falconer.model.lora import WEIGHTS
from falconer.records import Turn
from falconer.run.folder import read_config
from falconer.share import certificate
from falconer.share.loading import Shared, snippets
from falconer.share.origin import Origin, find_origin
from falconer.share.plan import check_folder, make_folder, plan_share
from modelfiles import quoted, render

# What the snippets say; the run's dialogues are in natural text.
PERSONA, MESSAGE = ("I like to ski.", "I have two dogs."), "Hello, how are you?"
GIVEN = [word for line in PERSONA for word in ("--persona", line)]
ORIGIN = Origin(BASE, "abc", "mit", "talk", None, "unknown", "mit")


def block(card, heading):
    """Return the code under a heading of a card."""
    return re.search(rf"### {re.escape(heading)}\n\n```\w+\n(.*?)\n```", card, re.DOTALL)[1]


def run_python(code, hub, cache):
    """Run a snippet in a process that has no falconer in its path, and return what it prints."""
    variables = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-I", "-c", f"import sys; sys.modules['falconer'] = None\n{code}"], capture_output=True,
        text=True, check=False, env=variables | environment(hub, cache) | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout.strip()


@pytest.fixture(scope="module")
def expected(run):
    """What falconer replies to the conversation of the snippets."""
    opened = jobs.open_run(run)
    with opened.engine as engine:
        prompt = opened.encoder.encode_prompt(PERSONA, (Turn("partner", MESSAGE),), reserve=40)
        ((_, reply),) = engine.replies([Request(prompt, Decoding(max_new_tokens=40), 0)], batch_size=1)
    assert reply.text.strip()
    return reply.text.strip()


def test_transformers_and_peft_reply_as_falconer_does(online, planned, small, expected, tmp_path):
    make_folder(planned)
    online.put(BASE, small.model)
    online.put(REPOSITORY, planned.folder)
    code = block(planned.card, "transformers and PEFT")
    assert f'"{BASE}"' in code and f'"{REPOSITORY}"' in code
    assert run_python(code, online, tmp_path / "other") == expected


def test_a_merged_model_replies_so_without_falconer_and_peft(online, copied, small, expected, tmp_path):
    merged, weights = tmp_path / "merged", copied / "adapter" / WEIGHTS
    merge_adapter(str(small.model), copied / "adapter", merged)
    made = certificate.Origin(BASE, None, None, "bf16", "none", sha256(weights), "float32")
    files = certificate.hash_files(merged, [path.name for path in merged.iterdir()])
    certificate.write_certificate(
        merged / certificate.NAME, certificate.Certificate("merged", made, None, None, files, {})
    )
    origin = find_origin(read_config(copied), base_model=BASE, license="mit")
    plan = plan_share(copied, REPOSITORY, origin, what="merged", exports=[merged])
    make_folder(plan)
    assert [one.verdict for one in check_folder(plan)] == ["good"] * 4
    online.put(REPOSITORY, plan.folder)
    code = "sys.modules['peft'] = None\n" + block(plan.card, "transformers")
    assert run_python(code, online, tmp_path / "other") == expected


@pytest.fixture(scope="module")
def gguf_file(run, tmp_path_factory):
    """The run's model as falconer gguf writes it, with a Modelfile that has the persona of the snippets."""
    file = tmp_path_factory.mktemp("gguf") / "x-f16.gguf"
    ok("gguf", "--run", run, "--out", file, "--type", "f16", "--no-measure", *GIVEN)
    return file


@pytest.fixture
def gguf_card(online, copied, gguf_file):
    """The card of that file, which the hub has."""
    origin = find_origin(read_config(copied), base_model=BASE)
    plan = plan_share(copied, REPOSITORY, origin, what="gguf", exports=[gguf_file])
    make_folder(plan)
    online.put(REPOSITORY, plan.folder)
    return plan.card


def download(card, hub, tmp_path):
    """Do what the snippet for Ollama begins with, and return the downloaded Modelfile and what the rest asks for."""
    first, *rest = (shlex.split(line) for line in block(card, "Ollama").splitlines())
    assert first[:2] == ["hf", "download"]
    folder = tmp_path / "downloaded"
    folder.mkdir()
    subprocess.run(
        [sys.executable, "-m", "huggingface_hub.cli.hf", *first[1:]], cwd=folder, check=True, capture_output=True,
        env=os.environ | environment(hub, tmp_path / "other"),
    )  # fmt: skip
    return folder, rest


def test_ollama_finds_the_downloaded_files(gguf_card, online, tmp_path):
    folder, (create, run) = download(gguf_card, online, tmp_path)
    assert create[:4] == ["ollama", "create", "tiny-persona", "-f"] and run == ["ollama", "run", "tiny-persona"]
    first = (folder / create[4]).read_text().splitlines()[0]
    assert first.startswith("FROM ./") and (folder / first.removeprefix("FROM ")).is_file()


@pytest.fixture(scope="module", params=["by its own Modelfile", "by the snippet's"])
def gguf_adapter(request, run, tmp_path_factory):
    """The run's adapter alone as falconer gguf --lora writes it, with and without a Modelfile."""
    file = tmp_path_factory.mktemp("gguf-lora") / "x-lora.gguf"
    options = ("--from", "./BASE.gguf", *GIVEN) if request.param == "by its own Modelfile" else ()
    ok("gguf", "--run", run, "--out", file, "--lora", "--type", "f16", "--no-measure", *options)
    return file


# As the programs of these names, for a shell: hf is the real one, ollama keeps what it is given.
PROGRAMS = {
    "hf": f'#!/bin/sh\nexec "{sys.executable}" -m huggingface_hub.cli.hf "$@"\n',
    "ollama": '#!/bin/sh\necho "$@" >> asked\n[ "$1" = create ] && cp "$4" created\nexit 0\n',
}


def run_shell(code, hub, folder):
    """Run a snippet in a folder with bash, which stops at the first command that fails."""
    for name, text in PROGRAMS.items():
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    variables = os.environ | environment(hub, folder / "cache")
    done = subprocess.run(
        ["bash", "-e", "-c", code], cwd=folder, capture_output=True, text=True, check=False,
        env=variables | {"PATH": f"{folder}:{os.environ['PATH']}"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]


def test_ollama_gets_an_adapter_alone_with_falconers_prompts(gguf_adapter, run, online, copied, tmp_path):
    plan = plan_share(copied, REPOSITORY, find_origin(read_config(copied), base_model=BASE), what="gguf",
                      exports=[gguf_adapter])  # fmt: skip
    make_folder(plan)
    assert {one.verdict for one in check_folder(plan)} == {"good"}
    assert ModelCard(plan.card).data.to_dict()["base_model_relation"] == "adapter"
    online.put(REPOSITORY, plan.folder)
    folder = tmp_path / "shell"
    folder.mkdir()
    run_shell(block(plan.card, "Ollama, with a GGUF file of the base model"), online, folder)
    created, *later = (folder / "asked").read_text().splitlines()
    assert created == "create tiny-persona -f x-lora.Modelfile" and later == ["run tiny-persona"]
    assert sha256(folder / "x-lora.gguf") == sha256(gguf_adapter)

    text = (folder / "created").read_text()
    assert text.splitlines()[:2] == ["FROM ./BASE.gguf", "ADAPTER ./x-lora.gguf"]
    (template,), (system,) = quoted(text, "TEMPLATE"), quoted(text, "SYSTEM")
    rows = [{"role": "system", "content": system}, {"role": "user", "content": MESSAGE}]
    opened = jobs.open_run(run)
    ids = opened.encoder.encode_prompt(PERSONA, (Turn("partner", MESSAGE),), reserve=40)
    tokenizer = opened.base.tokenizer
    assert tokenizer(render(template, rows), add_special_tokens=False).input_ids == list(ids)
    stops = quoted(text, "PARAMETER stop")
    assert stops == [tokenizer.convert_ids_to_tokens(opened.encoder.end_id), "\nUser:", "\n"]
    assert re.findall(r"^PARAMETER (\w+) ([\d.]+)$", text, re.M) == [("temperature", "0"), ("repeat_penalty", "1")]


needs_llama_cpp = pytest.mark.skipif(
    importlib.util.find_spec("llama_cpp") is None, reason="llama-cpp-python is not installed"
)


@pytest.mark.llama_cpp
@needs_llama_cpp
def test_llama_cpp_replies_so(gguf_card, online, expected, tmp_path):
    assert run_python(block(gguf_card, "llama-cpp-python"), online, tmp_path / "other") == expected


# What Ollama hands to llama.cpp: the template's text, and the parameters under llama.cpp's own names.
AS_OLLAMA = """
import json, sys
from llama_cpp import Llama
asked = json.loads(sys.stdin.read())
model = Llama(asked.pop("model"), n_ctx=512, verbose=False)
print(model.create_completion(**asked, max_tokens=40)["choices"][0]["text"].strip())
"""


@pytest.mark.llama_cpp
@needs_llama_cpp
def test_llama_cpp_replies_so_to_the_modelfiles_prompt(gguf_card, online, expected, tmp_path):
    folder, (create, _) = download(gguf_card, online, tmp_path)
    text = (folder / create[4]).read_text()
    (template,), (system,) = quoted(text, "TEMPLATE"), quoted(text, "SYSTEM")
    rows = [{"role": "system", "content": system}, {"role": "user", "content": MESSAGE}]
    numbers = dict(re.findall(r"^PARAMETER (\w+) ([\d.]+)$", text, re.M))
    assert numbers.keys() == {"temperature", "repeat_penalty"}
    asked = {
        "model": str(folder / "x-f16.gguf"), "prompt": render(template, rows), "stop": quoted(text, "PARAMETER stop"),
        **{name: float(value) for name, value in numbers.items()},
    }  # fmt: skip
    done = subprocess.run([sys.executable, "-c", AS_OLLAMA], input=json.dumps(asked), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.strip() == expected


def test_commands_are_falconers_own(planned):
    from typer.main import get_command

    from falconer.cli import app

    known = get_command(app).commands
    for heading in ("falconer", "A server with OpenAI's interface"):
        for line in block(planned.card, heading).splitlines():
            name, *words = line.split()[1:]
            options = {option for parameter in known[name].params for option in parameter.opts}
            assert {word for word in words if word.startswith("--")} <= options, line


def of(what, **changed):
    values = {"repository": REPOSITORY, "what": what, "origin": ORIGIN, "format": PromptFormat(), **changed}
    return {one.program: one for one in snippets(Shared(**values))}


def test_a_revision_is_kept_and_natural_text_is_written_so():
    code = of("adapter", format=PromptFormat(is_spaced=False, multi_line=True))["transformers and PEFT"].code
    assert f'from_pretrained("{BASE}", revision="abc")' in code
    assert "I like to ski.\\nI have two dogs." in code and "split" not in code
    compile(code, "snippet", "exec")


def test_python_is_python():
    for what in ("adapter", "merged", "gguf"):
        for one in of(what, gguf_files=("x-q8_0.gguf",)).values():
            if one.language == "python":
                compile(one.code, one.program, "exec")


def test_vllm_has_no_lora_on_falcon():
    assert "no LoRA on it" in of("adapter", is_falcon=True)["vLLM"].note
    assert "--enable-lora" in of("adapter")["vLLM"].code


def test_gguf_programs_get_the_files_name():
    found = of("gguf", gguf_files=("x-q8_0.gguf",))
    assert "--hf-file x-q8_0.gguf" in found["llama.cpp"].code and '"stop": ["\\n"]' in found["llama.cpp"].note
    lines = of("gguf", gguf_files=("x-q8_0.gguf",), format=PromptFormat(multi_line=True))
    assert lines["llama.cpp"].note == "" and "stop" not in lines["llama-cpp-python"].code
    assert 'filename="x-q8_0.gguf"' in found["llama-cpp-python"].code
    assert "ollama create tiny-persona -f x-q8_0.Modelfile" in found["Ollama"].code
    alone = of("gguf", gguf_adapters=("x-lora.gguf",))
    assert list(alone) == [f"{name}, with a GGUF file of the base model" for name in ("llama.cpp", "Ollama")]
    assert "--lora x-lora.gguf" in next(iter(alone.values())).code
    both = of("gguf", gguf_files=("x-q8_0.gguf",), gguf_adapters=("x-lora.gguf",))
    assert list(both) == ["llama.cpp", "Ollama", "llama-cpp-python", *alone]


def test_natural_text_has_a_natural_persona_in_its_modelfile():
    found = of(
        "gguf", gguf_adapters=("x-lora.gguf",), format=PromptFormat(is_spaced=False, multi_line=True), end="</s>"
    )
    code = found["Ollama, with a GGUF file of the base model"].code
    assert "- I like to ski.\n- I have two dogs." in code and 'PARAMETER stop """</s>"""' in code
    assert 'PARAMETER stop """\n"""' not in code, "a reply may have several lines"
