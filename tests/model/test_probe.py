"""What models do with pads, caches and later tokens, and that replies don't depend on it."""

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    BertConfig,
    GPT2Config,
    LlamaConfig,
    MambaConfig,
    RecurrentGemmaConfig,
    RwkvConfig,
)

from engines import alone, ask, engine_of, mini_encoder, requests
from falconer.errors import FalconerError
from falconer.model.engine import Decoding, Request
from falconer.model.probe import check_causal, how_to_batch, keeps_cache
from falconer.model.tokenizer import load_tokenizer

pytestmark = pytest.mark.usefixtures("one_thread")

PROMPTS = [[300 + 7 * index for index in range(length)] for length in (3, 21, 5, 9, 5)]
MIXED = [
    Decoding(9, stops=()),
    Decoding(1, temperature=0.8),
    Decoding(6, temperature=1.5, top_p=0.95, repetition_penalty=1.3, seed=2, stops=()),
    Decoding(4, stops=tuple(range(0, 10000, 3))),
    Decoding(6, temperature=1.0, top_k=20, seed=2),
]
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


def asked(model):
    return engine_of(model, mini_encoder(64))


def streamed(engine, request):
    return list(engine.conversation().reply(request))


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
    engine, decoding = asked(model_of(kind)), Decoding(max_new_tokens=6, repetition_penalty=penalty)
    wanted = requests(PROMPTS, decoding)
    whole = ask(engine, wanted, 5)
    assert whole == ask(engine, wanted, 2) == alone(engine, wanted) and len(set(map(tuple, whole))) > 1
    assert [streamed(engine, request) for request in wanted] == whole
    mixed = [Request(prompt, one, 3 * n) for n, (prompt, one) in enumerate(zip(PROMPTS, MIXED, strict=True))]
    by_itself = alone(engine, mixed)
    assert ask(engine, mixed, 5) == ask(engine, mixed[::-1], 3)[::-1] == by_itself
    assert [streamed(engine, request) for request in mixed] == by_itself
    assert [len(reply) for reply in by_itself][:2] == [9, 1]


@pytest.mark.parametrize("kind", ["mamba", "rwkv"])
def test_greedy_without_a_cache_is_what_reading_everything_again_says(kind):
    model, ids = model_of(kind), list(PROMPTS[3])
    with torch.no_grad():
        for _ in range(5):
            ids.append(int(model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1].argmax()))
    assert streamed(asked(model), Request(PROMPTS[3], Decoding(5, stops=()))) == ids[len(PROMPTS[3]) :]


def test_what_is_drawn_depends_on_the_seed_where_a_reply_comes_whole():
    model = model_of("mamba")
    engine = asked(model)
    one, again, other = (
        streamed(engine, Request(PROMPTS[3], Decoding(12, temperature=1.0, seed=seed))) for seed in (1, 1, 2)
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
    engine = asked(model)
    for prompt in PROMPTS[:2]:
        ids = streamed(engine, Request(prompt, decoding))
        assert ids and max(ids) < VOCAB
    assert all(reply.text for _, reply in engine.replies(requests(PROMPTS, decoding)))


def test_a_model_that_reads_ahead_is_no_causal_one():
    with pytest.raises(FalconerError, match="type bert. is not causal"):
        check_causal(model_of("bert"))
