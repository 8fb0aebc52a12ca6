"""One of two processes that train together: `python worker.py RANK FOLDER METHODS` writes what it ends with."""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.checkpoint import state_dict as dcp
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
from torch.distributed.tensor import DTensor
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

from monstera.pruning import ADMM, SPP, Distill, Gradual, Pruner, hold, prune
from monstera.pruning.distributed import decided, tied
from monstera.sparsity import Plan
from monstera.zoo import digits_cnn
from monstera.zoo.data import digits
from pruning.methods import METHODS, STEPS

CUT = 6
PLAN = Plan({"0.weight": ("2x1", 0.5), "2.weight": ("7x1", 0.25), "4.weight": ("2:4",)})
TIED = Plan({"0.weight": ("unify2x1", 0.5), "2.weight": ("7x1&int4", 0.5), "4.weight": ("unify4x1u0.8", 0.5)})
WHOLE = dcp.StateDictOptions(full_state_dict=True)
Wrap = Callable[[nn.Module], nn.Module]


def network(seed: int = 0) -> nn.Sequential:
    """Rows of the middle one do not divide evenly among two processes, and its blocks straddle the cut."""
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(2, 6, 3), nn.ReLU(), nn.Conv2d(6, 7, 3), nn.Flatten(), nn.Linear(63, 8))


def sharded(model: nn.Module) -> nn.Module:
    mesh = init_device_mesh("cpu", (2,))
    for layer in [module for module in model.children() if list(module.parameters())]:
        fully_shard(layer, mesh=mesh)
    return fully_shard(model, mesh=mesh)


def alone(model: nn.Module) -> nn.Module:
    return model


def attached(method: str, model: nn.Module, plan: Plan = PLAN) -> tuple[torch.optim.Optimizer, Pruner]:
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, weight_decay=0.01)
    return optimizer, METHODS[method](model, optimizer, plan)


def batch(number: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(number)
    return torch.randn(8, 2, 7, 7, generator=generator), torch.randint(8, (8,), generator=generator)


def step(wrapped: nn.Module, optimizer: torch.optim.Optimizer, number: int) -> None:
    images, labels = batch(number)
    optimizer.zero_grad()
    F.cross_entropy(wrapped(images), labels).backward()
    optimizer.step()


def trained(method: str, wrap: Wrap, batches: int = 0, resume: Any = None, plan: Plan = PLAN) -> dict[str, Any]:
    """What training ends with, and the state at `CUT`; `batches` says from where on batches are taken."""
    model = network()
    wrapped = wrap(model)
    optimizer, pruner = attached(method, model, plan)
    pruner.track_divergence(4)
    cut: list[Any] = resume
    if resume is not None:
        saved = copy.deepcopy(resume)  # torch cuts what it is given in place
        # Before the others, as torch takes a step of its own to make room for what it loads.
        dcp.set_optimizer_state_dict(model, optimizer, saved[1], options=WHOLE)
        dcp.set_model_state_dict(model, saved[0], options=WHOLE)
        pruner.load_state_dict(saved[2])
    for number in range(CUT if resume else 0, STEPS + 2):
        if number == CUT and not resume:
            states = (
                dcp.get_model_state_dict(model, options=WHOLE),
                dcp.get_optimizer_state_dict(model, optimizer, options=WHOLE),
                pruner.state_dict(),
            )
            cut = [copy.deepcopy(state) for state in states]
        step(wrapped, optimizer, batches + number)
    state = pruner.state_dict()
    report = pruner.finish()
    weights = dcp.get_model_state_dict(model, options=WHOLE)
    return {"weights": weights, "state": state, "cut": cut, "report": str(report)}


def taught(rank: int, ranks: int) -> dict[str, Tensor]:
    """What pruning beside a teacher ends with, each process on its share of every batch."""
    model, teacher = network(), network(seed=1).eval()
    wrapped = DistributedDataParallel(model) if ranks > 1 else model
    optimizer, pruner = attached("Gradual", model)
    with Distill(model, teacher, features={"2": 0.5}) as distill:
        for number in range(STEPS):
            images, labels = (part[rank::ranks] for part in batch(number))
            logits = wrapped(images)
            optimizer.zero_grad()
            distill(F.cross_entropy(logits, labels), logits, images).backward()
            optimizer.step()
    pruner.finish()
    return model.state_dict()


def refusal(of: Callable[[], Any]) -> str:
    try:
        of()
    except (RuntimeError, TypeError) as error:
        return f"{type(error).__name__}: {error}"
    return "nothing was refused"


def different_weights(rank: int) -> None:
    model = network(seed=rank)
    optimizer, _ = attached("ADMM", model)
    step(model, optimizer, 0)


def different_plans(rank: int) -> None:
    model = network()
    plan = Plan({"0.weight": ("2x1", 0.25 * (1 + rank))})
    Gradual(model, torch.optim.SGD(model.parameters(), lr=0.1), plan, steps=4)


def different_settings(rank: int) -> None:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    SPP(model, optimizer, Plan({"2.weight": ("7x1", 0.25)}), steps=40, increment=0.5, seed=rank)
    step(model, optimizer, 0)


def drifted(rank: int) -> dict[str, Tensor]:
    """What SPP draws where the weights that process 1 ranks have drifted, as last bits do, but far."""
    model = network()
    optimizer, pruner = attached("SPP", model)
    assert isinstance(pruner, SPP)
    for number in range(4):
        step(model, optimizer, number)
        pruner.dense = {name: weight + rank * torch.rand_like(weight) for name, weight in pruner.dense.items()}
    return pruner.probabilities


def flattened(use: Callable[[nn.Module], Any]) -> str:
    model = FullyShardedDataParallel(network(), use_orig_params=True, device_id=torch.device("cpu"))
    return refusal(lambda: use(model))


class Unready(Pruner):
    """A method that says nothing of parts."""

    name = "Unready"
    phase = ""

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model, torch.optim.SGD(model.parameters(), lr=0.1), PLAN, 4)

    before_step = after_step = settings = own_state = load_own_state = lambda *_: None


