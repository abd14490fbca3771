"""Fields: the same declaration checks a value and describes it, so the two agree on every value."""

from typing import Any

import jsonschema_rs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from falconer.talk.server.errors import ApiError
from falconer.talk.server.fields import (
    Field,
    Flag,
    Ignored,
    Model,
    Number,
    Only,
    Part,
    Stops,
    object_schema,
    read_fields,
)  # fmt: skip

FIELDS: tuple[Field, ...] = (
    Number("whole", "", -2, 5, is_whole=True), Number("real", "", 0, 2, above=True), Flag("flag", ""),
    Model(("a", "b/c")), Stops("stop", most=2, most_characters=3), Only("only", (0, {}, "x", [False]), "of nothing"),
    Ignored("ignored"), Part("part", "", (Flag("inner", ""), Number("n", "", 1, 1, is_whole=True))),
)  # fmt: skip
NUMBERS = st.one_of(st.integers(-4, 7), st.floats(-3, 7, width=16), st.sampled_from([0.0, 5.0, 2.0, 10**30, 1e300]))
LEAVES = st.one_of(st.none(), st.booleans(), NUMBERS, st.sampled_from(["", "x", "a", "b/c", "abc", "abcd"]))
VALUES = st.recursive(LEAVES, lambda inner: st.one_of(
    st.lists(inner, max_size=3), st.dictionaries(st.sampled_from(["inner", "n", "other"]), inner, max_size=2),
), max_leaves=5)  # fmt: skip
BODIES = st.dictionaries(st.sampled_from([*(field.name for field in FIELDS), "unknown"]), VALUES, max_size=2)
FITS = jsonschema_rs.validator_for(object_schema(FIELDS, ("model",)))


@given(BODIES)
def test_what_the_schema_says_is_what_is_accepted(body: dict[str, Any]) -> None:
    body = {"model": "a", **body}
    try:
        read = read_fields(body, FIELDS, ("model",))
    except ApiError as error:
        assert not FITS.is_valid(body), error
        assert error.status in (400, 404) and error.param
    else:
        assert FITS.is_valid(body)
        assert set(read) == {name for name, value in body.items() if value is not None}
        assert type(read.get("whole", 1)) is int and type(read.get("real", 0.5)) is float


@pytest.mark.parametrize("value", [float("nan"), float("inf"), "1", None, True, [], 5.5, 6])
def test_a_number_is_a_number_within_bounds(value: Any) -> None:
    with pytest.raises(ApiError, match="allowed: an integer from -2 to 5"):
        FIELDS[0].read(value, "whole")


def test_messages_do_not_repeat_long_values() -> None:
    with pytest.raises(ApiError) as caught:
        FIELDS[0].read("a" * 10_000, "whole")
    assert len(caught.value.message) < 200
