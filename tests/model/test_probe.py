"""What models do with pads, caches and later tokens, and that replies don't depend on it."""

import pytest
import torch
from falconer.model.generate.replies import Decoding, generate_replies, stream_reply
from transformers import (
    AutoModelForCausalLM,
    BertConfig,
    GPT2Config,
    LlamaConfig,
    MambaConfig,
    RecurrentGemmaConfig,
    RwkvConfig,
)

from falconer.data.encode import Encoder
from falconer.errors import FalconerError
from falconer.model.generate.cut import finish
from falconer.model.probe import check_causal, how_to_batch, keeps_cache
from falconer.model.tokenizer import load_tokenizer

pytestmark = pytest.mark.usefixtures("one_thread")

PROMPTS = [[300 + 7 * index for index in range(length)] for length in (3, 21, 5, 9, 5)]
SIZES = {"hidden_size": 32, "num_hidden_layers": 2}
HEADS = {"intermediate_size": 64, "num_attention_heads": 2}
TOKENIZER, END = load_tokenizer("falcon-mini")
VOCAB = len(TOKENIZER)


def config_of(kind, vocab=VOCAB):
    ends = {"vocab_size": vocab, "eos_token_id": END, "bos_token_id": END, "pad_token_id": END}
    return {
        "gpt2": lambda: GPT2Config(n_embd=32, n_layer=2, n_head=2, n_positions=64, **ends),
        "llama": lambda: LlamaConfig(**SIZES, **HEADS, **ends),
        "mamba": lambda: MambaConfig(**SIZES, state_size=8, **ends),
        "rwkv": lambda: RwkvConfig(**SIZES, attention_hidden_size=32, **ends),
        "recurrent_gemma": lambda: RecurrentGemmaConfig(
            **SIZES | HEADS | ends | {"num_hidden_layers": 3}, lru_width=32, attention_window_size=64
        ),
        "bert": lambda: BertConfig(**SIZES, **HEADS, **ends),
    }[kind]()  # fmt: skip


def model_of(kind, vocab=VOCAB):
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config_of(kind, vocab)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(4)
    return model


def encoder():
    return Encoder(TOKENIZER.backend_tokenizer.to_str(), END, 64)


@pytest.mark.parametrize(
    ("kind", "way", "cache"),
    [
        ("gpt2", "padded", True), ("llama", "padded", True), ("mamba", "padded", False), ("rwkv", "alone", False),
        ("recurrent_gemma", "equal", False),
    ],
)  # fmt: skip
def test_what_they_do_with_pads_and_caches(kind, way, cache):
    model = model_of(kind)
    assert how_to_batch(model, PROMPTS[0], 21, END, None) == way
    assert keeps_cache(model, PROMPTS[0], None) == cache
    check_causal(model)


@pytest.mark.parametrize("penalty", [1.0, 1.3])
@pytest.mark.parametrize("kind", ["gpt2", "mamba", "rwkv", "recurrent_gemma"])
def test_a_reply_does_not_depend_on_its_batch_and_is_what_is_streamed(kind, penalty):
    model, decoding = model_of(kind), Decoding(max_new_tokens=6, repetition_penalty=penalty)

    def replies(size):
        found = generate_replies(model, TOKENIZER, encoder(), PROMPTS, decoding, batch_size=size, autocast=None)
        return dict(found)

    whole = replies(5)
    assert whole == replies(2) == replies(1) and len({reply.text for reply in whole.values()}) > 1
    for index, prompt in enumerate(PROMPTS):
        ids = list(stream_reply(model, encoder(), prompt, decoding, None))
        assert finish(TOKENIZER, ids, encoder()) == whole[index]


@pytest.mark.parametrize("kind", ["mamba", "rwkv"])
def test_greedy_without_a_cache_is_what_reading_everything_again_says(kind):
    model, ids = model_of(kind), list(PROMPTS[3])
    with torch.no_grad():
        for _ in range(5):
            ids.append(int(model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1].argmax()))
    assert list(stream_reply(model, encoder(), PROMPTS[3], Decoding(5), None)) == ids[len(PROMPTS[3]) :]


def test_what_is_drawn_depends_on_the_seed_where_a_reply_comes_whole():
    model = model_of("mamba")
    one, again, other = (
        list(stream_reply(model, encoder(), PROMPTS[3], Decoding(12, temperature=1.0, seed=seed), None))
        for seed in (1, 1, 2)
    )
    assert one == again != other


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("kind", ["gpt2", "mamba"])
def test_ids_behind_the_tokenizers_are_never_said(kind, temperature):
    model = model_of(kind, VOCAB + 6)
    head, forward = model.get_output_embeddings(), model.get_output_embeddings().forward
    head.forward = lambda hidden: forward(hidden).index_add_(
        -1, torch.arange(VOCAB, VOCAB + 6), torch.full((*hidden.shape[:-1], 6), 100.0)
    )
    decoding = Decoding(8, temperature=temperature)
    for prompt in PROMPTS[:2]:
        ids = list(stream_reply(model, encoder(), prompt, decoding, None))
        assert ids and max(ids) < VOCAB
    found = generate_replies(model, TOKENIZER, encoder(), PROMPTS, decoding, batch_size=5, autocast=None)
    assert all(reply.text for _, reply in found)


def test_a_model_that_reads_ahead_is_no_causal_one():
    with pytest.raises(FalconerError, match="type bert reads ahead"):
        check_causal(model_of("bert"))