def one_shot() -> dict[str, Any]:
    """Sharded: pruned at once, held through training, masks taken along."""
    model = sharded(network())
    report = prune(model, PLAN)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    held = hold(model, optimizer)
    for number in range(3):
        step(model, optimizer, number)
    masks = {name: mask.full_tensor() for name, mask in held.masks.items()}
    return {"weights": dcp.get_model_state_dict(model, options=WHOLE), "masks": masks, "report": str(report)}


def looked_at_before() -> dict[str, Any]:
    """Sharded as one, and evaluated before it is pruned at once, held, given a pruner, and before that finishes early.

    After a forward pass without a backward one torch leaves the weights of the outermost module whole.
    """
    seen = {}
    for what in ("pruned", "held", "finished"):
        model = fully_shard(network(), mesh=init_device_mesh("cpu", (2,)))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        _evaluate(model)
        if what == "finished":
            pruner = METHODS["Gradual"](model, optimizer, PLAN)
            step(model, optimizer, 0)
            _evaluate(model)
            pruner.finish()
        else:
            prune(model, PLAN)
        if what == "held":
            _evaluate(model)
            hold(model, optimizer)
            step(model, optimizer, 0)
        seen[what] = dcp.get_model_state_dict(model, options=WHOLE)
    return seen


def _evaluate(model: nn.Module) -> None:
    with torch.no_grad():
        model(torch.ones(1, 2, 7, 7))


def statistics(wrap: Wrap) -> dict[str, Tensor]:
    """What batch norm is left with after pruning at once on given batches."""
    torch.manual_seed(0)
    model = wrap(nn.Sequential(nn.Conv2d(2, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 7, 3)))
    generator = torch.Generator().manual_seed(1)
    batches = [torch.randn(8, 2, 7, 7, generator=generator) for _ in range(3)]
    prune(model, Plan({"0.weight": ("2x1", 0.5), "3.weight": ("7x1", 0.25)}), batches)
    return dcp.get_model_state_dict(model, options=WHOLE)


