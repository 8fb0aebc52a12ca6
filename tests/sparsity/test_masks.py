from __future__ import annotations

import json
from pathlib import Path

import pytest
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st

from monstera.sparsity import MaskFileError, load_masks, save_masks

SHAPES = st.lists(st.integers(0, 9), max_size=4)


@given(
    shapes=st.dictionaries(st.text(min_size=1, max_size=5).filter(lambda s: s != "__metadata__"), SHAPES),
    seed=st.integers(0, 999),
)
def test_masks_come_back_bit_for_bit(tmp_path_factory: pytest.TempPathFactory, shapes: dict, seed: int) -> None:
    path = tmp_path_factory.mktemp("masks") / "m.safetensors"
    generator = torch.Generator().manual_seed(seed)
    masks = {name: torch.rand(shape, generator=generator) < 0.3 for name, shape in shapes.items()}
    save_masks(path, masks)
    again = load_masks(path)
    assert again.keys() == masks.keys()
    assert all(torch.equal(again[name], mask) and again[name].dtype == torch.bool for name, mask in masks.items())


def test_a_mask_takes_one_bit_a_weight_and_strided_masks_are_stored_in_logical_order(tmp_path: Path) -> None:
    mask = torch.rand(512, 64) < 0.5
    save_masks(tmp_path / "m", {"w": mask.T})
    assert (tmp_path / "m").stat().st_size < 512 * 64 / 8 + 300
    assert torch.equal(load_masks(tmp_path / "m")["w"], mask.T)


def test_what_is_not_bool_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=r"w \(torch.float32\)"):
        save_masks(tmp_path / "m", {"w": torch.ones(3)})
    assert not list(tmp_path.iterdir())


def test_a_failed_write_leaves_the_old_file_and_no_leftovers(tmp_path: Path) -> None:
    target = tmp_path / "m"
    target.mkdir()  # a directory cannot be replaced by a file
    with pytest.raises(OSError, match="m"):
        save_masks(target, {"w": torch.ones(3, dtype=torch.bool)})
    assert [f.name for f in tmp_path.iterdir()] == ["m"]


def test_every_truncation_of_a_mask_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "m"
    save_masks(path, {"w": torch.ones(5, 5, dtype=torch.bool)})
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(MaskFileError, match="write it again"):
            load_masks(path)


def test_a_missing_file_is_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        load_masks(tmp_path / "none")


GOOD = {"format": "monstera-masks", "version": "1", "shapes": json.dumps({"w": [9]})}


@pytest.mark.parametrize(
    ("tensor", "metadata", "problem"),
    [
        (torch.zeros(2, dtype=torch.uint8), None, "not one written by save_masks"),
        (torch.zeros(2, dtype=torch.uint8), GOOD | {"version": "7"}, "version 7"),
        (torch.zeros(2, dtype=torch.uint8), GOOD | {"shapes": "{"}, "list of shapes is damaged"),
        (torch.zeros(2, dtype=torch.uint8), GOOD | {"shapes": '{"w": [-9]}'}, "list of shapes is damaged"),
        (torch.zeros(2, dtype=torch.uint8), GOOD | {"shapes": "{}"}, "differ"),
        (torch.zeros(3, dtype=torch.uint8), GOOD, "needs 2 bytes"),
        (torch.zeros(2, dtype=torch.int8), GOOD, "needs 2 bytes"),
    ],
)
def test_foreign_and_damaged_files_are_refused_with_the_reason(tmp_path: Path, tensor, metadata, problem: str) -> None:
    safetensors.torch.save_file({"w": tensor}, tmp_path / "m", metadata)
    with pytest.raises(MaskFileError, match=problem):
        load_masks(tmp_path / "m")
