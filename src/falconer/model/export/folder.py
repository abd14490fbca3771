"""The small files of an exported model: configuration, tokenizer, chat template, and a record of its origin."""

import dataclasses
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerFast

from falconer import runtime
from falconer.data.encode import Encoder
from falconer.data.prompt import PromptFormat, template_sha256
from falconer.errors import FalconerError
from falconer.files.json_record import is_missing, read_object, read_text
from falconer.files.yaml_value import NotPlainYaml, yaml_value
from falconer.model.adapter_record import adapter_format
from falconer.model.export.base import Base
from falconer.model.limits import end_tokens
from falconer.model.lora import RECORD
from falconer.model.tokenizer import open_tokenizer, set_template

# How this machine came by the tokenizer; of no meaning elsewhere.
_LOCAL = ("is_local", "local_files_only")


@dataclass(frozen=True, slots=True)
class Conversation:
    """What a tuned model's user needs beside its weights.

    Args:
        tokenizer: with the chat template that the adapter was trained with.
        end_id: the token that ends a reply.
        stop_ids: the model's other end tokens, and the line break where every reply is one line.
    """

    tokenizer: PreTrainedTokenizerFast
    end_id: int
    stop_ids: tuple[int, ...]
    format: PromptFormat


def check_out(folder: Path) -> None:
    """Refuse to replace a folder that holds something else than an export.

    Raises:
        FalconerError: it does.
    """
    if not os.path.isdir(folder) or not any(folder.iterdir()):
        return
    if _export_in(folder) is None:
        raise FalconerError(
            f"'{folder}' contains other files, which an export would replace.",
            "Give a new folder, or that of an earlier export.",
        )


def export_record(folder: Path) -> dict[str, Any]:
    """Return what a merged folder records of its origin, see `merge_adapter`.

    Raises:
        FalconerError: it is no merged folder.
    """
    found = _export_in(folder)
    if found is None:
        raise FalconerError(f"'{folder}' is no folder that falconer merge wrote.", "Check the path.")
    return found


def _export_in(folder: Path) -> dict[str, Any] | None:
    try:
        found = read_object(folder / RECORD, "")["export"]
    except (FalconerError, KeyError):
        return None
    return found if isinstance(found, dict) else None


def conversation_of(base: Base, adapter: Path, format: PromptFormat | None) -> Conversation:
    """Return the tokenizer with the template, and what ends a reply.

    Args:
        format: of the run; None: as the adapter's folder records it, else as the tokenizer's texts begin.
    """
    own = adapter if (adapter / "tokenizer.json").is_file() else base.folder
    opened = open_tokenizer(str(own))
    format = format or adapter_format(adapter) or PromptFormat(bos=opened.bos, multi_line=True)
    set_template(opened.tokenizer, format.bos)
    encoder = Encoder(opened.tokenizer.backend_tokenizer.to_str(), opened.end_id, 2**31, format)
    special = {token for token, added in opened.tokenizer.added_tokens_decoder.items() if added.special}
    named = (end_tokens(base.generation, base.name) | end_tokens(base.config, base.name)) & special
    line_break = [] if format.multi_line else encoder.line_break()
    others = tuple(sorted(named - {opened.end_id})) + tuple(line_break)
    return Conversation(opened.tokenizer, opened.end_id, others, format)


def write_config(folder: Path, base: Base, conversation: Conversation, *, is_tied: bool, dtype: str) -> None:
    """Write config.json and generation_config.json.

    Args:
        dtype: the format of the weights, as transformers calls it ("bfloat16").
    """
    config = base.config.to_diff_dict()
    for key in ("auto_map", "_name_or_path", "torch_dtype", "transformers_version"):
        config.pop(key, None)
    config |= {
        "architectures": [type(base.skeleton).__name__],
        "model_type": base.config.model_type,
        "dtype": dtype,
        # Its default differs from program to program.
        "tie_word_embeddings": is_tied,
        "eos_token_id": conversation.end_id,
    }
    if base.config.model_type == "falcon":
        # Not in the files of Falcon-7B, and vLLM would read tokens beyond it.
        config["max_position_embeddings"] = base.config.max_position_embeddings
        # Falcon-11B's differs from the default, and transformers before 5 reads it here alone.
        config["rope_theta"] = base.config.rope_parameters["rope_theta"]
        if base.config.multi_query and not base.config.new_decoder_architecture:
            # transformers takes it from `multi_query`; llama.cpp's converter would read one head for each query head.
            config["num_kv_heads"] = 1
    _write(folder / "config.json", config)
    ends = [conversation.end_id, *conversation.stop_ids]
    bos, pad = getattr(base.config, "bos_token_id", None), getattr(base.config, "pad_token_id", None)
    _write(
        folder / "generation_config.json",
        {
            **({} if bos is None else {"bos_token_id": bos}),
            "eos_token_id": ends[0] if len(ends) == 1 else ends,
            "pad_token_id": conversation.end_id if pad is None else pad,
            "do_sample": False,
        },
    )


def write_tokenizer(folder: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    """Write the tokenizer so that older programs read it too: transformers 5 names a class that 4 does not know."""
    tokenizer.save_pretrained(str(folder))
    path = folder / "tokenizer_config.json"
    settings = json.loads(path.read_text(encoding="utf-8"))
    for key in _LOCAL:
        settings.pop(key, None)
    if settings.get("tokenizer_class") == "TokenizersBackend":
        settings["tokenizer_class"] = "PreTrainedTokenizerFast"
    _write(path, settings)


def write_record(folder: Path, adapter: Path, conversation: Conversation, export: dict[str, Any]) -> None:
    """Write falconer.json: what prompts look like, and what this export was made of.

    Args:
        adapter: what its own record says beside is kept.
    """
    own = {} if is_missing(adapter / RECORD) else read_object(adapter / RECORD, "Use another checkpoint.")
    record = own | {
        "template_sha256": template_sha256(str(conversation.tokenizer.chat_template)),
        "prompt_format": dataclasses.asdict(conversation.format),
        "falconer": runtime.metadata_version("falconer"),
        "export": export,
    }
    _write(folder / RECORD, record)


def stated_license(folder: Path) -> str | None:
    """Return the licence that a model's README.md states at its head, as the hub reads it; None without one."""
    try:
        head = read_text(folder / "README.md", "").split("---")
        stated = yaml_value(head[1]) if len(head) > 2 and not head[0].strip() else None
    except (FalconerError, NotPlainYaml):
        return None
    license = stated.get("license") if isinstance(stated, dict) else None
    return license if isinstance(license, str) and license else None


def _write(path: Path, tree: dict[str, Any]) -> None:
    path.write_text(json.dumps(tree, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
