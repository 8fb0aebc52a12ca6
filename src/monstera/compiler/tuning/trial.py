"""Times choices where they count: the whole network runs, with each layer done once by each of its choices."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence

import numpy as np

from monstera.compiler.build import build
from monstera.compiler.describe import manifest_of
from monstera.compiler.emit import emit, unit
from monstera.compiler.frontends import Imported
from monstera.compiler.lowering import lower_with
from monstera.compiler.lowering.choice import Choice, Cut
from monstera.compiler.targets import Target
from monstera.runtime import Manifest, as_array, pack_tensors, random_array
from monstera.runtime.library import Library
from monstera.runtime.tensors import data_of

# Rounds of the whole network; the median of a step's times counts.
ROUNDS = 9


def time_choices(
    imported: Imported,
    target: Target,
    threads: int,
    choices: Mapping[str, Sequence[Choice]],
    cuts: Mapping[str, Cut] | None = None,
) -> dict[str, dict[Choice, float]]:
    """Milliseconds of every choice of every layer, layers of one key added up.

    Raises:
        BuildError: the C compiler is missing or failed.
    """
    lowered = lower_with(imported.graph, target, threads, choices, cuts=cuts, stripes=False)
    program = unit(lowered.program)
    path = build(emit([program], target, threads), target)
    manifest = manifest_of([imported], [program], target, threads)
    library = Library(path, manifest, data_of(pack_tensors(lowered.program.tables)))
    ms = _medians(library, manifest, len(lowered.program.steps))
    return {
        key: {choice: float(ms[steps].sum()) for choice, steps in by_choice.items()}
        for key, by_choice in lowered.steps.items()
    }


def _medians(library: Library, manifest: Manifest, steps: int) -> np.ndarray:
    """Milliseconds of each step, after one round to warm up."""
    rng = np.random.default_rng(0)
    inputs = [as_array(random_array(spec, rng), spec) for spec in manifest.inputs]
    outputs = [np.empty(shape, np.float32) for shape in manifest.outputs]
    seconds = np.zeros((ROUNDS + 1, max(1, steps)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for row in seconds:
            library.run(inputs, outputs, row)
    return 1e3 * np.median(seconds[1:], 0)
