"""Are five steps here five steps of transformers.Trainer, where the two mean the same by "the loss"?

They do where every dialogue has equally many target tokens and no padding. Everything on the other side is stock:
model, PEFT adapter, AdamW, cosine schedule, clipping, and what the Trainer makes of a loss.
"""

import json
import random

import pytest
import torch
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict
from safetensors.torch import load_file
from torch.utils.data import SequentialSampler
from transformers import AutoModelForCausalLM, Trainer, TrainingArguments

from falconer.data.prompt import PromptFormat
from falconer.model.load import load_model
from falconer.train import setup
from falconer.train.steps import plan_steps
from small_runs import WORDS, steps

NUM_STEPS = 5
PER_STEP = 4


@pytest.fixture(scope="module")
def equal_dialogues(tmp_path_factory):
    """Dialogues of two exchanges of six words each, in words that are one token: all are equally long."""
    rng = random.Random(11)
    path = tmp_path_factory.mktemp("equal") / "equal.jsonl"

    def words():
        return " ".join(rng.choices(WORDS, k=6))

    rows = []
    for index in range(NUM_STEPS * PER_STEP):
        turns = [{"speaker": speaker, "text": words()} for _ in range(2) for speaker in ("partner", "self")]
        rows.append(json.dumps({"id": f"equal-{index}", "persona": [words()], "turns": turns}))
    path.write_text("\n".join(rows) + "\n", encoding="utf-8")
    return path


class InOrder(Trainer):
    """The stock Trainer on data in its given order, remembering each step's loss before rounding."""

    def _get_train_sampler(self, train_dataset=None):
        return SequentialSampler(self.train_dataset)

    def training_step(self, *args, **kwargs):
        loss = super().training_step(*args, **kwargs)
        self.losses = [*getattr(self, "losses", []), float(loss)]
        return loss


def test_five_steps_equal_the_trainers(small, equal_dialogues, tmp_path):
    base = load_model(str(small.model), quantization="none", dtype="fp32", device="cpu")
    config = small.config(f"data.train={equal_dialogues}")
    examples = setup.encode_splits(setup.load_dialogues(config), base, config, PromptFormat())
    length = examples.lengths[0]
    assert set(examples.lengths) == {length}
    assert len({example.num_targets for example in examples.train}) == 1

    overrides = (
        f"data.train={equal_dialogues}", "train.epochs=1", f"train.max_steps={NUM_STEPS}",
        f"train.step_tokens={PER_STEP * length}", f"train.micro_tokens={2 * length}", "train.warmup_share=0",
        "train.weight_decay=0.01", "train.clip_norm=0.05", "train.validate_every=5",
    )  # fmt: skip
    small.run(tmp_path / "run", *overrides)
    plan = plan_steps(examples.lengths, small.config(*overrides).train)
    assert [len(step.dialogues) for step in plan] == [PER_STEP] * NUM_STEPS

    rows = []
    for step in plan:
        for index in step.dialogues:
            ids = torch.from_numpy(examples.train[index].ids.astype("int64"))
            labels = ids.where(torch.from_numpy(examples.train[index].is_target), -100)
            rows.append({"input_ids": ids, "labels": labels})
    model = AutoModelForCausalLM.from_pretrained(small.model, dtype=torch.float32)
    torch.manual_seed(17)
    model = get_peft_model(
        model,
        LoraConfig(r=4, lora_alpha=8, lora_dropout=0.0, target_modules=["query_key_value"], task_type="CAUSAL_LM"),
    )
    trainer = InOrder(
        model=model,
        train_dataset=rows,
        args=TrainingArguments(
            output_dir=str(tmp_path / "trainer"), use_cpu=True, num_train_epochs=1, per_device_train_batch_size=2,
            gradient_accumulation_steps=2, learning_rate=5e-3, lr_scheduler_type="cosine", warmup_steps=0,
            weight_decay=0.01, adam_beta2=0.999, max_grad_norm=0.05, optim="adamw_torch", save_strategy="no",
            logging_strategy="no", report_to=[], disable_tqdm=True, dataloader_pin_memory=False,
        ),
    )  # fmt: skip
    trainer.train()
    assert trainer.state.global_step == NUM_STEPS

    ours = steps(tmp_path / "run")
    assert all(row["grad_norm"] > 0.05 for row in ours), "clipping was never at work"
    theirs = [sum(trainer.losses[2 * step : 2 * step + 2]) for step in range(NUM_STEPS)]
    assert [row["loss"] for row in ours] == pytest.approx(theirs, abs=1e-5)
    saved = load_file(tmp_path / "run" / "checkpoints" / "last" / "adapter_model.safetensors")
    expected = get_peft_model_state_dict(model)
    assert saved.keys() == expected.keys()
    for name, tensor in saved.items():
        torch.testing.assert_close(tensor, expected[name], rtol=0, atol=1e-5)
