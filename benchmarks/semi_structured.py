"""BERT-base with 2:4 holes on a GPU's semi-structured kernels, against the same network dense.

`python benchmarks/semi_structured.py` on a machine with a CUDA GPU of compute capability 8.0 or more. Dense is the
pruned network as torch has it, so that answers can be compared, and its time is that of any weights. Each row is the
median of `ROUNDS` rounds in which both take turns, each for `CALLS` calls as torch makes them: small batches are bound
by the launches.
"""

from __future__ import annotations

import statistics
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from torch import Tensor, nn

from monstera import Plan, prune, zoo
from monstera.integrations.semi_structured import to_semi_structured
from monstera.measure import this_machine
from monstera.measure.result import write_json

RESULT = Path(__file__).parent / "results" / "gpu" / "semi_structured.json"
FORMAT = "monstera.semi_structured.1"
TOKENS = 128
ROUNDS, CALLS = 7, 5
TOLERANCE = 2e-2


def main(out: Annotated[Path, typer.Option(help="Where the result goes.")] = RESULT) -> None:
    """Measure the whole encoder and its three shapes of linear layers, in both types and several batches."""
    console, rows = Console(), []
    for dtype in (torch.float16, torch.bfloat16):
        model = _pruned().to("cuda", dtype)
        layer = model.get_submodule("layer.0")
        parts: dict[str, tuple[nn.Module, int]] = {
            "BERT-base encoder": (model, 768),
            "768 to 768": (_alone(layer, "attention.self.query"), 768),
            "768 to 3072": (_alone(layer, "intermediate.dense"), 768),
            "3072 to 768": (_alone(layer, "output.dense"), 3072),
        }
        for name, (part, features) in parts.items():
            for batch in (1, 8, 64):
                x = torch.randn(batch, TOKENS, features, device="cuda", dtype=dtype)
                rows.append({"what": name, "dtype": str(dtype).removeprefix("torch."), "batch": batch, **_row(part, x)})
                console.print(rows[-1], highlight=False)
    gpu = {"gpu": torch.cuda.get_device_name(), "cuda": torch.version.cuda}
    result: dict[str, Any] = {"format": FORMAT, "command": "python benchmarks/semi_structured.py", "tokens": TOKENS}
    write_json({**result, "rows": rows, **gpu, "machine": asdict(this_machine())}, out)


def _pruned() -> nn.Module:
    torch.manual_seed(0)
    model = zoo.bert_base().eval()
    prune(model, Plan.of(model, {"*": ("2:4",)}))
    return model


def _alone(layer: nn.Module, name: str) -> nn.Module:
    return nn.Sequential(layer.get_submodule(name))


@torch.no_grad()
def _row(dense: nn.Module, x: Tensor) -> dict[str, Any]:
    sparse = to_semi_structured(dense)
    expected, answer = dense(x), sparse(x)
    error = float((answer - expected).float().norm() / expected.float().norm())
    if not error < TOLERANCE:
        raise RuntimeError(f"the semi-structured kernels are off by {error:.1e}; nothing was timed")
    times: list[list[float]] = [[], []]
    for _ in range(ROUNDS):
        for model, found in zip((dense, sparse), times, strict=True):
            found.append(_ms(model, x))
    dense_ms, sparse_ms = (statistics.median(found) for found in times)
    return {"dense_ms": dense_ms, "sparse_ms": sparse_ms, "speedup": dense_ms / sparse_ms, "error": error}


def _ms(model: nn.Module, x: Tensor) -> float:
    model(x)
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    for _ in range(CALLS):
        model(x)
    end.record()
    end.synchronize()
    return begin.elapsed_time(end) / CALLS


if __name__ == "__main__":
    typer.run(main)
