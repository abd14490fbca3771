"""Replacing layers of a model for training, if the model gives the same as before, and putting them back.

    what is stored of a layer     stock, under autocast             here
    linear layer with LoRA        input in bf16, mask, 2 x R        input, or what it is made from; R
    RMS norm                      input in fp32                     input
    gated MLP                     gate, activation, up, product     gate, up

The forward methods of single modules are set and taken away again. Classes are unchanged, and a call of a linear layer
that is not one of training's (another adapter, further arguments) goes to PEFT's own forward pass.

Without autocast everything between the layers stays in the dtype of the weights, too: the residual stream above all.

Shapes: B batch, T tokens, D hidden, V vocabulary.
"""

from collections.abc import Iterator
from typing import Any

import torch
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.other import AuxiliaryTrainingWrapper
from torch import nn
from torch.nn import functional as F

from falconer import runtime
from falconer.model.layers.gated_mlp import PARTS, OwnGatedMlp, mlp_of
from falconer.model.layers.lora_linear import OwnLoraLinear, Refresh, why_not_own
from falconer.model.layers.ops import ops_of
from falconer.model.layers.rms_norm import OwnRmsNorm, norm_of
from falconer.model.lora import trainable_tensors

_OWN = (OwnLoraLinear, OwnRmsNorm, OwnGatedMlp)
# The attributes of a backbone that hold the hook which `replace_layers` has set, and what it calls.
_HOOK, _REFRESH = "_own_layers_hook", "_own_layers_refresh"
_NEAR_IN_BF16 = 0.3
_TEST_TOKENS = 12


def replace_layers(model: PeftModel, autocast: torch.dtype | None) -> str:
    """Replace the layers that training can compute itself; return why it can't, "" if they are replaced.

    Args:
        model: with a LoRA; it is set up as for the generic path.
        autocast: the dtype of the run's precision, as the stock layers would need it for `runtime.autocast`.
    """
    restore_layers(model)
    reason = why_not_replaced(model, autocast)
    if reason:
        return reason
    before = _tried(model, autocast)
    dtype = next(iter(_dtypes(model)))
    _set(model, dtype)
    try:
        after = _tried(model, None)
    except (RuntimeError, TypeError, ValueError) as error:  # whatever a model raises that relies on autocast
        restore_layers(model)
        return f"without autocast it fails ({type(error).__name__})"
    if not all(_are_near(one, other, dtype) for one, other in zip(before, after, strict=True)):
        restore_layers(model)
        return "together, they give another result than the model's own"
    return ""


def restore_layers(model: Any) -> None:
    """Give all modules their own forward methods again."""
    for module in model.modules():
        if isinstance(module.__dict__.get("forward"), _OWN):
            del module.__dict__["forward"]
        if hook := module.__dict__.pop(_HOOK, None):
            hook.remove()
            del module.__dict__[_REFRESH]


def has_own_layers(model: Any) -> bool:
    """Return whether `replace_layers` has replaced layers of a model."""
    return _HOOK in _backbone(model).__dict__


def refresh_of(model: Any) -> Refresh:
    """Return what is done before each pass of a model that has falconer's own layers."""
    found: Refresh = _backbone(model).__dict__[_REFRESH]
    return found


def why_not_replaced(model: Any, autocast: torch.dtype | None) -> str:
    """Return why not all that is trained can be computed here; "" if it can, see `replace_layers`."""
    if not isinstance(model, PeftModel) or _backbone(model) is model.get_base_model():
        return "the model has no adapter, or no backbone of its own"
    owned: set[int] = set()
    for module in model.modules():
        if isinstance(module, LoraLayer):
            reason = why_not_own(module)
            if reason:
                return reason
            owned |= {id(parameter) for parameter in module.parameters()}
        elif isinstance(module, (BaseTunerLayer, AuxiliaryTrainingWrapper)):
            return f"it has an adapter of type {type(module).__name__}"
    if any(id(parameter) not in owned for parameter in trainable_tensors(model).values()):
        return "more than LoRAs on linear layers is trained"
    dtypes = _dtypes(model)
    if len(dtypes) != 1 or (autocast and dtypes != {autocast}):
        return f"its weights are in {' and '.join(sorted(str(one).removeprefix('torch.') for one in dtypes))}"
    return ""


