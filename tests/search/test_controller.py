"""The policy: it draws only what is allowed, learns by REINFORCE, and is a function of what it was taught."""

from __future__ import annotations

import itertools
import math
import random

import pytest
import torch

from monstera.pruning.streams import stream
from monstera.search.controller import Learner, Policy, Reinforce
from monstera.search.space import Point, Space
from monstera.sparsity import Entry

WEIGHTS, ACTIONS = 5, 5


def toy(refused: bool = False) -> Space:
    """Five weights of five actions; with `refused`, each may not be what its place says."""
    names = tuple(f"layer{place}.weight" for place in range(WEIGHTS))
    actions = (None, *(Entry("4x1", density) for density in (0.5, 0.25, 0.125, 0.1)))
    row = tuple(range(ACTIONS))
    rows = [tuple(-1 if refused and a == 1 + place % 4 else a for a in row) for place in range(WEIGHTS)]
    known = random.Random(0)
    descriptors = tuple(((place + 1) / WEIGHTS, known.random(), known.random()) for place in range(WEIGHTS))
    return Space(names, actions, tuple(rows), descriptors)


SPACE = toy()
OPTIMUM: Point = (3, 0, 4, 1, 2)


def reward(point: Point) -> float:
    return sum(a == b for a, b in zip(point, OPTIMUM, strict=True)) / WEIGHTS


def taught(seed: int, updates: int, how: Reinforce = Reinforce(), learner: Learner | None = None) -> Learner:  # noqa: B008
    learner = learner or Learner(SPACE, how, seed)
    for update in range(learner.updates, updates):
        points = [learner.policy.sample(stream(seed, "point", 8 * update + i)) for i in range(8)]
        learner.learn(points, [reward(point) for point in points])
    return learner


def drawn(policy: Policy, count: int) -> list[Point]:
    return [policy.sample(stream(0, "look", index)) for index in range(count)]


def test_before_anything_is_learned_all_allowed_actions_are_alike():
    space = toy(refused=True)
    policy = Policy(space, Reinforce())
    points = torch.tensor(drawn(policy, 20))
    log, entropy = policy.judge(points)
    torch.testing.assert_close(log, torch.full((20,), -WEIGHTS * math.log(ACTIONS - 1)))
    torch.testing.assert_close(entropy, torch.full((20,), WEIGHTS * math.log(ACTIONS - 1)))


def test_refused_actions_are_never_drawn_even_if_the_policy_likes_them_best():
    space = toy(refused=True)
    policy = Policy(space, Reinforce())
    with torch.no_grad():
        policy.scores.bias[1:3] = 50.0
    assert all(space.canonical(point) == point for point in drawn(policy, 50))


def test_gradients_are_finite_where_actions_are_refused():
    learner = Learner(toy(refused=True), Reinforce(), seed=0)
    points = drawn(learner.policy, 8)
    learner.learn(points, [float(index) for index in range(8)])
    assert all(parameter.isfinite().all() for parameter in learner.policy.parameters())


def test_points_are_drawn_as_often_as_they_are_judged_likely():
    space = Space(SPACE.weights[:2], SPACE.actions, ((0, 1, 2, -1, -1), (0, 1, -1, 3, -1)), SPACE.descriptors[:2])
    policy = Policy(space, Reinforce())
    with torch.no_grad():
        policy.scores.weight.copy_(torch.randn(policy.scores.weight.shape, generator=stream(0, "scores", 0)) * 3)
    points = [*itertools.product(space.allowed(0), space.allowed(1))]
    likely = policy.judge(torch.tensor(points))[0].detach().exp().tolist()
    assert sum(likely) == pytest.approx(1)
    assert max(likely) > 2 * min(likely)
    count = 600
    seen = drawn(policy, count)
    often = [seen.count(point) / count for point in points]
    # Four standard deviations of a binomial.
    assert all(abs(o - p) < 4 * math.sqrt(p * (1 - p) / count) for o, p in zip(often, likely, strict=True))


def test_better_points_become_likelier_and_worse_ones_less_likely():
    learner = Learner(SPACE, Reinforce(entropy=0.0), seed=0)
    good, bad = OPTIMUM, tuple((action + 1) % ACTIONS for action in OPTIMUM)
    before, _ = learner.policy.judge(torch.tensor([good, bad]))
    learner.learn([good, bad], [1.0, 0.0])
    after, _ = learner.policy.judge(torch.tensor([good, bad]))
    assert after[0] > before[0]
    assert after[1] < before[1]


def test_the_step_does_not_depend_on_the_scale_of_rewards():
    points = drawn(Policy(SPACE, Reinforce()), 8)
    rewards = [reward(point) for point in points]
    one, other = Learner(SPACE, Reinforce(), seed=3), Learner(SPACE, Reinforce(), seed=3)
    one.learn(points, rewards)
    other.learn(points, [1000 * value - 7 for value in rewards])
    for a, b in zip(one.policy.parameters(), other.policy.parameters(), strict=True):
        torch.testing.assert_close(a, b)


def test_the_baseline_is_a_moving_average_that_begins_with_the_first_batch():
    learner = Learner(SPACE, Reinforce(baseline_decay=0.75), seed=0)
    points = drawn(learner.policy, 2)
    learner.learn(points, [1.0, 3.0])
    assert learner.baseline == pytest.approx(2.0)
    learner.learn(points, [4.0, 8.0])
    assert learner.baseline == pytest.approx(0.75 * 2.0 + 0.25 * 6.0)


def test_a_learner_taught_in_two_goes_is_the_same_to_the_last_bit():
    straight, again = taught(seed=5, updates=6), taught(seed=5, updates=3)
    again = taught(seed=5, updates=6, learner=again)
    assert straight.baseline == again.baseline
    for name, value in straight.policy.state_dict().items():
        assert torch.equal(value, again.policy.state_dict()[name]), name
    mine, theirs = (learner.optimizer.state_dict()["state"] for learner in (straight, again))
    assert all(torch.equal(mine[k]["exp_avg_sq"], theirs[k]["exp_avg_sq"]) for k in mine)


def test_the_callers_random_numbers_are_left_alone():
    state = torch.get_rng_state()
    taught(seed=0, updates=1)
    assert torch.equal(torch.get_rng_state(), state)


def test_it_finds_the_optimum_of_a_toy_more_often_than_random_search():
    """One of 3,125 points; 240 trials each, five times."""
    found = {"rl": 0, "random": 0}
    for seed in range(5):
        learner = Learner(SPACE, Reinforce(), seed)
        for update in range(30):
            points = [learner.policy.sample(stream(seed, "point", 8 * update + i)) for i in range(8)]
            if OPTIMUM in points:
                found["rl"] += 1
                break
            learner.learn(points, [reward(point) for point in points])
        dice = random.Random(seed)
        guessed = (tuple(dice.randrange(ACTIONS) for _ in range(WEIGHTS)) for _ in range(240))
        found["random"] += OPTIMUM in guessed
    assert found["rl"] >= 4 > 1 >= found["random"]


def test_settings_out_of_bounds_are_refused():
    for wrong in ({"batch": 1}, {"lr": 0.0}, {"entropy_decay": 0.0}, {"baseline_decay": 1.0}):
        with pytest.raises(ValueError, match=r"REINFORCE|entropy_decay"):
            Reinforce(**wrong)  # pyright: ignore[reportArgumentType]
