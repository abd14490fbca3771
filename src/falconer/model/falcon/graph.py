"""Work on a GPU that is recorded once as a CUDA graph, and then replayed by a single launch."""

from collections.abc import Callable

import torch


def recorded(step: Callable[[], object], device: torch.device) -> torch.cuda.CUDAGraph:
    """Record work on a GPU, all of whose inputs and results are in tensors that stay, so that it can be replayed."""
    aside = torch.cuda.Stream(device)
    aside.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(aside):
        # Kernels are compiled and libraries opened by the first run; neither can happen while recording.
        for _ in range(2):
            step()
    torch.cuda.current_stream(device).wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    return graph
