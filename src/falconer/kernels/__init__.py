"""The operations of the fast path: `reference.py` in plain torch, and one file per fused Triton kernel.

`reference` and `fused` are modules with the same functions: the first runs on any device and in any float dtype and is
the oracle for the second, which runs on CUDA (and, in tests, on the CPU by Triton's interpreter).

How to read a kernel here, once for all files:

- **Grid.** `kernel[grid](...)` starts one program for each point of `grid`; `tl.program_id(axis)` is a program's place
  in it. Where a comment says "grid (M,)", program 5 has row 5; "grid (M / BLOCK_M, N / BLOCK_N)", rounded up, is one
  program for each tile of the result.
- **Tiles and masks.** `tl.arange(0, BLOCK)` is a vector of offsets, and BLOCK must be a power of two; where a size is
  none, a mask keeps loads and stores inside, and `other` is what is read outside.
- **Arguments.** A tensor arrives as a pointer to its first element, without its shape: all are contiguous, row-major,
  unless a stride stands beside them. `tl.constexpr` arguments (widths, switches, tile sizes) are compiled in, each set
  of values into a kernel of its own; what changes from batch to batch, the number of rows above all, is an ordinary
  number, so that no batch has to wait for a compiler. The docstring gives each tensor its shape, by the legend on top
  of the file, and its format where that is fixed; the others are in the weights' own.
- **Dummy pointers.** A kernel has all its pointers in every call. Where a switch (`adds`, `plain`, `quantised`,
  `normed`, `pair`, `nested`, `packed`) is off, the pointers that it guards are never read or written, and some other
  tensor of the call stands in their place.
- **Row offsets** are int64: rows times width is beyond 2^31 for a large batch.
- `input_precision="ieee"` keeps fp32 inputs of `tl.dot` whole where the tests run in fp32; for bf16 it changes nothing.
"""
