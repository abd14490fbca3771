"""Whatever PEFT puts on a model takes part in every path: losses, gradients and replies against PEFT's own forward."""

import numpy as np
import pytest
import torch
from peft import (
    IA3Config,
    LNTuningConfig,
    LoraConfig,
    PrefixTuningConfig,
    PromptTuningConfig,
    VeraConfig,
    get_peft_model,
)
from torch.nn import functional as F
from transformers import AutoModelForCausalLM

from engines import ask, engine_of, requests
from falcon_tiny import VOCAB, awkward_batch
from falconer.model.engine import Decoding, Request
from falconer.model.falcon.attach import enable
from falconer.model.falcon.layout import backbone_of, why_generic
from falconer.model.likelihood import target_nll
from falconer.model.lora_targets import quiet_about_layers
from falconer.model.output_head import head_of
from falconer.model.tokenizer import load_tokenizer
from falconer.records import Example
from tiny import config_of

# PEFT comments on what these adapters can't do elsewhere.
pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.filterwarnings("ignore:::peft")]

HEADS = {"falcon": "lm_head", "llama": "lm_head", "gpt_neox": "lm_head"}
EMBEDDINGS = {"falcon": "word_embeddings", "llama": "embed_tokens", "gpt_neox": "embed_in"}
ATTENTION = {"falcon": "query_key_value", "llama": "q_proj", "gpt_neox": "query_key_value"}


def adapted(architecture, config, vocab=VOCAB, end_id=11):
    """Return a frozen model with an adapter that does something."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config_of(architecture, vocab, end_id)).requires_grad_(False)
    with quiet_about_layers():
        model = get_peft_model(model, config)
    generator = torch.Generator().manual_seed(1)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and "lora_" in name and "magnitude" not in name:
            parameter.data = 0.1 * torch.randn(parameter.shape, generator=generator)
    return model.eval()


def lora(*targets, **options):
    return LoraConfig(r=4, lora_alpha=8, target_modules=list(targets) or None, task_type="CAUSAL_LM", **options)


def mixtures(architecture):
    attention, head, embedding = (names[architecture] for names in (ATTENTION, HEADS, EMBEDDINGS))
    return [
        lora(attention, head), lora(embedding), lora(attention, head, embedding), lora(head),
        lora(attention, modules_to_save=[head]), lora(attention, use_dora=True), lora(attention, use_rslora=True),
        lora(attention, bias="lora_only", trainable_token_indices=awkward_batch().ids[0, :2].tolist()),
    ]  # fmt: skip


CASES = [(name, number) for name in HEADS for number in range(8)]


def of_peft(model, batch):
    """Return likelihoods of all targets, row by row, through the whole model's own forward pass."""
    found = []
    for ids, is_target, length in zip(batch.ids, batch.is_target, batch.lengths, strict=True):
        row = torch.from_numpy(ids[:length])
        logits = model(input_ids=row.unsqueeze(0)).logits[0, -length:]
        every = F.cross_entropy(logits[:-1], row[1:], reduction="none")
        found.append(every[torch.from_numpy(is_target[1:length])])
    return torch.cat(found)


def gradients(model, nll):
    model.zero_grad(set_to_none=True)
    nll.sum().backward()
    return {name: p.grad for name, p in model.named_parameters() if p.requires_grad}


@pytest.mark.parametrize(("architecture", "number"), CASES)
def test_loss_and_gradient_are_pefts_own(architecture, number):
    model, batch = adapted(architecture, mixtures(architecture)[number]), awkward_batch()
    if not why_generic(model):
        enable(model)
    ours = target_nll(model, batch, head_on_targets=head_of(model))
    found = gradients(model, ours)
    backbone_of(model).__dict__.pop("forward", None)
    peft = of_peft(model, batch)
    torch.testing.assert_close(ours, peft, rtol=1e-4, atol=1e-4)
    for name, expected in gradients(model, peft).items():
        torch.testing.assert_close(found[name], expected, rtol=1e-3, atol=1e-4, msg=name)
        assert found[name].abs().sum() > 0, name


def likelihoods_are_pefts(engine, model, batch):
    """Compare an engine's likelihoods with PEFT's own forward pass, and return them."""
    examples = [
        Example(ids[:length].astype(np.int32), is_target[:length], "d", (), (), ())
        for ids, is_target, length in zip(batch.ids, batch.is_target, batch.lengths, strict=True)
    ]
    ours = torch.from_numpy(np.concatenate(engine.likelihoods(examples)))
    with torch.no_grad():
        torch.testing.assert_close(ours, of_peft(model, batch).double(), rtol=1e-4, atol=1e-4)
    return ours


