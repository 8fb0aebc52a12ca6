"""Learn from a dense teacher: its softened answers, and what some of its layers give out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from monstera.sparsity.errors import suggestion

TEMPERATURE = 4.0
WEIGHT = 0.9


@final
class Distill:
    """Mix what a teacher says into the loss of a student, in any training loop and beside any pruning method.

    The loss is `(1 - weight) * task + weight * T^2 KL(teacher || student) + sum of features[l] * MSE_l`, where `MSE_l`
    is the mean squared error between what layer l gives in the student and in the teacher. Hooks remember what the
    student's layers gave in its last forward pass; the call runs the teacher on the same inputs, without gradient.

    Leave the teacher alone: in evaluation mode, with weights of its own. Hooks go at `remove()`, or at the end of a
    `with` block. Under DistributedDataParallel the student is the network that was wrapped, and the loop calls the
    wrapper; each process has a teacher of its own, which nothing wraps.

    Args:
        student: the network that trains; only looked at.
        teacher: the network to learn from.
        temperature: T, by which logits are divided.
        weight: of the logits' term, from 0 to 1; the task has the rest.
        features: names of modules that both networks have, and the weight of each.

    Raises:
        ValueError: weights or a temperature out of bounds, a layer that one of the networks has not, a teacher in
            training mode or one that shares weights with the student.

    Source: G. Hinton, O. Vinyals, J. Dean 2015, "Distilling the Knowledge in a Neural Network", section 2; A. Romero et
    al. 2015, "FitNets: Hints for Thin Deep Nets", equation 3, without a regressor: layers must give equal shapes.

    Example:
        >>> teacher = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)).eval()
        >>> student = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
        >>> x, labels = torch.ones(2, 4), torch.tensor([0, 2])
        >>> with Distill(student, teacher, features={"1": 0.5}) as distill:
        ...     logits = student(x)
        ...     distill(F.cross_entropy(logits, labels), logits, x).backward()
    """

    def __init__(
        self,
        student: nn.Module,
        teacher: nn.Module,
        *,
        temperature: float = TEMPERATURE,
        weight: float = WEIGHT,
        features: Mapping[str, float] | None = None,
    ) -> None:
        self.temperature, self.weight, self.features = temperature, weight, dict(features or {})
        self._check_numbers()
        _check_networks(student, teacher, self.features)
        self._teacher = teacher
        self._seen, self._taught = _Memory(student, self.features), _Memory(teacher, self.features)

    def __call__(self, task: Tensor, output: Any, *inputs: Any, **named: Any) -> Tensor:
        """The whole loss, a scalar.

        Args:
            task: the student's own loss on these inputs.
            output: of the student's last forward pass: logits `[..., classes]`, an object with `logits`, or a tuple
                that begins with them.
            inputs, named: what the student was called with; the teacher is called with the same.

        Raises:
            ValueError: the teacher is in training mode, shapes differ, or the student was not run before.
        """
        _check_evaluating(self._teacher)
        with torch.no_grad():
            taught = self._teacher(*inputs, **named)
        try:
            pairs = self._pairs()
        finally:
            self._seen.forget()
            self._taught.forget()
        loss = (1 - self.weight) * task
        if self.weight:
            student, teacher = _matched("the network", output, taught)
            loss = loss + self.weight * distillation_loss(student, teacher, self.temperature)
        for name, own, dense in pairs:
            loss = loss + self.features[name] * F.mse_loss(own, dense)
        return loss

    def remove(self) -> None:
        """Take the hooks off both networks."""
        self._seen.remove()
        self._taught.remove()

    def __enter__(self) -> Distill:
        return self

    def __exit__(self, *_: object) -> None:
        self.remove()

    def _pairs(self) -> list[tuple[str, Tensor, Tensor]]:
        """What each layer gave in both networks, each time that it ran."""
        pairs = []
        for name in self.features:
            seen, taught = self._seen.outputs[name], self._taught.outputs[name]
            if not seen:
                raise ValueError(
                    f"features: layer {name!r} of the student has not run since the last loss; call the student on "
                    "the inputs first, and name only layers that it uses"
                )
            if len(seen) != len(taught):
                raise ValueError(
                    f"features: layer {name!r} ran {len(seen)} times in the student and {len(taught)} in the teacher; "
                    "name a layer that both use in the same way"
                )
            where = f"features: layer {name!r}"
            pairs += [(name, *_matched(where, own, dense)) for own, dense in zip(seen, taught, strict=True)]
        return pairs

    def _check_numbers(self) -> None:
        if not self.temperature > 0:
            raise ValueError(f"temperature: expected a positive number, got {self.temperature}")
        if not 0 <= self.weight <= 1:
            raise ValueError(f"weight: expected a number from 0 to 1, got {self.weight}")
        if self.weight == 0 and not self.features:
            raise ValueError("weight: 0 and no features leave nothing to learn from the teacher; name some")
        for name, value in self.features.items():
            if not value > 0:
                raise ValueError(f"features: expected a positive weight for layer {name!r}, got {value}")


def distillation_loss(student: Tensor, teacher: Tensor, temperature: float = TEMPERATURE) -> Tensor:
    """T^2 KL(teacher || student) of softmax(logits / T), mean over everything but the classes.

    Args:
        student, teacher: float logits `[..., classes]`.
        temperature: T.

    Source: Hinton, Vinyals, Dean, "Distilling the Knowledge in a Neural Network" (2015), section 2.
    """
    t = temperature
    log_student, log_teacher = (F.log_softmax(logits.flatten(0, -2) / t, 1) for logits in (student, teacher))
    return t * t * F.kl_div(log_student, log_teacher, reduction="batchmean", log_target=True)


class _Memory:
    """What the named layers of a network gave out in its last forward pass."""

    def __init__(self, network: nn.Module, names: Iterable[str]) -> None:
        self.outputs: dict[str, list[Any]] = {name: [] for name in names}
        # Another forward pass, say of an evaluation, must not be added to what is remembered.
        self._handles = [network.register_forward_pre_hook(lambda *_: self.forget())] if self.outputs else []
        for name, outputs in self.outputs.items():
            self._handles.append(network.get_submodule(name).register_forward_hook(_remember(outputs)))

    def forget(self) -> None:
        for outputs in self.outputs.values():
            outputs.clear()

    def remove(self) -> None:
        self.forget()
        for handle in self._handles:
            handle.remove()


def _remember(outputs: list[Any]) -> Any:
    def hook(_module: nn.Module, _inputs: Any, output: Any) -> None:
        outputs.append(output)

    return hook


def _matched(where: str, own: Any, dense: Any) -> tuple[Tensor, Tensor]:
    student, teacher = _tensor(where, own), _tensor(where, dense)
    if student.shape != teacher.shape:
        raise ValueError(
            f"{where} gives {list(student.shape)} in the student and {list(teacher.shape)} in the teacher; only equal "
            "shapes are compared"
        )
    return student, teacher


def _tensor(where: str, output: Any) -> Tensor:
    """The logits or the features in an output, in at least 32 bits."""
    found = getattr(output, "logits", output[0] if isinstance(output, tuple | list) and output else output)
    if not isinstance(found, Tensor) or not found.is_floating_point() or found.dim() < 2:
        raise ValueError(
            f"{where} gives {_kind(found)}, and a float tensor of two dimensions or more is needed: a tensor itself, "
            "the first of a tuple, or `logits`"
        )
    return found.float() if found.element_size() < 4 else found


def _kind(value: Any) -> str:
    return f"{value.dtype} {list(value.shape)}" if isinstance(value, Tensor) else type(value).__name__


def _check_networks(student: nn.Module, teacher: nn.Module, names: Iterable[str]) -> None:
    for which, network in (("student", student), ("teacher", teacher)):
        known = [name for name, _ in network.named_modules() if name]
        for name in names:
            if name not in known:
                raise ValueError(f"features: the {which} has no layer {name!r}; {suggestion(name, known)}")
    _check_evaluating(teacher)
    own = {id(weight) for weight in student.parameters()}
    if shared := [name for name, weight in teacher.named_parameters() if id(weight) in own]:
        raise ValueError(
            f"the teacher shares {len(shared)} weights with the student, among them {shared[0]}, and would change with "
            "it; make it by copy.deepcopy of the dense network"
        )


def _check_evaluating(teacher: nn.Module) -> None:
    training = [name or "the network itself" for name, module in teacher.named_modules() if module.training]
    if training:
        raise ValueError(
            f"the teacher is in training mode ({training[0]}), where dropout and batch norms make its answers random; "
            "call teacher.eval()"
        )
