"""What a recipe says: every field of the YAML file, with its bounds and its default."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal, TypeAlias

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    PositiveFloat,
    PositiveInt,
    SerializerFunctionWrapHandler,
    Tag,
    model_serializer,
    model_validator,
)

Fraction: TypeAlias = Annotated[float, Field(ge=0, le=1)]
# More than any machine has end the process without a word.
Threads: TypeAlias = Annotated[int, Field(ge=1, le=1024)]
Unit: TypeAlias = Annotated[float, Field(gt=0, le=1)]
# What torch.manual_seed takes, from 0.
Seed: TypeAlias = Annotated[int, Field(ge=0, lt=2**63)]
Stages: TypeAlias = Annotated[tuple[PositiveFloat, ...], Field(min_length=1)]
# Forms of a field are told apart first, so that one problem is told once; their tags in <> are left out there.
# One value a stage for all weights, or globs of them.
Rho: TypeAlias = Annotated[
    Annotated[Stages, Tag("<stages>")] | Annotated[dict[str, Stages], Tag("<globs>")],
    Discriminator(lambda value: "<globs>" if isinstance(value, dict) else "<stages>"),
]


class _Section(BaseModel):
    """Unknown fields are refused, as a misspelt one would else be a silent default."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
    # Fields younger than committed results and checkpoints: not written while they have their default, so that those
    # stay results and checkpoints of their recipes.
    young: ClassVar[frozenset[str]] = frozenset()

    @model_serializer(mode="wrap")
    def _without_young_defaults(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        silent = {name for name in self.young if getattr(self, name) == type(self).model_fields[name].default}
        return {name: value for name, value in dump(self).items() if name not in silent}


class Network(_Section):
    """A network of the zoo; `checkpoint` is a path, or one below the data folder. Without it training starts afresh.

    It is a `.safetensors` file such as a recipe leaves, or holds a `state_dict` as those of the CIFAR ResNets do.
    """

    name: str
    options: dict[str, Any] = {}
    checkpoint: str | None = None


class Data(_Section):
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


class PlanRule(_Section):
    """One pattern and density for all weights but those in `skip` (see `Plan.uniform`)."""

    pattern: PatternName
    density: Unit | None = None
    skip: tuple[str, ...] = ("first_conv", "depthwise", "last_linear")


class GlobRule(_Section):
    """The weights that a glob of parameter or module names means; a pattern of null leaves them dense."""

    weights: str
    pattern: PatternName | None
    density: Unit | None = None


class PlanRules(_Section):
    """Rules, of which later ones win (see `Plan.of`); weights that none names stay dense."""

    rules: tuple[GlobRule, ...] = Field(min_length=1)


class PlanFile(_Section):
    """A plan that was saved (see `Plan.save`); a path that is not absolute begins at the recipe's folder."""

    file: str


def _kind_of_plan(section: Any) -> str:
    names = section if isinstance(section, dict) else dir(section)
    return next((f"<{kind}>" for kind in ("rules", "file") if kind in names), "<pattern>")


PlanSection: TypeAlias = Annotated[
    Annotated[PlanRule, Tag("<pattern>")] | Annotated[PlanRules, Tag("<rules>")] | Annotated[PlanFile, Tag("<file>")],
    Discriminator(_kind_of_plan),
]


class GradualMethod(_Section):
    """Gradual magnitude pruning: the density falls over the first `ramp` of all steps."""

    name: Literal["gradual"]
    schedule: str = "cubic"
    ramp: Unit = 0.7
    update_every: PositiveInt = 10


class AdmmMethod(_Section):
    """ADMM; see `monstera.pruning.ADMM`."""

    name: Literal["admm"]
    rho: Rho = (1e-4, 1e-3, 1e-2, 1e-1)
    update_every: PositiveInt | None = None
    harden_at: float = Field(0.5, gt=0, lt=1)
    zero_only: bool = False
    tolerance: PositiveFloat | None = None
    rounds: PositiveInt = 1


class AspMethod(_Section):
    """One shot at the start, then training under fixed masks; see `monstera.pruning.ASP`."""

    name: Literal["asp"]


class SrsteMethod(_Section):
    """SR-STE, and STE with a decay of 0; see `monstera.pruning.SRSTE`."""

    name: Literal["srste"]
    decay: float = Field(2e-4, ge=0)
    harden_at: float = Field(1.0, gt=0, le=1)


class GroupLassoMethod(_Section):
    """Group lasso over the plan's own groups, or over those of other patterns; see `monstera.pruning.GroupLasso`."""

    name: Literal["group_lasso"]
    strength: float = Field(1e-3, ge=0)
    harden_at: float = Field(0.5, gt=0, lt=1)
    groups: Annotated[tuple[str, ...], Field(min_length=1)] | None = None
    l1: float = Field(0.0, ge=0)
    proximal: bool = False
    threshold: float = Field(1e-4, ge=0)


class ReweightedMethod(_Section):
    """Reweighted group regularisation; see `monstera.pruning.Reweighted`."""

    young = frozenset({"prune_below"})

    name: Literal["reweighted"]
    strength: float = Field(1e-4, ge=0)
    alpha: Literal["norm", "square"] = "norm"
    penalty: Literal["norm", "square"] = "norm"
    eps: PositiveFloat = 1e-3
    reweight_at: tuple[Unit, ...] = (0.25, 0.5, 0.75)
    harden_at: float = Field(0.5, gt=0, lt=1)
    groups: Annotated[tuple[str, ...], Field(min_length=1)] | None = None
    prune_below: float = Field(0.0, ge=0)


class SppMethod(_Section):
    """Structured probabilistic pruning, its masks drawn by the seed of the run; see `monstera.pruning.SPP`."""

    name: Literal["spp"]
    increment: Unit = 0.05
    centre: float = Field(0.25, gt=0, lt=1)
    update_every: PositiveInt | None = None
    harden_at: float = Field(0.5, gt=0, lt=1)


Method: TypeAlias = Annotated[
    GradualMethod | AdmmMethod | AspMethod | SrsteMethod | GroupLassoMethod | ReweightedMethod | SppMethod,
    Field(discriminator="name"),
]


class Sgd(_Section):
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


class Adam(_Section):
    """AdamW; weight decay spares vectors (biases and norms)."""

    name: Literal["adam"]
    lr: PositiveFloat
    betas: tuple[Fraction, Fraction] = (0.9, 0.999)
    weight_decay: float = Field(0.01, ge=0)


class LearningRate(_Section):
    """The factor on the learning rate: a rising line over the first `warmup` of all steps, then constant or to 0."""

    decay: Literal["constant", "linear", "cosine"] = "cosine"
    warmup: Annotated[float, Field(ge=0, lt=1)] = 0.0


class Augmentation(_Section):
    """Random crops of the picture padded with black, and mirror images."""

    crop_padding: Annotated[int, Field(ge=0, le=32)] = 0
    flip: bool = False


class Distillation(_Section):
    """Learn from the dense network; see `monstera.pruning.Distill`.

    loss = (1 - weight) cross entropy + weight T^2 KL(teacher || student) at T + the mean squared error of what each
    layer in `features` gives, times its number.
    """

    young = frozenset({"features"})

    temperature: PositiveFloat = 4.0
    weight: Fraction = 0.9
    features: dict[str, PositiveFloat] = {}


class Latency(_Section):
    """Measure torch, ONNX Runtime and Monstera, dense and sparse, on `batch` pictures."""

    batch: PositiveInt = 1
    threads: Threads = 1


class Recipe(_Section):
    """A whole experiment. `output` is the result file; the weights of the first seed go beside it.

    With `divergence_every`, how many weights changed sides in so many steps is shown, and noted at the end of epochs.
    With `pivot`, channels are reordered first so that the plan keeps more (see `monstera.sparsity.pivot`).
    A step takes `batch_size` pictures, in `accumulate` equal parts one after the other, whose gradients add up; their
    norm over the whole network is held at or below `clip_norm`.
    `device` is where training and tests run; order and augmentation are the same on both, roundings are not.
    """

    young = frozenset({"accumulate", "clip_norm", "device", "pivot"})

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
