"""The learning-rate schedule: warm-up and cosine decay, as a function of the step."""

import math


def learning_rate(step: int, num_steps: int, warmup_steps: int, peak: float) -> float:
    """Return the rate for optimiser step `step` (from 0): a linear warm-up to `peak`, then a cosine down to zero."""
    if step < warmup_steps:
        return peak * (step + 1) / warmup_steps
    done = (step - warmup_steps) / max(1, num_steps - warmup_steps)
    return peak * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))
