"""Attention is called as in the pass before: without a mask where there was none, with one where there was one."""

import pytest
import torch
from torch.nn import functional as F

from falconer.train.same_masks import Masked, NoteMasks, SameMasks


def test_attention_has_the_masks_that_it_had_before() -> None:
    query, key, value = (torch.randn(2, heads, 6, 8) for heads in (4, 2, 2))
    repeated = [one.repeat_interleave(2, dim=1) for one in (key, value)]
    window = torch.ones(6, 6, dtype=torch.bool).tril().triu(-2)
    noted: list[Masked] = []
    with NoteMasks(noted):
        plain = F.scaled_dot_product_attention(query, key, value, is_causal=True, enable_gqa=True, scale=0.3)
        within = F.scaled_dot_product_attention(query, *repeated, attn_mask=window, scale=0.3)
        also = F.scaled_dot_product_attention(query, query, query)
    mask = torch.ones(2, 1, 6, 6, dtype=torch.bool).tril()
    with SameMasks(noted):
        torch.testing.assert_close(
            F.scaled_dot_product_attention(query, *repeated, attn_mask=mask, scale=0.3), plain, rtol=1e-6, atol=1e-6
        )
        assert torch.equal(F.scaled_dot_product_attention(query, *repeated, attn_mask=window, scale=0.3), within)
        assert torch.equal(F.scaled_dot_product_attention(query, query, query), also)
        with pytest.raises(RuntimeError, match="more often than before"):
            F.scaled_dot_product_attention(query, query, query)
