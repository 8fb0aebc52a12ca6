"""Passes for networks over tokens do what they are for; that they keep what is computed, random networks show."""

from __future__ import annotations

from collections.abc import Callable
from math import prod

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from compiler.functions import Function
from monstera.compiler.frontends import from_torch
from monstera.compiler.ir import Activate, Attention, Conv, Graph, Linear, Norm, interpret
from monstera.compiler.passes import (
    drop_dead_channels,
    drop_dead_code,
    fold_constants,
    fuse_attention,
    fuse_formulas,
    merge_equal,
    optimize,
)
from monstera.compiler.passes.orders import reshaped


def graph_of(model: nn.Module, *shape: int) -> Graph:
    return from_torch(model.eval(), (torch.zeros(shape),)).graph


def kinds(graph: Graph) -> list[str]:
    return [type(n.op).__name__ for n in graph.nodes]


def attention_of(graph: Graph) -> Attention:
    [op] = [n.op for n in graph.nodes if isinstance(n.op, Attention)]
    return op


@settings(max_examples=300)
@given(st.data())
def test_a_reshape_moves_behind_a_permutation_or_says_that_it_cannot(data):
    source = tuple(data.draw(st.lists(st.sampled_from([1, 2, 3, 4, 6]), min_size=1, max_size=4)))
    order = tuple(data.draw(st.permutations(range(len(source)))))
    x = np.arange(prod(source)).reshape(source)
    seen = x.transpose(order)
    target = data.draw(st.sampled_from(_shapes(prod(source))))
    moved = reshaped(source, order, target)
    if moved is not None:
        shape, dims = moved
        np.testing.assert_array_equal(x.reshape(shape).transpose(dims), seen.reshape(target))
    else:
        # What it refuses is no order of dimensions of any reshape: neighbours are apart in memory, and numpy copies.
        assert not np.shares_memory(x, seen.reshape(target))


