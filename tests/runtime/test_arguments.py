"""Arguments reach the inputs that a function of the same parameters would give them to, or are refused."""

from __future__ import annotations

from inspect import Parameter, Signature
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from monstera.runtime import InputSpec, bound

NAMES = st.sampled_from(["a", "b", "c", "d", "e"])


@given(
    st.lists(NAMES, unique=True, max_size=4),
    st.integers(0, 4),
    st.lists(st.integers(), max_size=5),
    st.dictionaries(NAMES, st.integers(), max_size=4),
)
def test_arguments_are_bound_as_python_binds_them(
    names: list[str], positional: int, args: list[int], kwargs: dict[str, int]
) -> None:
    inputs = [InputSpec(name, (1,), positional=place < positional) for place, name in enumerate(names)]
    kinds = {True: Parameter.POSITIONAL_OR_KEYWORD, False: Parameter.KEYWORD_ONLY}
    signature = Signature([Parameter(spec.name, kinds[spec.positional]) for spec in inputs])
    try:
        expected = signature.bind(*args, **kwargs).arguments
    except TypeError:
        with pytest.raises(TypeError, match=r"; it takes these$"):
            bound(inputs, args, kwargs, lambda: "it takes these")
    else:
        assert bound(inputs, args, kwargs, _never) == [expected[name] for name in names]


def _never() -> Any:
    raise AssertionError("what it takes is said in errors alone")
