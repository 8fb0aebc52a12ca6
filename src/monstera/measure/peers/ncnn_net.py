"""A network in ncnn's own files: loaded, run, and tried out as a program of its own.

`python ncnn_net.py FOLDER THREADS` loads net.param and net.bin from FOLDER and answers in.npz once. The peer starts it
first, because some operators take minutes there or end the process, and neither can be stopped from inside. Only ncnn
and numpy are imported, so that the start is quick.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

PARAM, BIN, INPUTS = "net.param", "net.bin", "in.npz"


def load(folder: Path, threads: int) -> Any:
    """Load net.param and net.bin from `folder`, to compute in fp32 on `threads` threads; Winograd stays on.

    Raises:
        RuntimeError: ncnn does not read one of the files.
    """
    import ncnn

    net = ncnn.Net()  # pyright: ignore[reportAttributeAccessIssue]
    net.opt.num_threads = threads
    for name in dir(net.opt):
        if "fp16" in name or "bf16" in name:
            setattr(net.opt, name, False)
    if net.load_param(str(folder / PARAM)) or net.load_model(str(folder / BIN)):
        raise RuntimeError("ncnn does not read the network that pnnx wrote")
    return net


def answer(net: Any, inputs: Sequence[np.ndarray]) -> tuple[np.ndarray, ...]:
    """Run `net` once on fp32 arrays, the first dimension of each being the batch; return its outputs.

    Raises:
        RuntimeError: ncnn gave up.
    """
    import ncnn

    extractor = net.create_extractor()
    for name, array in zip(net.input_names(), inputs, strict=True):
        extractor.input(name, ncnn.Mat(array, batch_index=0))  # pyright: ignore[reportAttributeAccessIssue]
    outputs = []
    for name in net.output_names():
        code, output = extractor.extract(name)
        if code:
            raise RuntimeError(f"ncnn gave up with code {code} on the way to {name}")
        # The array looks into ncnn's memory, which the next run takes back.
        outputs.append(output.numpy(batch_index=0).copy())
    return tuple(outputs)


def main(arguments: Sequence[str]) -> None:
    """Answer once, as the first lines say; a failure is an exit code and a line on stderr."""
    folder, threads = Path(arguments[0]), int(arguments[1])
    with np.load(folder / INPUTS) as file:
        inputs = [file[name] for name in file.files]
    try:
        answer(load(folder, threads), inputs)
    except RuntimeError as reason:
        sys.exit(str(reason))


if __name__ == "__main__":
    main(sys.argv[1:])
