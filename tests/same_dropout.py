"""torch's dropout with the masks that falconer draws on a CPU, so that its layers can be compared with stock ones."""

import pytest
import torch
from torch.nn import functional as F

from falconer.kernels import reference


def draw_as_falconer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let nn.Dropout draw its masks from the same numbers as falconer, in the same order."""

    def dropout(x: torch.Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> torch.Tensor:
        if not training or not p:
            return x
        mask = reference.sample_dropout(x.numel() // x.shape[-1], x.shape[-1], p, x.device).mask
        assert isinstance(mask, torch.Tensor)
        return x * mask.view(x.shape) / (1 - p)

    monkeypatch.setattr(F, "dropout", dropout)
