"""llama.cpp itself reads what is written: the same token ids, the same logits, the same greedy replies.

`pip install llama-cpp-python` builds it from source in some minutes (cmake and a C++ compiler are needed).
"""

import importlib.util
import json
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from exported import LINEAR, logits_of, save_adapter_on
from falconer.data.prompt import PromptFormat
from falconer.model.export.gguf import About, write_gguf, write_gguf_adapter
from falconer.model.export.gguf_vocabulary import sample_conversations
from falconer.model.export.merge import merge_adapter
from falconer.model.tokenizer import load_tokenizer, resolve
from tokenizers_made import save_made

pytestmark = [
    pytest.mark.llama_cpp,
    pytest.mark.skipif(importlib.util.find_spec("llama_cpp") is None, reason="llama-cpp-python is not installed"),
    pytest.mark.usefixtures("one_thread"),
]
ABOUT = About("Tiny")
# In a process of its own: llama.cpp ends the process where it fails.
PROGRAM = """
import json, sys
import numpy as np
from llama_cpp import Llama
asked = json.load(open(sys.argv[1]))
model = Llama(asked["model"], lora_path=asked["lora"], n_ctx=512, logits_all=True, verbose=False, n_threads=1)
ids = [model.tokenize(text.encode(), add_bos=False, special=True) for text in asked["texts"]]
logits = []
for prompt in asked["prompts"]:
    model.reset()
    model.eval(prompt)
    logits.append(np.array(model.scores[: len(prompt)]))
replies = []
for prompt in asked["prompts"] if asked["num_new"] else []:
    model.reset()
    reply = []
    for token in model.generate(prompt, temp=0.0, repeat_penalty=1.0):
        reply.append(token)
        if len(reply) == asked["num_new"] or token in asked["stops"]:
            break
    replies.append(reply)
model.close()
np.savez(asked["out"], *logits)
print(json.dumps({"ids": ids, "replies": replies}))
"""


def ask(folder, model, prompts=(), *, texts=(), lora=None, num_new=0, stops=()):
    """Return llama.cpp's logits of each prompt, its token ids of each text, and its greedy replies."""
    asked = {
        "model": str(model), "lora": lora and str(lora), "prompts": list(prompts), "texts": list(texts),
        "num_new": num_new, "stops": list(stops), "out": str(folder / "logits.npz"),
    }  # fmt: skip
    (folder / "asked.json").write_text(json.dumps(asked))
    command = [sys.executable, "-c", PROGRAM, str(folder / "asked.json")]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, f"llama.cpp ended with {result.returncode}: {result.stderr}"
    found = json.loads(result.stdout.splitlines()[-1])
    with np.load(folder / "logits.npz") as held:
        logits = [torch.from_numpy(held[name]).float() for name in held.files]
    return logits, found["ids"], found["replies"]


@pytest.fixture(scope="module")
def mini(tmp_path_factory):
    """falcon-mini with an adapter of random values, merged: the folder, and the adapter's."""
    return merged(tmp_path_factory.mktemp("mini"), resolve("falcon-mini"), ["query_key_value"])


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    """The same of a Llama, whose queries and keys GGUF has in another order."""
    root = tmp_path_factory.mktemp("llama")
    save_random(root / "base", "Llama")
    return merged(root, root / "base", LINEAR["llama"])


def merged(root, base, layers):
    save_adapter_on(base, root / "adapter", target_modules=layers, r=8)
    merge_adapter(str(base), root / "adapter", root / "merged", format=PromptFormat(), device="cpu")
    return root


def prompts_of(folder, number):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    texts = [text[: text.rindex("\nAssistant:") + 11] for text in sample_conversations(tokenizer)[:number]]
    return [tokenizer(text, add_special_tokens=False).input_ids[-200:] for text in texts]


def greedy(model, prompt, num_new):
    """Return transformers' own greedy reply."""
    made = model.generate(
        torch.tensor([prompt]), attention_mask=torch.ones(1, len(prompt)), max_new_tokens=num_new, do_sample=False
    )
    return made[0, len(prompt) :].tolist()


