"""An engine as plain files for a C program: its source, a header, the weights, and how to compile them."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Sequence
from pathlib import Path

from monstera.runtime.artifact import Artifact
from monstera.runtime.library import prefix_of
from monstera.runtime.manifest import InputSpec, Manifest, ProgramSpec

_HEADER = """\
/* A network that Monstera compiled for {target}, generated together with net.c. README.md says how to use it. */
#ifndef NET_H
#define NET_H
#include <stdint.h>

#define NET_ABI {abi}
#define NET_THREADS {threads}
#define NET_WEIGHT_BYTES {weights}L
{taps}{sizes}
#ifdef __cplusplus
extern "C" {{
#endif
{functions}
#ifdef __cplusplus
}}
#endif
#endif
"""

_TAPS = """\
/* Room for tables behind the weights, which net_load_taps fills. */
#define NET_TAP_BYTES {bytes}L
"""

_LOAD_TAPS = """
/* Call it once, before the first run. weights: as below, with room for NET_TAP_BYTES more behind. */
void net_load_taps(char *weights);
"""

_SIZES = """\
#define {N}_ARENA_FLOATS {arena}L
#define {N}_STEPS {steps}

/* fp32, C-contiguous; whole numbers as floats, too:{inputs} */
#define {N}_INPUTS {input_count}
#define {N}_INPUT_FLOATS {input_floats}

/* likewise:{outputs} */
#define {N}_OUTPUTS {output_count}
#define {N}_OUTPUT_FLOATS {output_floats}
"""

_FUNCTIONS = """
/* As net.c has them: NET_ABI, NET_ARENA_FLOATS, NET_WEIGHT_BYTES, NET_INPUTS, NET_OUTPUTS, NET_STEPS, NET_THREADS. */
void net_describe(int64_t fields[7]);

/* SHA-256 of the manifest and of the weights.safetensors that net.c was made with, in hexadecimal, a space between. */
const char *net_seal(void);

/* The threads of one caller; NULL without memory. They sleep between runs and do not survive a fork. */
void *net_team_new(void);
void net_team_free(void *team);

/* One run. Allocates nothing and keeps nothing: callers with a team and an arena of their own may run at the same time.
 * weights: the data of weights.safetensors, NET_WEIGHT_BYTES on a 64-byte line, only read, shared by all callers.
 * arena: NET_ARENA_FLOATS floats on a 64-byte line, of any content.
 * seconds: NULL, or NET_STEPS doubles that take the time of each step. */
void net_run(void *team, const char *weights, float *arena, const float *const *inputs, float *const *outputs,
             double *seconds);
"""

_FURTHER = """
/* The same for the shapes of {N}_INPUTS. Teams serve all programs, and so does an arena that is large enough. */
void {n}_describe(int64_t fields[7]);
const char *{n}_seal(void);
void *{n}_team_new(void);
void {n}_team_free(void *team);
void {n}_run(void *team, const char *weights, float *arena, const float *const *inputs, float *const *outputs,
          {space}double *seconds);
"""

_README = """\
# A network for {target} in C

Written by Monstera; needs {platform}{features} and no other library than libm and pthreads.

- `net.c`, `net.h`: the program. `net.h` says what to pass.
- `weights.safetensors`: its weights. The data begins 8 + n bytes into the file, n being the little-endian 64-bit
  integer at its start; the offsets in `net.c` count from there.
- `net.mk`: `NET_CFLAGS`, the flags that `net.c` has to be compiled with. Strict C would not fuse multiply-adds without
  `-ffp-contract=fast`. Do not add `-ffast-math`: it changes what becomes of NaN, and of denormals in the whole process.

```
cc {flags} main.c net.c -lm -lpthread
```

`examples/c` in Monstera's repository holds a `main.c` that reads the weights and an input, runs, and prints the best
classes.
"""


def export_c(artifact: Artifact, folder: str | os.PathLike[str]) -> None:
    """Write an artifact's program as `net.c`, `net.h`, `net.mk`, `weights.safetensors` and `README.md`.

    The folder is made if it is missing; files of these names in it are replaced.

    Raises:
        OSError: the folder cannot be made or written.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    flags = " ".join(artifact.manifest.flags)
    (folder / "net.c").write_bytes(artifact.source)
    (folder / "net.h").write_text(_header(artifact.manifest))
    (folder / "net.mk").write_text(f"NET_CFLAGS := {flags}\n")
    (folder / "weights.safetensors").write_bytes(artifact.weights.data)
    (folder / "README.md").write_text(_readme(artifact.manifest, flags))


def _header(manifest: Manifest) -> str:
    prefixes = [prefix_of(i) for i in range(len(manifest.programs))]
    taps = manifest.tap_bytes
    functions = [_LOAD_TAPS] if taps else []
    functions += [_FUNCTIONS, *(_FURTHER.format(n=n, N=n.upper(), space=" " * len(n)) for n in prefixes[1:])]
    return _HEADER.format(
        target=manifest.target,
        abi=manifest.abi,
        threads=manifest.threads,
        weights=manifest.weight_bytes,
        taps=_TAPS.format(bytes=taps) if taps else "",
        sizes="\n".join(_sizes(n.upper(), program) for n, program in zip(prefixes, manifest.programs, strict=True)),
        functions="".join(functions),
    )


def _sizes(name: str, program: ProgramSpec) -> str:
    inputs, outputs = list(program.shapes), list(program.outputs)
    return _SIZES.format(
        N=name,
        arena=program.arena_floats,
        steps=len(program.layers),
        inputs=_listed([_named(i) for i in program.inputs], inputs),
        input_count=len(inputs),
        input_floats=_floats(inputs),
        outputs=_listed([f"output {i}" for i in range(len(outputs))], outputs),
        output_count=len(outputs),
        output_floats=_floats(outputs),
    )


def _named(spec: InputSpec) -> str:
    """An input by name, and what its numbers may be. The name may be a stranger's, and must not end the comment."""
    name = re.sub(r"[^\w.:-]", "_", spec.name)
    return name if spec.limit is None else f"{name} (from 0 to {spec.limit - 1})"


def _listed(names: Sequence[str], shapes: Sequence[tuple[int, ...]]) -> str:
    return "".join(f"\n *   {name} {list(shape)}" for name, shape in zip(names, shapes, strict=True))


def _floats(shapes: Sequence[tuple[int, ...]]) -> str:
    # C knows no empty list.
    return "{" + (", ".join(f"{math.prod(shape)}L" for shape in shapes) or "0") + "}"


def _readme(manifest: Manifest, flags: str) -> str:
    features = f" with {', '.join(manifest.features)}" if manifest.features else ""
    return _README.format(target=manifest.target, platform=manifest.platform, features=features, flags=flags)
