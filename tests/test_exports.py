"""The package's front door: every name it promises is there, an unknown one is answered with the known ones."""

from __future__ import annotations

import pytest

import monstera as ms


def test_every_exported_name_resolves_and_is_listed():
    assert sorted(ms.__all__) == sorted(ms._EXPORTS)
    assert all(getattr(ms, name) is not None for name in ms.__all__)
    assert dir(ms) == sorted(ms.__all__)


def test_an_unknown_name_lists_the_known():
    with pytest.raises(AttributeError, match=r"'compyle'.*compile"):
        _ = ms.compyle
