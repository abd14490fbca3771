"""How to load a shared model: the sections of its card, a snippet for each program that can run it."""

from dataclasses import dataclass

from falconer.data.prompt import PromptFormat
from falconer.model.export.modelfile import modelfile
from falconer.model.tokenizer import EMBEDDED_MODEL
from falconer.share.origin import Origin

# Sentences for examples, in Persona-Chat's writing and in natural text.
_SPACED = ("i like to ski .\\ni have two dogs .", "hello , how are you ?")
_NATURAL = ("I like to ski.\\nI have two dogs.", "Hello, how are you?")


_NOT_RUN = "falconer's tests do not run vLLM."
_NO_OLLAMA = "a system message replaces its persona. falconer's tests do not run Ollama."
_WITH_BASE = ", with a GGUF file of the base model"


@dataclass(frozen=True, slots=True)
class Snippet:
    """A way to load a model.

    Args:
        program: its heading.
        language: of the code: "python" or "bash".
        note: what the reader should know of it; "" if nothing.
    """

    program: str
    language: str
    code: str
    note: str = ""


@dataclass(frozen=True, slots=True)
class Shared:
    """What is shared: its repository, kind, files, and what the snippets depend on.

    Args:
        what: "adapter", "merged" or "gguf".
        gguf_files: the names of the GGUF models; `gguf_adapters` those of adapters alone, and `modelfiles` those of
            the Modelfiles that are shared with them.
        end, lead: of the tokenizer, as `modelfile` takes them; only used for adapters alone.
        is_falcon: the base has Falcon's architecture, which some programs support only in part.
    """

    repository: str
    what: str
    origin: Origin
    format: PromptFormat
    gguf_files: tuple[str, ...] = ()
    gguf_adapters: tuple[str, ...] = ()
    modelfiles: tuple[str, ...] = ()
    end: str = ""
    lead: str = ""
    is_falcon: bool = False

    @property
    def name(self) -> str:
        return self.repository.partition("/")[2]

    @property
    def is_adapter(self) -> bool:
        """Whether it needs the base model: an adapter, as PEFT saves it or as GGUF files alone."""
        return self.what == "adapter" or bool(self.gguf_adapters and not self.gguf_files)


def snippets(shared: Shared) -> tuple[Snippet, ...]:
    """Return the ways to load what is shared, the shortest first."""
    if shared.what == "adapter":
        return (*_falconer(shared), _peft(shared), _vllm_adapter(shared))
    if shared.what == "merged":
        return (_transformers(shared), _vllm(shared))
    return (*_llama_cpp(shared),)


def _falconer(shared: Shared) -> tuple[Snippet, ...]:
    repository = shared.repository
    personas = (_SPACED if shared.format.is_spaced else _NATURAL)[0].split("\\n")
    given = " ".join(f"--persona '{line}'" for line in personas)
    return (
        Snippet(
            "falconer", "bash",
            f"falconer chat --adapter {repository} {given}\nfalconer evaluate --adapter {repository} --data FILE",
            "The base model, its quantisation and the format of the prompts are read from this repository.",
        ),
        Snippet(
            "A server with OpenAI's interface", "bash",
            f"falconer serve --run runs/mine --adapter {shared.name}={repository}",
            "The run must have the same base model.",
        ),
    )  # fmt: skip


def _peft(shared: Shared) -> Snippet:
    if shared.origin.base:
        base, lead = f'"{shared.origin.base}"', ""
        revision = f', revision="{shared.origin.base_revision}"' if shared.origin.base_revision else ""
    else:
        # Its files are part of falconer's package.
        lead = "from importlib.resources import files\n\n"
        base, revision = f'str(files("falconer") / "assets" / "{EMBEDDED_MODEL}")', ""
    code = (
        f"{lead}from peft import PeftModel\n"
        "from transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
        f"base = AutoModelForCausalLM.from_pretrained({base}{revision})\n"
        f'tokenizer = AutoTokenizer.from_pretrained("{shared.repository}")\n'
        f'model = PeftModel.from_pretrained(base, "{shared.repository}").eval()\n\n{_generate(shared)}'
    )
    note = "The base model is part of the package falconer." if not shared.origin.base else ""
    return Snippet("transformers and PEFT", "python", code, note)


def _transformers(shared: Shared) -> Snippet:
    code = (
        "from transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
        f'model = AutoModelForCausalLM.from_pretrained("{shared.repository}")\n'
        f'tokenizer = AutoTokenizer.from_pretrained("{shared.repository}")\n\n{_generate(shared)}'
    )
    return Snippet("transformers", "python", code)


