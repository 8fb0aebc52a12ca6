"""Graphs in a file: back bit by bit, small where there are holes, refused when they would lead the compiler astray."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import get_args

import numpy as np
import pytest

from compiler.graphs import case, fitting_inputs, pools, random_inputs
from compiler.token_graphs import imported_tokens, token_model
from monstera.compiler.graph_file import pack_graphs, read_graphs
from monstera.compiler.ir import (
    Activate,
    Activation,
    AdaptivePool,
    Add,
    Affine,
    Attention,
    AvgPool,
    CachedAttention,
    Compare,
    Concat,
    Constant,
    Conv,
    DepthToSpace,
    Embedding,
    Graph,
    Linear,
    MatMul,
    MaxPool,
    Mean,
    Mul,
    Node,
    Norm,
    Op,
    Pad,
    Permute,
    Recurrent,
    Reshape,
    Slice,
    Softmax,
    Upsample,
    Where,
    interpret,
)
from monstera.compiler.ir.check import GraphError, check_graph, rule
from monstera.compiler.passes import optimize
from monstera.runtime.strict_json import canonical_json


def pack_graph(graph: Graph) -> tuple[bytes, np.ndarray]:
    return pack_graphs([graph])


def read_graph(text: bytes, params: np.ndarray) -> Graph:
    (graph,) = read_graphs(text, params)
    return graph


@pytest.mark.parametrize(("seed", "spatial"), pools(12, 8))
def test_a_random_graph_comes_back_as_it_was(seed, spatial):
    graph = optimize(case(seed, spatial).graph)
    _comes_back(graph, random_inputs(graph, seed))


@pytest.mark.parametrize("seed", range(20))
def test_a_random_graph_over_tokens_comes_back_as_it_was(seed):
    imported = imported_tokens(token_model(np.random.default_rng(seed)))
    _comes_back(optimize(imported.graph), fitting_inputs(imported, seed))


def _comes_back(graph: Graph, inputs: dict[str, np.ndarray]) -> None:
    text, params = pack_graph(graph)
    back = read_graph(text, params)
    assert (back.inputs, back.nodes, back.outputs) == (graph.inputs, graph.nodes, graph.outputs)
    for key, array in back.params.items():
        assert array.shape == graph.params[key].shape
        assert array.tobytes() == np.ascontiguousarray(graph.params[key]).tobytes()
    # numpy rounds by how arrays lie: those of a file lie row by row.
    laid = replace(graph, params={key: np.asarray(array, order="C") for key, array in graph.params.items()})
    expected = interpret(laid, inputs, np.float32)
    for name, value in interpret(back, inputs, np.float32).items():
        assert np.array_equal(value, expected[name], equal_nan=True)
    assert pack_graph(back)[0] == text
    assert (pack_graph(back)[1] == params).all()


def _linear(weight: np.ndarray) -> Graph:
    node = Node("y", Linear("w"), ("x",), (2, len(weight)))
    return Graph((("x", (2, weight.shape[1])),), (node,), ("y",), {"w": weight, "unused": np.ones(1000, np.float32)})


@pytest.mark.parametrize("density", [0.0, 0.1, 0.5, 0.96, 1.0])
def test_zeros_take_a_bit_and_every_other_float_comes_back_with_its_sign(density):
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((64, 101)).astype(np.float32) * (rng.random((64, 101)) < density)
    weight[0, :3] = -0.0, 1e-40, np.inf
    text, params = pack_graph(_linear(weight))
    assert read_graph(text, params).params["w"].tobytes() == weight.tobytes()
    kept = np.count_nonzero(weight.view(np.uint32))
    assert params.nbytes <= min(4 * weight.size, 4 * kept + weight.size / 8) + 4 * 64 + 64


X = (2, 4, 9, 8)
PARAMS = {
    "w": (6, 2, 3, 2), "m": (5, 8), "v6": (6,), "v5": (5,), "v4": (4,), "f": (4, 3), "c": X, "v8": (8,), "s": (),
    "r": (8, 3), "q": (2, 4, 3), "keys": (2, 2, 5), "values": (2, 3, 5), "mask": (2, 1, 5, 1),
    "sums": (3, 2, 20), "state": (2, 5), "u": (20, 5), "v20": (20,),
    "query": (2, 4, 1, 3), "kept": (2, 2, 5, 3), "own": (2, 2, 1, 3), "seen": (1, 1, 6),
}  # fmt: skip
HEADS = Attention(0.5, (2,), (3,), repeats=2)
CONV = Conv("w", "v6", "v6", stride=(2, 1), padding=(1, 0, 1, 1), dilation=(1, 2), groups=2)
# Each node is right; each change beside it makes a lie of it that a kernel would follow out of its memory.
LIES: list[tuple[Node, list[dict[str, object]]]] = [
    (
        Node("y", CONV, ("x",), (2, 6, 5, 7)),
        [
            {"shape": (2, 6, 6, 7)}, {"shape": (2, 6, 5, 8)}, {"shape": (3, 6, 5, 7)}, {"shape": (2, 7, 5, 7)},
            {"groups": 1}, {"groups": 0}, {"groups": -2}, {"groups": 4}, {"bias": "v5"}, {"scale": "s"},
            {"weight": "m"}, {"stride": (0, 1)}, {"stride": (-2, 1)}, {"dilation": (1, 0)},
            {"padding": (3, 0, 1, 1)},
            {"padding": (2**40, 0, -(2**40), 1)}, {"dilation": (2**40, 2)}, {"inputs": ("x", "x")}, {"inputs": ()},
            {"activation": Activation("clamp", 1e39, 2e39)},
        ],
    ),
    (
        Node("y", Linear("m", "v5"), ("x",), (2, 4, 9, 5)),
        [{"shape": (2, 4, 9, 6)}, {"bias": "v6"}, {"scale": "v4"}, {"weight": "w"}, {"shape": (5,)}, {"weight": "c"}],
    ),
    (Node("y", Affine("v4", "v4"), ("x",), X), [{"scale": "s"}, {"shift": "v5"}, {"shape": (2, 4, 9, 9)}]),
    (Node("y", Activate(Activation("relu")), ("x",), X), [{"shape": (2, 4, 9, 9)}]),
    (Node("y", Add(), ("x", "k"), X), [{"shape": (2, 4, 9, 9)}, {"inputs": ("x",)}, {"inputs": ("x", "k", "k")}]),
    (Node("y", Mul(), ("x", "k"), X), [{"shape": (4, 4, 9, 8)}]),
    (Node("y", Constant("c"), (), X), [{"value": "m"}, {"inputs": ("x",)}]),
    (Node("y", Concat(1), ("x", "k"), (2, 8, 9, 8)), [{"dim": -3}, {"dim": 4}, {"shape": (2, 9, 9, 8)}, {"dim": 2}]),
    (
        Node("y", MaxPool((3, 2), (2, 1), (1, 0, 1, 1), (1, 2)), ("x",), (2, 4, 5, 7)),
        [
            {"shape": (2, 4, 6, 7)}, {"shape": (2, 5, 5, 7)}, {"kernel": (0, 2)}, {"stride": (-2, 1)},
            {"padding": (1, -1, 1, 2)}, {"kernel": (2**31, 2), "padding": (2**31, 0, 1, 1)},
        ],
    ),
    (
        Node("y", AvgPool((3, 2), (2, 3), (0, 1, 0, 1), "f"), ("x",), (2, 4, 4, 3)),
        [{"factor": "v4"}, {"shape": (2, 4, 5, 3)}, {"factor": "s"}],
    ),
    (Node("y", AdaptivePool("max"), ("x",), (2, 4, 3, 20)), [{"shape": (2, 3, 3, 20)}, {"shape": (2, 4, 3)}]),
    (
        Node("y", Upsample("nearest", (0.5, 0.25)), ("x",), (2, 4, 18, 32)),
        [{"step": (-0.5, 0.25)}, {"step": (float("nan"), 1.0)}, {"step": (float("inf"), 1.0)}, {"step": (0.5,)},
         {"shape": (2, 5, 18, 32)}, {"step": (1e30, 1e30), "mode": "linear"}],
    ),
    (
        Node("y", Mean((1, 3)), ("x",), (2, 1, 9, 1)),
        [{"dims": (3, 1)}, {"dims": (1, 1)}, {"dims": (-3, -1)}, {"dims": (1, 4)}, {"dims": ()}, {"shape": (2, 9, 1)}],
    ),
    (Node("y", Reshape(), ("x",), (8, 72)), [{"shape": (8, 73)}, {"inputs": ("x", "k")}]),
    (
        Node("y", Permute((3, 0, 2, 1)), ("x",), (8, 2, 9, 4)),
        [{"dims": (-1, 0, 2, 1)}, {"dims": (3, 3, 2, 1)}, {"shape": (2, 8, 9, 4)}, {"dims": (3, 0, 2)}],
    ),
    (
        Node("y", DepthToSpace((2, 1), 2), ("x",), (2, 2, 18, 8)),
        [{"block": (2, 2)}, {"groups": 3}, {"groups": 0}, {"block": (-2, -1)}, {"shape": (2, 2, 18, 9)}],
    ),
    (Node("y", Softmax(1), ("x",), X), [{"dim": 4}, {"dim": -1}, {"shape": (2, 4, 9, 9)}]),
    (Node("y", Compare("lt"), ("x", "k"), X), [{"shape": (2, 4, 9, 9)}, {"inputs": ("x",)}]),
    (
        Node("y", Where(), ("x", "k", "v8"), X),
        [{"shape": (2, 4, 9, 9)}, {"inputs": ("x", "k")}, {"inputs": ("x", "k", "m")}],
    ),
    (
        Node("y", MatMul(), ("x", "r"), (2, 4, 9, 3)),
        [{"shape": (2, 4, 9, 4)}, {"inputs": ("x", "m")}, {"inputs": ("x", "v8")}, {"inputs": ("r", "x")}],
    ),
    (
        Node("y", Norm(1, 1e-5, "v4", "v4"), ("x",), X),
        [{"dim": 4}, {"dim": -3}, {"scale": "v5"}, {"shift": "s"}, {"eps": -1.0}, {"eps": float("nan")},
         {"shape": (2, 4, 9)}],
    ),
    (
        Node("y", Embedding("m", 1), ("x",), (2, 8, 4, 9, 8)),
        [{"dim": 5}, {"dim": -1}, {"weight": "v5"}, {"weight": "r"}, {"shape": (2, 4, 8, 9, 8)}],
    ),
    (
        Node("y", HEADS, ("q", "keys", "values", "mask"), (2, 6, 3)),
        [
            {"qk": (4,)}, {"v": (2,)}, {"repeats": 1}, {"qk": (3, -1), "v": (2, 1)}, {"shape": (2, 6, 4)},
            {"inputs": ("q", "keys")}, {"inputs": ("q", "keys", "keys")}, {"inputs": ("q", "keys", "values", "x")},
            {"shape": (1, 6, 3)}, {"scale": 1e39},
        ],
    ),
    (
        Node("y", CachedAttention(0.5), ("query", "kept", "kept", "own", "own", "seen"), (2, 4, 1, 3)),
        [
            {"shape": (2, 4, 1, 4)}, {"shape": (2, 2, 1, 3)}, {"scale": 1e39}, {"inputs": ("query", "kept", "kept")},
            {"inputs": ("kept", "kept", "kept", "own", "own")}, {"inputs": ("query", "kept", "own", "own", "own")},
            {"inputs": ("query", "kept", "kept", "own", "kept")}, {"inputs": ("query", "q", "kept", "own", "own")},
            {"inputs": ("query", "kept", "kept", "own", "own", "mask")},
            {"inputs": ("own", "query", "query", "query", "query")},
        ],
    ),
    (
        Node("y", Recurrent("lstm", "u", "v20", cell=True), ("sums", "state", "state"), (4, 2, 5)),
        [
            {"kind": "gru", "cell": False}, {"weight": "m"}, {"bias": "v5"}, {"cell": False}, {"shape": (3, 2, 5)},
            {"inputs": ("sums", "state")}, {"inputs": ("sums", "state", "m")}, {"inputs": ("x", "state", "state")},
        ],
    ),
    (
        Node("y", Pad((0, 1, -2, 0), 1.5), ("x",), (2, 6, 9, 3)),
        [{"before": (0, 1, -2)}, {"before": (0, 2**40, 0, 0)}, {"value": 1e39}, {"shape": (2, 6, 9)}],
    ),
    (
        Node("y", Slice((0, 1, 2, 0), (1, 2, 3, 1)), ("x",), (2, 2, 3, 8)),
        [{"start": (0, -1, 2, 0)}, {"step": (1, 2, 4, 1)}, {"step": (1, 2, 0, 1)}, {"shape": (2, 3, 3, 8)},
         {"start": (0, 1, 3, 0)}],
    ),
]  # fmt: skip


def _graph(node: Node) -> Graph:
    params = {key: np.ones(shape, np.float32) for key, shape in PARAMS.items()}
    constants = [Node(key, Constant(key), (), shape) for key, shape in PARAMS.items()]
    return Graph((("x", X),), (*constants, Node("k", Constant("c"), (), X), node), (node.name,), params)


@pytest.mark.parametrize(("node", "lies"), LIES, ids=[type(node.op).__name__ for node, _ in LIES])
def test_a_node_that_lies_is_refused_by_name_and_one_that_does_not_is_taken(node, lies):
    check_graph(_graph(node))
    interpret(_graph(node), {"x": np.ones(X, np.float32)})
    for lie in lies:
        of_node = {k: v for k, v in lie.items() if k in ("shape", "inputs")}
        of_op = {k: v for k, v in lie.items() if k not in of_node}
        false = replace(node, op=replace(node.op, **of_op), **of_node)
        with pytest.raises(GraphError, match=f"node 'y' .{type(node.op).__name__}"):
            check_graph(_graph(false))


def test_every_operator_has_a_rule_and_a_lie_here():
    assert {type(node.op) for node, _ in LIES} == set(get_args(Op))
    assert all(rule.dispatch(op) is not rule.dispatch(object) for op in get_args(Op))


@pytest.mark.parametrize("shape", [(2**30, 4), (0, 4), (2**14, 2**15), (1,) * 20])
def test_an_input_of_impossible_size_is_refused(shape):
    with pytest.raises(GraphError, match="'x' has the shape"):
        check_graph(Graph((("x", shape),), (), ("x",), {}))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda g: g["nodes"][0].update(op="System"), "no operator 'System'; known: Conv"),
        (lambda g: g["nodes"][0].update(op="Softmax"), r"expected an object with \['dim'\]"),
        (lambda g: g["nodes"][0]["fields"].update(weight=3), r"node 'y'\.weight is 3, expected str"),
        (lambda g: g["nodes"][0]["fields"].update(weight="other"), "needs the parameters"),
        (lambda g: g["nodes"][0].update(inputs=["z"]), "before they are defined"),
        (lambda g: g["nodes"].append(g["nodes"][0]), "defines 'y' twice"),
        (lambda g: g.update(outputs=["z"]), "not values of the graph"),
        (lambda g: g["params"].append(g["params"][0]), "speaks of a parameter twice"),
        (lambda g: g["params"].append({**g["params"][0], "key": "v", "shape": [5]}), "take the table 0 in two ways"),
        (lambda g: g["params"][0].update(table=1), "the table '1' of 'w' is missing"),
        (lambda g: g["params"][0].update(shape=[6, 101]), "elements stored, expected|bits of 'w' are too few"),
        (lambda g: g["params"][0].update(shape=[2**30, 2**17]), "the bits of 'w' are too few"),
        (lambda g: g["params"][0].update(shape=[-5, -101]), "the bits of 'w' are too few"),
        (lambda g: g["params"][0].update(sparse=False), "elements stored, expected"),
        (lambda g: g["params"].clear(), "needs the parameters|left over"),
        (lambda g: g.update(more=1), "expected an object with"),
    ],
)
def test_a_graph_whose_text_was_changed_is_refused(change, words):
    weight = np.eye(5, 101, dtype=np.float32)
    text, params = pack_graph(_linear(weight))
    raw = json.loads(text)
    change(raw["graphs"][0])
    with pytest.raises(GraphError, match=words):
        read_graph(canonical_json(raw), params)


def test_a_tensor_that_offsets_cannot_reach_over_is_refused():
    from monstera.compiler.assembly import compile_graphs
    from monstera.compiler.frontends import Imported, Input, UnsupportedError
    from monstera.compiler.targets import native
    from monstera.compiler.tuning import Table

    shape = (2**11, 2**10, 2**10)
    graph = Graph((("x", shape),), (Node("y", Activate(Activation("relu")), ("x",), shape),), ("y",), {})
    imported = Imported(graph, (Input("x", shape),), {"kind": "value", "index": 0})
    with pytest.raises(UnsupportedError, match="'y' takes 2147483648 floats"):
        compile_graphs([imported], native(), 1, Table())


def test_names_never_leave_the_comments_of_the_c_source():
    from monstera.compiler.emit import emit, unit
    from monstera.compiler.lowering import lower
    from monstera.compiler.targets import native

    for evil in ("*/ int evil; /*", "*\\\n/ int evil;", "*??/\n/ int evil;", "a\nint evil;"):
        node = Node(evil, Linear("w"), ("x",), (2, 8), layer=evil)
        graph = Graph((("x", (2, 8)),), (node,), (evil,), {"w": np.ones((8, 8), np.float32)})
        lines = emit([unit(lower(graph, native()))], native(), 1).splitlines()
        for line in (line for line in lines if "evil" in line):
            assert line.startswith("/* ")
            assert line.endswith(" */")
            assert line.count("*/") == line.count("/*") == 1
            assert "\\" not in line
