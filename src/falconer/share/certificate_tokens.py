"""Whether an export's own template and tokenizer give conversations the token ids of training."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

from falconer.data.encode import Encoder
from falconer.data.prompt import messages
from falconer.model.export.gguf_read import GgufFile, encoder_of
from falconer.records import Dialogue
from falconer.share.certificate import Tokens

# Gives the token ids of messages.
Encode = Callable[[list[dict[str, str]]], list[int]]
_SHOWN = 80  # characters of a conversation


def compare_tokens(encoder: Encoder, dialogues: Sequence[Dialogue], encode: Encode) -> Tokens:
    """Encode dialogues as in training, and as the export does.

    Args:
        encoder: of training; it must not truncate these dialogues.
        encode: the export's; see `folder_encoder` and `gguf_encoder`.
    """
    examples, _ = encoder.encode(dialogues)
    differing = [
        dialogue
        for dialogue, example in zip(dialogues, examples, strict=True)
        if encode(_until_last_reply(dialogue)) != example.ids.tolist()
    ]
    shown = "\n".join(row["content"] for row in messages(differing[0]))[:_SHOWN] if differing else ""
    return Tokens(len(dialogues), len(dialogues) - len(differing), shown)


def folder_encoder(folder: Path) -> Encode:
    """Return what `apply_chat_template` of transformers makes of messages, with the tokenizer in a folder."""
    tokenizer: Any = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)

    def encode(rows: list[dict[str, str]]) -> list[int]:
        return list(tokenizer.apply_chat_template(rows, return_dict=False))

    return encode


def gguf_encoder(file: GgufFile, folder: Path) -> Encode:
    """Return what llama.cpp makes of messages, with the template and the tokenizer in a GGUF file.

    Args:
        folder: of the tokenizer whose `apply_chat_template` renders the file's template.
    """
    tokenizer: Any = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    template, encode_text = str(file.value("tokenizer.chat_template")), encoder_of(file)

    def encode(rows: list[dict[str, str]]) -> list[int]:
        return encode_text(str(tokenizer.apply_chat_template(rows, chat_template=template, tokenize=False)))

    return encode


def _until_last_reply(dialogue: Dialogue) -> list[dict[str, str]]:
    """Return the messages that an example of the dialogue has; what follows its last reply is not encoded."""
    return messages(dialogue)[: max(dialogue.replies) + 1 + bool(dialogue.persona)]
