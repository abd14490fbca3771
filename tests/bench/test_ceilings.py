"""Does the ceiling count each matrix product of a block once, forward and input gradient?"""

import torch

from falconer.bench import ceilings

SHAPE = {"hidden_size": 64, "num_attention_heads": 4, "num_hidden_layers": 3}


def test_the_time_of_eight_products_is_that_of_a_layer(monkeypatch) -> None:
    flops = []

    def median_s(step, device, runs, warmup):
        x = step()
        flops.append(tuple(x.shape))
        return 0.5

    monkeypatch.setattr(ceilings.runtime, "median_s", median_s)
    found = ceilings.linear_ceiling(SHAPE, 10, torch.device("cpu"), torch.float32)
    # Eight products of half a second, three layers, ten tokens.
    assert found == 10 / (3 * 8 * 0.5)
    # query_key_value, dense, the MLP's two: outputs forward, inputs backward.
    assert flops == [(10, 96), (10, 64), (10, 64), (10, 64), (10, 256), (10, 64), (10, 64), (10, 256)]
