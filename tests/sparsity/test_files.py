"""Files of tensors, and the digest that names tensors by what they hold."""

from __future__ import annotations

import hashlib
import random
import struct
from pathlib import Path

import pytest
import safetensors
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from monstera.sparsity.files import tensors_digest, write_tensors

DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.int8, torch.uint8, torch.bool]
NAMES = st.text(min_size=1, max_size=4).filter(lambda name: name != "__metadata__")
KINDS = st.dictionaries(NAMES, st.tuples(st.sampled_from(DTYPES), st.lists(st.integers(0, 4), max_size=4)), max_size=5)


def drawn(kinds: dict[str, tuple[torch.dtype, list[int]]], seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: (9 * torch.randn(shape, generator=generator)).to(dtype) for name, (dtype, shape) in kinds.items()}


def turned(value: Tensor) -> Tensor:
    """The same values at strides of the reverse order."""
    axes = tuple(reversed(range(value.dim())))
    return value.permute(axes).contiguous().permute(axes)


def alike(one: Tensor, other: Tensor) -> bool:
    return one.dtype == other.dtype and torch.equal(one, other)


def tensors() -> dict[str, Tensor]:
    return {"a": torch.tensor([[1.0, 2.0], [3.0, 4.0]]), "b": torch.tensor([5, 6])}


@given(kinds=KINDS, seed=st.integers(0, 999))
def test_tensors_of_any_type_shape_and_layout_come_back_bit_for_bit(
    tmp_path_factory: pytest.TempPathFactory, kinds: dict[str, tuple[torch.dtype, list[int]]], seed: int
) -> None:
    path, values = tmp_path_factory.mktemp("tensors") / "new" / "a.safetensors", drawn(kinds, seed)
    write_tensors({name: turned(value) for name, value in values.items()}, path)
    again = safetensors.torch.load_file(path)
    assert again.keys() == values.keys()
    assert all(alike(again[name], value) for name, value in values.items())


def test_the_same_tensors_give_the_same_file_whatever_their_order_and_layout(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    state = model.state_dict()
    write_tensors(state, tmp_path / "a", {"fingerprint": "f"})
    last = model.to(memory_format=torch.channels_last).state_dict()  # pyright: ignore[reportCallIssue]
    assert not last["0.weight"].is_contiguous()
    write_tensors(dict(reversed(last.items())), tmp_path / "b", {"fingerprint": "f"})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    with safetensors.safe_open(tmp_path / "a", "pt") as file:
        assert file.metadata() == {"fingerprint": "f"}


def test_parameters_are_written_as_they_are_and_left_alone(tmp_path: Path) -> None:
    weight = nn.Parameter(torch.randn(3, 2).T)
    write_tensors({"w": weight}, tmp_path / "a")
    assert torch.equal(safetensors.torch.load_file(tmp_path / "a")["w"], weight.detach())
    assert weight.requires_grad
    assert not weight.is_contiguous()


def test_tensors_that_share_memory_are_refused_and_an_older_file_stays(tmp_path: Path) -> None:
    write_tensors(tensors(), tmp_path / "a")
    before = (tmp_path / "a").read_bytes()
    shared = torch.ones(4)
    with pytest.raises(RuntimeError, match="share memory"):
        write_tensors({"one": shared, "two": shared}, tmp_path / "a")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert (tmp_path / "a").read_bytes() == before


@given(kinds=KINDS, seed=st.integers(0, 999))
def test_a_digest_does_not_depend_on_order_and_layout(
    kinds: dict[str, tuple[torch.dtype, list[int]]], seed: int
) -> None:
    values = drawn(kinds, seed)
    names = random.Random(seed).sample(sorted(values), len(values))
    assert tensors_digest({name: turned(values[name]) for name in names}) == tensors_digest(values)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_digest_tells_values_apart_that_differ_in_one_element(dtype: torch.dtype) -> None:
    value = torch.ones(3, 5, dtype=dtype)
    other = value.clone()
    other[2, 3] = 0
    assert tensors_digest({"w": value}) != tensors_digest({"w": other})


def test_a_digest_depends_on_all_bits_names_types_shapes_and_the_text_about_them() -> None:
    a, b = tensors().values()
    digests = [
        tensors_digest(tensors()),
        tensors_digest(tensors(), "of a run"),
        tensors_digest({"a": a, "c": b}),
        tensors_digest({"a": b, "b": a}),
        tensors_digest({"a": a.reshape(-1), "b": b}),
        tensors_digest({"a": a.T, "b": b}),
        tensors_digest({"a": a.double(), "b": b}),
        tensors_digest({"a": a.view(torch.int32), "b": b}),
        tensors_digest({"a": a}),
        tensors_digest({}),
        tensors_digest({"z": torch.zeros(1)}),
        tensors_digest({"z": -torch.zeros(1)}),
        tensors_digest({"z": torch.zeros(1), "": torch.zeros(0)}),
    ]
    assert len(set(digests)) == len(digests)


def test_a_digest_is_that_of_the_bytes_spelled_out() -> None:
    a, b = b'["a", "torch.float32", [2, 2]]', b'["b", "torch.int64", [2]]'
    spelled = b'["x", 2]' + a + struct.pack("<4f", 1, 2, 3, 4) + b + struct.pack("<2q", 5, 6)
    assert tensors_digest(tensors(), "x") == hashlib.sha256(spelled).hexdigest()
