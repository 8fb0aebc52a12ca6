"""A Gaussian process on kernels that are known as numbers: which of them, how much noise, and what it predicts."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

# Below this, what a process says is noise.
LEAST_POINTS = 10
NOISE_RANGE = (1e-5, 1e-2)


@dataclass(frozen=True, slots=True)
class GaussianProcess:
    """A process that has seen targets. Targets are standardised inside; predictions are in their own units.

    Attributes:
        mean, scale: of the targets, float64.
        noise: variance, in units of the standardised targets.
        factor: lower Cholesky factor of kernel + noise, float64 `[n, n]`.
        solved: (kernel + noise)^-1 y for the standardised targets y, float64 `[n]`.
        log_likelihood: of the standardised targets, by which processes are compared.
    """

    mean: float
    scale: float
    noise: float
    factor: Tensor
    solved: Tensor
    log_likelihood: float

    def predict(self, cross: Tensor, own: Tensor) -> tuple[Tensor, Tensor]:
        """Posterior mean and variance of the function itself, without noise: float64 `[m]` each.

        Args:
            cross: the kernel between new points and seen ones, `[m, n]`.
            own: the kernel of each new point with itself, `[m]`.
        """
        mean = cross.double() @ self.solved
        half = torch.linalg.solve_triangular(self.factor, cross.double().T, upper=False)
        variance = (own.double() - half.square().sum(0)).clamp_min(0)
        return mean * self.scale + self.mean, variance * self.scale**2


def fit(kernel: Tensor, targets: Tensor, *, noise: float = 1e-3, steps: int = 20, lr: float = 0.1) -> GaussianProcess:
    """Fit the noise by its marginal likelihood: Adam on its logarithm, held in `NOISE_RANGE`.

    Args:
        kernel: positive semidefinite, `[n, n]`, about 1 on its diagonal.
        targets: `[n]`.
        noise: variance to begin with.
        steps: of Adam; 0 keeps the noise that is given.
        lr: of Adam.

    Raises:
        ValueError: fewer than `LEAST_POINTS`, shapes that do not belong together, or targets that are not finite.

    Source: B. Ru et al., "Interpretable Neural Architecture Search via Bayesian Optimisation with Weisfeiler-Lehman
    Kernels" (NAS-BOWL), ICLR 2021: range, start and steps of the noise.
    """
    kernel, targets = kernel.detach().double(), targets.detach().double()
    _check(kernel, targets)
    # Targets that are all equal say nothing but their mean.
    mean, scale = float(targets.mean()), float(targets.std(correction=0)) or 1.0
    standard = (targets - mean) / scale
    least, most = map(math.log, NOISE_RANGE)
    log_noise = torch.tensor(math.log(noise), dtype=torch.float64).clamp(least, most).requires_grad_()
    optimizer = torch.optim.Adam([log_noise], lr=lr)
    with torch.enable_grad():
        for _ in range(steps):
            optimizer.zero_grad()
            (-_solve(kernel, standard, log_noise.exp())[2]).backward()
            optimizer.step()
            with torch.no_grad():
                log_noise.clamp_(least, most)
    learnt = log_noise.detach().exp()
    factor, solved, likelihood = _solve(kernel, standard, learnt)
    return GaussianProcess(mean, scale, float(learnt), factor, solved, float(likelihood))


def fit_best(kernels: Tensor, targets: Tensor) -> tuple[int, GaussianProcess]:
    """Fit a process to each of several kernels, `[kernels, n, n]`: number and process of the likeliest, first if equal.

    Raises:
        ValueError: as for `fit`.
    """
    made = [fit(kernel, targets) for kernel in kernels]
    best = max(range(len(made)), key=lambda number: made[number].log_likelihood)
    return best, made[best]


def _solve(kernel: Tensor, targets: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Cholesky factor, weights of the seen points, and log marginal likelihood."""
    factor = torch.linalg.cholesky(kernel + noise * torch.eye(len(targets), dtype=torch.float64))
    solved = torch.cholesky_solve(targets.unsqueeze(1), factor).squeeze(1)
    constant = len(targets) * math.log(2 * math.pi)
    likelihood = -0.5 * (targets @ solved + 2 * factor.diagonal().log().sum() + constant)
    return factor, solved, likelihood


def _check(kernel: Tensor, targets: Tensor) -> None:
    count = len(targets)
    if targets.ndim != 1 or kernel.shape != (count, count):
        raise ValueError(
            f"expected a kernel [n, n] and targets [n], got {list(kernel.shape)} and {list(targets.shape)}"
        )
    if count < LEAST_POINTS:
        raise ValueError(
            f"a process on {count} points would be noise; evaluate at least {LEAST_POINTS} at random first"
        )
    if not bool(targets.isfinite().all()):
        raise ValueError("targets must be finite numbers")
