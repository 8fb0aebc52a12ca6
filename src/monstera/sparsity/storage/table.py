"""One weight in every form, and what each takes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from monstera.sparsity.errors import FormatError
from monstera.sparsity.storage.bcrc import BCRC
from monstera.sparsity.storage.fkw import FKW
from monstera.sparsity.storage.form import Form, bits_of
from monstera.sparsity.storage.plain import BSR, CSR, BlockShape, Dense
from monstera.sparsity.storage.unified import UnifiedBlocks

_HEADER = ("form", "weights", "index", "bytes", "of dense", "of CSR", "of BSR")


@dataclass(frozen=True, slots=True)
class FormSize:
    """Bytes of a weight in one form: those of the weights (signs included) and those that say where they belong.

    `refused` says why the weight has no such form; its bytes are 0 then.
    """

    form: str
    values: int
    index: int
    refused: str = ""

    @property
    def nbytes(self) -> int:
        """All bytes."""
        return self.values + self.index


@dataclass(frozen=True, slots=True)
class StorageTable:
    """The sizes of one weight in every form; prints as a table. `stored` of its `size` weights are no holes."""

    shape: tuple[int, ...]
    dtype: str
    stored: int
    size: int
    forms: tuple[FormSize, ...]

    def __getitem__(self, form: str) -> FormSize:
        for found in self.forms:
            if found.form == form:
                return found
        raise KeyError(f"no form {form!r}; there are {', '.join(f.form for f in self.forms)}")

    def rows(self) -> list[tuple[str, ...]]:
        """The table's cells as text, one row a form."""
        return [self._cells(form) for form in self.forms]

    def _cells(self, form: FormSize) -> tuple[str, ...]:
        if form.refused:
            return (form.form, *["-"] * (len(_HEADER) - 1))
        whole = [self.forms[i].nbytes for i in range(3)]
        shares = [f"{form.nbytes / other:.3f}" for other in whole]
        return (form.form, f"{form.values:,}", f"{form.index:,}", f"{form.nbytes:,}", *shares)

    def __str__(self) -> str:
        table = [_HEADER, *self.rows()]
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        lines = [
            "  ".join([row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))])
            for row in table
        ]
        size = f"{'x'.join(map(str, self.shape))} {self.dtype}, {self.stored:,} of {self.size:,} weights stored"
        return "\n".join([size, *lines, *(f"{f.form}: {f.refused}" for f in self.forms if f.refused)])


def storage_table(weight: np.ndarray, block: BlockShape = (4, 1, 1)) -> StorageTable:
    """Account a weight in every form: dense, CSR, BSR, BCRC, FKW and unified blocks.

    Args:
        weight: `[out, in, *kernel]`, 2 to 5 dimensions, fp16, fp32 or fp64.
        block: (out, in, positions) of the blocks of BSR and of unified blocks.

    Raises:
        FormatError: no such weight or block.

    Example:
        >>> weight = np.zeros((4, 6), np.float32)
        >>> weight[:, 2] = 0.5, -0.5, -0.5, 0.5
        >>> storage_table(weight)["unified"].nbytes
        7
    """
    forms: list[tuple[str, Form | FormatError]] = [
        ("dense", Dense.encode(weight)),
        ("CSR", CSR.encode(weight)),
        ("BSR", BSR.encode(weight, block)),
        ("BCRC", BCRC.encode(weight)),
        ("FKW", _fkw(weight)),
        ("unified", UnifiedBlocks.encode(weight, block)),
    ]
    return StorageTable(
        shape=weight.shape,
        dtype=weight.dtype.name,
        stored=int(np.count_nonzero(bits_of(weight))),
        size=weight.size,
        forms=tuple(_size(name, form) for name, form in forms),
    )


def _fkw(weight: np.ndarray) -> FKW | FormatError:
    try:
        return FKW.encode(weight)
    except FormatError as refusal:
        return refusal


def _size(name: str, form: Form | FormatError) -> FormSize:
    if isinstance(form, FormatError):
        return FormSize(name, 0, 0, str(form))
    return FormSize(name, form.value_nbytes, form.index_nbytes)
