"""Attention, norms, look-ups, products and choices at awkward sizes: engine, interpreter and torch agree."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise, product

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from compiler.agreement import compare, torch_answers
from compiler.batch import compile_batch, run
from compiler.functions import Operation as Function
from compiler.graphs import fitting_inputs, normal
from monstera.compiler.frontends import Imported, UnsupportedError, from_torch
from monstera.compiler.frontends.imported import Input
from monstera.compiler.ir import Activate, Activation, Attention, Embedding, Graph, Node, Norm, interpret
from monstera.compiler.lowering import lower
from monstera.compiler.lowering.sequences import strip_widths
from monstera.compiler.passes import optimize
from monstera.compiler.targets import TARGETS, native

TOKENS = (1, 7, 15, 16, 17, 33, 128)
HEADS = (1, 3, 12)
MASKS = ("none", "bool", "float", "causal", "per head", "keys")


Example = tuple[str, nn.Module, tuple[torch.Tensor, ...]]


pytestmark = pytest.mark.usefixtures("nan_before_first_use")


def check(examples: list[Example], threads: int = 1, target: str = "native") -> None:
    """Compile all together; each agrees, twice, as the second run finds a used arena."""
    graphs = [from_torch(model.eval(), args) for _, model, args in examples]
    runners = compile_batch(graphs, threads, TARGETS.get(target))
    for (name, model, _), graph, runner in zip(examples, graphs, runners, strict=True):
        inputs = fitting_inputs(graph, 1)
        theirs = torch_answers(model, graph, inputs)
        for _ in range(2):
            compare(name, graph.graph, inputs, run(runner, graph, inputs), theirs)


def attend(mask: str, heads: int, queries: int, keys: int) -> Callable[..., torch.Tensor]:
    """Attention of `[batch, heads, tokens, width]` under a mask that is known."""
    rng = np.random.default_rng(3)
    seen = torch.from_numpy(rng.random((2, 1, queries, keys)) < 0.7)
    masks = {
        "none": None,
        "causal": None,
        "bool": seen,
        "float": normal(rng, (queries, keys)),
        "per head": normal(rng, (1, heads, queries, keys)),
        "keys": seen[:, :, :1],
    }
    return lambda q, k, v: F.scaled_dot_product_attention(q, k, v, masks[mask], is_causal=mask == "causal")


def attention_examples() -> list[Example]:
    found: list[Example] = []
    for i, (tokens, heads) in enumerate(product(TOKENS, HEADS)):
        for mask in (MASKS[i % len(MASKS)], MASKS[(i + 3) % len(MASKS)]):
            qkv = tuple(torch.zeros(2, heads, tokens, 5) for _ in range(3))
            found.append(
                (f"{tokens} tokens, {heads} heads, {mask}", Function(attend(mask, heads, tokens, tokens)), qkv)
            )
    for queries, keys in ((5, 9), (9, 5), (1, 40), (130, 3)):
        for mask in ("none", "causal", "float"):
            q, k, v = torch.zeros(2, 3, queries, 4), torch.zeros(2, 3, keys, 4), torch.zeros(2, 3, keys, 7)
            name = f"{queries} queries, {keys} keys, {mask}"
            found.append((name, Function(attend(mask, 3, queries, keys)), (q, k, v)))
    return found


def test_attention_agrees_at_awkward_sizes_under_every_mask():
    check(attention_examples())


def test_attention_is_shared_by_threads():
    check(attention_examples()[::5], threads=3)


def test_heads_that_share_keys_agree():
    def shared(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return F.scaled_dot_product_attention(q, k, v, enable_gqa=True)

    q, k = torch.zeros(1, 6, 9, 4), torch.zeros(1, 2, 9, 4)
    graph = from_torch(Function(shared).eval(), (q, k, k)).graph
    assert [n.op.repeats for n in graph.nodes if isinstance(n.op, Attention)] == [3]
    check([("shared keys", Function(shared), (q, k, k))])


def runner_of(model: nn.Module, *args: torch.Tensor):
    imported = from_torch(model.eval(), args)
    return imported, compile_batch([imported])[0]


def test_pads_between_and_behind_sequences_are_zero_for_convolutions_that_read_them():
    rng = np.random.default_rng(0)
    weight, table = normal(rng, (5, 6, 3)), normal(rng, (11, 6))

    def attended(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        heads = x.reshape(2, 2, 3, -1).transpose(2, 3)
        y = F.scaled_dot_product_attention(heads, heads, heads)
        return F.conv1d(y.transpose(2, 3).reshape(x.shape), w, padding=1)

    def normed(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        return F.conv1d(F.layer_norm(x.transpose(1, 2), (6,), None, w[0, :, 0]).transpose(1, 2), w, padding=1)

    def looked_up(x: torch.Tensor, w: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        return F.conv1d(F.embedding(x, rows).transpose(1, 2), w, padding=1)

    found: list[Example] = []
    for tokens in (4, 15, 16, 17):
        x, ids = torch.zeros(2, 6, tokens), torch.zeros(2, tokens, dtype=torch.int64)
        found.append((f"attention, {tokens}", Function(attended, w=weight), (x,)))
        found.append((f"norm, {tokens}", Function(normed, w=weight), (x,)))
        found.append((f"rows, {tokens}", Function(looked_up, w=weight, rows=table), (ids,)))
    check(found)


def test_a_query_that_sees_no_key_gives_zeros_as_torch_does():
    hidden = torch.ones(6, 6, dtype=torch.bool)
    hidden[2] = False
    model = Function(lambda q, k, v: F.scaled_dot_product_attention(q, k, v, hidden))
    imported, runner = runner_of(model, *[torch.zeros(1, 2, 6, 4)] * 3)
    inputs = fitting_inputs(imported)
    [answer] = run(runner, imported, inputs)
    assert (answer[:, :, 2] == 0).all()
    assert (torch_answers(model, imported, inputs)[0].numpy()[:, :, 2] == 0).all()


def test_nan_in_a_query_reaches_its_own_answer_and_no_other():
    model = Function(lambda q, k, v: F.scaled_dot_product_attention(q, k, v))
    imported, runner = runner_of(model, *[torch.zeros(1, 2, 19, 4)] * 3)
    inputs = fitting_inputs(imported)
    inputs[imported.inputs[0].name][0, 1, 17, 2] = np.nan
    [answer] = run(runner, imported, inputs)
    expected = np.zeros((1, 2, 19, 4), bool)
    expected[0, 1, 17] = True
    np.testing.assert_array_equal(np.isnan(answer), expected)


def test_nan_in_a_key_reaches_all_answers_of_its_head():
    model = Function(lambda q, k, v: F.scaled_dot_product_attention(q, k, v))
    imported, runner = runner_of(model, *[torch.zeros(1, 2, 19, 4)] * 3)
    inputs = fitting_inputs(imported)
    inputs[imported.inputs[1].name][0, 0, 3, 1] = np.nan
    [answer] = run(runner, imported, inputs)
    assert np.isnan(answer[0, 0]).all()
    assert not np.isnan(answer[0, 1]).any()


def test_scores_far_apart_neither_overflow_nor_lose_the_largest():
    model = Function(lambda q, k, v: F.scaled_dot_product_attention(q * 300, k, v))
    check([("large scores", model, tuple([torch.zeros(1, 2, 17, 8)] * 3))])


def test_norms_agree_along_the_last_dimension_and_along_channels():
    rng = np.random.default_rng(0)
    found: list[Example] = []
    for tokens, features in product((1, 3, 16, 33), (1, 5, 16, 70)):
        scale, shift = normal(rng, (features,)), normal(rng, (features,))
        x = torch.zeros(2, tokens, features)
        layer = Function(lambda x, s, b: F.layer_norm(x, s.shape, s, b), a=scale, b=shift)
        rms = Function(lambda x, s: F.rms_norm(x, s.shape, s, 1e-6), a=scale)
        found += [(f"layer norm {x.shape}", layer, (x,)), (f"rms norm {x.shape}", rms, (x,))]
    last = Function(lambda x: F.layer_norm(x.permute(0, 2, 3, 1), (7,)).permute(0, 3, 1, 2))
    found.append(("channels of images", last, (torch.zeros(2, 7, 5, 9),)))
    found.append(("several dimensions", Function(lambda x: F.layer_norm(x, (4, 3))), (torch.zeros(2, 5, 4, 3),)))
    check(found)


def test_elements_by_distance_agree_for_more_queries_than_keys_and_fewer():
    def relative(x: torch.Tensor, keys: int) -> torch.Tensor:
        distance = torch.arange(x.shape[-2])[:, None] - torch.arange(keys) + x.shape[-1] // 2
        return x.gather(-1, distance.clamp(0, x.shape[-1] - 1).expand(*x.shape[:-1], keys))

    found: list[Example] = []
    for queries, keys in ((1, 5), (2, 1), (17, 17), (16, 33), (33, 15)):
        x = torch.zeros(2, 3, queries, 19)
        found.append((f"{queries} by {keys}", Function(lambda x, keys=keys: relative(x, keys)), (x,)))
    check(found)


def test_norms_of_groups_rolls_and_patches_agree():
    rng = np.random.default_rng(0)
    scale, shift = normal(rng, (6,)), normal(rng, (6,))
    group = Function(lambda x, s, b: F.group_norm(x, 3, s, b), a=scale, b=shift)
    rolled = Function(lambda x: torch.stack([x.roll((-3, 2), (2, 3)), x[:, [5, 0, 1, 2, 2, 3]]]))
    patches = Function(lambda x: F.fold(F.unfold(x, 3, stride=3).relu(), (9, 15), 3, stride=3))
    x = torch.zeros(2, 6, 9, 15)
    check([("group norm", group, (x,)), ("roll", rolled, (x,)), ("patches", patches, (x,))])


def test_a_large_mean_costs_a_norm_no_digits():
    model = Function(lambda x: F.layer_norm(x + 1000, (40,)))
    imported, runner = runner_of(model, torch.zeros(1, 20, 40))
    inputs = fitting_inputs(imported)
    shifted = (inputs["x"] + np.float32(1000)).astype(np.float64)
    exact = (shifted - shifted.mean(-1, keepdims=True)) / np.sqrt(shifted.var(-1, keepdims=True) + 1e-5)
    np.testing.assert_allclose(run(runner, imported, inputs)[0], exact, atol=3e-4)


def test_rows_of_a_table_agree_and_a_number_that_is_no_row_gives_nan():
    table = normal(np.random.default_rng(0), (11, 6))
    shapes = ((1, 1), (2, 7), (3, 17), (40,), (2, 3, 4))
    look_up = Function(lambda x, table: F.embedding(x, table), a=table)
    check([(f"rows {shape}", look_up, (torch.zeros(shape, dtype=torch.int64),)) for shape in shapes])
    for dim, shape in ((1, (2, 6, 9)), (2, (2, 9, 6))):
        op = Embedding("table", dim)
        graph = Graph((("x", (2, 9)),), (Node("y", op, ("x",), shape),), ("y",), {"table": table.numpy()})
        x = np.full((2, 9), 3.0)
        x[0, :4] = [-1, 11, 1e30, np.nan]
        rows = np.moveaxis(interpret(graph, {"x": x})["y"], dim, -1)
        assert np.isnan(rows[0, :4]).all()
        np.testing.assert_array_equal(rows[1], np.broadcast_to(table.numpy()[3], (9, 6)))


def test_products_of_computed_matrices_agree_and_broadcast():
    shapes = [((7, 5), (5, 33)), ((2, 3, 4, 9), (2, 3, 9, 17)), ((2, 1, 4, 1), (3, 1, 130)), ((1, 6), (2, 6, 1))]
    check([(f"{a} @ {b}", Function(torch.matmul), (torch.zeros(a), torch.zeros(b))) for a, b in shapes])


FUNCTIONS: dict[str, Callable[..., torch.Tensor]] = {
    "exp": lambda x: torch.exp(3 * x),
    "sqrt": lambda x: torch.sqrt(x * x + 0.01),
    "rsqrt": lambda x: torch.rsqrt(x * x + 0.1),
    "powers": lambda x: (x * x + 1) ** -0.5 + x**3 + (x * x + 1) ** -1,
    "abs": torch.abs,
    "division": lambda x: x / (x * x + 1),
    "choice": lambda x: torch.where(x > 0.3, x, -2.0),
    "choice of two": lambda x: torch.where(x <= 0.1, x * 2, x + 1),
    "mask": lambda x: x.masked_fill((x < 0) | (x >= 1), 7.0),
    "logic": lambda x: torch.where(~((x != 0) & (x.gt(0.5))), x, 1.0),
    "sum": lambda x: x.sum(-1) + x.sum((1, 2), keepdim=True)[..., 0],
}


def test_functions_and_choices_agree():
    shapes = ((2, 3, 5), (1, 4, 16), (2, 17, 3))
    found = [(f"{n} {s}", Function(f), (torch.zeros(s),)) for n, f in FUNCTIONS.items() for s in shapes]
    check(found)


def test_exponentials_reach_infinity_and_zero_where_torch_does():
    model = Function(torch.exp)
    imported, runner = runner_of(model, torch.zeros(6))
    values = np.array([88.5, 89.0, 1000.0, -200.0, -np.inf, np.nan], np.float32)
    [answer] = run(runner, imported, {"x": values})
    np.testing.assert_allclose(answer, torch.exp(torch.from_numpy(values)).numpy(), rtol=1e-5)


def test_keys_and_values_are_read_where_the_caller_left_them():
    op, shapes = Attention(0.5, (5, 3), (4, 7)), {"q": (2, 8, 19), "k": (2, 8, 33), "v": (2, 11, 33)}
    graph = Graph(tuple(shapes.items()), (Node("y", op, tuple(shapes), (2, 11, 19)),), ("y",), {})
    imported = Imported(graph, tuple(Input(*i) for i in graph.inputs), {"kind": "value", "index": 0})
    program = lower(graph, native())
    assert [s.title for s in program.steps if s.kernel.name == "copy"] == ["q to dense order", "y to output 0"]
    (runner,) = compile_batch([imported], optimized=False)
    inputs = fitting_inputs(imported, 1)
    np.testing.assert_allclose(run(runner, imported, inputs)[0], interpret(graph, inputs)["y"], atol=1e-5)


def test_heads_of_different_widths_are_one_after_another_in_the_channels():
    op = Attention(0.5, (2, 3), (4, 1), repeats=2)
    rng = np.random.default_rng(0)
    q, k, v = rng.standard_normal((1, 10, 6)), rng.standard_normal((1, 5, 7)), rng.standard_normal((1, 5, 7))
    graph = Graph(
        (("q", q.shape), ("k", k.shape), ("v", v.shape)), (Node("y", op, ("q", "k", "v"), (1, 10, 6)),), ("y",), {}
    )
    answer = interpret(graph, {"q": q, "k": k, "v": v})["y"]
    for queries, keys, values, result in (((0, 2), (0, 2), (0, 4), (0, 4)), ((7, 10), (2, 5), (4, 5), (9, 10))):
        a, b, c = (torch.from_numpy(t[0, slice(*r)].T) for t, r in ((q, queries), (k, keys), (v, values)))
        theirs = F.scaled_dot_product_attention(a[None], b[None], c[None], scale=0.5)[0].T
        np.testing.assert_allclose(answer[0, slice(*result)], theirs, atol=1e-12)


class Beside(nn.Module):
    """A layer, and a value that is computed before it and given behind it."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        early = x.sigmoid()
        y = self.layer(x)
        return (y[0] if isinstance(y, tuple) else y), early


