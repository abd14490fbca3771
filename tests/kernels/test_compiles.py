"""Do the kernels compile for the cards that people have, and fit into their shared memory?"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# Shared memory of a block in bytes, CUDA C++ Programming Guide, "Technical Specifications per Compute Capability".
KIB = 1024
CARDS = [
    ("86", "bf16", 99 * KIB),  # RTX 3090
    ("89", "fp8", 99 * KIB),  # RTX 4090, L4, L40S
    ("90", "fp8", 227 * KIB),  # H100, H200
]
KERNELS = {
    name
    for path in (ROOT / "src" / "falconer" / "kernels").glob("*.py")
    for name in re.findall(r"^ +(_\w+)\[", path.read_text(encoding="utf-8"), re.MULTILINE)
}


@pytest.mark.parametrize(("capability", "precision", "limit"), CARDS)
def test_every_kernel_compiles_and_fits(capability, precision, limit, tmp_path):
    environment = os.environ | {
        "TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(tmp_path), "PYTHONPATH": str(ROOT / "src")
    }  # fmt: skip
    result = subprocess.run(
        [sys.executable, str(ROOT / "tests" / "compiled_for.py"), capability, precision],
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr[-2000:]
    shared = json.loads(result.stdout.splitlines()[-1])
    expected = KERNELS if precision == "fp8" else KERNELS - {"_quantise"}
    assert set(shared) == expected
    assert max(shared.values()) <= limit, shared
