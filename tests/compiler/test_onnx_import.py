"""ONNX files on their way in: shapes, names, outputs, branches, and everything that is refused."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper

import monstera as ms
from compiler.onnx_made import answers, ints, made, weights
from monstera.compiler.frontends.onnx_import import Shapes
from monstera.compiler.ir import Activate, Constant, Conv, interpret

CONV = "c = Conv<pads=[1,1,1,1]>(x, w)\n y = Relu(c)"
SIZED: dict[str, tuple[int | str, ...]] = {"x": (1, 3, 7, 5)}
FREE: dict[str, tuple[int | str, ...]] = {"x": ("batch", 3, "height", 5)}
INT64 = onnx.TensorProto.INT64
W = weights(w=(4, 3, 3, 3))
IMAGE = weights(1, x=(1, 3, 7, 5))


def meaning(model: onnx.ModelProto, inputs: dict[str, np.ndarray], shapes: Shapes | None = None) -> list[np.ndarray]:
    """The outputs as the interpreter computes them."""
    graph = ms.from_onnx(model, shapes).graph
    values = interpret(graph, inputs)
    return [values[name] for name in graph.outputs]


def assert_as_onnx_runtime(model: onnx.ModelProto, inputs: dict[str, np.ndarray]) -> None:
    for ours, theirs in zip(meaning(model, inputs), answers(model, inputs).values(), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)


def branching(condition: str, inputs: dict[str, tuple[int, ...]] = SIZED) -> onnx.ModelProto:
    """If the condition holds the ReLU of x, else tanh of its values plus a sine that nobody knows."""
    model = made(f"{condition}\n y = Neg(x)", inputs, ints(three=3, two=2, zero=0))
    then, other = (made(text, inputs).graph for text in ("t = Relu(x)", "f = Tan(x)\n t = Tanh(f)"))
    for graph in (then, other):
        del graph.input[:], graph.output[:]
        graph.output.append(helper.make_tensor_value_info("t", 1, inputs["x"]))
    model.graph.node[-1].CopyFrom(helper.make_node("If", ["k"], ["y"], then_branch=then, else_branch=other))
    return model


def test_a_path_and_a_proto_give_the_same_engine(tmp_path: Path) -> None:
    model = made(CONV, SIZED, W)
    onnx.save(model, tmp_path / "net.onnx")
    (wanted,) = answers(model, IMAGE).values()
    for source in (model, tmp_path / "net.onnx", str(tmp_path / "net.onnx")):
        answer = ms.compile(source)(IMAGE["x"])
        assert isinstance(answer, np.ndarray)
        np.testing.assert_allclose(answer, wanted, atol=1e-5)


@pytest.mark.parametrize(
    "example", [torch.zeros(2, 3, 8, 5), (np.zeros((2, 3, 8, 5)),), {"x": torch.zeros(2, 3, 8, 5)}]
)
def test_the_example_gives_the_dimensions_that_the_model_leaves_open(example: object) -> None:
    engine = ms.compile(made(CONV, FREE, W), example)
    assert engine(torch.zeros(2, 3, 8, 5)).shape == (2, 4, 8, 5)


def test_open_dimensions_without_a_size_are_named() -> None:
    with pytest.raises(
        ValueError, match=r"no size: x \[batch, 3, height, 5\]; give the shapes.*ms\.compile\(model, ex"
    ):
        ms.compile(made(CONV, FREE, W))


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        ([(1, 3, 7, 6)], r"'x': expected \[batch, 3, height, 5\].*got \[1, 3, 7, 6\]"),
        ([(3, 7, 5)], r"'x': expected \[batch, 3, height, 5\]"),
        ({"z": (1, 3, 7, 5)}, "no input is called 'z'; the inputs are x"),
        ([(1, 3, 7, 5), (1, 3)], r"expected shapes of 1 inputs \(x\), got 2"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(shapes: Shapes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ms.from_onnx(made(CONV, FREE, W), shapes)


def test_a_symbol_has_one_size() -> None:
    model = made("y = Concat<axis=1>(a, b)", {"a": ("n", 3), "b": ("n", "m")})
    assert ms.from_onnx(model, [(2, 3), (2, 5)]).graph.nodes[0].shape == (2, 8)
    with pytest.raises(ValueError, match=r"'b': expected \[n, m\] with n = 2.*got \[4, 5\]"):
        ms.from_onnx(model, [(2, 3), (4, 5)])


def test_several_outputs_are_a_dict_in_the_order_of_the_model() -> None:
    model = made("z = Relu(x)\n a = Neg(z)", SIZED, outputs=("z", "a", "x"))
    answer = ms.compile(model)(IMAGE["x"])
    assert [*answer] == ["z", "a", "x"]
    np.testing.assert_array_equal(answer["a"], -np.maximum(IMAGE["x"], 0))
    np.testing.assert_array_equal(answer["x"], IMAGE["x"])


def test_an_output_known_at_compile_time_is_given_out() -> None:
    model = made("y = Relu(x)\n s = Shape(x)\n k = Cast<to=1>(s)", SIZED, outputs=("k", "y"))
    np.testing.assert_array_equal(ms.compile(model)(IMAGE["x"])["k"], [1, 3, 7, 5])


def test_weights_keep_their_names_and_nodes_are_layers() -> None:
    model = made(CONV, SIZED, W)
    model.graph.node[0].name = "stem/conv"
    graph = ms.from_onnx(model).graph
    assert [(type(n.op), n.layer) for n in graph.nodes] == [(Conv, "stem/conv"), (Activate, "y")]
    np.testing.assert_array_equal(graph.params["w"], W["w"])


def test_a_weight_whose_name_looks_like_one_of_ours_meets_none() -> None:
    # The first node's bias has the key "a:constant" here, if nobody looks after it.
    model = made("a = Add(x, c)\n y = Mul(a, b)", {"x": (2, 3)}, weights(c=(3,)))
    model.graph.initializer.append(numpy_helper.from_array(np.full(3, 2, np.float32), "a:constant"))
    model.graph.node[1].input[1] = "a:constant"
    assert_as_onnx_runtime(model, weights(1, x=(2, 3)))


def test_what_no_output_needs_is_not_looked_at() -> None:
    model = made("s = Tan(x)\n m, i = MaxPool<kernel_shape=[2,2]>(x)\n y = Relu(m)", SIZED)
    assert_as_onnx_runtime(model, IMAGE)


def test_inputs_with_a_default_are_weights() -> None:
    model = made(CONV, {**SIZED, "w": (4, 3, 3, 3)}, W)
    assert [i.name for i in ms.from_onnx(model).inputs] == ["x"]


def test_sparse_weights_are_read() -> None:
    dense = W["w"] * (W["w"] > 0.5)
    model = made(CONV, SIZED)
    for indices in (np.flatnonzero(dense), np.argwhere(dense)):
        model.graph.ClearField("sparse_initializer")
        values = numpy_helper.from_array(dense[dense != 0], "w")
        sparse = helper.make_sparse_tensor(values, numpy_helper.from_array(indices.astype(np.int64)), dense.shape)
        model.graph.sparse_initializer.append(sparse)
        graph = ms.from_onnx(model).graph
        np.testing.assert_array_equal(next(iter(graph.params.values())), dense)


def test_functions_of_the_model_are_taken_apart() -> None:
    model = made("y = Relu(x)", SIZED)
    model.graph.node[0].CopyFrom(helper.make_node("Twice", ["x"], ["y"], domain="mine"))
    body = [helper.make_node("Add", ["a", "a"], ["b"]), helper.make_node("Relu", ["b"], ["c"])]
    imports = [helper.make_opsetid("", 18)]
    model.functions.append(helper.make_function("mine", "Twice", ["a"], ["c"], body, imports))
    model.opset_import.append(helper.make_opsetid("mine", 1))
    np.testing.assert_allclose(meaning(model, IMAGE)[0], np.maximum(2 * IMAGE["x"], 0))


@pytest.mark.parametrize("condition", ["k = Equal(three, three)", "s = Shape(x)\n n = Size(s)\n k = Less(two, n)"])
def test_a_branch_that_shapes_decide_is_taken(condition: str) -> None:
    assert_as_onnx_runtime(branching(condition), IMAGE)


def test_a_branch_that_the_input_decides_is_refused_with_what_is_in_both() -> None:
    with pytest.raises(ms.UnsupportedError) as caught:
        ms.from_onnx(branching("m = ReduceMean<keepdims=0>(x)\n k = Cast<to=9>(m)"))
    lines = str(caught.value).splitlines()[1:]
    assert lines == [
        "  If in y: the condition is computed from the input",
        "  Tan in f: unknown to the compiler",
    ]


def test_branches_may_use_one_name_for_different_weights() -> None:
    model = made("k = Equal(three, three)\n a = Neg(x)\n y = Neg(a)", SIZED, ints(three=3))
    for i, (node, x, y) in enumerate([(model.graph.node[1], "x", "a"), (model.graph.node[2], "a", "y")], 2):
        branch = made(f"t = Mul({x}, w)", SIZED, {"w": np.full(5, i, np.float32)}).graph
        del branch.input[:], branch.output[:]
        branch.output.append(helper.make_tensor_value_info("t", 1, SIZED["x"]))
        node.CopyFrom(helper.make_node("If", ["k"], [y], then_branch=branch, else_branch=branch))
    np.testing.assert_allclose(meaning(model, IMAGE)[0], 6 * IMAGE["x"], rtol=1e-6)


def test_all_that_is_unsupported_is_listed_with_its_nodes() -> None:
    model = made(
        """a = Tan(x)
           b = Acos(a)
           n = NonZero(b)
           f = Cast<to=1>(n)
           g = Erf(f)
           h = MaxPool<kernel_shape=[9,9]>(x)
           i = Relu(b)
           y = Elu(i)
           z = QuantizeLinear(x, s)
           o = Det(g)""",
        {"x": (1, 2, 4, 4)},
        {"s": np.float32(0.1)},
        outputs=("y", "z", "o", "h"),
    )
    model.graph.node.append(helper.make_node("Fused", ["x"], ["q"], name="fused", domain="com.example"))
    model.graph.output.append(helper.make_tensor_value_info("q", 1, (1,)))
    model.opset_import.append(helper.make_opsetid("com.example", 1))
    with pytest.raises(ms.UnsupportedError) as caught:
        ms.from_onnx(model)
    assert str(caught.value).splitlines() == [
        "the compiler cannot express these operators of the model:",
        "  Tan in a: unknown to the compiler",
        "  Acos in b: unknown to the compiler",
        "  NonZero in n: unknown to the compiler",
        "  MaxPool in h: its result has the shape (1, 2, -4, -4), and no element",
        "  Elu in y: unknown to the compiler",
        "  QuantizeLinear in z: unknown to the compiler",
        "  Det in o: unknown to the compiler",
        "  Fused in fused: the operator belongs to 'com.example'; only ONNX's own are supported",
    ]


@pytest.mark.parametrize("index", [3, -4])
def test_an_index_outside_of_its_dimension_is_refused(index: int) -> None:
    with pytest.raises(ms.UnsupportedError, match=r"Gather in y: index (3|-1) of a dimension of size 3"):
        ms.from_onnx(made("y = Gather<axis=1>(x, i)", SIZED, ints(i=index)))


@pytest.mark.parametrize("dtype", [onnx.TensorProto.DOUBLE, onnx.TensorProto.FLOAT16, onnx.TensorProto.UINT8])
def test_inputs_of_other_types_are_on_the_list(dtype: int) -> None:
    model = made("y = Cast<to=1>(x)", {"x": (3,)}, dtype=dtype)
    with pytest.raises(ms.UnsupportedError, match=r"input 'x' is \w+; expected float32, int64, int32, bool"):
        ms.from_onnx(model)


def test_an_output_of_whole_numbers_is_on_the_list() -> None:
    model = made("y = Less(x, c)", {"x": (3,)}, weights(c=(3,)))
    model.graph.output[0].type.tensor_type.elem_type = onnx.TensorProto.BOOL
    with pytest.raises(ms.UnsupportedError, match="output 'y' is bool; only float32 is supported"):
        ms.from_onnx(model)


def test_an_input_that_numbers_rows_has_their_number_as_its_limit() -> None:
    model = made("r = Reshape(x, s)\n y = Gather(w, r)", {"x": (3, 1)}, weights(w=(5, 2)) | ints(s=[3]), dtype=INT64)
    (given,) = ms.from_onnx(model).inputs
    assert (given.dtype, given.limit) == ("int64", 5)
    engine = ms.compile(model)
    with pytest.raises(ValueError, match="x"):
        engine(np.array([[0], [5], [1]]))


def test_an_input_of_whole_numbers_that_nobody_reads_is_accepted() -> None:
    model = made("y = Relu(x)", SIZED)
    model.graph.input.append(helper.make_tensor_value_info("rate", INT64, ()))
    engine = ms.compile(model)
    np.testing.assert_array_equal(engine(IMAGE["x"], np.array(16000)), np.maximum(IMAGE["x"], 0))


def test_a_cast_leaves_the_number_that_others_read_what_it_is() -> None:
    model = made(
        "f = Cast<to=1>(x)\n m = Add(x, c)\n t = Cast<to=9>(m)\n u = Cast<to=1>(t)\n y = Sub(f, u)",
        {"x": (4,)},
        ints(c=[-1, 0, 1, 2]),
        dtype=INT64,
    )
    inputs = {"x": np.array([1, 0, 3, -2])}
    np.testing.assert_array_equal(ms.compile(model)(inputs["x"]), answers(model, inputs)["y"])


def test_counts_of_whole_numbers_are_exact() -> None:
    lengths = range(1, 65)
    sums = [f"s{n} = ReduceSum<keepdims=0>(x{n}, a)\n c{n} = Cast<to=1>(s{n})" for n in lengths]
    joined = f"y = Concat<axis=0>({', '.join(f'c{n}' for n in lengths)})"
    shapes = {f"x{n}": (n + 1, n) for n in lengths}
    graph = ms.from_onnx(made("\n".join([*sums, joined]), shapes, ints(a=[1]), dtype=INT64)).graph
    for dtype in (np.float32, np.float64):
        values = interpret(graph, {f"x{n}": np.tri(n + 1, n, -1) for n in lengths}, dtype)
        np.testing.assert_array_equal(values[graph.outputs[0]], np.concatenate([np.arange(n + 1) for n in lengths]))


@pytest.mark.parametrize(
    ("nodes", "message"),
    [
        ("d = Div(x, x)\n y = Cast<to=1>(d)", "Div in d: a division of whole numbers, which rounds"),
        ("d = ReduceMean(x)\n y = Cast<to=1>(d)", "ReduceMean in d: its result is int64; expected float32"),
        ("d = Cast<to=1>(x)\n e = Cast<to=7>(d)\n y = Cast<to=1>(e)", "Cast in e: a cast of float32 to int64"),
        ("d = Cast<to=11>(x)\n y = Cast<to=1>(d)", "Cast in d: its result is float64; expected float32, int64, int32"),
    ],
)
def test_arithmetic_that_rounds_to_whole_numbers_is_refused(nodes: str, message: str) -> None:
    with pytest.raises(ms.UnsupportedError, match=message):
        ms.from_onnx(made(nodes, {"x": (3,)}, dtype=INT64))


@pytest.mark.parametrize("opset", [12, 22])
def test_other_opsets_are_refused(opset: int) -> None:
    with pytest.raises(ValueError, match=f"expected opset 13 to 21, got {opset}; export it anew, or convert"):
        ms.from_onnx(made(CONV, SIZED, W, opset=opset))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_weights_that_are_not_finite_are_named(bad: float) -> None:
    w = W["w"].copy()
    w[1, 2, 0, 1] = bad
    with pytest.raises(ValueError, match="NaN or infinite values in 'w'"):
        ms.from_onnx(made(CONV, SIZED, {"w": w}))


def test_an_infinite_constant_is_no_weight() -> None:
    model = made("y = Add(x, m)", SIZED, {"m": np.array([0, -np.inf, 0, 0, 1], np.float32)})
    assert_as_onnx_runtime(model, IMAGE)


def test_a_missing_file_is_said_to_be_missing(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"net\.onnx: there is no such file"):
        ms.compile(tmp_path / "net.onnx")


@pytest.mark.parametrize("content", [b"", b"MONSTERA", b"\x08\x08", bytes(range(256))])
def test_a_file_that_is_not_onnx_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "net.onnx").write_bytes(content)
    with pytest.raises(ValueError, match=r"net\.onnx: not a(n| valid) ONNX model"):
        ms.compile(tmp_path / "net.onnx")


def test_a_truncated_file_is_refused(tmp_path: Path) -> None:
    whole = made(CONV, SIZED, W).SerializeToString()
    for size in range(0, len(whole), 7):
        (tmp_path / "net.onnx").write_bytes(whole[:size])
        with pytest.raises(ValueError, match=r"net\.onnx: "):
            ms.from_onnx(tmp_path / "net.onnx")


def test_damaged_files_are_read_or_refused_in_words(tmp_path: Path) -> None:
    model = made(
        """c = Conv<pads=[1,1,1,1]>(x, w)
           p = MaxPool<kernel_shape=[2,2], strides=[2,2], ceil_mode=1>(c)
           s = Shape(p)
           n = Slice(s, zeros, ones)
           k = Concat<axis=0>(n, rest)
           r = Reshape(p, k)
           a, b = Split<axis=1>(r)
           y = Gemm<transB=1>(a, v)
           z = Resize<coordinate_transformation_mode='asymmetric', nearest_mode='floor'>(p, , t)""",
        {"x": (1, 3, 6, 6)},
        weights(w=(4, 3, 3, 3), v=(5, 18)) | ints(zeros=[0], ones=[1], rest=[-1]) | {"t": np.float32([1, 1, 2, 2])},
        outputs=("y", "z"),
        opset=13,
    )
    whole, rng = model.SerializeToString(), np.random.default_rng(0)
    refusals: list[Exception] = []
    for _ in range(150):
        damaged = bytearray(whole)
        for place in rng.integers(0, len(whole), rng.integers(1, 4)):
            damaged[place] ^= 1 << rng.integers(0, 8)
        (tmp_path / "net.onnx").write_bytes(damaged)
        try:
            ms.from_onnx(tmp_path / "net.onnx")
        except (ValueError, FileNotFoundError) as error:
            refusals.append(error)
    assert 50 < len(refusals) < 150
    assert not [error for error in refusals if isinstance(error, UnicodeDecodeError)]


def test_weights_in_another_file_are_found_or_missed(tmp_path: Path) -> None:
    model, path = made(CONV, SIZED, W), tmp_path / "net.onnx"
    onnx.save(model, path, save_as_external_data=True, location="net.weights", size_threshold=0)
    np.testing.assert_array_equal(ms.from_onnx(path).graph.params["w"], W["w"])
    with pytest.raises(ValueError, match=r"'w' lies in another file that is not loaded; pass the path"):
        ms.from_onnx(onnx.load(path, load_external_data=False))
    (tmp_path / "net.weights").unlink()
    with pytest.raises(FileNotFoundError, match=r"net\.onnx: its weights lie in 'net\.weights' beside it"):
        ms.from_onnx(path)


def test_a_path_out_of_the_folder_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(bytes(4 * 4 * 27))
    folder = tmp_path / "model"
    folder.mkdir()
    model = made(CONV, SIZED, W)
    onnx.save(model, folder / "net.onnx", save_as_external_data=True, location="secret", size_threshold=0)
    proto = onnx.load(folder / "net.onnx", load_external_data=False)
    proto.graph.initializer[0].external_data[0].value = "../secret"
    (folder / "net.onnx").write_bytes(proto.SerializeToString())
    with pytest.raises(ValueError, match=r"net\.onnx: not a valid ONNX model"):
        ms.from_onnx(folder / "net.onnx")


def _without_name(model: onnx.ModelProto) -> None:
    model.graph.node[0].input[0] = "nowhere"


def _unknown_operator(model: onnx.ModelProto) -> None:
    model.graph.node[0].op_type = "Convolve"


@pytest.mark.parametrize("damage", [_without_name, _unknown_operator])
def test_models_that_the_checker_refuses_are_refused(damage: Callable[[onnx.ModelProto], None]) -> None:
    model = made(CONV, SIZED, W)
    damage(model)
    with pytest.raises(ValueError, match="the ONNX model: not a valid ONNX model: "):
        ms.from_onnx(model)


def test_names_cannot_leave_their_comments_in_c(tmp_path: Path) -> None:
    model = made("y = Neg(x)", SIZED)
    for evil in ("*/ #error from a name /*", "*\\\n/ #error from a name /*"):
        model.graph.node[0].name = evil
        model.graph.input[0].name = model.graph.node[0].input[0] = evil
        engine = ms.compile(model)
        np.testing.assert_array_equal(engine(IMAGE["x"]), -IMAGE["x"])
        engine.export_c(tmp_path)
        assert "*/ #error" not in (tmp_path / "net.h").read_text()


def test_a_module_still_needs_an_example() -> None:
    with pytest.raises(ValueError, match=r"ReLU needs an example of its inputs: ms\.compile\(model, example\)"):
        ms.compile(torch.nn.ReLU().eval())


def test_what_is_no_model_is_refused() -> None:
    with pytest.raises(TypeError, match=r"cannot compile a int; expected a torch module, the path of an ONNX file"):
        ms.compile(3)  # pyright: ignore[reportArgumentType]


def test_without_onnx_the_error_says_how_to_get_it() -> None:
    code = "import sys; sys.modules['onnx'] = None; import monstera as ms; ms.from_onnx('net.onnx')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "ImportError: reading ONNX models takes the package onnx" in done.stderr
    assert "pip install 'monstera[onnx]'" in done.stderr


def test_compiling_a_module_never_imports_onnx() -> None:
    code = "import sys, monstera.compiler; sys.exit('onnx' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_constants_of_the_graph_are_folded() -> None:
    model = made("a = Exp(c)\n b = Sqrt(a)\n y = Mul(x, b)", SIZED, weights(c=(5,)))
    assert [type(n.op) for n in ms.from_onnx(model).graph.nodes].count(Constant) == 1
    assert_as_onnx_runtime(model, IMAGE)