def _are_near(one: torch.Tensor, other: torch.Tensor, dtype: torch.dtype) -> bool:
    """Return whether two results differ by rounding alone, which adds up over many blocks; NaN is never near.

    In bf16 gradients of a dozen blocks differ by a tenth however they are computed, and a layer that computes something
    else makes all the difference.
    """
    error = (one.float() - other.float()).norm() / one.float().norm()
    return bool(error < (_NEAR_IN_BF16 if dtype == torch.bfloat16 else torch.finfo(torch.float32).eps ** 0.5))


def _dtypes(model: Any) -> set[torch.dtype]:
    """Return the dtypes of the frozen weights that are not quantised."""
    parameters = model.get_base_model().parameters()
    return {one.dtype for one in parameters if one.is_floating_point() and not one.requires_grad}


def _set(model: Any, dtype: torch.dtype) -> None:
    """Set the forward methods of all layers that a test of each one shows to be understood."""
    ops = ops_of(next(model.parameters()).device)
    # The parts are tested before any of them is replaced.
    found: list[tuple[Any, Any]] = []
    for module in _modules(model):
        own: Any = mlp_of(module, ops, dtype) or norm_of(module, ops)
        if own is not None:
            found.append((module, own))
    _install(model, found, dtype)


def assume_layers(model: Any) -> None:
    """Set the forward methods of all layers as `replace_layers` would, going by their structure: on the meta device."""
    ops, dtype = ops_of(next(model.parameters()).device), next(iter(_dtypes(model)))
    found: list[tuple[Any, Any]] = []
    for module in _modules(model):
        parts = {name for name, _ in module.named_children()}
        if parts == PARTS:
            found.append((module, OwnGatedMlp(module, ops, "silu")))
        elif type(module).__name__.endswith("RMSNorm") and len(list(module.parameters())) == 1:
            found.append((module, OwnRmsNorm(module, ops, 1e-6, 0.0)))
    _install(model, found, dtype)


def _install(model: Any, found: list[tuple[Any, Any]], dtype: torch.dtype) -> None:
    ops, linears = ops_of(next(model.parameters()).device), []
    for module in model.modules():
        if isinstance(module, LoraLayer):
            linears.append(OwnLoraLinear(module, ops, dtype))
            found.append((module, linears[-1]))
    for module, own in found:
        module.forward = own
    backbone = _backbone(model)
    refresh = Refresh(linears)
    backbone.__dict__[_HOOK], backbone.__dict__[_REFRESH] = backbone.register_forward_pre_hook(refresh), refresh
    refresh()


def _modules(model: Any) -> Iterator[nn.Module]:
    """Yield the modules of the backbone that may be a norm or an MLP."""
    for module in _backbone(model).modules():
        if not isinstance(module, (nn.Linear, nn.Embedding, nn.LayerNorm, nn.ModuleList, BaseTunerLayer)):
            yield module


def _backbone(model: Any) -> Any:
    base = model.get_base_model() if isinstance(model, PeftModel) else model
    return base.base_model


def _test_ids(embedding_VD: torch.Tensor) -> torch.Tensor:
    """Return the first token ids that have an embedding, int64 [12].

    Padding may have none, only zeros, and behind a norm of zeros gradients grow with each layer until they overflow.
    """
    ids = embedding_VD[: 4 * _TEST_TOKENS].abs().amax(dim=1).nonzero().flatten()
    return ids[torch.arange(_TEST_TOKENS, device=ids.device) % len(ids)]


def _tried(model: Any, autocast: torch.dtype | None) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the hidden states of a short text, and the gradients of all that is trained, without dropout."""
    was_training = model.training
    model.eval()
    parameters = list(trainable_tensors(model).values())
    device = parameters[0].device
    ids_BT = _test_ids(model.get_input_embeddings().weight).view(2, -1)
    try:
        with torch.enable_grad(), runtime.autocast(device.type, autocast):
            hidden_BTD = _backbone(model)(input_ids=ids_BT, use_cache=False).last_hidden_state
            # Any direction does; a mean would be zero behind a LayerNorm.
            weights_D = torch.randn(hidden_BTD.shape[-1], generator=torch.Generator().manual_seed(0)).to(device)
            loss = F.softplus(hidden_BTD.float() @ weights_D).sum()
        grads = torch.autograd.grad(loss, parameters, allow_unused=True)
    finally:
        model.train(was_training)
    return hidden_BTD.detach(), torch.cat([g.flatten().float() for g in grads if g is not None])
