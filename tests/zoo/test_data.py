"""Data readers: every format gives the same pictures, and what is missing or damaged is named."""

from __future__ import annotations

import hashlib
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from monstera.zoo.data import (
    DataMissingError,
    Pictures,
    cifar10,
    data_root,
    data_set,
    digits,
    held_out,
)

# The MD5 that the authors of CIFAR-10 publish for their binary files.
OFFICIAL_TEST_BATCH = "803d5f7f4d78ea53de84dbe85f74fb6d"


Rows = tuple[np.ndarray, np.ndarray]
BATCHES = [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]


def _rows(per_batch: int) -> Rows:
    """Random pixels and labels for all six batches; full-sized ones weigh 184 MB, so files are removed after use."""
    generator = np.random.default_rng(0)
    total = per_batch * len(BATCHES)
    return generator.integers(0, 256, (total, 3072), np.uint8), generator.integers(0, 10, total, np.uint8)


def _split(rows: Rows) -> dict[str, Rows]:
    pixels, labels = (np.split(values, len(BATCHES)) for values in rows)
    return dict(zip(BATCHES, zip(pixels, labels, strict=True), strict=True))


def _write_binary(folder: Path, rows: Rows) -> None:
    folder.mkdir()
    for name, (pixels, labels) in _split(rows).items():
        np.concatenate([labels[:, None], pixels], 1).tofile(folder / f"{name}.bin")


def _write_python(folder: Path, rows: Rows) -> None:
    folder.mkdir()
    for name, (pixels, labels) in _split(rows).items():
        content = {b"data": pixels, b"labels": labels.tolist(), b"batch_label": name.encode()}
        (folder / name).write_bytes(pickle.dumps(content, protocol=2))


@pytest.mark.parametrize(
    ("folder", "write"), [("cifar-10-batches-bin", _write_binary), ("cifar-10-batches-py", _write_python)]
)
def test_the_official_files_are_read(tmp_path: Path, folder: str, write: Callable[[Path, Rows], None]) -> None:
    pixels, labels = rows = _rows(10_000)
    write(tmp_path / folder, rows)
    above, inside = cifar10(tmp_path), cifar10(tmp_path / folder)
    shutil.rmtree(tmp_path / folder)
    for data in (above, inside):
        assert np.array_equal(data.train.images.numpy().reshape(-1, 3072), pixels[:50_000])
        assert np.array_equal(data.test.images.numpy().reshape(-1, 3072), pixels[50_000:])
        assert np.array_equal(data.train.labels.numpy(), labels[:50_000])
        assert np.array_equal(data.test.labels.numpy(), labels[50_000:])


