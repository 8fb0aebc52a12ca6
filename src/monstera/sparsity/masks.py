"""Mask files: safetensors with one bit a weight, so that holes can be handed on without the weights."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
import torch
from torch import Tensor

from monstera.sparsity.errors import MaskFileError
from monstera.sparsity.files import write_tensors

_FORMAT = "monstera-masks"
_VERSION = "1"


def save_masks(path: str | os.PathLike[str], masks: Mapping[str, Tensor]) -> None:
    """Write masks (bool, any device) to a safetensors file: bits packed in row-major order, the first in the high bit.

    Raises:
        TypeError: a mask is not bool.
    """
    if wrong := [f"{name} ({mask.dtype})" for name, mask in masks.items() if mask.dtype != torch.bool]:
        raise TypeError(f"masks are bool tensors, True where a weight is kept; not so: {', '.join(wrong)}")
    packed = {name: torch.from_numpy(np.packbits(mask.detach().cpu().numpy())) for name, mask in masks.items()}
    shapes = {name: list(mask.shape) for name, mask in masks.items()}
    metadata = {"format": _FORMAT, "version": _VERSION, "shapes": json.dumps(shapes)}
    write_tensors(packed, path, metadata)


def load_masks(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """Read a mask file: name -> bool tensor on the CPU, True where a weight is kept.

    Raises:
        FileNotFoundError: there is no such file.
        MaskFileError: the file is damaged, is no mask file, or is of another version.
    """
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            packed = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except safetensors.SafetensorError as error:
        raise MaskFileError(f"{path}: not a readable safetensors file ({error}); write it again") from error
    shapes = _shapes(path, metadata)
    if shapes.keys() != packed.keys():
        odd = sorted(shapes.keys() ^ packed.keys())
        raise MaskFileError(f"{path}: masks and their listed shapes differ: {odd}; write the file again")
    return {name: _unpacked(path, name, packed[name], shape) for name, shape in shapes.items()}


def _shapes(path: str | os.PathLike[str], metadata: Mapping[str, str]) -> dict[str, list[int]]:
    if metadata.get("format") != _FORMAT:
        raise MaskFileError(f"{path}: a safetensors file, but not one written by save_masks")
    if metadata.get("version") != _VERSION:
        raise MaskFileError(f"{path}: mask file version {metadata.get('version')}, this library reads {_VERSION}")
    try:
        shapes = json.loads(metadata.get("shapes", ""))
    except json.JSONDecodeError as error:
        raise MaskFileError(f"{path}: the list of shapes is damaged ({error}); write the file again") from error
    if not isinstance(shapes, dict) or not all(map(_is_shape, shapes.values())):
        raise MaskFileError(f"{path}: the list of shapes is damaged; write the file again")
    return shapes


def _is_shape(value: Any) -> bool:
    return isinstance(value, list) and all(type(size) is int and size >= 0 for size in value)


def _unpacked(path: str | os.PathLike[str], name: str, packed: Tensor, shape: list[int]) -> Tensor:
    count = int(np.prod(shape, dtype=np.int64))
    expected = -(-count // 8)
    if packed.dtype != torch.uint8 or packed.shape != (expected,):
        found = f"{list(packed.shape)} of {packed.dtype}"
        raise MaskFileError(f"{path}: {name}: shape {shape} needs {expected} bytes, the file has {found}")
    bits = np.unpackbits(packed.numpy(), count=count)
    return torch.from_numpy(bits.astype(bool)).reshape(shape)
