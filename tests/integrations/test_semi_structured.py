"""Torch's 2:4 kernels: what is handed over, on a GPU, and what is refused anywhere."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from devices import ON_GPU, WITHOUT_GPU
from monstera.integrations.semi_structured import to_semi_structured
from monstera.pruning import prune
from monstera.sparsity import Plan


def _pruned(pattern: str = "2:4", dtype: torch.dtype = torch.float16) -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(128, 256), nn.ReLU(), nn.Linear(256, 64), nn.ReLU(), nn.Linear(64, 10))
    prune(model, Plan({"0.weight": (pattern, None), "2.weight": (pattern, None)}))
    return model.to(dtype).eval()


@WITHOUT_GPU
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_machine_without_a_gpu_is_told_and_pointed_to_the_compiler(dtype: torch.dtype) -> None:
    model = _pruned(dtype=dtype)
    before = [parameter.clone() for parameter in model.parameters()]
    with pytest.raises(RuntimeError, match=r"torch finds none here; monstera\.compile"):
        to_semi_structured(model)
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


def test_types_that_the_kernels_do_not_take_are_refused_for_every_layer() -> None:
    with pytest.raises(ValueError, match=r"(?s)0: expected weights in float16.*float32.*2: expected weights"):
        to_semi_structured(_pruned(dtype=torch.float32))


@pytest.mark.parametrize("shape", [(60, 48), (64, 96), (48, 128), (10, 64)])
def test_shapes_that_the_kernels_do_not_take_are_refused_by_name_unless_skipped(shape: tuple[int, int]) -> None:
    rows, columns = shape
    model = nn.Sequential(nn.Linear(columns, rows))
    prune(model, Plan({"0.weight": ("2:4",)}))
    with pytest.raises(ValueError, match=rf"0: expected a multiple of 32 outputs and of 64 inputs, got {rows} and"):
        to_semi_structured(model.half())
    with pytest.raises(ValueError, match="no linear layer of the model has 2:4 holes"):
        to_semi_structured(model.half(), skip=["0"])


def test_one_weight_too_many_in_one_group_is_no_2_of_4() -> None:
    model = nn.Sequential(nn.Linear(64, 32)).half()
    prune(model, Plan({"0.weight": ("2:4",)}))
    with torch.no_grad():
        model[0].weight[5, 8:11] = 1.0
    with pytest.raises(ValueError, match="no linear layer of the model has 2:4 holes"):
        to_semi_structured(model)


def test_skipping_a_layer_that_is_not_there_is_refused() -> None:
    with pytest.raises(ValueError, match="skip: 7: the model has no such linear layer"):
        to_semi_structured(_pruned(), skip=["7"])


def test_other_n_of_m_that_are_2_of_4_as_well_are_taken_and_those_that_are_not_are_not() -> None:
    for pattern in ("1:4", "1:2"):
        with pytest.raises(ValueError, match="expected weights in float16"):  # found, and refused for the type alone
            to_semi_structured(_pruned(pattern, torch.float32))
    with pytest.raises(ValueError, match="no linear layer"):
        to_semi_structured(_pruned("4:8"))


@ON_GPU
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("batch", [1, 7, 64])
def test_a_copy_computes_what_the_pruned_model_does(dtype: torch.dtype, batch: int) -> None:
    model = _pruned(dtype=dtype).cuda()
    made = to_semi_structured(model)
    x = torch.randn(batch, 128, dtype=dtype, device="cuda")
    with torch.no_grad():
        expected, answer = model(x), made(x)
    torch.testing.assert_close(answer, expected, rtol=2e-2, atol=2e-2)
    assert [type(m.weight) is nn.Parameter for m in model if isinstance(m, nn.Linear)] == [True] * 3
    sparse = [isinstance(m.weight, torch.sparse.SparseSemiStructuredTensor) for m in made if isinstance(m, nn.Linear)]
    assert sparse == [True, True, False]


@ON_GPU
def test_a_model_that_is_not_on_the_gpu_is_refused() -> None:
    with pytest.raises(RuntimeError, match=r"0 is on device cpu; call model\.cuda\(\) first"):
        to_semi_structured(_pruned())