def _generate(shared: Shared) -> str:
    persona, message = _SPACED if shared.format.is_spaced else _NATURAL
    end = "" if shared.format.multi_line else '.split("\\n")[0]'
    note = "" if shared.format.multi_line else "  # a reply is one line"
    return (
        "messages = [\n"
        f'    {{"role": "system", "content": "{persona}"}},  # the persona, one sentence a line\n'
        f'    {{"role": "user", "content": "{message}"}},\n'
        "]\n"
        "inputs = tokenizer.apply_chat_template(\n"
        '    messages, add_generation_prompt=True, return_tensors="pt", return_dict=True\n'
        ")\n"
        "output = model.generate(**inputs, max_new_tokens=40, do_sample=False)\n"
        'reply = tokenizer.decode(output[0, inputs["input_ids"].shape[1]:], skip_special_tokens=True)\n'
        f"print(reply.strip(){end}){note}"
    )


def _vllm_adapter(shared: Shared) -> Snippet:
    if shared.is_falcon:
        return Snippet("vLLM", "text", "", "vLLM runs Falcon, but no LoRA on it: merge the adapter first.")
    base = shared.origin.base or "BASE"
    return Snippet(
        "vLLM", "bash",
        f"vllm serve {base} --enable-lora --lora-modules {shared.name}={shared.repository} --max-lora-rank 64",
        _NOT_RUN,
    )  # fmt: skip


def _vllm(shared: Shared) -> Snippet:
    return Snippet("vLLM", "bash", f"vllm serve {shared.repository}", _NOT_RUN)


def _llama_cpp(shared: Shared) -> tuple[Snippet, ...]:
    repository = shared.repository
    alone = tuple(
        snippet
        for file in shared.gguf_adapters[:1]
        for snippet in (
            Snippet(
                f"llama.cpp{_WITH_BASE}", "bash",
                f"hf download {repository} {file} --local-dir .\nllama-cli -m BASE.gguf --lora {file}",
            ),
            _ollama_adapter(shared, file),
        )
    )  # fmt: skip
    if not shared.gguf_files:
        return alone
    file = shared.gguf_files[0]
    beside = _modelfile_of(file)
    return (
        Snippet(
            "llama.cpp", "bash", f"llama-server --hf-repo {repository} --hf-file {file} --jinja",
            "" if shared.format.multi_line else 'A reply is one line: give `"stop": ["\\n"]` with each request.',
        ),
        # Ollama can't use a Jinja template that it does not know, so the Modelfile is needed.
        Snippet(
            "Ollama", "bash",
            f"hf download {repository} {file} {beside} --local-dir .\n{_ollama(shared, beside)}",
            f"The Modelfile has the prompt's template; {_NO_OLLAMA}",
        ),
        Snippet(
            "llama-cpp-python", "python",
            "from llama_cpp import Llama\n\n"
            f'model = Llama.from_pretrained("{repository}", filename="{file}", n_ctx=2048)\n'
            f"{_messages(shared)}\n"
            "answer = model.create_chat_completion(messages, max_tokens=40, temperature=0"
            + ("" if shared.format.multi_line else ', stop=["\\n"]')
            + ')\nprint(answer["choices"][0]["message"]["content"].strip())',
        ),
        *alone,
    )  # fmt: skip


def _ollama_adapter(shared: Shared, file: str) -> Snippet:
    """Return how Ollama loads an adapter alone: by its own Modelfile, or one that the snippet writes."""
    name = _modelfile_of(file)
    program = f"Ollama{_WITH_BASE}"
    if name in shared.modelfiles:
        return Snippet(
            program, "bash",
            f"hf download {shared.repository} {file} {name} --local-dir .\n{_ollama(shared, name)}",
            f"The Modelfile names the base model (FROM) and has the prompt's template; {_NO_OLLAMA}",
        )  # fmt: skip
    persona = (_SPACED if shared.format.is_spaced else _NATURAL)[0].split("\\n")
    text = modelfile(
        "./BASE.gguf", end=shared.end, format=shared.format, persona=persona, adapter=f"./{file}", lead=shared.lead
    )
    return Snippet(
        program, "bash",
        f"hf download {shared.repository} {file} --local-dir .\n"
        f"cat > {name} << 'END_OF_MODELFILE'\n{text}END_OF_MODELFILE\n{_ollama(shared, name)}",
        f"BASE.gguf is the file of the base model. Write your own persona behind SYSTEM; {_NO_OLLAMA}",
    )  # fmt: skip


def _ollama(shared: Shared, file: str) -> str:
    return f"ollama create {shared.name} -f {file}\nollama run {shared.name}"


def _modelfile_of(file: str) -> str:
    return f"{file.removesuffix('.gguf')}.Modelfile"


def _messages(shared: Shared) -> str:
    persona, message = _SPACED if shared.format.is_spaced else _NATURAL
    return (
        "messages = [\n"
        f'    {{"role": "system", "content": "{persona}"}},\n'
        f'    {{"role": "user", "content": "{message}"}},\n'
        "]"
    )
