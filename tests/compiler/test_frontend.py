"""What `from_torch` reads off a model, and what it refuses."""

import copy
from typing import NamedTuple

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrizations, prune

from compiler.functions import Function
from compiler.graphs import case, pools
from monstera.compiler.frontends import Imported, Input, UnsupportedError, from_torch, trace_torch
from monstera.compiler.frontends.imported import describe_output
from monstera.compiler.ir import Affine, Constant, Conv, Mean, error_bound, interpret

X = torch.from_numpy(np.random.default_rng(0).standard_normal((2, 6, 9, 7)).astype(np.float32))


def conv(*args, **kwargs):
    torch.manual_seed(0)
    return nn.Conv2d(*args, **kwargs)


def rebuild(tree, values):
    """The output structure, as the runtime makes it (a namedtuple stays a tuple here)."""
    if tree["kind"] == "value":
        return values[tree["index"]]
    if tree["kind"] == "constant":
        return tree["value"]
    items = [rebuild(item, values) for item in tree["items"]]
    if tree["kind"] == "dict":
        return dict(zip(tree["keys"], items, strict=True))
    return items if tree["kind"] == "list" else tuple(items)


def assert_agrees(model, *args, **kwargs):
    """The interpreter's outputs against torch's own: rounding may differ, and batch norm is one affine map here."""
    with torch.no_grad():
        expected = model(*[a.clone() for a in args], **kwargs)
    got = from_torch(model, args, kwargs)
    compare(got, {i.name: t for i, t in zip(got.inputs, [*args, *kwargs.values()], strict=True)}, expected)
    return got


def compare(imported: Imported, inputs, expected):
    values = interpret(imported.graph, {name: t.numpy() for name, t in inputs.items()})
    bounds = error_bound(imported.graph, {name: t.numpy() for name, t in inputs.items()})
    outputs = [(values[name], bounds[name]) for name in imported.graph.outputs]

    def walk(tree, wanted):
        if isinstance(wanted, torch.Tensor):
            value, bound = outputs[tree["index"]]
            assert value.shape == tuple(wanted.shape)
            assert (np.abs(value - wanted.numpy()) <= bound + 1e-6 * (1 + np.abs(value).max())).all()
        elif isinstance(wanted, dict):
            assert tree["keys"] == [*wanted]
            for item, part in zip(tree["items"], wanted.values(), strict=True):
                walk(item, part)
        else:
            for item, part in zip(tree["items"], wanted, strict=True):
                walk(item, part)

    walk(imported.output, expected)


@pytest.mark.parametrize(("seed", "spatial"), pools(100, 30))
def test_a_random_model_means_what_torch_computes(seed, spatial):
    model = case(seed, spatial).model
    example = model.example(seed + 1)
    with torch.no_grad():
        expected = model(*[x.clone() for x in example])
    imported = case(seed, spatial).imported
    compare(imported, {i.name: x for i, x in zip(imported.inputs, example, strict=True)}, expected)