def skipped(rank: int) -> list[int]:
    """Sharded, with loss scaling: Inf in the part of process 1 at the second of three steps."""
    model = sharded(network())
    optimizer, pruner = attached("ADMM", model)
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    done = []
    for number in range(3):
        optimizer.zero_grad()
        scaler.scale(model(torch.ones(2, 2, 7, 7)).square().mean()).backward()
        if (number, rank) == (1, 1):
            model.get_parameter("2.weight").grad.to_local()[0] = float("inf")
        scaler.step(optimizer)
        scaler.update()
        done.append(pruner.step)
    assert all(parameter.full_tensor().isfinite().all() for parameter in model.parameters())
    return done


def looked_at_by_one(rank: int) -> list[float]:
    """Progress is asked of process 1 alone, which may not make it wait."""
    model = sharded(network())
    optimizer, pruner = attached("SRSTE", model)
    step(model, optimizer, 0)
    assert all(isinstance(mask, DTensor) for mask in pruner.masks.values())
    return [pruner.progress().density, *pruner.densities().values()] if rank else []


def of_process_0(rank: int) -> dict[str, Any]:
    weights = {
        name: weight * (1 if rank == 0 else -1) ** torch.arange(weight.numel()).view(weight.shape) + rank
        for name, weight in PLAN.weights(network()).items()
    }
    layouts = PLAN.layouts(network())
    masks = decided(PLAN, weights, layouts, weights)
    ties = {name: [t.group, t.factor] for name, t in tied(TIED, weights, masks, layouts).items()}
    return {"masks": masks, "ties": ties}


def digits_read(rank: int, ranks: int) -> float:
    """Accuracy on the digits after pruning by ADMM, each process on its share of every batch."""
    data = digits()
    torch.manual_seed(0)
    model = digits_cnn(width=16)
    wrapped = DistributedDataParallel(model) if ranks > 1 else model
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    pruner = ADMM(model, optimizer, Plan.uniform(model, "4x1", 0.25), steps=120)
    for number in range(120):
        batch = data.train.take(torch.arange(number * 32, number * 32 + 32)[rank::ranks] % 1437)
        optimizer.zero_grad()
        F.cross_entropy(wrapped(batch.images.float() / 255), batch.labels).backward()
        optimizer.step()
    pruner.finish([batch.images.float() / 255 for batch in [data.train]])
    with torch.no_grad():
        right = model.eval()(data.test.images.float() / 255).argmax(1) == data.test.labels
    return float(right.float().mean())


def main(rank: int, folder: Path, methods: list[str]) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    found: dict[str, Any] = {"of process 0": of_process_0(rank)}
    for method in methods:
        found[method] = {
            "ddp, other batches": trained(method, DistributedDataParallel, batches=100 * rank),
            "ddp": trained(method, DistributedDataParallel),
            "sharded": (whole := trained(method, sharded)),
            "resumed": trained(method, sharded, resume=whole["cut"]),
        }
    found["tied"] = {
        method: {
            "other batches": trained(method, DistributedDataParallel, batches=100 * rank, plan=TIED),
            "same batches": trained(method, DistributedDataParallel, plan=TIED),
        }
        for method in ("ADMM", "SRSTE")
    }
    found["digits"] = digits_read(rank, 2)
    found["taught"] = taught(rank, 2)
    found["one shot"] = one_shot()
    found["looked at before"] = looked_at_before()
    found["statistics"] = statistics(sharded)
    found["skipped"] = skipped(rank)
    found["progress"] = looked_at_by_one(rank)
    found["drifted"] = drifted(rank)
    found["refused"] = {
        "weights": refusal(lambda: different_weights(rank)),
        "plans": refusal(lambda: different_plans(rank)),
        "settings": refusal(lambda: different_settings(rank)),
        "flattened": flattened(lambda model: attached("Gradual", model)),
        "flattened, SPP": flattened(lambda model: attached("SPP", model)),
        "flattened, one shot": flattened(lambda model: prune(model, PLAN)),
        "flattened, held": flattened(lambda model: hold(model, torch.optim.SGD(model.parameters(), lr=0.1))),
        "unready": refusal(lambda: Unready(sharded(network()))),
    }
    torch.save(found, folder / f"{rank}.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:])