@pytest.mark.parametrize(
    ("model", "type", "same", "divergence"),
    [
        ("mini", "f16", 0.995, 1e-4),
        ("mini", "q8_0", 0.97, 5e-3),
        # Its weights are random: the likeliest token has 0.2 % on average, so that more calls are close.
        ("llama", "f16", 0.99, 1e-5),
        ("llama", "q8_0", 0.9, 2e-3),
    ],
)
def test_predictions_and_greedy_replies(request, tmp_path, model, type, same, divergence):
    folder = request.getfixturevalue(model) / "merged"
    write_gguf(folder, tmp_path / "model.gguf", type, ABOUT)
    prompts = prompts_of(folder, 4)
    plain = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    stops = plain.generation_config.eos_token_id
    logits, _, replies = ask(tmp_path, tmp_path / "model.gguf", prompts, num_new=24, stops=stops)
    agree, distance, places, equal = 0, 0.0, 0, 0
    for prompt, theirs, reply in zip(prompts, logits, replies, strict=True):
        ours = logits_of(folder, torch.tensor([prompt]))[0]
        agree += int((ours.argmax(-1) == theirs.argmax(-1)).sum())
        distance += float(torch.nn.functional.kl_div(theirs.log_softmax(-1), ours.softmax(-1), reduction="sum"))
        places += len(prompt)
        equal += greedy(plain, prompt, 24) == reply
    assert agree / places >= same and distance / places <= divergence
    # In q8_0 llama.cpp rounds what goes into each product as well, so that close calls come out otherwise.
    assert equal == len(prompts) or type == "q8_0"


# falcon-mini's merged weights are rounded to bf16.
@pytest.mark.parametrize(("model", "rounding"), [("mini", 0.3), ("llama", 0.02)])
def test_an_adapter_on_its_base(request, tmp_path, model, rounding):
    root = request.getfixturevalue(model)
    base = root / "base" if model == "llama" else Path(resolve("falcon-mini"))
    write_gguf(base, tmp_path / "base.gguf", "f32", ABOUT)
    write_gguf_adapter(str(base), root / "adapter", tmp_path / "lora.gguf", "f32", ABOUT)
    (prompt,) = prompts_of(root / "merged", 1)
    ours = logits_of(root / "merged", torch.tensor([prompt]))[0].log_softmax(-1)
    (theirs,), _, _ = ask(tmp_path, tmp_path / "base.gguf", [prompt], lora=tmp_path / "lora.gguf")
    (without,), _, _ = ask(tmp_path, tmp_path / "base.gguf", [prompt])
    assert (theirs.log_softmax(-1) - ours).abs().max() < rounding < (without.log_softmax(-1) - ours).abs().max()


SIZES = {"hidden_size": 128, "num_hidden_layers": 3, "num_attention_heads": 4, "max_position_embeddings": 256}
GROUPED = {"intermediate_size": 192, "num_key_value_heads": 2}
WIDE = GROUPED | {"head_dim": 64}
LLAMA_3 = {"rope_type": "llama3", "rope_theta": 1e4, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
           "original_max_position_embeddings": 64}  # fmt: skip
MODELS = {
    "Falcon, one key head": ("falcon", {"multi_query": True, "bias": False}),
    "Falcon, a key head each": ("falcon", {"multi_query": False, "bias": False}),
    "Falcon 40B": ("falcon", {"new_decoder_architecture": True, "num_kv_heads": 2, "bias": False}),
    "Falcon 11B": ("falcon", {"new_decoder_architecture": True, "num_kv_heads": 2, "num_ln_in_parallel_attn": 1}),
    "Falcon, untied": ("falcon", {"tie_word_embeddings": False}),
    "Llama": ("llama", GROUPED),
    "Llama 3, with biases": ("llama", GROUPED | {"rope_parameters": LLAMA_3, "attention_bias": True}),
    "Llama, stretched": (
        "llama", GROUPED | {"rope_parameters": {"rope_type": "linear", "rope_theta": 1e4, "factor": 4.0}},
    ),
    "Mistral": ("mistral", WIDE | {"sliding_window": None}),
    "Qwen 2": ("qwen2", GROUPED),
    "Qwen 3": ("qwen3", WIDE),
    "Gemma": ("gemma", WIDE),
    "Gemma 2": ("gemma2", WIDE | {"query_pre_attn_scalar": 64, "sliding_window": 32}),
    "Gemma 3": ("gemma3_text", WIDE | {"query_pre_attn_scalar": 64, "sliding_window": 32}),
    "GPT-2": ("gpt2", {}),
    "GPT-NeoX": ("gpt_neox", {"intermediate_size": 192, "rotary_pct": 0.5}),
    "GPT-NeoX, one after the other": ("gpt_neox", {"intermediate_size": 192, "use_parallel_residual": False}),
    "GPT-NeoX, tied": ("gpt_neox", {"intermediate_size": 192, "tie_word_embeddings": True}),
}  # fmt: skip


