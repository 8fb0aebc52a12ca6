"""All phases together, on a few random pictures: what is left in the folder, and a run that is killed on its way."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import monstera as ms
from monstera.measure import compare
from monstera.search.goal import GoalError
from monstera.search.npas import SearchSettings
from monstera.search.npas.base import base_network
from monstera.search.npas.candidate import build
from monstera.search.npas.checks import check_reach
from monstera.search.npas.evaluation import FastEvaluation, FastTraining
from monstera.search.npas.latency import surviving_macs
from monstera.search.npas.methods import ShortRun, best_method
from monstera.search.npas.run import npas
from monstera.search.npas.scheme import Scheme
from monstera.search.npas.settings import NpasSettings, Rival, Split
from monstera.search.npas.unfriendly import with_stand_ins
from monstera.search.pareto import read_pareto
from monstera.sparsity import Plan
from monstera.training import Examples, Training
from monstera.zoo import fused_mobilenet

BRIEF = Training(1, 0.05, batch_size=8)


def split() -> Split:
    """Pictures whose class is where the light is."""
    generator = torch.Generator().manual_seed(0)

    def examples(count: int) -> Examples:
        labels = torch.arange(count) % 2
        images = torch.randn(count, 1, 8, 8, generator=generator)
        images[:, :, :4] += labels[:, None, None, None]
        return Examples(images, labels)

    return Split(examples(48), examples(16), examples(20))


def settings(**changes: Any) -> NpasSettings:
    fields = {
        "tune": BRIEF,
        "fast": FastTraining(1, 0.05, batch_size=8),
        "short": BRIEF,
        "full": BRIEF,
        "search": SearchSettings(evaluations=6, batch=2, pool=8, warm_start=2, screening=False, anchors_every=0),
        "subset": 16,
        "patterns": ("4x1", "filter"),
        "densities": (0.5, 0.25),
        "inherited_from": 8,
        "methods": ("asp", "srste"),
        "seeds": (0,),
        "least_saving": float("-inf"),
        "baselines": {"dense": None},
    }
    return NpasSettings(**fields | changes)


def network(width: int = 4) -> torch.nn.Module:
    torch.manual_seed(0)
    return fused_mobilenet(classes=2, width=width, blocks=(1, 1)).eval()


def rivals() -> dict[str, Rival]:
    narrow = network(2)
    return {"narrow": Rival(narrow), "narrow_half": Rival(narrow, ("filter", 0.5))}


def _priced(model: torch.nn.Module, example: torch.Tensor, *, threads: int = 1) -> float:
    """Instead of compiling and measuring: the same for two runs, and slow enough to be killed meanwhile."""
    time.sleep(0.2)
    return threads * 1e-6 * surviving_macs(model, example)


def run(folder: str | Path, *, timed: bool = True, **changes: Any) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("monstera.search.npas.inheritance.STEPS", 5)
        patch.setattr("monstera.search.npas.unfriendly._engine", lambda *_: None)
        patch.setattr("monstera.search.npas.unfriendly._profiled", lambda _: [2.0, 1.0])
        quick = partial(compare, rounds=3, round_s=0.01)
        patch.setattr("monstera.search.npas.run.compare", quick)
        if not timed:
            patch.setattr("monstera.search.npas.run._latency", lambda *_: {})
        for module in ("checks", "evaluation", "run"):
            patch.setattr(f"monstera.search.npas.{module}.measured_ms", _priced)
        return npas(network(), split(), settings(**changes), folder, rivals=rivals())


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    folder = tmp_path_factory.mktemp("npas") / "whole"
    return folder, run(folder)


def test_a_run_leaves_all_that_is_needed_to_make_it_again(whole: tuple[Path, Any]) -> None:
    folder, found = whole
    assert found.plan.verify(found.model).ok
    result = json.loads((folder / "result.json").read_text())
    assert set(result["phase3"]) == {"npas", "dense", "narrow", "narrow_half"}
    assert [row["made"] for row in result["phase1"]["replacements"]] == [True]
    assert {row["weights"] for row in result["latency"]["rows"]} == {"original", *result["phase3"]}
    assert result["machine"]["packages"]["torch"]
    asked = json.loads((folder / "run.json").read_text())["settings"]
    assert asked["search"]["seed"] == 0
    assert asked["seeds"] == [0]
    assert Plan.load(folder / "networks" / "npas" / "plan.yaml") == found.plan
    scheme = Scheme.from_json(json.loads((folder / "scheme.json").read_text())["scheme"])
    assert scheme == found.scheme
    front = read_pareto(folder / "front.json")
    assert front.chosen is not None
    assert front.candidates[front.chosen].plan == found.plan
    assert "uniform" in {one.source for one in front.candidates}
    tried = result["phase3"]["npas"]["tried"]
    assert [one["method"] for one in tried] == (["asp", "srste"] if found.plan else ["asp"])


def test_a_run_that_is_there_is_read_and_not_done_again(whole: tuple[Path, Any], monkeypatch) -> None:
    folder, found = whole
    for name in ("run.train", "evaluation.build", "methods.train", "run.compare"):
        monkeypatch.setattr(f"monstera.search.npas.{name}", None)
    again = run(folder)
    assert again.scheme == found.scheme
    state = found.model.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in again.model.state_dict().items())


def test_a_folder_of_another_run_is_refused(whole: tuple[Path, Any]) -> None:
    with pytest.raises(ValueError, match=r"run\.json: of another run \(settings\.budget was 0\.5, now 0\.3\)"):
        npas(network(), split(), settings(budget=0.3), whole[0], rivals=rivals())
    with pytest.raises(ValueError, match=r"run\.json: of another run \(rivals\.narrow_half was .*, now None"):
        npas(network(), split(), settings(), whole[0], rivals={"narrow": Rival(network(2))})


def test_a_rival_is_trained_without_what_phase_1_replaces_and_has_its_holes(whole: tuple[Path, Any]) -> None:
    folder, _ = whole
    plan = Plan.load(folder / "networks" / "narrow_half" / "plan.yaml")
    assert plan == Plan.uniform(network(2), "filter", 0.5)
    trained, kinds = with_stand_ins(network(2), split().train.images[:1], ["silu"])
    assert kinds
    trained.load_state_dict(load_file(folder / "networks" / "narrow_half" / "seed-0.safetensors"))
    assert plan.verify(trained).ok
    tried = json.loads((folder / "result.json").read_text())["phase3"]
    assert [len(tried[name]["tried"]) for name in ("narrow", "narrow_half")] == [1, 2]


def test_a_rival_that_cannot_be_is_refused_at_once(tmp_path: Path) -> None:
    wrong = {"dense": Rival(network(2)), "few": Rival(network(2), ("2:4", 0.3))}
    with pytest.raises(ValueError, match=r"rivals\.dense: is the name of another(.|\n)*rivals\.few: "):
        npas(network(), split(), settings(), tmp_path / "run", rivals=wrong)
    assert not (tmp_path / "run").exists()


def test_an_ablation_begins_with_the_base_and_the_costs_of_the_run_that_it_names(
    whole: tuple[Path, Any], tmp_path: Path
) -> None:
    def ends(*_: Any, **__: Any) -> None:
        raise InterruptedError("the search begins")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("monstera.search.npas.run.train", None)
        patch.setattr("monstera.search.npas.run.search", ends)
        patch.setattr("monstera.search.npas.run.surviving_macs", None)
        counted = SearchSettings(evaluations=6, cost="macs")
        with pytest.raises(TypeError):
            run(tmp_path / "anew", search=counted)
        with pytest.raises(InterruptedError):
            run(tmp_path / "like", search=counted, budget=0.6, base_from=str(whole[0]))
        dense = json.loads((whole[0] / "budget.json").read_text())["dense"]
        assert json.loads((tmp_path / "like" / "budget.json").read_text()) == {
            "dense": dense,
            "budget": 0.6 * dense["macs"],
        }
        for name in ("base.json", "base.safetensors"):
            assert (tmp_path / "like" / name).read_bytes() == (whole[0] / name).read_bytes()
        with pytest.raises(ValueError, match=r"another base network \(settings\.tune\.lr was 0\.05, now 0\.1\)"):
            run(tmp_path / "other", tune=Training(1, 0.1, batch_size=8), base_from=str(whole[0]))
        with pytest.raises(ValueError, match=r"there is no .*nowhere/run\.json; do that run first"):
            run(tmp_path / "none", base_from=str(tmp_path / "nowhere"))


def test_a_budget_below_what_the_smallest_scheme_costs_is_refused_before_any_training(
    tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.setattr("monstera.search.npas.run.train", None)
    monkeypatch.setattr("monstera.search.npas.run.claim", None)
    with pytest.raises(
        GoalError, match=r"budget: 0\.02 of what .* the smallest scheme takes .* ms; ask for 0\."
    ) as told:
        run(tmp_path, budget=0.02)
    assert not any(tmp_path.iterdir())
    least = settings(budget=told.value.best)
    monkeypatch.setattr("monstera.search.npas.checks.measured_ms", _priced)
    monkeypatch.setattr("monstera.search.npas.checks.replace_unfriendly", lambda model, *_, **__: (model, ()))
    example = split().train.images[:1]
    check_reach(network(), example, least)
    with pytest.raises(GoalError):
        check_reach(network(), example, replace(least, budget=least.budget - 0.001))


def test_a_run_that_is_killed_goes_on_and_finds_the_same(whole: tuple[Path, Any], tmp_path: Path) -> None:
    folder, found = whole
    here, there = str(Path(__file__).parent), str(tmp_path)
    code = f"import sys; sys.path.insert(0, {here!r}); import test_npas_run as t; t.run({there!r}, timed=False)"
    journal = tmp_path / "journal.jsonl"
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.DEVNULL)
    while process.poll() is None and not (journal.exists() and journal.read_text().count("accuracy") >= 2):
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    evaluated = journal.read_text().count("accuracy")
    print(f"killed after {evaluated} of 6 evaluations")
    assert evaluated < 6, "the search was over before it could be killed"
    assert not (tmp_path / "scheme.json").exists()
    again = run(tmp_path, timed=False)
    assert again.scheme == found.scheme
    for name in ("scheme.json", "front.json", "inherited.safetensors", "networks/npas/seed-0.safetensors"):
        assert (folder / name).read_bytes() == (tmp_path / name).read_bytes(), name


def test_fast_evaluation_is_the_same_for_the_same_scheme_and_is_over_in_two_epochs() -> None:
    data, model = split(), network()
    base = base_network(model, data.train.images[:1], patterns=["4x1"], densities=[0.5])
    fast = FastTraining(2, 0.05, batch_size=8).accuracy(data.train, data.held_out)
    evaluate = FastEvaluation(base, {}, fast, data.train.images[:1])
    one, two = evaluate(base.space.base), evaluate(base.space.base)
    assert one.accuracy == two.accuracy
    assert one.macs == two.macs == _macs(build(base, base.space.base)[0])
    with pytest.raises(ValueError, match="for one or 2 epochs"):
        FastTraining(3)


def _macs(model: torch.nn.Module) -> int:
    total: list[int] = []

    def count(module: torch.nn.Module, _inputs: Any, output: torch.Tensor) -> None:
        weight = module.get_parameter("weight")
        total.append(weight.numel() * output[0].numel() // len(weight))

    weighted = [m for m in model.modules() if isinstance(m, torch.nn.Conv2d | torch.nn.Linear)]
    hooks = [module.register_forward_hook(count) for module in weighted]
    model(torch.zeros(1, 1, 8, 8))
    for hook in hooks:
        hook.remove()
    return sum(total)


def test_the_best_method_is_the_most_accurate_that_did_not_fail() -> None:
    assert best_method([ShortRun("asp", 0.7), ShortRun("admm", None, "diverged"), ShortRun("srste", 0.8)]) == "srste"
    with pytest.raises(ValueError, match=r"no method can prune this network by its plan:\n  - asp: diverged"):
        best_method([ShortRun("asp", None, "diverged"), ShortRun("srste", None, "diverged")])


def test_a_network_that_needs_no_stand_in_is_not_tuned(tmp_path: Path, monkeypatch) -> None:
    from monstera.search.npas.run import _friendly

    torch.manual_seed(0)
    model = fused_mobilenet(classes=2, width=4, blocks=(1, 1), activation="relu6").eval()
    monkeypatch.setattr("monstera.search.npas.run.train", None)
    base, report = _friendly(model, split(), settings(), tmp_path)
    assert report["replacements"] == []
    x = torch.randn(1, 1, 8, 8)
    torch.testing.assert_close(base.model(x), model(x))
    assert ms.compile(base.model, x)(x) is not None
