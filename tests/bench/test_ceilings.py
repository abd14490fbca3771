"""Does the ceiling count each matrix product of a block once, forward and input gradient?"""

import pytest
import torch

from falconer.bench import ceilings

SHAPE = {"hidden_size": 64, "num_attention_heads": 4, "num_hidden_layers": 3}
GROUPED = {"new_decoder_architecture": True, "num_kv_heads": 2, "ffn_hidden_size": 192}


@pytest.mark.parametrize(
    ("changes", "widths"),
    [({}, (96, 64, 64, 64, 256, 64, 64, 256)), (GROUPED, (128, 64, 64, 64, 192, 64, 64, 192))],
)
def test_the_time_of_eight_products_is_that_of_a_layer(changes, widths, monkeypatch) -> None:
    flops = []

    def median_s(step, device, runs, warmup):
        x = step()
        flops.append(tuple(x.shape))
        return 0.5

    monkeypatch.setattr(ceilings.runtime, "median_s", median_s)
    found = ceilings.linear_ceiling(SHAPE | changes, 10, torch.device("cpu"), torch.float32)
    # Eight products of half a second, three layers, ten tokens.
    assert found == 10 / (3 * 8 * 0.5)
    # query_key_value, dense, the MLP's two: outputs forward, inputs backward.
    assert flops == [(10, width) for width in widths]