def save_random(folder, name):
    """Save a model of random weights with falcon-mini's tokenizer, and return it with its end token."""
    kind, settings = MODELS[name]
    tokenizer, end_id = load_tokenizer("falcon-mini")
    ends = {"bos_token_id": end_id, "eos_token_id": end_id, "pad_token_id": None}
    config = AutoConfig.for_model(kind, vocab_size=len(tokenizer), **(SIZES | ends | settings))
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            # Larger than a fresh model's, so that attention is not even and no norm is one.
            parameter.copy_(parameter * 4 if parameter.ndim > 1 else parameter + torch.randn_like(parameter) * 0.1)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return model, end_id


@pytest.mark.parametrize("name", MODELS)
def test_every_architecture_has_the_same_logits(tmp_path, name):
    model, end_id = save_random(tmp_path / "model", name)
    write_gguf(tmp_path / "model", tmp_path / "model.gguf", "f32", ABOUT)
    prompt = torch.randint(1, model.config.vocab_size, (100,)).tolist()
    ours = logits_of(tmp_path / "model", torch.tensor([prompt]))[0].log_softmax(-1)
    (theirs,), _, (reply,) = ask(tmp_path, tmp_path / "model.gguf", [prompt], num_new=16, stops=[end_id])
    assert ours.std() > 0.5 and (theirs.log_softmax(-1) - ours).abs().max() < 0.02
    assert reply == greedy(model.eval(), prompt, 16)


def strange_texts(number):
    """Return texts of words, digits, signs, white space and other scripts in any order."""
    draw = random.Random(17)
    pieces = [
        "hello", "World", "I'm", "YOU'LL", " ", "  ", "   ", "\n", "\n\n", "\t", "1", "23", "456", "7890", ".", ",",
        "!?", "$", "<b>", "—", "“", "é", "e\u0301", "你好", "Привет", "😀", "²", "½", "_", "'s", "User:", "\r\n",
        "ß", "नमस्ते",
    ]  # fmt: skip
    return ["".join(draw.choices(pieces, k=draw.randint(1, 12))) for _ in range(number)]


def test_falcon_minis_token_ids(mini, tmp_path):
    write_gguf(mini / "merged", tmp_path / "model.gguf", "f16", ABOUT)
    tokenizer = AutoTokenizer.from_pretrained(mini / "merged")
    texts = sample_conversations(tokenizer) + strange_texts(500)
    expected = [tokenizer(text, add_special_tokens=False).input_ids for text in texts]
    assert ask(tmp_path, tmp_path / "model.gguf", texts=texts)[1] == expected


@pytest.mark.parametrize("kind", ["llama", "mistral", "gemma2", "gemma3_text", "qwen2"])
def test_other_kinds_token_ids(tmp_path, kind):
    base = save_made(tmp_path / "base", kind)
    save_adapter_on(base, tmp_path / "adapter", target_modules=LINEAR["llama"])
    config = json.loads((base / "config.json").read_text())
    if config.get("query_pre_attn_scalar"):
        (base / "config.json").write_text(json.dumps(config | {"query_pre_attn_scalar": config["head_dim"]}))
    merge_adapter(str(base), tmp_path / "adapter", tmp_path / "merged", device="cpu")
    write_gguf(tmp_path / "merged", tmp_path / "model.gguf", "f16", ABOUT)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "merged")
    texts = sample_conversations(tokenizer)
    assert len(texts) == 50
    expected = [tokenizer(text, add_special_tokens=False).input_ids for text in texts]
    assert ask(tmp_path, tmp_path / "model.gguf", texts=texts)[1] == expected
