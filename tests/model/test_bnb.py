"""Is bitsandbytes imported without fetching code and without talking?"""

import subprocess
import sys

CODE = """
import builtins, sys
sys.modules["kernels"] = probe = type(sys)("kernels")
from falconer.model.bnb import bnb
assert sys.modules["kernels"] is probe, "a package that was there before is gone"
assert bnb.nn.Linear4bit and bnb.functional.quantize_4bit
"""


def test_its_import_prints_nothing_and_leaves_the_package_kernels_alone() -> None:
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
