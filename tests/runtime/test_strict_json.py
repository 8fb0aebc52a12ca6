"""Strict JSON: dataclasses come back as they were, and whatever else is written there is refused by its place."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from monstera.runtime.strict_json import DEEPEST, LARGEST, canonical_json, decoded, encoded, parse_json


@dataclass(frozen=True, slots=True)
class Inner:
    kind: Literal["a", "b"]
    low: float = 0.0


@dataclass(frozen=True, slots=True)
class Outer:
    name: str
    count: int
    inner: Inner | None
    shapes: tuple[tuple[int, ...], ...]
    flags: Mapping[str, bool]
    free: Any


json_values = st.recursive(st.none() | st.booleans() | st.integers() | st.text(max_size=3), st.lists, max_leaves=5)
outers = st.builds(
    Outer,
    st.text(),
    st.integers(-LARGEST, LARGEST),
    st.none()
    | st.builds(Inner, st.sampled_from(["a", "b"]), st.floats(allow_nan=False, min_value=-1e299, max_value=1e299)),
    st.lists(st.lists(st.integers(0, 99)).map(tuple)).map(tuple),
    st.dictionaries(st.text(), st.booleans()),
    json_values,
)


@given(outers)
def test_what_is_encoded_comes_back(outer):
    text = canonical_json(encoded(outer))
    assert decoded(Outer, parse_json(text), "it") == outer
    assert canonical_json(encoded(decoded(Outer, parse_json(text), "it"))) == text


@pytest.mark.parametrize("number", [math.inf, -math.inf, math.nan])
def test_numbers_that_json_lacks_are_words(number):
    back = decoded(Inner, parse_json(canonical_json(encoded(Inner("a", number)))), "it").low
    assert back == number or math.isnan(back) == math.isnan(number) is True


GOOD = {"name": "n", "count": 1, "inner": None, "shapes": [[1]], "flags": {}, "free": 5}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"name": 1}, r"it\.name is 1, expected str"),
        ({"count": True}, r"it\.count is True"),
        ({"count": 1.0}, r"it\.count is 1\.0"),
        ({"count": 10**5000}, r"it\.count is a huge number"),
        ({"inner": {"kind": "c", "low": 0}}, r"it\.inner\.kind is 'c'"),
        ({"inner": {"kind": "a"}}, r"it\.inner: expected an object with \['kind', 'low'\], got \['kind'\]"),
        ({"inner": {"kind": "a", "low": "big"}}, r"it\.inner\.low is 'big'"),
        ({"inner": {"kind": "a", "low": True}}, r"it\.inner\.low is True"),
        ({"inner": {"kind": "a", "low": 1e301}}, r"it\.inner\.low is 1e\+301"),
        ({"shapes": [[1], ["x"]]}, r"it\.shapes\[1\]\[0\] is 'x'"),
        ({"shapes": {"0": [1]}}, r"it\.shapes is .* expected a list"),
        ({"flags": {"a": 0}}, r"it\.flags\.a is 0, expected bool"),
        ({"more": 0}, r"it: expected an object with .*'shapes'\], got .*'more'"),
    ],
)
def test_anything_else_is_refused_by_its_place(change, words):
    assert decoded(Outer, GOOD, "it").shapes == ((1,),)
    with pytest.raises(ValueError, match=words):
        decoded(Outer, GOOD | change, "it")


@pytest.mark.parametrize("deeper", [b"[%b]", b'{"a":%b}'])
def test_what_nests_too_deep_is_refused_however_deep_it_is(deeper):
    text = b"0"
    for _ in range(DEEPEST):
        text = deeper % text
    assert canonical_json(encoded(parse_json(text)))
    for more in (1, 700, 100_000):
        before, after = deeper.split(b"%b")
        with pytest.raises(ValueError, match="nests more than 200 deep"):
            parse_json(before * more + text + after * more)


@given(st.binary() | st.text().map(str.encode) | json_values.map(lambda v: repr(v).encode()))
def test_any_bytes_are_a_value_or_a_value_error(text):
    try:
        decoded(Outer, parse_json(text), "it")
    except ValueError:
        pass
    else:
        raise AssertionError("none of these is an Outer")
