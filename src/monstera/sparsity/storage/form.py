"""What all storage forms share: how a weight is seen, what counts as a hole, and how bytes are counted.

A hole is a weight all of whose bits are zero. Minus zero is no hole: it is stored like any other weight, so that what
comes back is the same to the bit. (Masks that are multiplied in leave minus zeros; adding 0.0 turns them into holes.)
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import fields
from math import prod
from typing import ClassVar, Literal, TypeAlias

import numpy as np

from monstera.sparsity.errors import FormatError

Shape: TypeAlias = tuple[int, ...]
Kind: TypeAlias = Literal["f", "u", "bits"]

# fp16, fp32, fp64.
_FLOAT_BYTES = (2, 4, 8)


class Form(ABC):
    """A weight in one form. Subclasses are frozen dataclasses of `shape` (the weight's), numbers and arrays.

    `VALUES` names the arrays that hold weights; all the others say where these belong. Index arrays have the smallest
    unsigned type that their largest number fits.
    """

    __slots__ = ()
    VALUES: ClassVar[tuple[str, ...]] = ("weights",)
    shape: Shape

    @abstractmethod
    def decode(self) -> np.ndarray:
        """The weight, of the shape and dtype it had: the same bits, NaN payloads and minus zeros included."""

    @property
    def arrays(self) -> Mapping[str, np.ndarray]:
        """The arrays by name, in the order in which they are declared."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}  # pyright: ignore[reportArgumentType]
        return {name: value for name, value in values.items() if isinstance(value, np.ndarray)}

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays. Shape and dtype, some tens of bytes a weight in any form, are left out."""
        return sum(array.nbytes for array in self.arrays.values())

    @property
    def value_nbytes(self) -> int:
        """Bytes of the arrays that hold weights."""
        return sum(self.arrays[name].nbytes for name in self.VALUES)

    @property
    def index_nbytes(self) -> int:
        """Bytes of the arrays that say where the weights belong."""
        return self.nbytes - self.value_nbytes


def positions_of(shape: Shape) -> tuple[int, int, int]:
    """A weight's shape as `(out, in, positions)`.

    Raises:
        FormatError: fewer than 2 or more than 5 dimensions, or an empty one.
    """
    if not 2 <= len(shape) <= 5 or 0 in shape:
        raise FormatError(
            f"a weight to store has 2 to 5 dimensions, [out, in, *kernel], none of them empty; got {list(shape)}"
        )
    return shape[0], shape[1], prod(shape[2:])


def bits_of(weight: np.ndarray) -> np.ndarray:
    """A weight's bits as unsigned integers `[out, in, positions]`: nothing that copies them can change a NaN.

    Raises:
        FormatError: no numpy array of fp16, fp32 or fp64 in 2 to 5 dimensions.
    """
    if not isinstance(weight, np.ndarray):
        raise FormatError(
            f"a weight to store is a numpy array, got {type(weight).__name__}; "
            "of a torch parameter take weight.detach().cpu().numpy()"
        )
    if weight.dtype.kind != "f" or weight.dtype.itemsize not in _FLOAT_BYTES:
        raise FormatError(f"a weight to store is fp16, fp32 or fp64, got {weight.dtype}; convert it first")
    native = np.ascontiguousarray(weight, weight.dtype.newbyteorder("="))
    return _as_bits(native).reshape(positions_of(weight.shape))


def zero_bits(shape: Shape, values: np.ndarray) -> np.ndarray:
    """Holes everywhere: bits `[out, in, positions]` for weights of the dtype of `values`."""
    return np.zeros(positions_of(shape), _as_bits(values).dtype)


def as_values(bits: np.ndarray, like: np.ndarray) -> np.ndarray:
    """Bits as the numbers of the dtype of `like`."""
    return np.ascontiguousarray(bits).view(like.dtype.newbyteorder("="))


def _as_bits(values: np.ndarray) -> np.ndarray:
    return values.view(f"u{values.dtype.itemsize}")


def stored_bits(values: np.ndarray) -> np.ndarray:
    """The bits of stored weights, in their own shape."""
    return _as_bits(np.ascontiguousarray(values))


def smallest(numbers: np.ndarray) -> np.ndarray:
    """Whole numbers in the smallest unsigned type that holds the largest of them."""
    return numbers.astype(np.min_scalar_type(int(numbers.max(initial=0))))


def lengths(starts: np.ndarray) -> np.ndarray:
    """How long the runs are that begin at `starts`, the last number of which is an end."""
    return np.diff(starts.astype(np.int64))


def starts(lengths: np.ndarray) -> np.ndarray:
    """Where runs of these lengths begin, and behind the last one where it ends."""
    return smallest(np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]))


def check_starts(name: str, array: np.ndarray, count: int, end: int) -> None:
    """Check that `array` says where `count` runs begin that fill 0 to `end`.

    Raises:
        FormatError: it does not.
    """
    rising = array.ndim == 1 and _is(array, "u") and array.size == count + 1
    if not rising or array[0] != 0 or array[-1] != end or (array[1:] < array[:-1]).any():
        raise FormatError(
            f"{name} has {count + 1} unsigned numbers that rise from 0 to {end}; got {_shown(array)}: "
            "the arrays do not belong together"
        )


def check_indices(name: str, array: np.ndarray, count: int, bound: int) -> None:
    """Check that `array` holds `count` numbers below `bound`.

    Raises:
        FormatError: it does not.
    """
    if array.shape != (count,) or not _is(array, "u") or (array >= bound).any():
        raise FormatError(
            f"{name} has {count} unsigned numbers below {bound}; got {_shown(array)}: the arrays do not belong together"
        )


def check_distinct(name: str, array: np.ndarray, starts: np.ndarray) -> None:
    """Check that no number comes twice in any of the runs that begin at `starts`.

    Raises:
        FormatError: one does, so that of two weights at one place one would be lost.
    """
    run = np.repeat(np.arange(starts.size - 1), lengths(starts))
    order = np.lexsort((array, run))
    twice = (array[order][1:] == array[order][:-1]) & (run[order][1:] == run[order][:-1])
    if twice.any():
        number = array[order][1:][twice][0]
        raise FormatError(f"{name} names {number} twice: every place is stored once")


def check_shape(name: str, array: np.ndarray, shape: Shape, kind: Kind) -> None:
    """Check the shape of an array and what it holds, in the byte order of this machine.

    Args:
        kind: "f" for fp16, fp32 or fp64, "u" for unsigned numbers, "bits" for bits in bytes.

    Raises:
        FormatError: it is another.
    """
    if array.shape != shape or not _is(array, kind):
        wanted = {"f": "fp16, fp32 or fp64", "u": "unsigned numbers", "bits": "uint8"}[kind]
        raise FormatError(f"{name} has {wanted} {list(shape)}; got {_shown(array)}: the arrays do not belong together")


def _is(array: np.ndarray, kind: Kind) -> bool:
    dtype = array.dtype
    if kind == "bits":
        return dtype == np.uint8
    return dtype.kind == kind and dtype.isnative and (kind == "u" or dtype.itemsize in _FLOAT_BYTES)


def _shown(array: np.ndarray) -> str:
    numbers = array.reshape(-1)
    ends = f", from {numbers[0]} to {numbers[-1]}" if numbers.size else ""
    return f"{array.dtype} {list(array.shape)}{ends}"