def test_values_may_be_named_like_the_memory_that_layers_work_in():
    torch.manual_seed(0)
    layers = (nn.GRU(8, 12), nn.LSTM(8, 12), nn.TransformerEncoderLayer(8, 2, 4, 0.0), nn.Conv1d(9, 4, 3))
    found = [pair for layer in layers for pair in named_like_scratch(layer)]
    assert len(found) >= 8
    graphs = [graph for _, graph in found]
    for (name, graph), runner in zip(found, compile_batch(graphs, optimized=False), strict=True):
        inputs = fitting_inputs(graph, 1)
        exact = interpret(graph.graph, inputs)
        for answer, value in zip(run(runner, graph, inputs), graph.graph.outputs, strict=True):
            np.testing.assert_allclose(answer, exact[value], atol=1e-4, err_msg=f"{name}: {value}")


def named_like_scratch(layer: nn.Module) -> list[tuple[str, Imported]]:
    """Graphs of a layer in which another value has the name that lowering gave one of its own buffers."""
    imported = from_torch(Beside(layer).eval(), (torch.zeros(1, 9, 8),))
    graph = optimize(imported.graph)
    (early,) = (n.name for n in graph.nodes if n.op == Activate(Activation("sigmoid")))
    names = sorted(lower(graph, native()).buffers.keys() - graph.shapes().keys())
    return [(name, replace(imported, graph=renamed(graph, early, name))) for name in names]


