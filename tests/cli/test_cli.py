import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

import monstera as ms
from monstera.cli import app

ROOT = Path(__file__).resolve().parents[2]


def monstera(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "monstera.cli", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)


@pytest.fixture
def program(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    engine = ms.compile(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU()).eval(), torch.zeros(1, 3, 8, 8))
    engine.save(tmp_path / "net.monstera")
    return tmp_path / "net.monstera"


def test_profile_shows_every_layer_of_a_saved_program(program: Path):
    shown = CliRunner().invoke(app, ["profile", str(program), "--rounds", "2"])
    assert shown.exit_code == 0
    assert "conv 3x3 3 to 8" in shown.stdout
    assert "one run:" in shown.stdout
    assert "memory: arena" in shown.stdout
    assert "predicted" not in shown.stdout


def test_profile_shows_how_the_weights_lie_when_asked(program: Path):
    shown = CliRunner().invoke(app, ["profile", str(program), "--rounds", "2", "--plan"])
    assert shown.exit_code == 0
    assert "predicted ms  measured ms" in shown.stdout
    # Which of the two is dearer depends on the instruction set.
    assert re.search(r"natural  8     (2 of 4|1 of 8)", shown.stdout)


def test_a_file_that_is_no_program_is_named_without_a_traceback(tmp_path: Path):
    wrong = tmp_path / "wrong.monstera"
    wrong.write_text("not a program")
    done = monstera("profile", str(wrong))
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert "wrong.monstera" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_missing_file_reads_as_a_sentence(tmp_path: Path):
    done = monstera("profile", str(tmp_path / "none.monstera"))
    assert (done.returncode, done.stderr) == (1, f"error: {tmp_path}/none.monstera: No such file or directory\n")


def test_debug_shows_where_an_error_comes_from(tmp_path: Path):
    done = monstera("--debug", "profile", str(tmp_path / "none.monstera"))
    assert done.returncode == 1
    assert "Traceback" in done.stderr


def test_a_wrong_recipe_is_refused_with_the_field_before_anything_is_trained(tmp_path: Path):
    recipe = tmp_path / "wrong.yaml"
    recipe.write_text((ROOT / "recipes" / "cifar10_resnet20.yaml").read_text().replace("resnet20\n", "resnet21\n"))
    shown = CliRunner().invoke(app, ["prune", str(recipe), "--runs", str(tmp_path / "runs")])
    assert shown.exit_code == 1
    assert "called 'resnet21'; known: bert_base, bert_tiny, c3d" in shown.stderr
    assert not (tmp_path / "runs").exists()


def test_a_setting_without_a_value_is_refused(tmp_path: Path):
    shown = CliRunner().invoke(app, ["prune", str(tmp_path / "any.yaml"), "--set", "epochs"])
    assert shown.exit_code == 1
    assert "expected FIELD=VALUE such as epochs=1, got 'epochs'" in shown.stderr


def test_a_setting_reaches_the_recipe(tmp_path: Path):
    recipe = ROOT / "recipes" / "cifar10_resnet20.yaml"
    shown = CliRunner().invoke(app, ["prune", str(recipe), "--set", "epochs=-3", "--runs", str(tmp_path)])
    assert shown.exit_code == 1
    assert "epochs" in shown.stderr
    assert "-3" in shown.stderr


def test_brackets_in_a_message_are_shown_as_they_are(tmp_path: Path):
    done = monstera("profile", str(tmp_path / "[bold]none.monstera"))
    assert "[bold]none.monstera" in done.stderr
    assert "'[bold]epochs'" in monstera("prune", "any.yaml", "--set", "[bold]epochs").stderr


def test_brackets_in_names_of_files_and_inputs_are_shown_as_they_are(tmp_path: Path):
    onnx = pytest.importorskip("onnx")
    shape = [1, 3, 8, 8]
    ends = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape) for name in ("[bold]x[/red]", "y")]
    graph = onnx.helper.make_graph([onnx.helper.make_node("Relu", ["[bold]x[/red]"], ["y"])], "g", ends[:1], ends[1:])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    program = tmp_path / "net.monstera"
    ms.compile(model).save(program)
    assert "Engine([bold]x[/red] [1, 3, 8, 8]" in CliRunner().invoke(app, ["profile", str(program)]).stdout
    shown = CliRunner().invoke(app, ["export-c", str(program), str(tmp_path / "[red]out")])
    assert shown.stdout.endswith("[red]out: net.c, net.h, net.mk, weights.safetensors, README.md\n")


def test_the_help_lists_the_commands_and_does_not_import_torch():
    code = "import sys, monstera.cli; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    done = monstera("--help")
    assert done.returncode == 0
    assert all(command in done.stdout for command in ("demo", "prune", "profile", "inspect", "verify", "export-c"))


def test_a_plan_is_chosen_explained_and_written_to_a_file(tmp_path: Path):
    out = tmp_path / "plan.yaml"
    shown = CliRunner().invoke(app, ["plan", "digits_cnn", "--density", "0.3", "--out", str(out)])
    assert shown.exit_code == 0, shown.output
    assert "Plan for density 0.3" in shown.stdout
    assert "Random weights" in shown.stdout
    assert set(ms.Plan.load(out)) == {"conv2.weight", "conv3.weight"}


def test_a_plan_needs_one_goal():
    shown = CliRunner().invoke(app, ["plan", "digits_cnn"])
    assert shown.exit_code == 1
    assert "a plan has one goal, speedup, latency_ms or density; got none of them" in " ".join(shown.stderr.split())
