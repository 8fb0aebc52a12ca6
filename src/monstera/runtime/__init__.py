"""Loads, checks and calls compiled engines. numpy only: no torch, no compiler, no other room."""

from monstera.runtime.artifact import Artifact
from monstera.runtime.engine import Engine, assemble, load
from monstera.runtime.machine import architecture, cpu_features, here
from monstera.runtime.manifest import ArtifactError, InputSpec, LayerSpec, Manifest, PackingSpec
from monstera.runtime.packing import LayerPacking, PackingPlan
from monstera.runtime.profile import LayerProfile, Profile
from monstera.runtime.tensors import offsets_of, pack_tensors

__all__ = [
    "Artifact",
    "ArtifactError",
    "Engine",
    "InputSpec",
    "LayerPacking",
    "LayerProfile",
    "LayerSpec",
    "Manifest",
    "PackingPlan",
    "PackingSpec",
    "Profile",
    "architecture",
    "assemble",
    "cpu_features",
    "here",
    "load",
    "offsets_of",
    "pack_tensors",
]
