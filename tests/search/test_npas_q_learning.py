"""The agent of NPAS against a slow reference, and its state."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from monstera.search.npas import SchemeSpace, Stage
from monstera.search.npas.q_learning import QLearning, epsilon


def _space(layers: int = 3) -> SchemeSpace:
    stages = [Stage(f"s{n}", 16, 16, "3x3", patterns=["8x4"], densities=[0.5]) for n in range(layers)]
    return SchemeSpace(stages)


def _taught(agent: QLearning, seed: int, schemes: int = 5) -> QLearning:
    rng = np.random.default_rng(seed)
    for _ in range(schemes):
        agent.remember(agent.space.sample(rng), float(rng.random()))
        agent.learn(rng)
    return agent


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000), st.integers(1, 4))
def test_learning_is_the_recurrence_of_the_book(seed: int, layers: int) -> None:
    space, rate, gamma, initial, replay = _space(layers), 0.3, 0.9, 0.7, 7
    agent = QLearning(space, learning_rate=rate, discount=gamma, initial=initial, replay=replay)
    rng = np.random.default_rng(seed)
    memory = [(space.sample(rng), float(rng.random())) for _ in range(4)]
    for scheme, reward in memory:
        agent.remember(scheme, reward)
    agent.learn(np.random.default_rng(seed))
    table: dict[tuple, float] = {}

    def q(t: int, state: object, action: object) -> float:
        return table.get((t, state, action), initial * (layers - t) / layers)

    for number in np.random.default_rng(seed).integers(4, size=replay):
        scheme, reward = memory[number]
        for t in range(layers - 1, -1, -1):
            state = scheme.choices[t - 1] if t else None
            action = scheme.choices[t]
            ahead = max(q(t + 1, action, a) for a in space.actions[t + 1]) if t + 1 < layers else 0
            old = q(t, state, action)
            table[t, state, action] = old + rate * (reward / layers + gamma * ahead - old)
    for (t, state, action), value in table.items():
        before = space.actions[t - 1].index(state) if t else -1
        assert agent.values(t, before)[space.actions[t].index(action)] == pytest.approx(value, abs=1e-12)


def test_without_chance_the_agent_draws_what_was_rewarded() -> None:
    space = _space()
    agent, good = QLearning(space), space.sample(np.random.default_rng(4))
    agent.remember(good, 0.9)
    for _ in range(3):
        agent.learn(np.random.default_rng(0))
    assert agent.sample(0, np.random.default_rng(1)) == good


def test_without_chance_the_agent_leaves_what_was_punished() -> None:
    space = _space()
    agent, bad = QLearning(space), space.sample(np.random.default_rng(4))
    agent.remember(bad, 0.1)
    agent.learn(np.random.default_rng(0))
    drawn = [agent.sample(0, np.random.default_rng(seed)) for seed in range(30)]
    assert all(scheme.choices[0] != bad.choices[0] for scheme in drawn)


def test_nothing_that_is_unknown_looks_better_than_a_reward_above_what_is_expected() -> None:
    # With one value for all layers the last one would: reward / layers is below it.
    space = _space(8)
    agent, good = QLearning(space, initial=0.5), space.sample(np.random.default_rng(0))
    agent.remember(good, 0.6)
    for _ in range(20):
        agent.learn(np.random.default_rng(0))
    assert agent.sample(0, np.random.default_rng(1)) == good


def test_only_chance_draws_every_scheme_alike() -> None:
    agent = _taught(QLearning(_space(1)), 0)
    drawn = [agent.sample(1, np.random.default_rng(seed)) for seed in range(2000)]
    counts = [drawn.count(scheme) for scheme in set(drawn)]
    assert len(counts) == agent.space.size
    assert max(counts) < 1.5 * min(counts)


def test_agents_that_were_taught_the_same_are_the_same_bit_for_bit() -> None:
    agent, other = (_taught(QLearning(_space()), 1) for _ in range(2))
    before = agent.digest
    assert other.digest == before
    assert _taught(other, 2).digest == _taught(agent, 2).digest != before
    assert agent.digest != _taught(QLearning(_space()), 3).digest
    same = [a.sample(0.5, np.random.default_rng(9)) for a in (agent, other)]
    assert same[0] == same[1]


@pytest.mark.parametrize("setting", [{"learning_rate": 0}, {"discount": 2}, {"replay": 0}])
def test_settings_out_of_range_are_refused(setting: dict) -> None:
    with pytest.raises(ValueError, match="expected learning_rate"):
        QLearning(_space(), **setting)


@given(st.integers(1, 3000))
def test_epsilon_falls_and_most_schemes_are_drawn_at_random(total: int) -> None:
    values = [epsilon(done, total) for done in range(total)]
    assert values == sorted(values, reverse=True)
    assert abs(values.count(1.0) - total * 1500 / 2700) < 1
    assert total < 20 or values[-1] == 0.1
