"""Which adapter each row of a batch uses: rows of several adapters in one pass, or one adapter after the other.

PEFT can compute a batch whose rows use different LoRAs, as long as they are plain ones: its argument `adapter_names`.
The names are passed to the layers here, since PEFT's own way leaves them behind when a pass breaks off, does not know
MPT, and looks through all modules at each token.
"""

from falconer.model.bnb import bnb as _bnb  # noqa: F401  before peft

# isort: split
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

from peft import LoraConfig, PeftModel, PeftType
from peft.tuners.lora import LoraLayer
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.other import AuxiliaryTrainingWrapper

from falconer.model.lora import without_adapter

BASE = "__base__"  # PEFT's name for the base alone
# The adapted layers whose forward pass looks at the rows' names; others refuse them or are not known to.
_NAMED = ("Linear", "Embedding", "Linear4bit", "Linear8bitLt")


def why_apart(model: Any) -> str:
    """Return why rows of several adapters can't be computed in one pass; "" if they can."""
    if not isinstance(model, PeftModel):
        return ""
    for name, config in model.peft_config.items():
        if not isinstance(config, LoraConfig):
            return f"the adapter '{name}' is of type {PeftType(config.peft_type).value}"
        if config.bias != "none" or config.modules_to_save or config.trainable_token_indices:
            return f"the adapter '{name}' changes more than its LoRA's layers"
        if config.layer_replication:
            return f"the adapter '{name}' replicates layers"
    for path, module in model.named_modules():
        if isinstance(module, AuxiliaryTrainingWrapper):
            return f"{path} is replaced as a whole"
        if isinstance(module, BaseTunerLayer):
            if not isinstance(module, LoraLayer) or type(module).__name__ not in _NAMED:
                return f"{path} is a {type(module).__name__}"
            if ".experts." in path:
                return f"{path} only sees the tokens that are routed to it"
            if module.lora_variant or any(module.use_dora.values()):
                return f"{path} has more than a plain LoRA"
            if module.merged:
                return f"the adapter is merged into {path}"
    return ""


class RowAdapters:
    """Sets the adapters for a pass; the model is afterwards as it was.

    Attributes:
        names: the adapters that are loaded.
        why_apart: why the rows of a pass must have the same adapter; "" if they need not, as far as the types say.
        has_learned_prompt: an adapter is a learned prompt, which only PEFT's forward pass adds to the text.
    """

    def __init__(self, model: Any) -> None:
        self._model, self.why_apart = model, why_apart(model)
        self.names: tuple[str, ...] = tuple(model.peft_config) if isinstance(model, PeftModel) else ()
        self._layers: list[Any] = [module for module in model.modules() if isinstance(module, LoraLayer)]
        self.has_learned_prompt = any(model.peft_config[name].is_prompt_learning for name in self.names)

    @contextmanager
    def of(self, names: Sequence[str | None]) -> Iterator[None]:
        """Have each row of a batch use its adapter, where there is no reason in `why_apart`.

        Args:
            names: None: the base alone.
        """
        named = [BASE if name is None else name for name in names]
        hooks = [layer.register_forward_pre_hook(partial(_name, named), with_kwargs=True) for layer in self._layers]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    @contextmanager
    def only(self, name: str | None) -> Iterator[None]:
        """Have all rows use one adapter; None: the base alone."""
        model = self._model
        if name is not None and name == model.active_adapter:
            yield
            return
        # PEFT makes the weights of an adapter trainable whenever it is switched on.
        frozen = [parameter for parameter in model.parameters() if not parameter.requires_grad]
        try:
            with without_adapter(model) if name is None else self._switched(name):
                yield
        finally:
            for parameter in frozen:
                parameter.requires_grad_(False)

    @contextmanager
    def _switched(self, name: str) -> Iterator[None]:
        before = self._model.active_adapter
        self._model.set_adapter(name)
        try:
            yield
        finally:
            self._model.set_adapter(before)


def _name(names: list[str], module: Any, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    return args, {**kwargs, "adapter_names": names}