@pytest.mark.parametrize(("architecture", "number"), CASES)
def test_evaluation_ranking_and_replies_are_pefts_own(architecture, number):
    tokenizer, end_id = load_tokenizer("falcon-mini")
    model = adapted(architecture, mixtures(architecture)[number], len(tokenizer), end_id)
    engine = engine_of(model)
    assert engine.why.startswith(why_generic(model) or "the model has Falcon-7B's layout")
    likelihoods_are_pefts(engine, model, awkward_batch())
    prompts, decoding = [[300 + 7 * index for index in range(length)] for length in (3, 12)], Decoding(6)
    replies = ask(engine, requests(prompts, decoding))
    for index, prompt in enumerate(prompts):
        ids = list(prompt)
        with torch.no_grad():
            for _ in range(6):
                ids.append(int(model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1].argmax()))
                if ids[-1] in engine.stops:
                    break
        assert replies[index] == list(engine.conversation().reply(Request(prompt, decoding))) == ids[len(prompt) :]
        scores = engine.rank([prompt], [[[400, 401], [402]]])
        with torch.no_grad():
            row = torch.tensor([[*prompt, 400, 401, end_id]])
            logits = model(input_ids=row).logits[0].log_softmax(1)
        expected = sum(float(logits[place - 1, row[0, place]]) for place in range(len(prompt), row.shape[1]))
        np.testing.assert_allclose(scores[0].sums[0], expected, rtol=1e-4)


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        (lora("query_key_value", "lm_head"), "adapter on lm_head, and it only supports LoRA on the blocks'"),
        (lora("word_embeddings"), "there is an adapter on transformer.word_embeddings"),
        (lora("query_key_value", modules_to_save=["ln_f"]), "there is an adapter on transformer.ln_f"),
        (lora("query_key_value", trainable_token_indices=[3]), "there is an adapter on transformer.word_embeddings"),
        (lora("query_key_value", bias="all"), "transformer.h.0.input_layernorm.bias is trained"),
        (lora("query_key_value", target_parameters=["dense.weight"]), "not a plain LoRA but peft.tuners.lora"),
        (lora("query_key_value", lora_bias=True), "not a plain LoRA"),
        (IA3Config(task_type="CAUSAL_LM", target_modules=["dense"], feedforward_modules=[]), "peft.tuners.ia3"),
        (VeraConfig(task_type="CAUSAL_LM", r=2, target_modules=["dense"]), "peft.tuners.vera"),
        (LNTuningConfig(task_type="CAUSAL_LM", target_modules=["ln_f"]), "of PEFT type LN_TUNING"),
        (PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3), "of PEFT type PROMPT_TUNING"),
        (PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3), "of PEFT type PREFIX_TUNING"),
    ],
)  # fmt: skip
def test_what_the_fast_path_does_not_know_it_names(config, reason):
    assert reason in why_generic(adapted("falcon", config))


@pytest.mark.parametrize("kind", [PromptTuningConfig, PrefixTuningConfig])
def test_a_learned_prompt_stands_before_every_text(kind):
    tokenizer, end_id = load_tokenizer("falcon-mini")
    model = adapted("llama", kind(task_type="CAUSAL_LM", num_virtual_tokens=3), len(tokenizer), end_id)
    batch = awkward_batch()
    assert not head_of(model)
    ours = target_nll(model, batch, head_on_targets=None)
    torch.testing.assert_close(ours, of_peft(model, batch), rtol=1e-4, atol=1e-4)
    with torch.no_grad(), model.disable_adapter():
        assert not torch.allclose(ours, of_peft(model, batch), rtol=1e-4)
    ids = prompt = [300, 307, 314]
    with torch.no_grad():
        for _ in range(5):
            ids = [*ids, int(model(input_ids=torch.tensor([ids])).logits[0, -1].argmax())]
    decoding = Decoding(5, stops=())
    engine = engine_of(model)
    assert list(engine.conversation().reply(Request(prompt, decoding))) == ids[3:]
    assert ask(engine, [Request(prompt, decoding)]) == [ids[3:]]


def test_two_adapters_at_once_both_count():
    model, batch = adapted("falcon", lora("query_key_value")), awkward_batch()
    model.add_adapter("second", lora("dense"))
    for name, parameter in model.named_parameters():
        if "second" in name:
            parameter.data = 0.1 * torch.randn(parameter.shape)
    one = of_peft(model, batch)
    assert why_generic(model) == ""
    model.base_model.set_adapter(["default", "second"])
    engine = engine_of(model)
    assert engine.path == "fast"
    ours = likelihoods_are_pefts(engine, model, batch)
    assert not torch.allclose(ours, one.double(), rtol=1e-4)
