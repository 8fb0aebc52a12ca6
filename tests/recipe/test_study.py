"""Studies: what they expand to, how values are chosen, and that no work is done twice."""

from __future__ import annotations

import fcntl
import io
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import yaml
from rich.console import Console

from monstera.recipe import RecipeError, ingredients, read_study, run_study
from monstera.recipe.choosing import read_chosen
from monstera.recipe.study import finals, trials
from monstera.sparsity import Pivoting, pivot
from monstera.training import DivergedError

RECIPE: dict[str, Any] = {
    "network": {"name": "digits_cnn", "options": {"width": 8}},
    "data": {"name": "digits"},
    "plan": {"pattern": "4x1"},
    "epochs": 1,
    "batch_size": 64,
    "optimizer": {"name": "sgd", "lr": 0.05},
    "seeds": [0, 1],
}
STUDY: dict[str, Any] = {
    "name": "tiny",
    "recipe": RECIPE,
    "dense": {"epochs": 2, "seeds": [0]},
    "densities": [0.5, 0.25],
    "trials": {"data.held_out": 200, "seeds": [9]},
    "variants": {
        "gradual": {"set": {"method": {"name": "gradual"}}, "tries": {"method.ramp": [0.3, 0.6]}},
        "plain": {"set": {"method": {"name": "srste"}, "seeds": [0]}, "densities": [0.5]},
    },
}


CHOSEN = '{"format": "monstera.chosen.1", "values": {"gradual-0.5": {"value": 0.3}}}'