RING = conv(6, 4, 3, padding=(2, 1), padding_mode="circular")
FUNCTIONS = {
    "adding a scaled tensor": lambda _, x: torch.add(x, x[:, :1], alpha=-2),
    "a number minus a tensor": lambda _, x: 1.5 - x,
    "division by a number": lambda _, x: x / 3,
    "negation": lambda _, x: -x,
    "in-place operators": lambda _, x: x.clone().add_(1).mul_(x).sub_(0.5).div_(2).clamp_(-1, 1).neg_(),
    "in place through a view": lambda _, x: _through_a_view(x),
    "the whole plane's mean": lambda _, x: x.mean((-1, -2)),
    "selection and narrowing": lambda _, x: x[:, 2] + x.narrow(1, 3, 1)[:, 0],
    "uneven chunks": lambda _, x: torch.cat(x.chunk(4, 1)[::-1], 1),
    "splitting by sizes": lambda _, x: torch.cat(torch.split(x, [1, 3, 2], 1)[::2], 1),
    "joining rows": lambda _, x: torch.cat([x, x[:, :, :2]], -2),
    "squeezing and unsqueezing": lambda _, x: x[:, :1].squeeze(1).unsqueeze(-1).squeeze(),
    "negative indices in slices": lambda _, x: x[:, -3:, -5:-1:2],
    "channel padding": lambda _, x: F.pad(x, (1, -2, 0, 3, 2, 1), value=0.5),
    "mirrored padding": lambda _, x: F.pad(x, (2, 5, 8, 0), mode="reflect"),
    "padding by the edge": lambda _, x: F.pad(x, (0, 9, 1, 0), mode="replicate"),
    "padding from the other end": lambda _, x: F.pad(x, (7, 2, 0, 3), mode="circular"),
    "a padding that does nothing": lambda _, x: F.pad(x, (0, 0, 0, 0), mode="reflect") * 2,
    "mirrored padding of a line": lambda _, x: F.pad(x[:, 0], (6, 1), mode="reflect"),
    "padding of a volume by the edge": lambda _, x: F.pad(x[None], (1, 0, 2, 1, 0, 3), mode="replicate"),
    "a convolution over a ring": lambda self, x: self.ring(x),
    "softmax over channels": lambda _, x: x.softmax(1),
    "clamp from above": lambda _, x: x.clamp(max=0.2),
    "hardtanh": lambda _, x: F.hardtanh(x, -0.3, 0.4),
    "dropout in eval mode": lambda self, x: F.dropout(x, 0.5, self.training),
    "casting to what it is": lambda _, x: x.float().to(torch.float32),
    "numbers made in forward": lambda _, x: x + torch.arange(7) * torch.ones(9, 1),
    "a window that ceil_mode adds": lambda _, x: F.avg_pool2d(x, 4, 3, 1, ceil_mode=True),
    "a divisor of one's own": lambda _, x: F.avg_pool2d(x, (3, 2), ceil_mode=True, divisor_override=5),
    "broadcasting by expand": lambda _, x: x[:, :1].expand(-1, 6, -1, -1) * x,
    "stacking": lambda _, x: torch.stack([x, x * 2], -2) - torch.stack([x, x + 1], 3),
    "unbinding": lambda _, x: torch.cat([*x.unbind(-2)][::2], 1),
    "rolling two dimensions": lambda _, x: x.roll((2, -3), (1, -1)),
    "rolling once around": lambda _, x: x.roll(9, 2),
    "rows in steps": lambda _, x: x[:, :, [1, 3, 5, 7, 0, 4, 8]],
    "rows by their numbers": lambda _, x: x[:, [4, 5, 0, 0, -1]],
    "columns by their numbers": lambda _, x: x[..., torch.tensor([6, 2])],
    "group norm": lambda _, x: F.group_norm(x, 3, torch.arange(6) / 6, torch.arange(6) - 2.5),
    "group norm with a scale alone": lambda _, x: F.group_norm(x, 6, torch.arange(6) - 2.0),
    "group norm by itself": lambda _, x: F.group_norm(x, 2, eps=0.1),
    "products and a sum": lambda _, x: torch.baddbmm(x[:, 0, :, :1], x[:, 1], x[:, 2].mT, beta=0.5, alpha=-2)[:, :, :4],
    "products without the sum": lambda _, x: torch.baddbmm(x[:, 0, :, :1] / 0, x[:, 1], x[:, 2].mT, beta=0),
    "the length of vectors": lambda _, x: torch.linalg.vector_norm(x, dim=(1, -1), keepdim=True) * x.norm(),
    "patches": lambda _, x: F.unfold(x[..., :6], (3, 2), stride=(3, 2)),
    "patches put back": lambda _, x: F.fold(x.reshape(2, 18, 21), (9, 14), (3, 2), stride=(3, 2)),
    "elements by distance": lambda _, x: _by_distance(x, 9, 4),
    "elements by distance, clamped": lambda _, x: _by_distance(x, 9, 12),
    "elements by distance of one row": lambda _, x: _by_distance(x[:, :, :1], 1, 5),
    "a result that nobody reads": lambda _, x: (x[:, x.prod().argmax()], x * 2)[1],
}


def _by_distance(x, queries, keys):
    """Relative positions as DeBERTa takes them: farther than the table reaches is its end."""
    distance = torch.arange(queries)[:, None] - torch.arange(keys)
    return x.gather(-1, (distance + 3).clamp(0, 6).expand(2, 6, -1, -1))


def _through_a_view(x):
    y = x * 1
    y.view(2, -1).relu_()
    return y


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functional_code_is_understood(name):
    assert_agrees(Function(FUNCTIONS[name], ring=RING).eval(), X)


