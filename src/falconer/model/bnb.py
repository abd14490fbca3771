"""Importing bitsandbytes without downloads and warnings.

On CPUs with AVX512-BF16 it downloads a kernel from the hub if the package `kernels` is installed, and warns if it is
not. We run no remote code and do not use that kernel (it has no backward pass), so its import is made to fail silently.
Modules that import peft import this one first, because peft imports bitsandbytes too.
"""

import importlib
import logging
import sys
from typing import Any


def _import_quietly() -> Any:
    logger = logging.getLogger("bitsandbytes.backends.cpu.ops")
    level, kernels = logger.level, sys.modules.get("kernels")
    logger.setLevel(logging.ERROR)
    sys.modules["kernels"] = None  # type: ignore[assignment]
    try:
        return importlib.import_module("bitsandbytes")
    finally:
        logger.setLevel(level)
        del sys.modules["kernels"]
        if kernels is not None:
            sys.modules["kernels"] = kernels


bnb: Any = _import_quietly()
