"""What a token carries: the log-probabilities that its request asked for, and no others."""

import pytest

from falconer.model.generate.running import as_said
from falconer.model.request import Decoding, Request, Said

VALUES, IDS = [-0.1, -0.5, -2.0], [7, 3, 5]


@pytest.mark.parametrize(
    ("num", "expected"),
    [
        (None, Said(3)),
        (0, Said(3, -0.5)),
        (2, Said(3, -0.5, ((7, -0.1), (3, -0.5)))),
        (20, Said(3, -0.5, ((7, -0.1), (3, -0.5), (5, -2.0)))),
    ],
)
def test_a_token_has_as_many_as_were_asked_for(num, expected):
    request = Request([1], Decoding(num_logprobs=num))
    assert as_said(request, 3, -0.5, VALUES, IDS) == expected
