"""Gets fast: frontend -> graph -> passes -> layout -> packing -> C -> library."""

from monstera.compiler.api import compile  # noqa: A004
from monstera.compiler.build import BuildError
from monstera.compiler.frontends import UnsupportedError, from_onnx
from monstera.compiler.hybrid import HybridEngine
from monstera.compiler.preview import LayerPreview, Preview, preview
from monstera.compiler.tuning import TableError, read_tuning, write_tuning

__all__ = [
    "BuildError",
    "HybridEngine",
    "LayerPreview",
    "Preview",
    "TableError",
    "UnsupportedError",
    "compile",
    "from_onnx",
    "preview",
    "read_tuning",
    "write_tuning",
]