class Counted(nn.Module):
    """Whether every row of masks of all lengths, and every column of masks of all heights, holds the ones it should.

    Row r of the mask begins with r ones.
    """

    def forward(self, mask):
        height, width = mask.shape
        rows = [mask[: n + 1, :n].sum(-1) == torch.arange(n + 1) for n in range(1, width + 1)]
        columns = [mask[:n].long().sum(0) == (n - 1 - torch.arange(width)).clamp(0) for n in range(1, height + 1)]
        return torch.cat([right.float() for right in rows + columns])


def test_counts_of_truth_values_and_whole_numbers_are_exact():
    mask = torch.ones(65, 64, dtype=torch.bool).tril(-1)
    model = Counted().eval()
    assert bool((model(mask) == 1).all())
    graph = from_torch(model, (mask,)).graph
    for dtype in (np.float32, np.float64):
        assert (interpret(graph, {"mask": mask.numpy()}, dtype)[graph.outputs[0]] == 1).all()


@pytest.mark.parametrize("kernel", [(2, 5), (3, 4)])
def test_same_padding_of_even_kernels_is_asymmetric(kernel):
    got = assert_agrees(conv(6, 4, kernel, padding="same", dilation=(1, 2)).eval(), X)
    op = got.graph.nodes[0].op
    assert isinstance(op, Conv)
    assert op.padding == {(2, 5): (0, 4, 1, 4), (3, 4): (1, 3, 1, 3)}[kernel]


def test_batch_norm_becomes_an_affine_map_and_the_weight_keeps_its_name_and_values():
    model = nn.Sequential(conv(6, 4, 3), nn.BatchNorm2d(4))
    model(X)
    graph = assert_agrees(model.eval(), X).graph
    assert [type(n.op) for n in graph.nodes] == [Conv, Affine]
    np.testing.assert_array_equal(graph.params["0.weight"], model[0].weight.detach().numpy())
    assert [n.layer for n in graph.nodes] == ["0", "1"]


def test_pooling_to_one_pixel_is_a_mean():
    graph = assert_agrees(nn.AdaptiveAvgPool2d(1).eval(), X).graph
    assert [type(n.op) for n in graph.nodes] == [Mean]


def test_adaptive_pooling_to_the_size_that_is_there_does_nothing():
    assert assert_agrees(nn.AdaptiveAvgPool2d((9, 7)).eval(), X).graph.nodes == ()


def test_a_shared_weight_is_held_once_and_a_module_called_twice_keeps_its_name():
    graph = assert_agrees(Function(lambda self, x: self.c(self.c(x)), c=conv(6, 6, 1)).eval(), X).graph
    assert sorted(graph.params) == ["c.bias", "c.weight"]
    assert [n.layer for n in graph.nodes] == ["c", "c"]


