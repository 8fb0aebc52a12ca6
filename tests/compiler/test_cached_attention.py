"""Attention of one token to keys that a caller keeps: engine, interpreter and torch agree, and nothing is copied."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from compiler.agreement import compare, torch_answers
from compiler.batch import compile_batch, narrower, poison_arenas, run
from compiler.graphs import fitting_inputs
from monstera.compiler.frontends import Imported, from_torch
from monstera.compiler.ir import Attention, CachedAttention, Permute, Slice
from monstera.compiler.lowering import lower
from monstera.compiler.passes import optimize
from monstera.compiler.targets import TARGETS, native

KEYS, WIDTHS, GROUPS = (1, 15, 16, 17, 40), (1, 5, 16, 19, 64, 70), ((1, 1), (4, 2), (3, 3))
MASKS = ("none", "count", "float", "per head", "batch")


@pytest.fixture(autouse=True)
def _nan_before_first_use(monkeypatch):
    poison_arenas(monkeypatch)


class Attend(nn.Module):
    """One token sees its own key and `keys` kept ones, of layer `layer` of a stack; `spelled` out or one operator."""

    def __init__(self, heads: int, groups: int, mask: str = "none", layer: int = 1, spelled: bool = False) -> None:
        super().__init__()
        self.heads, self.groups, self.mask, self.layer, self.spelled = heads, groups, mask, layer, spelled

    def forward(self, q, own, keys, values, count):
        k, v = (torch.cat([x[self.layer], y], 2) for x, y in ((keys, own), (values, own[..., : values.shape[-1]])))
        mask = self.seen(k, count)
        if not self.spelled:
            return F.scaled_dot_product_attention(q, k, v, mask, enable_gqa=True)
        n, groups, tokens, width = k.shape
        wide = (n, groups, self.heads // groups, tokens, -1)
        k, v = (x[:, :, None].expand(wide).reshape(n, self.heads, tokens, -1) for x in (k, v))
        scores = q @ k.transpose(2, 3) * width**-0.5
        return (scores if mask is None else scores + mask).softmax(-1) @ v

    def seen(self, k, count):
        n, _, tokens, _ = k.shape
        wave = torch.arange(tokens).float().sin()
        hidden = torch.where(torch.arange(tokens) % 3 == 1, -torch.inf, 0.0)
        match self.mask:
            case "count":
                seen = torch.cat([torch.arange(tokens - 1) < count, torch.ones(1, dtype=torch.bool)])
                return torch.where(seen, 0.0, -torch.inf)[None]
            case "float":
                return (wave + hidden)[None]
            case "per head":
                return wave * torch.arange(self.heads)[:, None, None]
            case "batch":
                return wave * torch.arange(n)[:, None, None, None] + hidden
        return None


def example(heads: int, groups: int, keys: int, width: int, values: int, batch: int, layers: int = 3):
    stack = (layers, batch, groups, keys)
    q, own = torch.zeros(batch, heads, 1, width), torch.zeros(batch, groups, 1, width)
    return q, own, torch.zeros(*stack, width), torch.zeros(*stack, values), torch.tensor([keys // 2])


def examples() -> list[tuple[str, nn.Module, tuple[torch.Tensor, ...]]]:
    found = []
    for i, (keys, width) in enumerate(product(KEYS, WIDTHS)):
        (heads, groups), mask, batch = GROUPS[i % 3], MASKS[i % 5], i % 2 + 1
        name = f"{keys} keys of {width}, {heads} heads on {groups}, {mask}, batch {batch}"
        model = Attend(heads, groups, mask, layer=i % 3, spelled=i % 4 == 3)
        found.append((name, model, example(heads, groups, keys, width, max(1, width - i % 2), batch)))
    return found


def check(cases, threads: int = 1, target: str = "native") -> None:
    graphs = [from_torch(model.eval(), args) for _, model, args in cases]
    for (name, _, _), graph in zip(cases, graphs, strict=True):
        kinds = [type(n.op) for n in optimize(graph.graph).nodes]
        assert CachedAttention in kinds, name
        assert Attention not in kinds, name
    runners = compile_batch(graphs, threads, TARGETS.get(target))
    for (name, model, _), graph, runner in zip(cases, graphs, runners, strict=True):
        inputs = fitting_inputs(graph, 1)
        theirs = torch_answers(model, graph, inputs)
        for _ in range(2):
            compare(name, graph.graph, inputs, run(runner, graph, inputs), theirs)


def test_one_token_agrees_at_awkward_sizes_under_every_mask():
    check(examples())


def test_heads_are_shared_by_threads():
    check(examples()[::4], threads=3)


@narrower
def test_one_token_agrees_on_the_narrower_instruction_set():
    check(examples()[::3], target="avx2")


def imported(mask: str = "none", **kinds: bool) -> tuple[Attend, Imported]:
    model = Attend(4, 2, mask, **kinds).eval()
    return model, from_torch(model, example(4, 2, 33, 16, 16, 2))


def test_kept_keys_and_values_are_read_where_they_are():
    _, graph = imported("count")
    optimized = optimize(graph.graph)
    program = lower(optimized, native())
    readers = [
        s.title for s in program.steps if any(r.space == "in" and r.name in ("keys", "values") for r in s.refs())
    ]
    assert readers == ["attention of 4 heads, 1 query, 33 keys kept and 1 own"]
    assert not any(isinstance(n.op, Permute) for n in optimized.nodes)


def test_what_hidden_keys_hold_does_not_matter():
    _, graph = imported("count")
    [runner] = compile_batch([graph])
    inputs = fitting_inputs(graph, 1)
    inputs["count"][:] = 5
    [expected] = run(runner, graph, inputs)
    for name in ("keys", "values"):
        inputs[name][:, :, :, 5:] = np.nan
    [answer] = run(runner, graph, inputs)
    np.testing.assert_array_equal(answer, expected)


def test_nan_in_a_key_that_is_seen_reaches_all_heads_on_it_and_no_other():
    _, graph = imported("count")
    [runner] = compile_batch([graph])
    inputs = fitting_inputs(graph, 1)
    inputs["count"][:] = 33
    inputs["keys"][1, 0, 1, 32, 3] = np.nan
    [answer] = run(runner, graph, inputs)
    expected = np.zeros(answer.shape, bool)
    expected[0, 2:] = True
    np.testing.assert_array_equal(np.isnan(answer), expected)


def test_a_token_that_sees_no_key_gives_zeros():
    class Blind(nn.Module):
        def forward(self, q, own, keys, values, mask):
            k, v = torch.cat([keys, own], 2), torch.cat([values, own], 2)
            return F.scaled_dot_product_attention(q, k, v, mask)

    args = (torch.zeros(1, 2, 1, 4), torch.zeros(1, 2, 1, 4), *[torch.zeros(1, 2, 6, 4)] * 2, torch.zeros(1, 7))
    graph = from_torch(Blind().eval(), args)
    [runner] = compile_batch([graph])
    inputs = fitting_inputs(graph, 1)
    inputs["mask"][:] = -np.inf
    assert not run(runner, graph, inputs)[0].any()


def test_several_queries_and_computed_keys_stay_ordinary_attention():
    class Several(nn.Module):
        def forward(self, q, keys):
            return F.scaled_dot_product_attention(q, torch.cat([keys, q], 2), torch.cat([keys, q], 2))

    class Computed(nn.Module):
        def forward(self, q, keys):
            k = torch.cat([keys.exp(), q], 2)
            return F.scaled_dot_product_attention(q, k, k)

    for model, queries in ((Several(), 2), (Computed(), 1)):
        graph = optimize(from_torch(model.eval(), (torch.zeros(1, 2, queries, 4), torch.zeros(1, 2, 6, 4))).graph)
        assert sum(isinstance(n.op, Attention) for n in graph.nodes) == 1
        assert not any(isinstance(n.op, CachedAttention) for n in graph.nodes)


@pytest.mark.parametrize(
    ("source", "start", "step", "shape", "expected"),
    [
        ((3, 4, 5), (1, 0, 0), (1, 1, 1), (1, 4, 5), 20),
        ((3, 4, 5), (0, 0, 0), (1, 1, 1), (3, 4, 5), 0),
        ((3, 4, 5), (2, 1, 0), (2, 1, 1), (1, 2, 5), 45),
        ((3, 4, 5), (2, 1, 3), (1, 1, 1), (1, 1, 2), 48),
        ((1, 1, 9), (0, 0, 3), (1, 1, 1), (1, 1, 3), 3),
        ((3, 4, 5), (0, 0, 0), (1, 1, 1), (1, 4, 4), None),
        ((3, 4, 5), (0, 1, 0), (1, 1, 1), (2, 3, 5), None),
        ((9,), (1,), (2,), (3,), None),
        ((9,), (4,), (2,), (1,), 4),
    ],
)
def test_a_slice_knows_whether_it_is_one_run(source, start, step, shape, expected):
    op = Slice(start, step)
    assert op.run_start(source, shape) == expected
    flat = np.arange(np.prod(source)).reshape(source)
    window = tuple(slice(s, s + t * (m - 1) + 1, t) for s, t, m in zip(start, step, shape, strict=True))
    taken = flat[window].reshape(-1)
    assert (expected is not None) == bool((np.diff(taken) == 1).all())
    assert expected is None or taken[0] == expected
