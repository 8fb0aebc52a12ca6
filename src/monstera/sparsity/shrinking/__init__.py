"""Physically smaller modules: channels that do nothing leave, and the cuts can be done again to a fresh module."""

from monstera.sparsity.shrinking.cuts import Cuts
from monstera.sparsity.shrinking.shrink import shrink

__all__ = ["Cuts", "shrink"]
