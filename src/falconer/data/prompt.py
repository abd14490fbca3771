"""The prompt template, the same in training, evaluation, chat and any other program that uses the adapter.

    Persona:
    - i like to ski .
    - i have two dogs .
    User: hello , how are you ?
    Assistant: i am fine , just back from the slopes .<|endoftext|>
    User: ...

Role tags are plain text and a reply ends with the model's own end token, so no token is added and no embedding resized.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from falconer.records import Dialogue, Span, Speaker, Turn

PERSONA_HEADER = "Persona:"
TAGS: Mapping[Speaker, str] = MappingProxyType({"partner": "User:", "self": "Assistant:"})

# Where the next turn begins within a text, if no reply has such a line.
NEXT_TURN = re.compile(rf"\n\s*(?:{'|'.join(map(re.escape, TAGS.values()))})")

# The same template for `tokenizer.apply_chat_template`: the system message holds the persona, one sentence a line.
CHAT_TEMPLATE = (
    "{%- for message in messages -%}"
    "{%- if not loop.first %}{{ '\\n' }}{% endif -%}"
    "{%- if message['role'] == 'system' -%}"
    "{{ '" + PERSONA_HEADER + "' }}"
    "{%- for line in message['content'].split('\\n') -%}"
    "{%- if line | trim -%}{{ '\\n- ' ~ line | trim }}{%- endif -%}"
    "{%- endfor -%}"
    "{%- elif message['role'] == 'assistant' -%}"
    "{{ '" + TAGS["self"] + " ' ~ message['content'] | trim ~ eos_token }}"
    "{%- else -%}"
    "{{ '" + TAGS["partner"] + " ' ~ message['content'] | trim }}"
    "{%- endif -%}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt %}{{ '\\n" + TAGS["self"] + "' }}{% endif -%}"
)


@dataclass(frozen=True, slots=True)
class PromptFormat:
    """What training and every later use of an adapter must have in common, besides the template.

    It follows from the tokenizer and the training data, and is recorded with the run and with the adapter.

    Args:
        bos: what the tokenizer puts before every text, as text ("<bos>"); "" where it puts nothing there.
        multi_line: replies of the training data hold line breaks, so a line break does not end a reply.
        quotes_tags: some hold lines that begin with a role tag, so such a line does not end a reply either.
        is_spaced: the training text is Persona-Chat's lower-case, spaced text: chat writes it so, and shows it natural.
        joins_persona_end: in spaced text, the mark at the end of a persona line stands at its word ("i sing , too."):
            so in ConvAI2 and most copies of Persona-Chat.
        language: of the training text, an ISO 639 code; what natural text is depends on it.
    """

    bos: str = ""
    multi_line: bool = False
    quotes_tags: bool = False
    is_spaced: bool = True
    joins_persona_end: bool = True
    language: str = "en"


def chat_template(before: str = "") -> str:
    """Return the template that writes `before` (such as "<bos>") once, before everything else."""
    return ("{{- " + json.dumps(before, ensure_ascii=False) + " -}}" if before else "") + CHAT_TEMPLATE


def template_sha256(template: str = CHAT_TEMPLATE) -> str:
    """Return a template's hash, which is kept with every adapter and every score."""
    return hashlib.sha256(template.encode()).hexdigest()


def persona_spans(persona: tuple[str, ...]) -> list[Span]:
    """Render the persona; no span at all where there is none."""
    if not persona:
        return []
    return [Span(PERSONA_HEADER, is_target=False)] + [Span(f"\n- {line}", is_target=False) for line in persona]


def turn_spans(turn: Turn, first: bool) -> list[Span]:
    """Render one turn.

    Args:
        turn: who says what; the text's outer white space is dropped, as the chat template does.
        first: nothing stands before this turn, so no line break is written.
    """
    tag = Span(("" if first else "\n") + TAGS[turn.speaker], is_target=False)
    text = f" {turn.text.strip()}"
    if turn.speaker == "self":
        return [tag, Span(text, is_target=turn.is_learned, ends_turn=True)]
    return [tag, Span(text, is_target=False)]


def opening(first: bool) -> Span:
    """Render the tag behind which the model writes its reply; `first` as in `turn_spans`."""
    return Span(("" if first else "\n") + TAGS["self"], is_target=False)


def render(dialogue: Dialogue) -> list[Span]:
    """Render a whole dialogue; every reply of the persona's owner is a target."""
    spans = persona_spans(dialogue.persona)
    for turn in dialogue.turns:
        spans += turn_spans(turn, first=not spans)
    return spans


def messages(dialogue: Dialogue) -> list[dict[str, str]]:
    """Return the dialogue as the role/content messages that `CHAT_TEMPLATE` takes."""
    rows = [{"role": "system", "content": "\n".join(dialogue.persona)}] if dialogue.persona else []
    roles: dict[Speaker, str] = {"partner": "user", "self": "assistant"}
    return rows + [{"role": roles[turn.speaker], "content": turn.text} for turn in dialogue.turns]
