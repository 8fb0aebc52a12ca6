"""Tabular Q-learning over the layers of a network: which choice for the next layer, given that for this one."""

from __future__ import annotations

import numpy as np

from monstera.search.npas.scheme import Scheme, digest_of
from monstera.search.npas.space import SchemeSpace

# Epsilon, and for how many of 2700 models: MetaQNN's, of which 55.6% are drawn at random.
SCHEDULE = ((1.0, 1500), (0.9, 100), (0.8, 100), (0.7, 100), *((e / 10, 150) for e in (6, 5, 4, 3, 2, 1)))


def epsilon(done: int, total: int) -> float:
    """The share of random choices after `done` of `total` evaluated schemes: MetaQNN's schedule, scaled.

    Example:
        >>> [epsilon(done, 54) for done in (0, 29, 30, 32, 53, 54)]
        [1.0, 1.0, 0.9, 0.8, 0.1, 0.1]
    """
    models, until = sum(count for _, count in SCHEDULE), 0
    for value, count in SCHEDULE:
        until += count
        if done * models < until * total:
            return value
    return SCHEDULE[-1][0]


class QLearning:
    """An agent that draws schemes layer by layer, and learns from rewards of whole schemes.

    A state is a layer and the choice for the layer before it; an action is the choice for the layer. Every step of a
    scheme of L layers gets r / L of its reward r (as in BlockQNN). Values that nothing is known of are
    `initial * (L - t) / L` before layer t: what a network of reward `initial` would still bring from there. With the
    same value for all layers, late layers would look better untried than any reward can make them, and the agent would
    avoid whatever it knows.

    Randomness comes from the generators given to `sample` and `learn` alone.

    Args:
        space: what may be chosen.
        learning_rate: the share of the new value at each update.
        discount: of the next layer's value.
        initial: the reward to expect of what is not known, slightly below an average network's.
        replay: how many remembered schemes `learn` goes through.

    Raises:
        ValueError: a setting out of its range.

    Source: B. Baker et al., "Designing Neural Network Architectures using Reinforcement Learning" (MetaQNN), ICLR 2017,
    whose numbers these are; the shaped reward is of Z. Zhong et al., "Practical Block-wise Neural Network Architecture
    Generation", CVPR 2018. Those of NPAS (arXiv 2012.00596) are not known. MetaQNN starts all layers alike.
    """

    def __init__(
        self,
        space: SchemeSpace,
        *,
        learning_rate: float = 0.01,
        discount: float = 1.0,
        initial: float = 0.5,
        replay: int = 128,
    ) -> None:
        if not 0 < learning_rate <= 1 or not 0 <= discount <= 1 or replay < 1:
            raise ValueError(
                "expected learning_rate in (0, 1], discount in [0, 1] and replay >= 1, "
                f"got {learning_rate}, {discount} and {replay}"
            )
        self.space = space
        self.learning_rate, self.discount, self.initial, self.replay = learning_rate, discount, initial, replay
        self._numbers = [{choice: number for number, choice in enumerate(actions)} for actions in space.actions]
        self._rows: dict[tuple[int, int], list[float]] = {}
        self._memory: list[tuple[Scheme, float]] = []

    def values(self, layer: int, before: int) -> list[float]:
        """The value of every action at a layer, by the number of the choice before it (-1 for the first layer)."""
        if (layer, before) in self._rows:
            return list(self._rows[layer, before])
        layers = len(self._numbers)
        return [self.initial * (layers - layer) / layers] * len(self._numbers[layer])

    def sample(self, epsilon: float, rng: np.random.Generator) -> Scheme:
        """Draw a scheme: for each layer any choice with probability `epsilon`, else one of the best."""
        chosen, before = [], -1
        for layer, actions in enumerate(self.space.actions):
            if rng.random() < epsilon:
                before = int(rng.integers(len(actions)))
            else:
                values = self.values(layer, before)
                highest = max(values)
                best = [number for number, value in enumerate(values) if value == highest]
                before = best[int(rng.integers(len(best)))]
            chosen.append(actions[before])
        return Scheme(tuple(chosen))

    def remember(self, scheme: Scheme, reward: float) -> None:
        """Keep a scheme and its reward for `learn`.

        Raises:
            SchemeError: it is not one of the space.
        """
        self.space.check(scheme)
        self._memory.append((scheme, reward))

    def learn(self, rng: np.random.Generator) -> None:
        """Go through `replay` remembered schemes, drawn with replacement, each from its last layer to its first."""
        if self._memory:
            for number in rng.integers(len(self._memory), size=self.replay):
                self._update(*self._memory[int(number)])

    def _update(self, scheme: Scheme, reward: float) -> None:
        numbers = [of[choice] for of, choice in zip(self._numbers, scheme.choices, strict=True)]
        layers, after = len(numbers), 0.0
        for layer in reversed(range(layers)):
            before = numbers[layer - 1] if layer else -1
            row = self._rows.setdefault((layer, before), self.values(layer, before))
            target = reward / layers + self.discount * after
            row[numbers[layer]] = (1 - self.learning_rate) * row[numbers[layer]] + self.learning_rate * target
            after = max(row)

    @property
    def digest(self) -> str:
        """16 hexadecimal digits of what was learnt and what is remembered."""
        return digest_of(
            {
                "rows": [[layer, before, list(row)] for (layer, before), row in sorted(self._rows.items())],
                "memory": [[scheme.to_json(), reward] for scheme, reward in self._memory],
            }
        )