def _shapes(size: int) -> list[tuple[int, ...]]:
    """Some shapes of so many elements."""
    pairs = [(a, size // a) for a in range(1, size + 1) if size % a == 0]
    triples = [(a, b, c) for a, rest in pairs for b, c in [(d, rest // d) for d in range(1, rest + 1) if rest % d == 0]]
    return [(size,), *pairs, *triples, *[(1, a, 1, b) for a, b in pairs]]


def test_linear_layers_with_an_activation_and_a_residual_are_two_convolutions_and_a_permutation_at_each_end():
    model = Function(lambda m, x: x + m.down(F.gelu(m.up(x))), up=nn.Linear(6, 9), down=nn.Linear(9, 6))
    assert kinds(optimize(graph_of(model, 2, 8, 6))) == ["Permute", "Conv", "Conv", "Permute"]


@pytest.mark.parametrize("shape", [(1, 1, 6), (7, 1, 6), (1, 7, 6), (5, 6)])
def test_few_tokens_and_single_vectors_keep_their_linear_layers(shape):
    graph = optimize(graph_of(nn.Linear(6, 9), *shape))
    assert [n.op for n in graph.nodes if isinstance(n.op, Conv)] == []
    assert sum(isinstance(n.op, Linear) for n in graph.nodes) == 1


def test_attention_that_is_spelled_out_is_found_with_its_scale_and_masks():
    lower = torch.ones(9, 9).tril()

    def spelled(_: nn.Module, x: torch.Tensor) -> torch.Tensor:
        scores = (x @ x.transpose(2, 3)) * 0.25 + torch.where(lower > 0, 0.0, -1e9) + lower
        return scores.softmax(-1) @ x

    graph = graph_of(Function(spelled), 2, 3, 9, 4)
    fused = fuse_attention(graph)
    assert attention_of(fused).scale == 0.25
    assert attention_of(fused).qk == (4, 4, 4)
    x = {"x": np.random.default_rng(0).standard_normal((2, 3, 9, 4))}
    np.testing.assert_allclose(interpret(fused, x)[fused.outputs[0]], interpret(graph, x)[graph.outputs[0]], atol=1e-12)


def test_a_softmax_that_somebody_else_reads_stays():
    def shown(_: nn.Module, x: torch.Tensor) -> torch.Tensor:
        weights = (x @ x.transpose(2, 3)).softmax(-1)
        return weights @ x + weights.mean(-1, keepdim=True)

    graph = graph_of(Function(shown), 1, 2, 5, 4)
    assert kinds(fuse_attention(graph)) == kinds(graph)


def test_formulas_are_found_where_all_of_their_numbers_fit():
    def gelu(number: float) -> Callable[..., torch.Tensor]:
        return lambda _, x: 0.5 * x * (1 + torch.tanh(0.79788456 * (x + number * x**3)))

    found = [n.op for n in fuse_formulas(graph_of(Function(gelu(0.044715)), 2, 5)).nodes]
    assert any(isinstance(op, Activate) and op.activation.kind == "gelu_tanh" for op in found)
    other = [n.op for n in fuse_formulas(graph_of(Function(gelu(0.05)), 2, 5)).nodes]
    assert not any(isinstance(op, Activate) and op.activation.kind == "gelu_tanh" for op in other)
    rms = Function(lambda _, x: x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-3))
    graph = optimize(graph_of(rms, 2, 5))
    assert [n.op for n in graph.nodes] == [Norm(1, pytest.approx(1e-3), centered=False)]


def test_parts_of_one_matrix_that_are_read_apart_are_computed_apart():
    model = Function(lambda m, x: torch.mul(*m.both(x).split([4, 4], -1)), both=nn.Linear(6, 8))
    graph = optimize(graph_of(model, 2, 9, 6))
    assert [n.shape for n in graph.nodes if isinstance(n.op, Conv)] == [(2, 4, 9)] * 2
    assert "Slice" not in kinds(graph)


def test_equal_nodes_are_one():
    graph = graph_of(Function(lambda _, x: torch.exp(x) * torch.exp(x)), 2, 3)
    assert kinds(merge_equal(graph)) == ["Activate", "Mul"]


def _slices(*bounds: tuple[int, int]) -> Graph:
    """Functions of slices of one linear layer."""

    def read_apart(m: nn.Module, x: torch.Tensor) -> torch.Tensor:
        y = m.all(x)
        return torch.cat(
            [torch.sigmoid(y[..., a:b]) for a, b in bounds] + [torch.tanh(y[..., a:b]) for a, b in bounds], 2
        )

    torch.manual_seed(0)
    graph = graph_of(Function(read_apart, all=nn.Linear(6, 12)), 1, 9, 6)
    better = optimize(graph)
    x = {"x": np.random.default_rng(0).standard_normal((1, 9, 6))}
    np.testing.assert_allclose(
        interpret(better, x)[better.outputs[0]], interpret(graph, x)[graph.outputs[0]], atol=1e-12
    )
    return better


def test_a_product_is_split_where_its_slices_are_apart_and_each_part_is_computed_once():
    graph = _slices((0, 4), (4, 7), (9, 12))
    filters = sorted(len(graph.params[n.op.weight]) for n in graph.nodes if isinstance(n.op, Conv))
    assert filters == [3, 3, 4]


def test_a_product_whose_slices_overlap_stays_whole():
    graph = _slices((0, 7), (4, 12))
    assert [len(graph.params[n.op.weight]) for n in graph.nodes if isinstance(n.op, Conv)] == [12]


@pytest.mark.parametrize("operator", ["Compare", "Where"])
def test_comparisons_and_choices_read_what_is_expanded_from_before_it(operator):
    def compared(_: nn.Module, x: torch.Tensor) -> torch.Tensor:
        row = x[:, :1].expand(-1, 5, -1)
        return (x < row).float() if operator == "Compare" else torch.where(x > 0, row, x)

    graph = graph_of(Function(compared), 2, 5, 3)
    folded = drop_dead_code(fold_constants(graph))
    assert "Mul" in kinds(graph)
    assert "Mul" not in kinds(folded)
    x = {"x": np.random.default_rng(0).standard_normal((2, 5, 3))}
    np.testing.assert_array_equal(interpret(folded, x)[folded.outputs[0]], interpret(graph, x)[graph.outputs[0]])


def heads_of(change: Callable[[nn.Module], None], causal: bool = True) -> tuple[Graph, Graph]:
    """Attention of four heads of width 3 between linear layers, before and after all passes."""
    torch.manual_seed(0)
    layers = {name: nn.Linear(12, 12) for name in ("q", "k", "v", "out")}

    def attend(m: nn.Module, x: torch.Tensor) -> torch.Tensor:
        q, k, v = (layer(x).view(*x.shape[:2], 4, 3).transpose(1, 2) for layer in (m.q, m.k, m.v))
        mask = None if causal else torch.where(torch.eye(9) > 0, -torch.inf, 0.0)
        y = F.scaled_dot_product_attention(q, k, v, mask, is_causal=causal)
        return m.out(y.transpose(1, 2).reshape(x.shape))

    model = Function(attend, **layers)
    with torch.no_grad():
        change(model)
    graph = graph_of(model, 1, 9, 12)
    better = optimize(graph)
    x = {"x": np.random.default_rng(0).standard_normal((1, 9, 12))}
    np.testing.assert_allclose(
        interpret(better, x)[better.outputs[0]], interpret(graph, x)[graph.outputs[0]], atol=1e-6
    )
    assert drop_dead_channels(better).shapes() == better.shapes()
    return graph, better


def zero(weight: torch.Tensor, *rows: int) -> None:
    weight[[*rows]] = 0


def test_a_head_that_nobody_reads_disappears():
    _, better = heads_of(lambda m: zero(m.out.weight.T, 3, 4, 5))
    assert (attention_of(better).qk, attention_of(better).v) == ((3, 3, 3), (3, 3, 3))


def test_a_head_whose_values_are_dead_leaves_its_bias_in_the_output():
    _, better = heads_of(lambda m: zero(m.v.weight, 3, 4, 5))
    assert attention_of(better).v == (3, 3, 3)


def test_dead_values_with_a_bias_stay_under_a_mask_that_may_hide_all_keys():
    _, better = heads_of(lambda m: zero(m.v.weight, 3, 4, 5), causal=False)
    assert attention_of(better).v == (3, 3, 3, 3)


def test_single_rows_of_values_disappear_within_their_head():
    _, better = heads_of(lambda m: zero(m.out.weight.T, 1, 6, 8))
    assert attention_of(better).v == (2, 3, 1, 3)


def test_a_key_that_is_the_same_for_all_tokens_takes_its_query_along():
    _, better = heads_of(lambda m: zero(m.k.weight, 0, 1, 9))
    assert attention_of(better).qk == (1, 3, 3, 2)


def test_a_query_that_is_zero_takes_its_key_along_and_one_with_a_bias_does_not():
    def change(m: nn.Module) -> None:
        zero(m.q.weight, 0, 4)
        m.q.bias[0] = 0

    _, better = heads_of(change)
    assert attention_of(better).qk == (2, 3, 3, 3)


def test_attention_whose_keys_are_all_alike_is_a_mean():
    _, better = heads_of(lambda m: zero(m.k.weight, *range(12)))
    assert sum(attention_of(better).qk) == 1
