"""The Falcon fast path's operations: `reference.py` in plain torch, and one file of Triton per fused operation.

`reference` and `fused` are modules of the same functions: the first runs on any device and in any float format and is
the oracle of the second, which runs on CUDA (and, in tests, on the CPU by Triton's interpreter).
"""
