"""What a search is told: schemes that are evaluated first, and neighbours of the best in the pool."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from monstera.search.npas import JournalError, LayerChoice, Scheme, SchemeError, search
from monstera.search.npas.base import uniform_schemes
from search.npas_landscape import OBJECTIVE, SETTINGS, SPACE, evaluate, reward

SMALL = replace(SETTINGS, evaluations=16, batch=3, pool=20, warm_start=10, anchors_every=0)


def test_given_schemes_are_evaluated_first_and_count(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    given = [SPACE.sample(rng) for _ in range(5)]
    path = tmp_path / "journal"
    result = search(SPACE, evaluate, OBJECTIVE, SMALL, journal=path, first=[*given, given[0]])
    schemes = [one.scheme for one in result.evaluated]
    assert schemes[:5] == given
    assert len(schemes) == len(set(schemes)) == SMALL.evaluations
    assert [one.round for one in result.evaluated[:6]] == [0, 0, 0, 1, 1, 2]
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    assert search(SPACE, evaluate, OBJECTIVE, SMALL, journal=path, first=[*given, given[0]]) == result
    assert path.read_bytes() == whole
    with pytest.raises(JournalError, match="of another search; first was"):
        search(SPACE, evaluate, OBJECTIVE, SMALL, journal=path)


def test_a_given_scheme_of_another_space_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SchemeError, match="it has 1 layers"):
        search(SPACE, evaluate, OBJECTIVE, SMALL, journal=tmp_path / "j", first=[Scheme((LayerChoice("3x3"),))])


def test_with_neighbours_the_search_comes_nearer_to_the_best_that_it_knows(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    # The best of many, as what people know is better than chance.
    known = max((SPACE.sample(rng) for _ in range(300)), key=reward)
    gained, changed = {}, {}
    for count in (0, 60):
        settings = replace(SMALL, evaluations=30, neighbours=count)
        found = [
            search(
                SPACE,
                evaluate,
                OBJECTIVE,
                replace(settings, seed=seed),
                journal=tmp_path / f"{count}-{seed}",
                first=[known],
            )
            for seed in range(3)
        ]
        gained[count] = sum(result.most_rewarded.reward - result.evaluated[0].reward for result in found)
        later = [one.scheme for result in found for one in result.evaluated if one.round > 4]
        near = [_differences(scheme, one.scheme) for result in found for one in result.evaluated for scheme in later]
        changed[count] = sum(0 < n <= 2 for n in near) / len(near)
    print(f"gained {gained}, neighbours among pairs {changed}")
    assert gained[60] > gained[0]
    assert changed[60] > 2 * changed[0]


def _differences(one: Scheme, other: Scheme) -> int:
    return sum(a != b for a, b in zip(one.choices, other.choices, strict=True))


def test_uniform_schemes_keep_the_filter_types_and_prune_all_that_the_pattern_fits() -> None:
    made = uniform_schemes(SPACE)
    assert len(made) == len(set(made)) > 1
    for scheme in made:
        assert SPACE.refusals(scheme) == []
        assert [choice.filter for choice in scheme.choices] == [stage.base for stage in SPACE.stages]
        pairs = {(choice.pattern, choice.density) for choice in scheme.choices if choice.pattern is not None}
        assert len(pairs) == 1
        (pair,) = pairs
        for stage, choice in zip(SPACE.stages, scheme.choices, strict=True):
            possible = LayerChoice(stage.base, *pair) in stage.actions
            assert (choice.pattern is not None) == possible
    assert json.dumps([scheme.to_json() for scheme in made])
