"""Rounding a base model's weights to NF4: quantising and dequantising them with bitsandbytes, on any device."""

from typing import Any

import torch
from torch import nn
from transformers import Conv1D
from transformers.quantizers.base import HfQuantizer
from transformers.quantizers.quantizers_utils import should_convert_module

from falconer.model.bnb import bnb


def quantised_weights(skeleton: Any) -> frozenset[str]:
    """Return the names of the weights that loading in 4 bits quantises: all linear layers but the head.

    Args:
        skeleton: the base model, without weights.
    """
    kept = HfQuantizer.get_modules_to_not_convert(skeleton, None, skeleton._keep_in_fp32_modules)
    # Falcon's linear layers are of a subclass, which `load_model` has quantised as well.
    linear = (nn.Linear, *(type(m) for m in skeleton.modules() if type(m).__name__ == "FalconLinear"))
    return frozenset(
        f"{path}.weight"
        for path, module in skeleton.named_modules()
        if (isinstance(module, Conv1D) or type(module) in linear) and should_convert_module(path, kept)
    )


def through_nf4(weight: torch.Tensor, *, transposed: bool) -> torch.Tensor:
    """Return a weight after NF4 with double quantisation (QLoRA, arXiv:2305.14314), in the format that it came in.

    Args:
        transposed: the weight of a Conv1D, which is quantised the other way round.
    """
    laid = (weight.T if transposed else weight).contiguous()
    packed, state = bnb.functional.quantize_4bit(laid, blocksize=64, compress_statistics=True, quant_type="nf4")
    back: torch.Tensor = bnb.functional.dequantize_4bit(packed, state)
    return back.T if transposed else back
