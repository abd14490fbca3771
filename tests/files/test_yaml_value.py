"""YAML is read as plain data; what multiplies, names types or nests without end is refused at once."""

import time
import tracemalloc

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from falconer.files.yaml_value import NotPlainYaml, yaml_value

NAMES = st.text("abcdefghij_-. é我", min_size=1, max_size=8)
PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**12), 10**12) | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=8,
)
LAUGHS = "evaluate:\n- &a0 [lol, lol]\n" + "".join(
    f"- &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 12)
)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (LAUGHS, "line 3: it has an alias (*a0)"),
        ("a: &x 1\nb: *x\n", "line 2: it has an alias"),
        ("base: {<<: {a: 1}}", "type merge"),
        ("model: {revision: 2024-11-01}", "type timestamp; if it is a text, write it in quotes: '2024-11-01'"),
        ("model: {revision: 2024-13-01}", "type timestamp"),
        ("model: {name: !!timestamp x}", "the tag tag:yaml.org,2002:timestamp"),
        ("a: !!binary aGk=", "the tag tag:yaml.org,2002:binary"),
        ("a: !!python/object/apply:os.system [id]", "the tag tag:yaml.org,2002:python/object/apply:os.system"),
        ("a: !!set {x}", "the tag tag:yaml.org,2002:set"),
        ("a: !local x", "the tag !local"),
        ("[" * 1000, "nested more than 16 levels"),
        ("{a: " * 1000, "nested more than 16 levels"),
        ("- " * 100_000, "nested more than 16 levels"),
        ("a: " + "1" * 5000, "it is not YAML"),
        ('model: {name: "\\U00110000"}', "it is not YAML"),
        ("a: 1\na: 2", "line 1: the key a stands there twice"),
        ("? [1]\n: 2", "a key is a list or a mapping"),
        ("a: [1\n", "line 2, column 1"),
        ("a: \x1b", "it is not YAML"),
        ("a: 1\n---\nb: 2", "it is not YAML"),
        ("# " + "x" * 1_000_000, "1,000,002 characters"),
        ("a: !!int x", "it is not YAML"),
        ("a: !!float x", "it is not YAML"),
        ("a: !!null {}", "it is not YAML"),
    ],
)
def test_what_is_refused(text: str, said: str) -> None:
    start = time.process_time()
    tracemalloc.start()
    with pytest.raises(NotPlainYaml) as caught:
        yaml_value(text)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert said in str(caught.value) and len(str(caught.value)) < 400 and "\n" not in str(caught.value)
    assert time.process_time() - start < 2 and peak < 50_000_000


@given(PLAIN)
def test_plain_data_is_read_back_equal(data: object) -> None:
    class Written(yaml.SafeDumper):
        def ignore_aliases(self, data: object) -> bool:
            return True

    assert yaml_value(yaml.dump(data, Dumper=Written)) == data


def test_nothing_is_null() -> None:
    assert yaml_value("") is None and yaml_value("# a comment\n") is None
