"""Gets fast: frontend -> graph -> passes -> layout -> packing -> C -> library."""

from monstera.compiler.api import compile  # noqa: A004
from monstera.compiler.build import BuildError
from monstera.compiler.frontends import UnsupportedError
from monstera.compiler.preview import LayerPreview, Preview, preview

__all__ = ["BuildError", "LayerPreview", "Preview", "UnsupportedError", "compile", "preview"]