class Tied(nn.Module):
    """One weight under two names, a buffer that is saved and one that is not."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(6, 6), nn.Linear(6, 6)
        self.second.weight = self.first.weight
        self.norm = nn.BatchNorm1d(6)
        self.register_buffer("unsaved", torch.arange(6.0), persistent=False)

    def forward(self, x):
        return self.norm(self.second(self.first(x))) + self.unsaved


def test_a_traced_module_is_imported_with_the_weights_of_its_copies():
    torch.manual_seed(0)
    model = Tied().eval()
    traced, x = trace_torch(model, (torch.randn(2, 6),)), torch.randn(2, 6)
    other = copy.deepcopy(model)
    with torch.no_grad():
        other.first.weight[:, ::2] = 0
        other.norm.running_mean += 1
    for each in (other, model):
        compare(traced.imported(each), {"x": x}, each(x).detach())
    again, known = traced.imported(other).graph, from_torch(other, (x,)).graph
    assert again.nodes == known.nodes
    assert {name: value.tolist() for name, value in again.params.items()} == {
        name: value.tolist() for name, value in known.params.items()
    }
    with torch.no_grad():
        other.norm.running_mean[0] = float("nan")
    with pytest.raises(ValueError, match=r"NaN or infinite values in norm\.running_mean"):
        traced.imported(other)


def test_masks_and_parametrized_weights_are_computed_at_compile_time():
    layer = conv(6, 4, 3)
    prune.random_unstructured(layer, "weight", amount=0.5)
    graph = assert_agrees(nn.Sequential(layer, parametrizations.weight_norm(conv(4, 3, 1))).eval(), X).graph
    assert [type(n.op) for n in graph.nodes] == [Conv, Conv]
    op = graph.nodes[0].op
    assert isinstance(op, Conv)
    assert (graph.params[op.weight] == 0).sum() == layer.weight.numel() // 2


class Pair(NamedTuple):
    left: torch.Tensor
    right: torch.Tensor


def test_the_models_own_output_structure_is_described():
    def structure(self, x):
        y = F.relu(x)
        return {"pair": Pair(y, x), "list": [y, None, 3, "name"], 7: (self.k, True)}

    model = Function(structure)
    model.register_buffer("k", torch.ones(2))
    got = from_torch(model.eval(), (X,))
    assert len(got.graph.outputs) == 3
    assert got.graph.outputs[1] == "x"
    assert got.output["items"][0] == {
        "kind": "namedtuple",
        "name": "Pair",
        "keys": ["left", "right"],
        "items": [{"kind": "value", "index": 0}, {"kind": "value", "index": 1}],
    }
    y, x, k = "y", "x", "k"
    assert rebuild(got.output, [y, x, k]) == {"pair": (y, x), "list": [y, None, 3, "name"], 7: (k, True)}


def test_inputs_are_named_as_the_models_forward_names_them():
    class Model(nn.Module):
        def forward(self, image, *more, mask, **rest):
            return image + more[0] * mask - rest["bias"]

    a, b, c, d = (torch.full((1, 2), float(v)) for v in (1, 2, 3, 5))
    got = from_torch(Model().eval(), (a, b), {"bias": d, "mask": c})
    expected = {"image": True, "more_0": True, "mask": False, "bias": False}
    assert {i.name: i.positional for i in got.inputs} == expected
    assert [i.name for i in got.inputs][:2] == ["image", "more_0"]
    values = {"image": a, "more_0": b, "mask": c, "bias": d}
    out = interpret(got.graph, {name: t.numpy() for name, t in values.items()})[got.graph.outputs[0]]
    np.testing.assert_array_equal(out, [[1 + 2 * 3 - 5] * 2])


def test_an_optional_argument_that_is_left_out_is_no_input():
    class Model(nn.Module):
        def forward(self, x, mask=None, y=None):
            return x if mask is not None else x * y

    got = from_torch(Model().eval(), (torch.ones(1, 2),), {"y": torch.ones(1, 2)})
    assert got.inputs == (Input("x", (1, 2)), Input("y", (1, 2), positional=False))


def test_a_node_never_takes_the_name_of_an_input():
    class Model(nn.Module):
        def forward(self, activate):
            return F.relu(activate)

    assert from_torch(Model().eval(), (X,)).graph.outputs == ("activate.1",)


def test_the_model_is_not_modified():
    model = nn.Sequential(conv(6, 4, 3), nn.BatchNorm2d(4), nn.ReLU(inplace=True)).eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    from_torch(model, (X,))
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_training_mode_is_refused_and_the_modules_are_named():
    model = nn.Sequential(nn.Conv2d(6, 4, 3), nn.BatchNorm2d(4)).eval()
    model[1].train()
    with pytest.raises(ValueError, match=r"in training mode: 1; call model.eval\(\)"):
        from_torch(model, (X,))


@pytest.mark.parametrize("name", ["0.weight", "0.bias", "1.running_var"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused_by_name(name, value):
    model = nn.Sequential(nn.Conv2d(6, 4, 3), nn.BatchNorm2d(4)).eval()
    model.state_dict()[name].view(-1)[2] = value
    with pytest.raises(ValueError, match=f"NaN or infinite values in {name}"):
        from_torch(model, (X,))


def test_weights_in_half_precision_are_refused():
    model = nn.Sequential(nn.Conv2d(6, 4, 3), nn.Conv2d(4, 4, 3).half()).eval()
    with pytest.raises(ValueError, match=r"expected weights in float32, got 1.weight is float16, 1.bias is float16"):
        from_torch(model, (X,))


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ((X.double(),), "input 'x' is float64; expected float32, or for numbers that count int64, int32 or bool"),
        (([X],), "input 'x' is a list; expected a tensor"),
        ((X, X), r"does not fit Function.forward\(x\)"),
        ((X[0, 0],), "cannot trace Function"),
    ],
)
def test_an_example_that_does_not_fit_is_refused(args, message):
    with pytest.raises(ValueError, match=message):
        from_torch(Function(lambda self, x: self.c(x), c=nn.Conv2d(6, 4, 3)).eval(), args)


def _in_bfloat16(x):
    with torch.autocast("cpu", torch.bfloat16):
        return x.relu()


REFUSED = {
    "padding that repeats what is there and cuts off": lambda _, x: F.pad(x, (1, -1, 1, 1), mode="replicate"),
    "come in 147 pieces; at most 128": lambda _, x: x.reshape(2, -1)[:, torch.arange(147).flip(0)],
    "its result number 1": lambda _, x: F.adaptive_max_pool2d(x, 2, return_indices=True)[1],
    "max_pool2d_with_indices": lambda _, x: F.max_pool2d(x, 2, return_indices=True)[0],
    "dropout in training mode": lambda _, x: F.dropout(x),
    "division that rounds": lambda _, x: torch.div(x, 2, rounding_mode="floor"),
    "without running statistics": lambda _, x: F.batch_norm(x, None, None, training=True),
    "the weight is computed from the input": lambda _, x: F.conv2d(x, x[:1]),
    "clamp with tensors as bounds": lambda _, x: x.clamp(max=x),
    "only float32 is supported": lambda _, x: x.double().relu().float(),
    "expected \\[batch, channels, height, width\\]": lambda _, x: F.max_pool2d(x[0], 2),
    "rand_like": lambda _, x: x + torch.rand_like(x),
    "randn in": lambda _, x: x + torch.randn(7),
    "takes a number that is computed": lambda _, x: x * x.sum().item(),
    "not an operator of torch": lambda _, x: _in_bfloat16(x),
    "unknown to the compiler": lambda _, x: x.prod(),
    "the norm of order 1": lambda _, x: torch.linalg.vector_norm(x, 1),
    "roll without dims": lambda _, x: x.roll(2),
    "of several dimensions": lambda _, x: x[:, [1, 0], [2, 3]],
    "do not overlap": lambda _, x: F.unfold(x, 3),
    "an operand holds whole numbers beyond 16777216": lambda _, x: (x > 0).long() - torch.tensor([2**24 + 1] * 7),
    "an operand holds whole numbers beyond": lambda _, x: torch.sub((x > 0).long(), torch.tensor([2**23] * 7), alpha=3),
    "by the distance to the row": lambda _, x: x.gather(
        -1, (torch.arange(9)[:, None] * torch.arange(3) % 7).expand(2, 6, -1, -1)
    ),
}


@pytest.mark.parametrize("message", REFUSED)
def test_what_the_ir_cannot_say_is_refused_with_the_reason(message):
    with pytest.raises(UnsupportedError, match=message):
        from_torch(Function(REFUSED[message]).eval(), (X,))


def test_all_unknown_operators_are_listed_with_their_layers():
    model = nn.Sequential(nn.ELU(), nn.Sequential(nn.ReLU(), nn.Softplus()), nn.Mish())
    with pytest.raises(UnsupportedError) as error:
        from_torch(model.eval(), (X,))
    lines = str(error.value).splitlines()[1:]
    assert [line.split(":")[0].strip() for line in lines] == ["elu in 0", "softplus in 1.1", "mish in 2"]


def test_a_model_that_writes_to_its_input_or_its_buffers_is_refused():
    with pytest.raises(UnsupportedError, match="writes to x when called"):
        from_torch(Function(lambda _, x: x.relu_() + 1).eval(), (X,))
    model = Function(lambda self, x: x + self.count.add_(1))
    model.register_buffer("count", torch.zeros(1))
    with pytest.raises(UnsupportedError, match="writes to count when called"):
        from_torch(model.eval(), (X,))


def test_an_output_that_json_cannot_say_is_refused():
    with pytest.raises(UnsupportedError, match="returns a"):
        from_torch(Function(lambda _, x: {(1, 2): x}).eval(), (X,))


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf")])
def test_a_number_that_json_cannot_say_is_refused(number):
    with pytest.raises(UnsupportedError, match=rf"returns the number {number}, .*; return a tensor of it"):
        describe_output({"scores": [1.0, number]})
    # Torch itself stumbles over NaN, as it is not equal to itself.
    with pytest.raises(UnsupportedError, match=r"returns the number|cannot trace"):
        from_torch(Function(lambda _, x: (x, number)).eval(), (X,))


def test_a_constant_output_is_a_constant_of_the_graph():
    model = Function(lambda self, x: (x, self.weight * 2), weight=nn.Parameter(torch.ones(3)))
    graph = from_torch(model.eval(), (X,)).graph
    assert [type(n.op) for n in graph.nodes] == [Constant]
    np.testing.assert_array_equal(interpret(graph, {"x": X.numpy()})[graph.outputs[1]], [2, 2, 2])
