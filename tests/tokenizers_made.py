"""Tokenizers of the kinds that people's models have, made from little text, as folders with a tiny model."""

import json
from collections.abc import Callable
from pathlib import Path

import torch
from tokenizers import (
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

from falconer.data.sources import SAMPLE, load_dialogues

# As Llama 3 and Qwen split text: punctuation takes the line breaks behind it.
_LLAMA_3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_BYTES = [f"<0x{byte:02X}>" for byte in range(256)]


def corpus() -> list[str]:
    """Return real sentences, cased and not, with the template's words."""
    texts = [turn.text for d in load_dialogues(SAMPLE, split="valid").dialogues[:30] for turn in d.turns]
    whole = [f"Persona:\n- {text}\nUser: {text}\nAssistant: {text.capitalize()}\n" for text in texts]
    return whole + [" ".join(chr(code) for code in range(33, 127))]


def byte_level(template: str = "$A", *, regex: str | None = None, prefix: bool = False) -> Tokenizer:
    """Return a tokenizer like GPT-2's, or with `regex` like Llama 3's."""
    made = Tokenizer(models.BPE())
    split = pre_tokenizers.ByteLevel(add_prefix_space=prefix)
    if regex:
        split = pre_tokenizers.Sequence([
            pre_tokenizers.Split(Regex(regex), "isolated"), pre_tokenizers.ByteLevel(False, use_regex=False)
        ])  # fmt: skip
    made.pre_tokenizer, made.decoder = split, decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    options = {"special_tokens": ["<s>", "</s>"], "initial_alphabet": alphabet, "show_progress": False}
    made.train_from_iterator(corpus(), trainers.BpeTrainer(vocab_size=700, **options))
    made.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=False), _adds(template, made)])
    return made


def sentencepiece(template: str, *, prefix: str) -> Tokenizer:
    """Return a BPE tokenizer whose spaces are "▁".

    Args:
        prefix: where one is put before a text: "legacy" (Llama 2: behind special tokens as well), "first", or "never"
            (Gemma).
    """
    made = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    first = ["<unk>", "<s>", "</s>", *_BYTES]
    made.normalizer = normalizers.Replace(" ", "▁")
    made.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
    made.train_from_iterator(corpus(), trainers.BpeTrainer(vocab_size=900, special_tokens=first, show_progress=False))
    made.pre_tokenizer = None
    if prefix == "legacy":
        made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    elif prefix == "first":
        made.normalizer = None
        made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    made.decoder = decoders.Sequence([
        decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(),
        *([] if prefix == "never" else [decoders.Strip(" ", 1, 0)]),
    ])  # fmt: skip
    made.post_processor = _adds(template, made)
    # The trainer takes the bytes for special tokens, which they are not.
    tree = json.loads(made.to_str())
    tree["added_tokens"] = [token for token in tree["added_tokens"] if not token["content"].startswith("<0x")]
    return Tokenizer.from_str(json.dumps(tree))


def unigram(template: str) -> Tokenizer:
    """Return a tokenizer like XGLM's: NFKC, white space collapsed."""
    made = Tokenizer(models.Unigram())
    made.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace(Regex(r"\s+"), " ")])
    made.pre_tokenizer, made.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    special = ["<s>", "</s>", "<unk>"]
    trainer = trainers.UnigramTrainer(vocab_size=500, special_tokens=special, unk_token="<unk>", show_progress=False)
    made.train_from_iterator(corpus(), trainer)
    made.post_processor = _adds(template, made)
    return made


def word_piece(template: str) -> Tokenizer:
    """Return a tokenizer like BERT's: lower case, no accents, no white space."""
    made = Tokenizer(models.WordPiece(unk_token="<unk>"))
    made.normalizer, made.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    made.decoder = decoders.WordPiece()
    trainer = trainers.WordPieceTrainer(vocab_size=900, special_tokens=["<s>", "</s>", "<unk>"], show_progress=False)
    made.train_from_iterator(corpus(), trainer)
    made.post_processor = _adds(template, made)
    return made


# The model types' tokenizers, as their makers publish them; OPT's puts its end token before a text.
MADE: dict[str, Callable[[], Tokenizer]] = {
    "llama": lambda: sentencepiece("<s> $A", prefix="legacy"),
    "mistral": lambda: sentencepiece("<s> $A", prefix="first"),
    "gemma2": lambda: sentencepiece("<s> $A", prefix="never"),
    "gemma3_text": lambda: sentencepiece("<s> $A", prefix="never"),
    "qwen2": lambda: byte_level(regex=_LLAMA_3),
    "smollm3": lambda: byte_level("<s> $A", regex=_LLAMA_3),
    "opt": lambda: byte_level("</s> $A"),
    "gpt2": lambda: byte_level(prefix=True),
    "stablelm": lambda: byte_level(),
    "phi3": lambda: sentencepiece("<s> $A </s>", prefix="legacy"),
    "xglm": lambda: unigram("</s> $A"),
    "cohere": lambda: byte_level("<s> $A </s>"),
    "gpt_neox": lambda: word_piece("<s> $A </s>"),
}


def fast(made: Tokenizer) -> PreTrainedTokenizerFast:
    """Return it as transformers has it."""
    unk = "<unk>" if made.token_to_id("<unk>") is not None else None
    return PreTrainedTokenizerFast(tokenizer_object=made, bos_token="<s>", eos_token="</s>", unk_token=unk)


def save_made(folder: Path, architecture: str, tokenizer: PreTrainedTokenizerFast | None = None) -> Path:
    """Write a tiny model of random weights (seed 0) and its kind of tokenizer, or the one given."""
    tokenizer = tokenizer or fast(MADE[architecture]())
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "max_position_embeddings": 512}
    other = {"opt": {"ffn_dim": 64, "word_embed_proj_dim": 32}, "xglm": {"d_model": 32, "ffn_dim": 64, "num_layers": 2}}
    if architecture not in other:
        sizes["intermediate_size"] = 64
    if architecture not in ("opt", "xglm", "gpt2", "gpt_neox"):
        sizes["num_key_value_heads"] = 1
    if architecture.startswith("gemma"):
        sizes["head_dim"] = 16
    config = AutoConfig.for_model(
        architecture, vocab_size=len(tokenizer), bos_token_id=0, eos_token_id=1, pad_token_id=1,
        **(sizes | other.get(architecture, {})),
    )  # fmt: skip
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def _adds(template: str, made: Tokenizer) -> processors.TemplateProcessing:
    special = [(token, made.token_to_id(token)) for token in ("<s>", "</s>")]
    return processors.TemplateProcessing(single=template, pair=f"{template} $B", special_tokens=special)
