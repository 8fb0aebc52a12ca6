"""Loads, checks and calls compiled engines. numpy only: no torch, no compiler, no other room."""

from monstera.runtime.arguments import bound
from monstera.runtime.arrays import LARGEST_WHOLE, as_array, random_array
from monstera.runtime.artifact import Artifact, Opened, open_artifact, read_artifact
from monstera.runtime.engine import Engine
from monstera.runtime.export import export_c
from monstera.runtime.library import Seal
from monstera.runtime.loading import assemble, load, open_here
from monstera.runtime.machine import architecture, cpu_features, here
from monstera.runtime.manifest import (
    DTYPES,
    ArtifactError,
    InputSpec,
    LayerSpec,
    Manifest,
    PackingSpec,
    ProgramSpec,
)
from monstera.runtime.packing import LayerPacking, PackingPlan
from monstera.runtime.profile import LayerProfile, Memory, Profile
from monstera.runtime.session import Session
from monstera.runtime.structure import Record
from monstera.runtime.tensors import offsets_of, pack_tensors

__all__ = [
    "DTYPES",
    "LARGEST_WHOLE",
    "Artifact",
    "ArtifactError",
    "Engine",
    "InputSpec",
    "LayerPacking",
    "LayerProfile",
    "LayerSpec",
    "Manifest",
    "Memory",
    "Opened",
    "PackingPlan",
    "PackingSpec",
    "Profile",
    "ProgramSpec",
    "Record",
    "Seal",
    "Session",
    "architecture",
    "as_array",
    "assemble",
    "bound",
    "cpu_features",
    "export_c",
    "here",
    "load",
    "offsets_of",
    "open_artifact",
    "open_here",
    "pack_tensors",
    "random_array",
    "read_artifact",
]
