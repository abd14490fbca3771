"""The learning-rate schedule: warm-up and cosine decay, as a function of the step, and a peak for a model's size."""

import math

# The smallest model whose rate was measured: falcon-mini.
SMALLEST = 17_000_000


def peak_for(num_parameters: int) -> float:
    """Return a peak learning rate for a LoRA on all linear layers of a base model with so many parameters.

    It falls with the power 0.38 of the size, which goes through three rates: 2e-3 and 7e-4, the best of several for
    falcon-mini and for Gemma-3-270M (docs/LOG.md), and QLoRA's 2e-4 for 7B. Rounded to one digit.
    """
    rate = 2e-4 * (7e9 / max(num_parameters, SMALLEST)) ** 0.38
    return float(f"{rate:.0e}")


def learning_rate(step: int, num_steps: int, warmup_steps: int, peak: float) -> float:
    """Return the rate for optimiser step `step` (from 0): a linear warm-up to `peak`, then a cosine down to zero."""
    if step < warmup_steps:
        return peak * (step + 1) / warmup_steps
    done = (step - warmup_steps) / max(1, num_steps - warmup_steps)
    return peak * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))
