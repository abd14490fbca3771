"""The embedded model: its shape is the 7B's, its files are small and whole, and it knows some English."""

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerFast

import falconer

FOLDER = Path(falconer.__file__).parent / "assets" / "falcon-mini"
NUM_PARAMETERS = 17_653_248
MAX_BYTES = 36_000_000
END = "<|endoftext|>"

# Written for this test, so no corpus holds it.
DIALOGUE = """A: Have you ever been to Italy?
B: No, but I would love to go there one day. Have you?
A: Yes, I went to Rome with my family last summer. The food was great!
B: That sounds like fun. What did you eat?
A: We had pizza and pasta almost every day, and a lot of ice cream.
B: I love pizza. My sister makes a very good one at home.
A: Lucky you! Do you like to cook?
B: A little. I can make soup, but I am not very good at it."""


@pytest.fixture(scope="module")
def model() -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(FOLDER, dtype=torch.float32).eval()


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return AutoTokenizer.from_pretrained(FOLDER)


def test_layout_is_falcon_7b_s(model: PreTrainedModel) -> None:
    config = model.config
    assert type(model).__name__ == "FalconForCausalLM"
    assert (config.multi_query, config.parallel_attn, config.new_decoder_architecture) == (True, True, False)
    assert (config.bias, config.alibi, config.activation, config.num_kv_heads) == (False, False, "gelu", 1)
    assert config.max_position_embeddings == 2048 and config.pad_token_id is None
    layer = model.transformer.h[0]
    head_size = config.hidden_size // config.num_attention_heads
    assert layer.self_attention.query_key_value.weight.shape == (config.hidden_size + 2 * head_size, config.hidden_size)
    assert [name for name, _ in layer.named_children()] == ["self_attention", "mlp", "input_layernorm"]


def test_size_and_tied_embedding(model: PreTrainedModel) -> None:
    assert sum(p.numel() for p in model.parameters()) == NUM_PARAMETERS
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    assert 2 * NUM_PARAMETERS < (FOLDER / "model.safetensors").stat().st_size <= MAX_BYTES


def test_weights_are_bf16_and_finite() -> None:
    with safe_open(FOLDER / "model.safetensors", framework="pt") as file:
        for name in file.keys():  # noqa: SIM118 (no mapping)
            tensor = file.get_tensor(name)
            assert tensor.dtype == torch.bfloat16 and tensor.isfinite().all(), name


def test_linear_sizes_fit_nf4_blocks(model: PreTrainedModel) -> None:
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear):
            assert module.in_features % 64 == 0 and module.out_features % 64 == 0, name


def test_end_token_is_the_same_everywhere(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> None:
    assert tokenizer.eos_token == tokenizer.bos_token == END and tokenizer.pad_token is None
    assert tokenizer.convert_tokens_to_ids(END) == tokenizer.eos_token_id
    assert model.config.eos_token_id == model.config.bos_token_id == tokenizer.eos_token_id
    generation = json.loads((FOLDER / "generation_config.json").read_text(encoding="utf-8"))
    assert generation["eos_token_id"] == tokenizer.eos_token_id
    assert len(tokenizer) == model.config.vocab_size
    assert tokenizer(END).input_ids == [tokenizer.eos_token_id]


@settings(max_examples=200, deadline=None)
@given(text=st.text(max_size=80))
def test_any_text_survives_the_tokenizer(tokenizer: PreTrainedTokenizerFast, text: str) -> None:
    ids = tokenizer.encode(text, add_special_tokens=False)
    assert tokenizer.decode(ids) == text


@pytest.mark.parametrize(
    "text", ["i do not , it ' s fine .", "  two  spaces\n\n\ttab \r\n", "naïve 東京 🦅 2024", "A :B ?!"]
)
def test_text_is_not_cleaned_up(tokenizer: PreTrainedTokenizerFast, text: str) -> None:
    assert tokenizer.decode(tokenizer(text).input_ids) == text


def test_english_is_likelier_than_chance(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> None:
    ids = torch.tensor([tokenizer(DIALOGUE).input_ids])
    with torch.no_grad():
        nats = float(model(ids, labels=ids).loss)
        shuffled = ids[:, torch.randperm(ids.shape[1], generator=torch.Generator().manual_seed(1))]
        nats_shuffled = float(model(shuffled, labels=shuffled).loss)
    assert nats < 2.0  # 1.79 when it was made; a uniform guess is 9.23
    assert nats_shuffled > nats + 3


def test_greedy_answer_is_english(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> None:
    prompt = torch.tensor([tokenizer("A: Hi! How are you today?\nB:").input_ids])
    out = model.generate(
        prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=40, do_sample=False, pad_token_id=0
    )
    answer = tokenizer.decode(out[0, prompt.shape[1] :]).split(END)[0].split("\n")[0].strip()
    words = answer.lower().replace("'", " ").split()
    assert 2 <= len(words) <= 30, answer
    assert {"i", "am", "good", "well", "fine", "great", "you"} & {word.strip(".,!?") for word in words}, answer
