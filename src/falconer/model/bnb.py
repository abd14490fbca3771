"""bitsandbytes, imported so that it neither fetches code nor talks.

On CPUs with AVX512-BF16 it fetches a kernel from the hub when the package `kernels` is installed, and warns when it is
not. We run no remote code and do not use that kernel (it has no backward pass), so its import is made to fail quietly.
Whoever imports peft imports this first, because peft imports bitsandbytes too.
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
