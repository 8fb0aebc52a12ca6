"""Small networks, and tables that nobody measured, for the tests of costs."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from monstera.search.costs.law import features
from monstera.search.costs.price import expected_price
from monstera.search.costs.signature import Signature
from monstera.search.costs.subject import Subject, subject_of
from monstera.search.costs.table import CostTable, Machine, Point, Rest
from monstera.sparsity import Entry

MACHINE = Machine("a processor", "avx512", "a compiler", "kernels", "digest")
EXAMPLE = torch.zeros(1, 8, 12, 12)
DENSITIES = (0.5, 0.25, 0.1)


def small(width: int = 16, stride: int = 1) -> nn.Sequential:
    """Two convolutions and a linear layer."""
    torch.manual_seed(0)
    side = -(-12 // stride)
    return nn.Sequential(
        nn.Conv2d(8, width, 3, stride, padding=1),
        nn.ReLU(),
        nn.Conv2d(width, width, 1),
        nn.Flatten(),
        nn.Linear(width * side * side, 8),
    ).eval()


def lawful_ms(signature: Signature, entry: Entry | None) -> float:
    """A time that follows from the features of a layer: what a law has to find again."""
    pattern, density = (None, 1.0) if entry is None else (entry.pattern, entry.density)
    price, stored = expected_price(signature, pattern, density, MACHINE.target)
    return float(np.exp(features(signature, price, stored) @ [0.8, 0.1, 0.05, 0.05, 0, 0, 0, 0, 0]) * 1e-6)


def lawful_table(subjects: list[Subject], patterns: tuple[str, ...] = ("4x1", "unstructured")) -> CostTable:
    """A table of all layers of some networks, with times by `lawful_ms`."""
    table = CostTable(MACHINE)
    for subject in subjects:
        for signature in subject.signatures.values():
            entries = [None, *(Entry(pattern, d) for pattern in patterns for d in DENSITIES)]
            table = table.with_points(signature, [lawful_point(signature, entry) for entry in entries])
        table = table.with_rest(subject.fingerprint, Rest(0.01, 4000, 0))
    return table


def lawful_point(signature: Signature, entry: Entry | None) -> Point:
    """One time by `lawful_ms`."""
    name, density = ("", 1.0) if entry is None else (entry.pattern.name, entry.density)
    price, stored = expected_price(signature, entry and entry.pattern, density, MACHINE.target)
    ms = lawful_ms(signature, entry)
    return Point(name, density, ms, round(density * signature.macs), stored, price)


def subject(width: int = 16, stride: int = 1, threads: int = 1) -> Subject:
    """`small` as costs see it."""
    return subject_of(small(width, stride), EXAMPLE, threads)