@pytest.fixture(autouse=True)
def inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Paths of studies are relative to where they are run from."""
    monkeypatch.chdir(tmp_path)


def _write(**changes: Any) -> Path:
    path = Path("tiny") / "study.yaml"
    path.parent.mkdir(exist_ok=True)
    path.write_text(yaml.safe_dump({**STUDY, **changes}))
    return path


def _run(stage: str, **options: Any) -> str:
    text = io.StringIO()
    run_study(_write(**options.pop("changes", {})), stage, console=Console(file=text, force_terminal=False), **options)
    return text.getvalue()


def _results(folder: str) -> list[str]:
    return sorted(path.stem for path in (Path("tiny") / folder).glob("*.json"))


def test_finals_are_every_variant_at_every_density_after_the_network_they_start_from() -> None:
    path = _write()
    cells = finals(read_study(path), path, {"gradual-0.5": 0.3, "gradual-0.25": 0.6})
    told = [(cell.recipe.name, cell.variant, cell.density, cell.values) for cell in cells]
    assert told == [
        ("tiny-dense", "dense", 1.0, {}),
        ("tiny-gradual-0.5", "gradual", 0.5, {"method.ramp": 0.3}),
        ("tiny-gradual-0.25", "gradual", 0.25, {"method.ramp": 0.6}),
        ("tiny-plain-0.5", "plain", 0.5, {}),
    ]
    dense, first, second, plain = (cell.recipe for cell in cells)
    assert (dense.plan.density, dense.epochs, dense.seeds, dense.network.checkpoint) == (1.0, 2, (0,), None)
    assert first.network.checkpoint == "tiny/results/tiny-dense.safetensors"
    assert (second.plan.density, second.method.model_dump()["ramp"], second.seeds) == (0.25, 0.6, (0, 1))
    assert (plain.method.name, plain.seeds, plain.output) == ("srste", (0,), "tiny/results/tiny-plain-0.5.json")


def test_trials_are_every_value_on_held_out_pictures_that_their_start_has_not_seen() -> None:
    path = _write()
    dense, *cells = (cell.recipe for cell in trials(read_study(path), path))
    assert [cell.name for cell in cells] == [f"tiny-gradual-{d}-trial{i}" for d in ("0.5", "0.25") for i in (0, 1)]
    assert [cell.method.model_dump()["ramp"] for cell in cells] == [0.3, 0.6, 0.3, 0.6]
    assert {cell.data.held_out for cell in (dense, *cells)} == {200}
    assert {cell.seeds for cell in cells} == {(9,)}
    assert {cell.network.checkpoint for cell in cells} == {"tiny/trials/tiny-dense-trial.safetensors"}


def test_a_density_fixed_for_trials_lets_one_choice_serve_all() -> None:
    path = _write(trials={**STUDY["trials"], "plan.density": 0.5})
    study = read_study(path)
    assert [cell.recipe.name for cell in trials(study, path)][1:] == [
        "tiny-gradual-0.5-trial0",
        "tiny-gradual-0.5-trial1",
    ]
    values = [list(cell.values.values()) for cell in finals(study, path, {"gradual-0.5": 0.6})]
    assert values == [[], [0.6], [0.6], []]


def test_densities_may_have_seeds_of_their_own() -> None:
    variant = {**STUDY["variants"]["plain"], "densities": {0.25: [3, 4], 0.5: [5]}}
    path = _write(variants={"plain": variant}, dense=None)
    told = [(cell.density, cell.recipe.seeds) for cell in finals(read_study(path), path, {})]
    assert told == [(0.25, (3, 4)), (0.5, (5,))]


def test_a_plan_replaced_as_a_whole_has_the_density_of_its_cell_and_rules_have_their_own() -> None:
    rules = {"rules": [{"weights": "conv2", "pattern": "4x1", "density": 0.3}]}
    variants = {
        "block": {"set": {"method": {"name": "asp"}, "plan": {"pattern": "8x1"}}, "tries": {"optimizer.lr": [0.1]}},
        "rules": {"set": {"method": {"name": "asp"}, "plan": rules}, "tries": {"optimizer.lr": [0.1]}},
    }
    path = _write(variants=variants, densities=[0.5], trials={"data.held_out": 200, "plan.density": 0.25})
    chosen = {"block-0.25": 0.1, "rules-0.25": 0.1}
    _, *tried = (cell.recipe.plan.model_dump() for cell in trials(read_study(path), path))
    assert (tried[0]["pattern"], tried[0]["density"]) == ("8x1", 0.25)
    assert tried[1] == {"rules": ({"weights": "conv2", "pattern": "4x1", "density": 0.3},)}
    _, *final = (cell.recipe.plan.model_dump() for cell in finals(read_study(path), path, chosen))
    assert (final[0]["pattern"], final[0]["density"]) == ("8x1", 0.5)
    assert final[1] == tried[1]


def test_a_study_of_plans_that_cannot_be_whole_says_what_its_dense_network_has_instead() -> None:
    for plan in ({"pattern": "2:4"}, {"rules": [{"weights": "conv2", "pattern": "4x1", "density": 0.3}]}):
        path = _write(recipe={**RECIPE, "plan": plan}, dense={"plan": {"pattern": "4x1"}}, densities=[0.5])
        dense = finals(read_study(path), path, {"gradual-0.5": 0.3})[0].recipe.plan
        assert (dense.pattern, dense.density) == ("4x1", 1.0)


def test_without_a_dense_network_variants_start_as_the_recipe_says() -> None:
    path = _write(dense=None)
    cells = finals(read_study(path), path, {"gradual-0.5": 0.3, "gradual-0.25": 0.6})
    assert [cell.variant for cell in cells] == ["gradual", "gradual", "plain"]
    assert all(cell.recipe.network.checkpoint is None for cell in cells)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"colour": "red"}, "colour: is not a field of a study"),
        ({"variants": {}}, "variants: "),
        ({"densities": [0]}, r"densities\.0: .*greater than 0, got 0"),
        ({"variants": {"a": {"densities": {2: [0]}}}}, r"variants\.a\.densities\.2\.\[key\]: .*got 2"),
        ({"variants": {"a": {"densities": []}}}, r"variants\.a\.densities: .*at least 1 item"),
        ({"variants": {"a": {"set": {"plan.density": 0.1}}}}, r"variants\.a\.set\.plan\.density: .*`densities`"),
        ({"variants": {"a": {"sets": {}}}}, r"variants\.a\.sets: is not a field"),
        ({"variants": {"a": {"set": {"method.nam": "x"}}}}, r"variants\.a: method\.name: is missing"),
        ({"recipe": {**RECIPE, "batch_size": 0}}, r"variants\.dense: batch_size: .*got 0"),
        ({"variants": {"dense": {"set": {"method": {"name": "srste"}}}}}, "'dense' is the network that the others"),
        ({"trials": {"seeds": [9]}}, r"trials: .*set data\.held_out"),
        (
            {
                "variants": {
                    **STUDY["variants"],
                    "more": {"set": {"method": {"name": "srste"}}, "tries": {"method.decay": [0.1]}},
                }
            },
            r"as many tries for each variant.*'gradual': 2, 'more': 1",
        ),
    ],
)
def test_a_bad_study_is_refused_by_field_before_anything_is_trained(changes: dict[str, Any], named: str) -> None:
    with pytest.raises(RecipeError, match=named):
        _run("trials", changes=changes)
    assert not Path("runs").exists()


def test_a_pattern_that_does_not_fit_is_told_before_the_first_variant_is_trained() -> None:
    variants = {**STUDY["variants"], "odd": {"set": {"method": {"name": "srste"}, "plan.pattern": "4by1"}}}
    with pytest.raises(RecipeError, match=r"tiny-odd-0\.5: 1 problem.*(?s:.)*plan\.pattern: .*'4by1'"):
        _run("finals", changes={"variants": variants, "dense": None}, only=["plain", "odd"])
    assert not Path("runs").exists()


def test_an_unknown_stage_or_variant_lists_the_known() -> None:
    with pytest.raises(ValueError, match="'final'; known: trials, choose, finals, measure"):
        _run("final")
    with pytest.raises(ValueError, match="'magic'; known: gradual, plain"):
        _run("finals", only=["magic"])


def test_finals_wait_for_a_choice_among_the_tries() -> None:
    with pytest.raises(ValueError, match=r"chosen for gradual-0\.5: nothing; run the stages trials and choose first"):
        _run("finals")
    path = _write()
    with pytest.raises(ValueError, match=r"chosen for gradual-0\.5: 0\.4, which is not among the tries \[0\.3, 0\.6\]"):
        finals(read_study(path), path, {"gradual-0.5": 0.4})


@pytest.mark.parametrize(("accuracies", "best"), [((0.5, 0.6), 0.6), ((0.5, 0.5), 0.3)])
def test_the_best_value_is_chosen_and_of_equal_ones_the_first(accuracies: tuple[float, float], best: float) -> None:
    path = _write(dense=None, densities=[0.25])
    for cell, accuracy in zip(trials(read_study(path), path), accuracies, strict=True):
        Path(cell.recipe.output).parent.mkdir(exist_ok=True)
        result = {"format": "monstera.recipe.1", "recipe": cell.recipe.model_dump(mode="json")}
        Path(cell.recipe.output).write_text(json.dumps({**result, "accuracy": {"sparse_mean": accuracy}}))
    told = _run("choose", changes={"dense": None, "densities": [0.25]})
    assert f"gradual-0.25: {best} (0.3: {accuracies[0]:.2%}, 0.6: {accuracies[1]:.2%})" in told
    assert read_chosen(path) == {"gradual-0.25": best}


def test_a_study_goes_from_trials_to_results_and_does_nothing_twice() -> None:
    options: dict[str, Any] = {"changes": {"densities": [0.25]}, "only": ["gradual"]}
    assert "0 of 3 are done" in _run("trials", **options)
    assert _results("trials") == ["tiny-dense-trial", "tiny-gradual-0.25-trial0", "tiny-gradual-0.25-trial1"]
    _run("choose", changes=options["changes"])
    (value,) = read_chosen("tiny/study.yaml").values()
    _run("finals", **options)
    assert _results("results") == ["tiny-dense", "tiny-gradual-0.25"]
    dense, result = (json.loads(Path(f"tiny/results/{name}.json").read_text()) for name in _results("results"))
    assert result["cell"] == {"study": "tiny", "variant": "gradual", "density": 0.25, "values": {"method.ramp": value}}
    assert [seed["seed"] for seed in result["seeds"]] == [0, 1]
    assert result["recipe"]["method"]["ramp"] == value
    # What the others start from has its batch norms' statistics and all.
    assert result["accuracy"]["dense"] == dense["accuracy"]["sparse_mean"]
    assert dense["density"]["planned_weights"] == 1.0
    stored = {path: path.stat().st_mtime_ns for path in Path("tiny").rglob("tiny-*")}
    assert "2 of 2 are done" in _run("finals", **options)
    assert {path: path.stat().st_mtime_ns for path in Path("tiny").rglob("tiny-*")} == stored


def test_an_order_of_channels_is_searched_for_once_a_cell(monkeypatch: pytest.MonkeyPatch) -> None:
    searched: list[Pivoting] = []
    monkeypatch.setattr(ingredients, "pivot", lambda *given: searched.append(pivot(*given)) or searched[-1])
    variants = {"pivoting": {"set": {"method": {"name": "srste"}, "seeds": [0, 1], "pivot": True}, "densities": [0.5]}}
    _run("finals", changes={"variants": variants})
    result = json.loads(Path("tiny/results/tiny-pivoting-0.5.json").read_text())
    assert [(one.before, one.after) for one in searched] == [tuple(result["pivoting"].values())]
    assert searched[0].after > searched[0].before


def test_a_value_with_which_training_diverges_is_a_result_and_not_chosen() -> None:
    variants = {"admm": {"set": {"method": {"name": "admm"}}, "tries": {"optimizer.lr": [1e30, 0.05]}}}
    changes: dict[str, Any] = {"dense": None, "densities": [0.5], "variants": variants}
    assert "tiny-admm-0.5-trial0, seed 9: the loss is " in _run("trials", changes=changes)
    assert "2 of 2 are done" in _run("trials", changes=changes)
    assert "admm-0.5: 0.05 (1e+30: diverged, 0.05: " in _run("choose", changes=changes)
    assert read_chosen("tiny/study.yaml") == {"admm-0.5": 0.05}


def test_sizes_count_the_holes_of_planned_weights_alone() -> None:
    _run("finals", changes={"dense": None}, only=["plain"])
    result = json.loads(Path("tiny/results/tiny-plain-0.5.json").read_text())
    state = safetensors.torch.load_file("tiny/results/tiny-plain-0.5.safetensors")
    planned = [state[name] for name in result["plan"]]
    storage = result["storage"]
    # The statistics of batch norms are no parameters.
    parameters = {name: value for name, value in state.items() if "running" not in name and "num_" not in name}
    assert storage["dense"] == 4 * sum(value.numel() for value in parameters.values())
    assert storage["rest"] == storage["dense"] - 4 * sum(weight.numel() for weight in planned)
    assert storage["forms"]["dense"] == {"values": storage["dense"] - storage["rest"], "index": 0}
    assert storage["forms"]["BSR"]["values"] == 4 * sum(int(weight.count_nonzero()) for weight in planned)
    assert storage["forms"]["BSR"]["index"] > 0


def test_a_cell_that_another_process_holds_is_left_to_it() -> None:
    Path("runs").mkdir()
    with Path("runs/tiny-plain-0.5.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert "1 are being run by other processes" in _run("finals", changes={"dense": None}, only=["plain"])
        assert _results("results") == []
    assert "other processes" not in _run("finals", changes={"dense": None}, only=["plain"])
    assert _results("results") == ["tiny-plain-0.5"]


def test_seeds_trained_at_once_give_the_results_of_one_after_the_other() -> None:
    changes: dict[str, Any] = {"densities": [0.5]}
    _write(**changes).with_name("chosen.json").write_text(CHOSEN)
    text = _run("finals", changes=changes, jobs=2)
    assert "3 of 3 seeds are done" in text
    together = {path.name: json.loads(path.read_text()) for path in Path("tiny/results").glob("*.json")}
    assert together.keys() == {"tiny-dense.json", "tiny-gradual-0.5.json", "tiny-plain-0.5.json"}
    assert len({result["command"] for result in together.values()}) == 1
    for path in Path("tiny/results").iterdir():
        path.unlink()
    _run("finals", changes=changes, runs="others")
    for name, result in together.items():
        alone = json.loads((Path("tiny/results") / name).read_text())
        assert alone["weights"]["sha256"] == result["weights"]["sha256"]
        assert alone["accuracy"] == result["accuracy"]


def test_seeds_at_once_leave_what_others_hold_and_report_values_that_diverge(capfd: pytest.CaptureFixture[str]) -> None:
    variants = {
        "admm": {"set": {"method": {"name": "admm"}}, "tries": {"optimizer.lr": [1e30, 0.05]}},
        "plain": {"set": {"method": {"name": "srste"}}, "tries": {"method.decay": [0.1, 0.2]}},
    }
    changes: dict[str, Any] = {"dense": None, "densities": [0.5], "variants": variants}
    Path("runs").mkdir()
    with Path("runs/tiny-plain-0.5-trial1.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert "1 are being run by other processes" in _run("trials", changes=changes, jobs=2)
    assert "tiny-admm-0.5-trial0, seed 9: the loss is " in capfd.readouterr().out
    assert _results("trials") == ["tiny-admm-0.5-trial0", "tiny-admm-0.5-trial1", "tiny-plain-0.5-trial0"]
    with Path("runs/tiny-plain-0.5-trial1.lock").open("w") as file:
        # A seed of it is being trained.
        fcntl.flock(file, fcntl.LOCK_SH)
        assert "1 are being run by other processes" in _run("trials", changes=changes)
    bad = {"admm": {"set": {"method": {"name": "admm"}, "optimizer.lr": 1e30}}, "plain": STUDY["variants"]["plain"]}
    with pytest.raises(DivergedError, match=r"tiny-admm-0\.5, seed \d: the loss is "):
        _run("finals", changes={**changes, "variants": bad}, jobs=2)
    assert _results("results") == ["tiny-plain-0.5"]
    with pytest.raises(ValueError, match="jobs: expected at least 1 process, got 0"):
        _run("trials", changes=changes, jobs=0)


def test_a_process_that_dies_is_replaced_and_its_seed_trained() -> None:
    killed: list[int] = []

    def kill() -> None:
        # Its lock is there as soon as a seed is being trained.
        while not list(Path("runs").glob("*-seed-*.lock")):
            time.sleep(0.01)
        killed.extend(child.pid for child in multiprocessing.active_children()[:1] if child.pid)
        os.kill(killed[0], signal.SIGKILL)

    thread = threading.Thread(target=kill)
    thread.start()
    text = _run("finals", changes={"dense": None}, only=["plain"], jobs=2)
    thread.join()
    assert killed
    assert "1 of 1 seeds are done" in text
    assert _results("results") == ["tiny-plain-0.5"]


def test_a_script_that_does_not_guard_itself_is_told_so_at_once() -> None:
    study, script = str(_write(dense=None)), Path("script.py")
    script.write_text(
        f"from monstera.recipe import run_study\nrun_study({study!r}, 'finals', only=['plain'], jobs=2)\n"
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("RuntimeError: other processes died before they had begun; they import the script that runs")
    assert _results("results") == []


def test_where_there_are_no_locks_the_stage_that_needs_them_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fcntl", None)
    with pytest.raises(RuntimeError, match=r"tiny-plain-0\.5\.lock: .*locks of Linux and macOS.*use one of these"):
        _run("finals", changes={"dense": None}, only=["plain"])
    assert "nothing was chosen" in _run("choose")


def test_a_result_of_another_recipe_is_in_the_way_and_more_seeds_are_added() -> None:
    _run("finals", changes={"dense": None}, only=["plain"])
    with pytest.raises(
        ValueError, match=r"tiny-plain-0\.5\.json: the result of another recipe of this name; remove it"
    ):
        _run("finals", changes={"dense": None, "recipe": {**RECIPE, "batch_size": 32}}, only=["plain"])
    place = Path("tiny/results/tiny-plain-0.5.json")
    text = place.read_text()
    place.write_text(text.replace('"batch_size"', '"batch_volume"'))
    with pytest.raises(ValueError, match=r"tiny-plain-0\.5\.json: the result of another recipe"):
        _run("finals", changes={"dense": None}, only=["plain"])
    place.write_text(text)
    variants = {"plain": {**STUDY["variants"]["plain"], "set": {"method": {"name": "srste"}, "seeds": [0, 1]}}}
    text = _run("finals", changes={"dense": None, "variants": variants})
    assert "0 of 1 are done" in text
    # The first seed comes from its checkpoint.
    assert "seed 0: step" not in text
    assert len(json.loads(Path("tiny/results/tiny-plain-0.5.json").read_text())["seeds"]) == 2


def test_what_has_no_result_is_not_measured_but_named() -> None:
    assert "tiny-plain-0.5 has no result yet" in _run("measure", changes={"dense": None}, only=["plain"])


def test_nothing_is_chosen_where_trials_are_missing() -> None:
    assert "nothing was chosen for gradual-0.5, gradual-0.25" in _run("choose")
    assert read_chosen("tiny/study.yaml") == {}


@pytest.mark.parametrize(("text", "message"), [("{", "not JSON"), ('{"format": "x"}', "expected a result of format")])
def test_a_damaged_file_of_choices_is_named(text: str, message: str) -> None:
    path = _write()
    path.with_name("chosen.json").write_text(text)
    with pytest.raises(ValueError, match=rf"chosen\.json: {message}"):
        run_study(path, "finals")
