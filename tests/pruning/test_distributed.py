"""Two processes that train one network, by gloo on this machine: DDP, and FSDP2 on weights that each holds half of."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from pruning import worker
from pruning.methods import METHODS

WORKER = Path(worker.__file__)
SOURCES = WORKER.parents[2] / "src"
QUICK = ("ADMM", "GroupLasso, proximal", "SPP", "SRSTE")
METHOD = pytest.mark.parametrize(
    "method", [pytest.param(method, marks=() if method in QUICK else pytest.mark.full) for method in METHODS]
)


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> list[dict[str, Any]]:
    folder = tmp_path_factory.mktemp("processes")
    mine = [item for item in request.session.items if item.path == request.path and hasattr(item, "callspec")]
    wanted = {item.callspec.params.get("method") for item in mine}
    methods = [method for method in METHODS if method in wanted]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(SOURCES), str(WORKER.parents[1])]),
        "OMP_NUM_THREADS": "1",
        "GLOO_SOCKET_IFNAME": "lo",
    }
    started = [
        subprocess.Popen([sys.executable, str(WORKER), str(rank), str(folder), *methods], env=environment)
        for rank in range(2)
    ]
    try:
        assert [process.wait(timeout=300) for process in started] == [0, 0]
    finally:
        for process in started:
            process.kill()
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)]


@pytest.fixture(scope="module")
def single() -> dict[str, Any]:
    return {method: worker.trained(method, worker.alone) for method in METHODS}


def _assert_equal(a: Any, b: Any) -> None:
    if isinstance(a, torch.Tensor):
        assert torch.equal(a, b)
    elif isinstance(a, dict):
        assert a.keys() == b.keys()
        for key in a:
            _assert_equal(a[key], b[key])
    elif isinstance(a, list):
        for one, other in zip(a, b, strict=True):
            _assert_equal(one, other)
    elif isinstance(a, float):
        assert a == pytest.approx(b, rel=1e-9)  # residuals are summed in parts
    else:
        assert a == b


@METHOD
def test_processes_that_see_other_batches_end_with_equal_masks_and_weights(both: list[Any], method: str) -> None:
    ends = [found[method]["ddp, other batches"] for found in both]
    _assert_equal(ends[0]["state"], ends[1]["state"])
    _assert_equal(ends[0]["weights"], ends[1]["weights"])
    assert "finished after 16 steps; the plan holds" in ends[0]["report"]


@METHOD
@pytest.mark.parametrize("how", ["ddp", "sharded", "resumed"])
def test_processes_that_see_the_same_batches_end_like_a_single_one(
    both: list[Any], single: dict[str, Any], method: str, how: str
) -> None:
    """A mean of two equal gradients is exact, so every bit must be equal: masks, weights, the state at any step."""
    for found in both:
        _assert_equal(found[method][how]["state"], single[method]["state"])
        _assert_equal(found[method][how]["weights"], single[method]["weights"])
        _assert_equal(found[method][how]["cut"][2], single[method]["cut"][2])
        assert found[method][how]["report"] == single[method]["report"]


def test_two_processes_read_the_digits_as_well_as_one(both: list[Any]) -> None:
    accuracy = worker.digits_read(0, 1)
    assert both[0]["digits"] > 0.9
    assert both[0]["digits"] == pytest.approx(accuracy, abs=0.03)


def test_two_processes_learn_from_a_teacher_as_one_does_that_sees_both_shares(both: list[Any]) -> None:
    _assert_equal(both[0]["taught"], both[1]["taught"])
    alone = worker.taught(0, 1)
    plain = worker.trained("Gradual", worker.alone)["weights"]
    for name, weight in both[0]["taught"].items():
        torch.testing.assert_close(weight, alone[name], atol=1e-5, rtol=1e-4)
        assert not torch.allclose(weight, plain[name], atol=1e-3), "the teacher made no difference"


def test_what_was_saved_of_sharded_weights_goes_on_in_a_single_process(both: list[Any], single: dict[str, Any]) -> None:
    for method in ("ADMM", "SRSTE"):
        later = worker.trained(method, worker.alone, resume=both[0][method]["sharded"]["cut"])
        _assert_equal(later["weights"], single[method]["weights"])


@pytest.mark.parametrize("method", ["ADMM", "SRSTE"])
def test_tied_weights_end_alike_on_all_processes_and_like_those_of_a_single_one(both: list[Any], method: str) -> None:
    alone = worker.trained(method, worker.alone, plan=worker.TIED)
    one, other = (found["tied"][method] for found in both)
    for case in one:
        _assert_equal(one[case], other[case])
    for part in ("weights", "state", "report"):
        _assert_equal(one["same batches"][part], alone[part])
    assert one["other batches"]["state"]["ties"].keys() == worker.TIED.keys()
    assert "the plan holds" in one["other batches"]["report"]


def test_masks_and_ties_are_those_of_process_0_also_where_others_see_other_weights(both: list[Any]) -> None:
    expected, other = worker.of_process_0(0), worker.of_process_0(1)
    assert any(not torch.equal(expected["masks"][name], mask) for name, mask in other["masks"].items())
    assert any(not torch.equal(expected["ties"][name][1], factor) for name, (_, factor) in other["ties"].items())
    for found in both:
        _assert_equal(found["of process 0"], expected)


def test_probabilities_are_those_of_process_0_also_where_another_ranks_other_weights(both: list[Any]) -> None:
    assert any(p.any() for p in both[0]["drifted"].values())
    _assert_equal(both[0]["drifted"], both[1]["drifted"])


def test_sharded_weights_are_pruned_at_once_and_held(both: list[Any]) -> None:
    model = worker.network()
    assert both[0]["one shot"]["report"] == str(worker.prune(model, worker.PLAN))
    for name, mask in both[0]["one shot"]["masks"].items():
        assert torch.equal(mask, model.get_parameter(name) != 0)
        assert not both[0]["one shot"]["weights"][name][~mask].any()
    _assert_equal(both[0]["one shot"], both[1]["one shot"])


@pytest.mark.parametrize("what", ["pruned", "held", "finished"])
def test_weights_that_an_evaluation_left_whole_are_pruned_all_the_same(both: list[Any], what: str) -> None:
    model = worker.network()
    for found in both:
        model.load_state_dict(found["looked at before"][what])
        assert worker.PLAN.verify(model).ok


def test_batch_norm_of_sharded_weights_is_estimated_anew_as_in_one_process(both: list[Any]) -> None:
    expected = worker.statistics(worker.alone)
    assert (expected["1.running_var"] != 1).all()
    for found in both:
        _assert_equal(found["statistics"], expected)


def test_infinity_in_the_part_of_one_process_is_skipped_by_both(both: list[Any]) -> None:
    assert [found["skipped"] for found in both] == [[1, 1, 2], [1, 1, 2]]


def test_progress_waits_for_no_other_process(both: list[Any]) -> None:
    assert both[0]["progress"] == []
    _, pruner = worker.attached("SRSTE", worker.network())
    assert both[1]["progress"] == [pruner.progress().density, *pruner.densities().values()]
    assert pruner.densities()["4.weight"] == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize(
    ("case", "message"),
    [
        (
            "weights",
            "RuntimeError: ADMM: processes [0] and [1] have different settings, weights or states; make the pruner "
            "alike",
        ),
        ("settings", "RuntimeError: SPP: processes [0] and [1] have different settings, weights or states"),
        ("plans", "RuntimeError: Gradual: processes [0] and [1] have different plans"),
        ("flattened", "TypeError: FullyShardedDataParallel joins weights into flat ones"),
        ("flattened, SPP", "TypeError: FullyShardedDataParallel joins weights into flat ones"),
        ("flattened, one shot", "TypeError: FullyShardedDataParallel joins weights into flat ones"),
        ("flattened, held", "TypeError: FullyShardedDataParallel joins weights into flat ones"),
        ("unready", "TypeError: Unready: needs whole weights, and these are sharded; train under DDP instead"),
    ],
)
def test_what_would_go_wrong_is_refused_on_every_process(both: list[Any], case: str, message: str) -> None:
    for found in both:
        assert found["refused"][case].startswith(message)
