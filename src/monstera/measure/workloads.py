"""What is measured: networks of the zoo with random weights, and the same networks with holes in them."""

from __future__ import annotations

import copy
import os
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.nn.utils import parametrize

from monstera import zoo
from monstera.pruning.holes import punch_
from monstera.sparsity import Block, Entry, NOfM, Plan, find_view, pattern
from monstera.sparsity.rules import SKIPPED

# Standard deviation of the logarithm by which scores differ from block row to block row, and from input channel to
# input channel. A quarter makes rows about twice as uneven as in the committed recipe's trained network.
SPREAD = 0.25

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_SIZES = {
    "bert_base": (128, 768),
    "bert_tiny": (9, 48),
    "c3d": (3, 16, 112, 112),
    "digits_cnn": (1, 8, 8),
    "fused_mobilenet": (1, 28, 28),
    "gpt2_step": (128,),
    "gpt2_step_small": (16,),
    "gru_speech": (100, 153),
    "gru_speech_small": (20, 153),
    "lenet5": (1, 28, 28),
    "r2plus1d_18": (3, 16, 112, 112),
    "resnet20": (3, 32, 32),
    "resnet32": (3, 32, 32),
    "resnet56": (3, 32, 32),
}
# Of these the size says how many tokens came before.
_STEPS = ("gpt2_step", "gpt2_step_small")


@dataclass(frozen=True, slots=True)
class Holes:
    """One way to make a network sparse: an entry for its convolutions, and one for its linear and recurrent layers.

    The first convolution, depthwise convolutions and the classifier (the last linear layer of a network with
    convolutions) stay dense, and so do weights that are computed from others. With `uneven`, rows of blocks and input
    channels differ in density as if some mattered more, at the same density of every weight.
    """

    convolutions: Entry
    linear: Entry
    uneven: bool = False

    def __str__(self) -> str:
        names = dict.fromkeys((self.convolutions.pattern.name, self.linear.pattern.name))
        uneven = " uneven" if self.uneven else ""
        return f"{'/'.join(names)}{uneven} at density {self.convolutions.density:g}"

    def plan(self, model: nn.Module, skip: Collection[str] = ()) -> Plan:
        """Return the plan for `model`; `skip` are globs of more weights that stay dense.

        Raises:
            PlanError: no weight is left to prune, a pattern does not fit one, or `skip` names what is not there.
        """
        # Without convolutions, the last linear layer is no classifier.
        classifies = any(isinstance(module, _CONVOLUTIONS) for module in model.modules())
        roles = [name for name in SKIPPED if classifies or name != "last_linear"]
        computed = [name for name, module in model.named_modules() if parametrize.is_parametrized(module)]
        skipped = (*roles, *computed, *skip)
        plan = Plan.uniform(model, self.convolutions.pattern, self.convolutions.density, skip=skipped)
        linear = [name for name in plan if not isinstance(find_view(model, name).module, _CONVOLUTIONS)]
        plan |= dict.fromkeys(linear, self.linear)
        plan.check(model)
        return plan


def holes(patterns: Sequence[str], densities: Sequence[float], uneven: Sequence[float] = ()) -> list[Holes]:
    """Return every pattern at every density, then those without a density of their own once more, uneven.

    A pattern is a short name for all layers ("4x1"), or two, the second for linear and recurrent layers ("4x1/16x1");
    "=0.1" behind it gives it that density alone. N:M patterns know theirs.

    Raises:
        ValueError: not such a text.
        PatternError: an unknown pattern, or a density that does not fit it.
    """
    even = [h for text in patterns for h in _holes(text, densities)]
    free = [text for text in patterns if "=" not in text and not _fixed(text)]
    return even + [Holes(h.convolutions, h.linear, True) for text in free for h in _holes(text, uneven)]


def _holes(text: str, densities: Sequence[float]) -> list[Holes]:
    names, own, density = text.partition("=")
    convolutions, _, linear = names.partition("/")
    if own:
        densities = [_number(text, density)]
    chosen = [None] if _fixed(convolutions) else densities
    return [Holes(Entry(convolutions, d), Entry(linear or convolutions, d)) for d in chosen]


