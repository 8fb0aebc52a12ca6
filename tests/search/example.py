"""What can be had of a network, made by hand: candidates of three sources, one of them beaten, and one chosen."""

from __future__ import annotations

from monstera.search.pareto import Candidate, Pareto, layers_of
from monstera.sparsity import Plan
from search.affine import Affine

PLAN = Plan({"a.weight": ("4x1", 0.25), "b.weight": ("2:4",)})
PARETO = Pareto(
    "net",
    "2000 held-out training pictures, pruned at once",
    "predicted, 1 thread",
    (
        Candidate("dense", Plan(), 0.9, 6.0),
        Candidate("search by rl", Plan({"a.weight": ("4x1", 0.1)}), 0.7, 1.5),
        Candidate("search by rl", PLAN, 0.8, 2.0),
        Candidate("search by rl", Plan({"a.weight": ("4x1", 0.5)}), 0.85, 2.5),
        Candidate("rules", Plan({"a.weight": ("4x1", 0.125)}), 0.65, 1.9),
    ),
    chosen=2,
    latency_ms=2.0,
    layers=layers_of(PLAN, Affine({"a.weight": 2.0, "b.weight": 1.0, "c.weight": 0.5})),
    curves={"rl, seed 0": (0.4, 0.5, 0.5)},
)
