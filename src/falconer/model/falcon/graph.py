"""Recording GPU work as a CUDA graph, which is then replayed with a single launch."""

from collections.abc import Callable

import torch


def recorded(step: Callable[[], object], device: torch.device) -> torch.cuda.CUDAGraph:
    """Record a step as a CUDA graph. All its inputs and outputs must be in tensors that are not reallocated."""
    aside = torch.cuda.Stream(device)
    aside.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(aside):
        # Kernels are compiled and libraries loaded by the first run, which is not possible while recording.
        for _ in range(2):
            step()
    torch.cuda.current_stream(device).wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    return graph
