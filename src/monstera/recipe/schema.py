"""What a recipe says: every field of the YAML file, with its bounds and its default."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeAlias

from pydantic import (
    BeforeValidator,
    Discriminator,
    Field,
    PositiveFloat,
    PositiveInt,
    Tag,
    model_validator,
)

from monstera.recipe.method_schema import Method
from monstera.recipe.section import Fraction, Section, Seed, Threads, Unit


class Network(Section):
    """A network of the zoo; `checkpoint` is a path, or one below the data folder. Without it training starts afresh.

    It is a `.safetensors` file such as a recipe leaves, or holds a `state_dict` as those of the CIFAR ResNets do.
    """

    name: str
    options: dict[str, Any] = Field({})
    checkpoint: str | None = None


class Data(Section):
    """A data set of the zoo; `mean` and `std` replace its own.

    With `held_out`, so many training pictures take the place of the test pictures: for choosing hyper-parameters.
    """

    name: str
    mean: tuple[float, ...] | None = None
    std: tuple[PositiveFloat, ...] | None = None
    held_out: int = Field(0, ge=0)


def _text(value: Any) -> Any:
    if isinstance(value, int):
        # YAML 1.1 reads 2:4 as a number in base sixty.
        raise ValueError("is a number and no text; write N:M patterns in quotes, '2:4'")
    return value


PatternName: TypeAlias = Annotated[str, BeforeValidator(_text)]


class PlanRule(Section):
    """One pattern and density for all weights but those in `skip` (see `Plan.uniform`)."""

    pattern: PatternName
    density: Unit | None = None
    skip: tuple[str, ...] = ("first_conv", "depthwise", "last_linear")


class GlobRule(Section):
    """The weights that a glob of parameter or module names means; a pattern of null leaves them dense."""

    weights: str
    pattern: PatternName | None
    density: Unit | None = None


class PlanRules(Section):
    """Rules, of which later ones win (see `Plan.of`); weights that none names stay dense."""

    rules: tuple[GlobRule, ...] = Field(min_length=1)


class PlanFile(Section):
    """A plan that was saved (see `Plan.save`); a path that is not absolute begins at the recipe's folder."""

    file: str


def _kind_of_plan(section: Any) -> str:
    names = section if isinstance(section, dict) else dir(section)
    return next((f"<{kind}>" for kind in ("rules", "file") if kind in names), "<pattern>")


PlanSection: TypeAlias = Annotated[
    Annotated[PlanRule, Tag("<pattern>")] | Annotated[PlanRules, Tag("<rules>")] | Annotated[PlanFile, Tag("<file>")],
    Discriminator(_kind_of_plan),
]


class Sgd(Section):
    """Stochastic gradient descent; weight decay spares vectors (biases and norms)."""

    name: Literal["sgd"] = "sgd"
    lr: PositiveFloat
    momentum: float = Field(0.9, ge=0, lt=1)
    nesterov: bool = True
    weight_decay: float = Field(1e-4, ge=0)

    @model_validator(mode="after")
    def _nesterov_needs_momentum(self) -> Sgd:
        if self.nesterov and not self.momentum:
            raise ValueError("nesterov needs a momentum above 0")
        return self


class Adam(Section):
    """AdamW; weight decay spares vectors (biases and norms)."""

    name: Literal["adam"]
    lr: PositiveFloat
    betas: tuple[Fraction, Fraction] = (0.9, 0.999)
    weight_decay: float = Field(0.01, ge=0)


class LearningRate(Section):
    """The factor on the learning rate: a rising line over the first `warmup` of all steps, then constant or to 0."""

    decay: Literal["constant", "linear", "cosine"] = "cosine"
    warmup: Annotated[float, Field(ge=0, lt=1)] = 0.0


class Augmentation(Section):
    """Random crops of the picture padded with black, and mirror images."""

    crop_padding: Annotated[int, Field(ge=0, le=32)] = 0
    flip: bool = False


class Distillation(Section):
    """Learn from the dense network; see `monstera.pruning.Distill`.

    loss = (1 - weight) cross entropy + weight T^2 KL(teacher || student) at T + the mean squared error of what each
    layer in `features` gives, times its number.
    """

    young = frozenset({"features"})

    temperature: PositiveFloat = 4.0
    weight: Fraction = 0.9
    features: dict[str, PositiveFloat] = Field({})


class Latency(Section):
    """Measure torch, ONNX Runtime and Monstera, dense and sparse, on `batch` pictures."""

    batch: PositiveInt = 1
    threads: Threads = 1


class Recipe(Section):
    """A whole experiment. `output` is the result file; the weights of the first seed go beside it.

    With `divergence_every`, how many weights changed sides in so many steps is shown, and noted at the end of epochs.
    With `pivot`, channels are reordered first so that the plan keeps more (see `monstera.sparsity.pivot`).
    A step takes `batch_size` pictures, in `accumulate` equal parts one after the other, whose gradients add up; their
    norm over the whole network is held at or below `clip_norm`.
    `device` is where training and tests run; order and augmentation are the same on both, roundings are not. Searches
    and latencies stay on the CPU. With `compile`, the passes of training go through `torch.compile`.
    """

    young = frozenset({"accumulate", "clip_norm", "compile", "device", "pivot"})

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")
    network: Network
    data: Data
    plan: PlanSection
    pivot: bool = False
    method: Method
    epochs: PositiveInt
    batch_size: int = Field(128, ge=2)
    accumulate: PositiveInt = 1
    clip_norm: PositiveFloat | None = None
    optimizer: Annotated[Sgd | Adam, Field(discriminator="name")]
    lr_schedule: LearningRate = LearningRate()
    augmentation: Augmentation = Augmentation()
    distillation: Distillation | None = None
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    precision: Literal["float32", "bfloat16"] = "float32"
    channels_last: bool = False
    compile: bool = False
    device: Literal["cpu", "cuda"] = "cpu"
    threads: Threads = 1
    seeds: tuple[Seed, ...] = Field((0,), min_length=1)
    checkpoint_every: PositiveInt | None = None
    divergence_every: PositiveInt | None = None
    latency: Latency = Latency()
    output: str

    @model_validator(mode="after")
    def _fits_together(self) -> Recipe:
        if self.distillation and not self.network.checkpoint:
            raise ValueError("distillation: there is no dense network to learn from; name a network.checkpoint")
        if self.pivot and not self.network.checkpoint:
            raise ValueError("pivot: fresh weights have no order worth keeping; name a network.checkpoint")
        if len(set(self.seeds)) != len(self.seeds):
            raise ValueError(f"seeds: each may be there once, got {list(self.seeds)}")
        # Batch norm learns nothing from one picture.
        if self.batch_size % self.accumulate or self.batch_size < 2 * self.accumulate:
            raise ValueError(
                f"accumulate: expected to cut batch_size {self.batch_size} into equal parts of 2 or more pictures, "
                f"got {self.accumulate}"
            )
        return self
