"""The policy that maps layers to actions, learning by REINFORCE from the rewards of the points that it drew."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor, nn

from monstera.pruning.streams import stream
from monstera.search.space import Point, Space


@dataclass(frozen=True, slots=True)
class Reinforce:
    """How the policy is built and learns.

    Attributes:
        hidden: size of the LSTM.
        embedding: size of what stands for a layer, and for the action before.
        lr: learning rate of Adam.
        batch: points in an update.
        entropy: the bonus, in rewards of unit spread, for each nat of a layer's entropy in the first update.
        entropy_decay: what each update multiplies the bonus by.
        baseline_decay: how much of the moving average of rewards an update keeps.

    Raises:
        ValueError: a size or a rate is out of bounds.

    Source: Y. Gong et al., arXiv 2111.11581: an LSTM and REINFORCE with a moving average as baseline. Sizes and rates
    are ours: learning rates for hundreds of updates are too low for the tens that fit into an hour.
    """

    hidden: int = 64
    embedding: int = 32
    lr: float = 0.01
    batch: int = 8
    entropy: float = 0.01
    entropy_decay: float = 0.98
    baseline_decay: float = 0.8

    def __post_init__(self) -> None:
        if min(self.hidden, self.embedding) < 1 or self.batch < 2 or not self.lr > 0 or self.entropy < 0:
            raise ValueError(f"REINFORCE needs sizes from 1, batches from 2, lr above 0 and entropy from 0; got {self}")
        if not (0 < self.entropy_decay <= 1 and 0 <= self.baseline_decay < 1):
            raise ValueError(f"entropy_decay is in (0, 1] and baseline_decay in [0, 1); got {self}")


@final
class Policy(nn.Module):
    """An LSTM over the weights of a space: each step reads the layer and the action before, and scores all actions."""

    allowed: Tensor
    descriptors: Tensor

    def __init__(self, space: Space, how: Reinforce) -> None:
        super().__init__()
        actions = len(space.actions)
        meaning = torch.tensor(space.meaning)
        self.register_buffer("allowed", meaning == torch.arange(actions))
        self.register_buffer("descriptors", torch.tensor(space.descriptors))
        self.layer = nn.Linear(self.descriptors.shape[1], how.embedding)
        # One more than there are actions: before the first layer there is none.
        self.before = nn.Embedding(actions + 1, how.embedding)
        self.cell = nn.LSTMCell(2 * how.embedding, how.hidden)
        self.scores = nn.Linear(how.hidden, actions)
        with torch.no_grad():  # all allowed actions alike, until something is learned
            self.scores.weight.zero_()
            self.scores.bias.zero_()

    @torch.no_grad()
    def sample(self, generator: torch.Generator) -> Point:
        """Draw one point; only allowed actions are drawn."""
        point: list[int] = []
        state = None
        for place in range(len(self.allowed)):
            before = torch.tensor([point[-1] if point else len(self.allowed[0])])
            log, state = self._step(place, before, state)
            point.append(int(torch.multinomial(log.exp(), 1, generator=generator)))
        return tuple(point)

    def judge(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Return log probability and mean entropy of the layers' choices: `[N]` each, of points `[N, weights]`."""
        logs, entropies, state = [], [], None
        before = torch.full_like(points[:, 0], len(self.allowed[0]))
        for place in range(len(self.allowed)):
            log, state = self._step(place, before, state)
            before = points[:, place]
            logs.append(log.gather(1, before.unsqueeze(1)).squeeze(1))
            # What is refused has probability 0, and -inf times 0 would be NaN.
            entropies.append(-(log.exp() * log.masked_fill(~self.allowed[place], 0)).sum(1))
        return torch.stack(logs).sum(0), torch.stack(entropies).mean(0)

    def _step(
        self, place: int, before: Tensor, state: tuple[Tensor, Tensor] | None
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        layer = self.layer(self.descriptors[place]).expand(len(before), -1)
        hidden, cell = self.cell(torch.cat([layer, self.before(before)], 1), state)
        scores = self.scores(hidden).masked_fill(~self.allowed[place], -torch.inf)
        return scores.log_softmax(1), (hidden, cell)


@final
class Learner:
    """A policy with its optimizer and baseline: a function of space, settings, seed and the batches learned from.

    So a learner made anew and taught the same batches is the same to the last bit, and no state need be kept.
    """

    def __init__(self, space: Space, how: Reinforce, seed: int) -> None:
        self.how, self.updates, self.baseline = how, 0, 0.0
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(stream(seed, "controller", 0).initial_seed())
            self.policy = Policy(space, how)
        self.optimizer = torch.optim.Adam(self.policy.parameters(), lr=how.lr)

    def learn(self, points: Sequence[Point], rewards: Sequence[float]) -> None:
        """Take one step of REINFORCE on points and what they brought."""
        got = torch.tensor(rewards, dtype=torch.float64)
        if not self.updates:
            self.baseline = float(got.mean())
        gain = got - self.baseline
        # To unit size, so that the step does not depend on the scale of rewards; all alike and expected is no lesson.
        advantage = (gain / gain.square().mean().sqrt().clamp_min(1e-8)).float()
        log, entropy = self.policy.judge(torch.tensor(points))
        bonus = self.how.entropy * self.how.entropy_decay**self.updates
        loss = -(advantage * log).mean() - bonus * entropy.mean()
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        keep = self.how.baseline_decay
        self.baseline = keep * self.baseline + (1 - keep) * float(got.mean())
        self.updates += 1