class Attack:
    """Touches a file when it is unpickled carelessly."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.path,)


def test_a_python_file_that_names_code_is_refused_unexecuted(tmp_path: Path) -> None:
    content = {b"data": Attack(tmp_path / "executed")}
    (tmp_path / "data_batch_1").write_bytes(pickle.dumps(content, protocol=2))
    with pytest.raises(ValueError, match="may hold arrays only"):
        cifar10(tmp_path)
    assert not (tmp_path / "executed").exists()


def test_files_with_too_few_pictures_are_refused(tmp_path: Path) -> None:
    _write_binary(tmp_path / "cifar-10-batches-bin", _rows(3))
    with pytest.raises(ValueError, match=r"expected 50000 pictures.*got 15"):
        cifar10(tmp_path)


def test_a_file_cut_inside_a_picture_is_refused(tmp_path: Path) -> None:
    _write_binary(tmp_path / "cifar-10-batches-bin", _rows(3))
    cut = tmp_path / "cifar-10-batches-bin" / "data_batch_3.bin"
    cut.write_bytes(cut.read_bytes()[:-1])
    with pytest.raises(ValueError, match="not a multiple of 3073"):
        cifar10(tmp_path)


def test_an_empty_folder_is_refused_with_what_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(DataMissingError, match=r"cifar10/train\.npz.*data_batch_1\.bin.*data_batch_1"):
        cifar10(tmp_path)


def test_the_webp_sheets_rebuild_the_official_test_file() -> None:
    try:
        root = data_root()
    except DataMissingError as error:
        pytest.skip(str(error))
    # Where there is a data folder, a missing file is a failure and no reason to skip.
    data = cifar10(root)
    test = data.test
    rows = np.concatenate([test.labels.numpy().astype(np.uint8)[:, None], test.images.flatten(1).numpy()], 1)
    assert hashlib.md5(rows.tobytes()).hexdigest() == OFFICIAL_TEST_BATCH
    mean = data.train.images.float().div(255).mean((0, 2, 3))
    assert torch.allclose(mean, torch.tensor(data.mean), atol=1e-4)


def test_the_digits_are_split_without_overlap_and_hold_every_class() -> None:
    data = digits()
    assert (len(data.train), len(data.test)) == (1437, 360)
    assert data.train.images.shape[1:] == (1, 8, 8)
    assert int(data.train.images.max()) == 255
    assert set(data.test.labels.tolist()) == set(range(10))
    from sklearn.datasets import load_digits

    ours = torch.cat([data.train.images, data.test.images]).float().mul(16 / 255).round().flatten(1)
    theirs = torch.from_numpy(load_digits(return_X_y=True)[0]).float()
    assert torch.equal(_sorted_rows(ours), _sorted_rows(theirs))


def _sorted_rows(rows: torch.Tensor) -> torch.Tensor:
    return torch.tensor(sorted(rows.tolist()))


def test_held_out_pictures_are_a_seeded_partition() -> None:
    train = digits().train
    rest, held = held_out(train, 300, seed=3)
    again = held_out(train, 300, seed=3)[1]
    assert (len(rest), len(held)) == (1137, 300)
    assert torch.equal(held.images, again.images)
    assert not torch.equal(held.images, held_out(train, 300, seed=4)[1].images)
    assert torch.equal(
        _sorted_rows(torch.cat([rest.images, held.images]).flatten(1).float()),
        _sorted_rows(train.images.flatten(1).float()),
    )


@pytest.mark.parametrize("n", [0, 1437])
def test_holding_out_nothing_or_everything_is_refused(n: int) -> None:
    with pytest.raises(ValueError, match="1 to 1436"):
        held_out(digits().train, n)


def test_the_option_goes_before_the_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    option, variable = tmp_path / "option", tmp_path / "variable"
    option.mkdir()
    variable.mkdir()
    monkeypatch.setenv("MONSTERA_DATA", str(variable))
    assert data_root(option) == option
    assert data_root() == variable


def test_a_data_folder_that_is_not_there_is_refused_with_its_origin(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MONSTERA_DATA", str(tmp_path / "nowhere"))
    with pytest.raises(DataMissingError, match=r"nowhere.*MONSTERA_DATA"):
        data_root()


def test_without_any_data_folder_the_error_says_how_to_name_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MONSTERA_DATA", raising=False)
    monkeypatch.setattr("monstera.zoo.data.root._BESIDE_THE_CHECKOUT", tmp_path / "nowhere")
    with pytest.raises(DataMissingError, match="MONSTERA_DATA"):
        data_root()


def test_an_unknown_data_set_is_refused_with_the_known_names() -> None:
    with pytest.raises(ValueError, match=r"'mnist'.*cifar10, digits"):
        data_set("mnist")


def test_pictures_of_a_wrong_dtype_or_length_are_refused() -> None:
    with pytest.raises(ValueError, match="expected uint8"):
        Pictures(torch.zeros(2, 1, 8, 8), torch.zeros(2, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"expected int64 \[2\]"):
        Pictures(torch.zeros(2, 1, 8, 8, dtype=torch.uint8), torch.zeros(3, dtype=torch.int64))
