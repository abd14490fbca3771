"""Writing an Ollama Modelfile: the GGUF file, the chat template, stop tokens, and the persona."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType

from falconer.data.pieces import written_before
from falconer.data.prompt import PERSONA_HEADER, TAGS, PromptFormat
from falconer.errors import FalconerError
from falconer.model.tokenizer import LoadedTokenizer

# Ollama's sampling is greedy then, as falconer's is where nothing else is asked for.
GREEDY: Mapping[str, float] = MappingProxyType({"temperature": 0.0, "repeat_penalty": 1.0})


def modelfile(
    model: str,
    *,
    end: str,
    format: PromptFormat,
    persona: Sequence[str] = (),
    adapter: str | None = None,
    parameters: Mapping[str, float] = GREEDY,
    lead: str = "",
    license: str | None = None,
) -> str:
    """Return the text of a Modelfile.

    Args:
        model: the GGUF file as Ollama finds it, such as "./model-q8_0.gguf".
        end: the end token as text. llama.cpp puts the begin token there itself, so none is written.
        format: of the prompts: whether replies may hold line breaks, or quote the other speaker's tag.
        persona: sentences; they are the model's SYSTEM, which a conversation's own system message replaces whole.
        adapter: a GGUF adapter that is added to the model.
        parameters: Ollama's names of decoding options.
        lead: what stands before the first word ("" or a space), see `tokenizer.written_before`.

    Raises:
        FalconerError: the persona holds three quotation marks in a row, which no Modelfile can.
    """
    system = "\n- ".join([PERSONA_HEADER, *persona]) if persona else ""
    if '"""' in system or '"""' in (license or ""):
        raise FalconerError('A Modelfile can\'t hold """.', "Write the persona without three quotation marks in a row.")
    # Go's template language, which has no way of cutting a text into lines: SYSTEM therefore comes ready made.
    partner, own = TAGS["partner"], TAGS["self"]
    template = (
        f"{lead}{{{{ range $place, $message := .Messages }}}}{{{{ if $place }}}}\n{{{{ end }}}}"
        '{{ if eq $message.Role "system" }}{{ $message.Content }}'
        f'{{{{ else if eq $message.Role "assistant" }}}}{own} {{{{ $message.Content }}}}{end}'
        f"{{{{ else }}}}{partner} {{{{ $message.Content }}}}{{{{ end }}}}{{{{ end }}}}\n{own}"
    )
    stops = [end] if format.quotes_tags else [end, f"\n{partner}"]
    if not format.multi_line:
        stops.append("\n")
    lines = [f"FROM {model}"]
    if adapter:
        lines.append(f"ADAPTER {adapter}")
    lines.append(f'TEMPLATE """{template}"""')
    if system:
        lines.append(f'SYSTEM """{system}"""')
    # Ollama reads no escapes: a line break is one.
    lines += [f'PARAMETER stop """{stop}"""' for stop in stops]
    lines += [f"PARAMETER {key} {value:g}" for key, value in parameters.items()]
    if license:
        lines.append(f'LICENSE """{license}"""')
    return "\n".join(lines) + "\n"


def end_and_lead(opened: LoadedTokenizer, format: PromptFormat) -> tuple[str, str]:
    """Return what `modelfile` needs of a tokenizer: the end token as text, and what stands before the first word."""
    backend = opened.tokenizer.backend_tokenizer
    lead = written_before(backend, format.bos).removeprefix(format.bos)
    return str(backend.id_to_token(opened.end_id)), lead