def _fixed(text: str) -> bool:
    return isinstance(pattern(text.partition("/")[0]).scope, NOfM)


def _number(text: str, density: str) -> float:
    try:
        return float(density)
    except ValueError:
        raise ValueError(f"expected PATTERN=DENSITY such as unstructured=0.1, got {text!r}") from None


def input_size(name: str, text: str = "") -> tuple[int, ...]:
    """Return the input shape of one example from text like "3x224x224", or the usual one of the network `name`.

    Raises:
        ValueError: the text is something else, or has another number of dimensions than the network takes.
    """
    usual = _SIZES.get(name, (3, 224, 224))
    if not text:
        return usual
    parts = text.split("x")
    if len(parts) != len(usual) or not all(part.isdigit() and int(part) for part in parts):
        raise ValueError(f"expected {len(usual)} sizes such as {'x'.join(map(str, usual))}, got {text!r}")
    return tuple(map(int, parts))


def example(name: str, size: tuple[int, ...], batch: int = 1) -> Tensor | tuple[Tensor, ...]:
    """Return random inputs of the network `name`, of the sizes that `input_size` gives.

    Raises:
        ValueError: no network has this name.
    """
    if name not in _STEPS:
        return torch.randn(batch, *size)
    with torch.device("meta"):
        step = zoo.network(name)
    assert isinstance(step, zoo.GPT2Step)
    return step.example(size[0], batch)


def dense_network(name: str, pictures: Tensor | tuple[Tensor, ...]) -> nn.Module:
    """Return the network with weights drawn by `zoo.randomize_`, in eval mode; `pictures` is a batch of its inputs.

    Raises:
        ValueError: no network has this name.
    """
    return zoo.randomize_(zoo.network(name), pictures).eval()


def sparse_copy(dense: nn.Module, way: Holes, pictures: Tensor | tuple[Tensor, ...], seed: int = 0) -> nn.Module:
    """Return a pruned copy of `dense`, calibrated so that its activations do not fade towards denormal numbers.

    Raises:
        PlanError: as for `Holes.plan`.
    """
    sparse = copy.deepcopy(dense)
    plan = way.plan(sparse)
    scores = uneven_scores(sparse, plan, seed) if way.uneven else None
    punch_(plan.weights(sparse), plan.masks(sparse, scores))
    return zoo.calibrate_(sparse, pictures)


def uneven_scores(model: nn.Module, plan: Plan, seed: int = 0, spread: float = SPREAD) -> dict[str, Tensor]:
    """Return squared weights, times a factor of each block row and one of each block column, by planned name.

    The factors are exp(spread * z) with z drawn from a normal distribution, so that a plan's masks keep its patterns
    and densities, but densities of rows and columns of blocks differ.
    """
    generator = torch.Generator().manual_seed(seed)
    scores = {}
    for name, entry in plan.items():
        view = find_view(model, name)
        squares = view.weight.detach().square()
        if not isinstance(entry.pattern, Block):
            raise ValueError(f"{name}: uneven scores are made for blocks, not for {entry.pattern}")
        grid = entry.pattern.group_scores(squares, view.layout).shape
        rows = torch.randn(grid[0], grid[1], 1, 1, generator=generator)
        columns = torch.randn(grid[0], 1, grid[2], 1, generator=generator)
        factors = torch.exp(spread * (rows + columns)).expand(grid)
        scores[name] = squares * entry.pattern.expand(factors, squares.shape, view.layout)
    return scores


def trained_network(name: str, path: str | os.PathLike[str]) -> nn.Module:
    """Return the network `name` in eval mode with the weights of a safetensors file, holes included.

    Raises:
        ValueError: no network has this name, or the file is not its weights.
        FileNotFoundError: there is no such file.
    """
    model = zoo.network(name)
    try:
        model.load_state_dict(safetensors.torch.load_file(path))
    except (RuntimeError, SafetensorError) as reason:
        first_line = str(reason).splitlines()[0]
        raise ValueError(f"{Path(path)}: not the weights of {name} ({first_line})") from reason
    return model.eval()
