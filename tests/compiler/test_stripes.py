"""Stripes: every piece is done once, after what it reads and before what it overwrites is needed no more."""

from __future__ import annotations

from collections import defaultdict

import numpy as np
import pytest
import torch
from torch import nn

from compiler.agreement import compare, torch_answers
from compiler.batch import compile_batch, poison_arenas, run
from compiler.graphs import imported, random_inputs, random_model
from monstera import zoo
from monstera.compiler import stripes
from monstera.compiler.frontends import from_torch
from monstera.compiler.lowering import lower
from monstera.compiler.memory import place
from monstera.compiler.passes import optimize
from monstera.compiler.program import Program, Turn
from monstera.compiler.stripes import Group
from monstera.compiler.targets import native


def _longest_groups(pieces: int):
    """As many neighbours as can be done together in this many stripes, whether it pays or not."""

    def choose(program: Program, _threads: int) -> list[Group]:
        groups: list[Group] = []
        for i, step in enumerate(program.steps):
            together = groups and groups[-1].stripes > 1 and step.sweep is not None and step.sweep.units > 1
            if together:
                groups[-1] = Group(groups[-1].begin, i + 1, pieces)
            else:
                groups.append(Group(i, i + 1, pieces if step.sweep is not None else 1))
        return groups

    return choose


def _program(model: nn.Module, shape: tuple[int, ...], threads: int = 1) -> Program:
    return lower(optimize(from_torch(model.eval(), (torch.zeros(shape),), {}).graph), native(), threads)


def _residual() -> nn.Module:
    class Block(nn.Module):
        def __init__(self, channels: int) -> None:
            super().__init__()
            self.first = nn.Conv2d(channels, channels, 3, padding=1)
            self.second = nn.Conv2d(channels, channels, 5, padding=2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.relu(x + self.second(torch.relu(self.first(x))))

    pool = nn.MaxPool2d(3, 2, 1)
    return nn.Sequential(nn.Conv2d(3, 8, 7, 2, 3), Block(8), pool, Block(8), nn.Conv2d(8, 8, 3, 2, 1), Block(8))


def _check_order(program: Program) -> None:
    """Walk the turns: what a piece reads has been made by all steps of the program that make it."""
    done: dict[int, int] = defaultdict(int)
    makers: dict[str, list[int]] = defaultdict(list)
    for i, step in enumerate(program.steps):
        if step.sweep is not None:
            makers[step.sweep.buffer].append(i)
    for turn in program.turns:
        sweep = program.steps[turn.step].sweep
        assert done[turn.step] == turn.begin
        if sweep is None:
            continue
        end = sweep.units if turn.end is None else turn.end
        for read in sweep.reads:
            for maker in makers[read.buffer]:
                made = program.steps[maker].sweep
                if made is not None and maker < turn.step and done[maker] < made.units:
                    assert done[maker] * made.floats >= (end - 1) * read.step + read.past
        done[turn.step] = end
    assert all(done[i] == s.sweep.units for i, s in enumerate(program.steps) if s.sweep is not None)


@pytest.mark.parametrize("pieces", [2, 3, 7, 50])
def test_every_piece_is_done_once_and_after_what_it_reads(monkeypatch, pieces):
    monkeypatch.setattr(stripes, "choose_groups", _longest_groups(pieces))
    program = _program(_residual(), (1, 3, 61, 53))
    assert len(program.turns) > len(program.steps)
    _check_order(program)


def test_the_check_of_the_order_finds_a_piece_that_comes_too_early(monkeypatch):
    monkeypatch.setattr(stripes, "choose_groups", _longest_groups(4))
    program = _program(_residual(), (1, 3, 61, 53))
    late = next(i for i, t in enumerate(program.turns) if program.steps[t.step].sweep and t.begin)
    turns = [*program.turns[:late], *program.turns[late + 1 :], program.turns[late]]
    with pytest.raises(AssertionError):
        _check_order(Program(**{**_fields(program), "turns": tuple(turns)}))


def _fields(program: Program) -> dict[str, object]:
    return {name: getattr(program, name) for name in Program.__slots__}


def test_a_sum_is_laid_over_its_operand_only_where_nobody_still_reads_it():
    """Both convolutions of the block read around their pixel: the second must stay behind the first."""
    program = _program(_residual(), (1, 3, 61, 53))
    overlays = [s for s in program.steps if s.over]
    assert overlays
    offsets = place(program).offsets
    assert all(offsets[s.over] == offsets[s.sweep.buffer] for s in overlays if s.sweep)


def test_buffers_that_outgrow_the_last_cache_are_walked_in_stripes():
    """VGG-16 begins with planes of 12.8 MB; its later layers stay in the cache whole."""
    features = zoo.network("vgg16").features
    assert isinstance(features, nn.Sequential)
    model = features[:10]
    program = _program(model, (1, 3, 224, 224))
    striped = {t.step for t in program.turns if t != Turn(t.step)}
    titles = [program.steps[i].title.split(",")[0] for i in sorted(striped)]
    assert titles == ["conv 3x3 3 to 64 of 64", "conv 3x3 64 to 64 of 64", "max pool 2x2 by 2x2"]


def test_small_networks_are_done_step_by_step():
    program = _program(zoo.network("resnet20"), (1, 3, 32, 32))
    assert program.turns == tuple(Turn(i) for i in range(len(program.steps)))


@pytest.mark.parametrize(("pieces", "threads"), [(2, 1), (5, 1), (3, 2)])
def test_random_networks_in_stripes_agree_with_the_interpreter_and_with_torch(monkeypatch, pieces, threads):
    monkeypatch.setattr(stripes, "choose_groups", _longest_groups(pieces))
    poison_arenas(monkeypatch)
    models = [random_model(np.random.default_rng(seed)) for seed in range(1000, 1020)]
    graphs = [imported(model) for model in models]
    for seed, (model, graph, runner) in enumerate(zip(models, graphs, compile_batch(graphs, threads), strict=True)):
        inputs = random_inputs(graph.graph, seed)
        theirs = torch_answers(model, graph, inputs)
        for _ in range(2):
            compare(f"seed {1000 + seed}", graph.graph, inputs, run(runner, graph, inputs), theirs)
