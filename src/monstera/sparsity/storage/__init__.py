"""Storage forms of a weight with holes: arrays that hold every bit of it, and how many bytes they take.

Pure numpy. The compiler has an arrangement of its own (`compiler/packing.py`), which its kernels want; these forms are
those of the literature, to hand weights on and to compare what a pattern costs on disk. `docs/formats.md` draws each.
"""

from monstera.sparsity.storage.bcrc import BCRC
from monstera.sparsity.storage.fkw import FKW
from monstera.sparsity.storage.form import Form
from monstera.sparsity.storage.plain import BSR, CSR, Dense
from monstera.sparsity.storage.table import FormSize, StorageTable, storage_table
from monstera.sparsity.storage.unified import UnifiedBlocks

__all__ = [
    "BCRC",
    "BSR",
    "CSR",
    "FKW",
    "Dense",
    "Form",
    "FormSize",
    "StorageTable",
    "UnifiedBlocks",
    "storage_table",
]