def renamed(graph: Graph, old: str, new: str) -> Graph:
    """The graph with a value under another name."""
    name = {old: new}
    nodes = [
        replace(n, name=name.get(n.name, n.name), inputs=tuple(name.get(i, i) for i in n.inputs)) for n in graph.nodes
    ]
    return graph.with_nodes(nodes, [name.get(value, value) for value in graph.outputs])


def test_attention_refuses_widths_that_do_not_fit():
    with pytest.raises(ValueError, match="widths of queries and of values for the same groups"):
        Attention(1.0, (4, 4), (4,))


@pytest.mark.parametrize("length", [1, 15, 16, 17, 112, 113, 1000])
def test_strips_have_the_widths_that_are_built(length):
    vectors = -(-length // 16)
    strips = -(-vectors // 7)
    cuts = [vectors * s // strips for s in range(strips + 1)]
    assert {b - a for a, b in pairwise(cuts)} == strip_widths(length, 16, 7)


REFUSED: dict[str, Callable[..., torch.Tensor]] = {
    "dropout in attention": lambda x: F.scaled_dot_product_attention(x, x, x, dropout_p=0.1),
    "the power 2.5": lambda x: x**2.5,
    "a cast of float32 to int64": lambda x: x.long().float(),
    "whole numbers beyond": lambda x: x + torch.tensor(2**25) * (x > 0),
    "another dimension than the last": lambda x: x.cumsum(1),
    "a product with a vector": lambda x: x @ x[0, 0, 0],
    "the model returns a tensor of bool": lambda x: x > 0,
}


@pytest.mark.parametrize("message", REFUSED)
def test_what_the_ir_cannot_say_is_refused_with_the_reason(message):
    with pytest.raises(UnsupportedError, match=message):
        from_torch(Function(REFUSED[message]).eval(), (torch.zeros(1, 3, 4, 4),))


def test_norms_name_their_dimension_in_the_graph():
    graph = from_torch(nn.LayerNorm(5).eval(), (torch.zeros(2, 3, 5),)).graph
    assert [(n.op.dim, n.op.centered) for n in graph.nodes if isinstance(n.op, Norm)] == [(2, True)]
