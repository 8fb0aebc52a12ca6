"""Pruning in the real Trainer of the transformers package, by callback alone; its checkpoints hold the pruner too."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf

import monstera as ms
from monstera.integrations.trainer import PruningCallback

pytest.importorskip("accelerate")
STEPS = 12
METHODS = {
    "ADMM": lambda m, o, p, n: ms.ADMM(m, o, p, steps=n, rho=[0.1], update_every=1, harden_at=0.75),
    "SRSTE": lambda m, o, p, n: ms.SRSTE(m, o, p, steps=n, harden_at=0.9),
    "Reweighted": lambda m, o, p, n: ms.Reweighted(m, o, p, steps=n, strength=1e-2, harden_at=0.75),
}


class Sentences(torch.utils.data.Dataset):
    """Random words; the class says whether the first comes from the first half of the vocabulary."""

    def __init__(self) -> None:
        self.words = torch.randint(100, (64, 9), generator=torch.Generator().manual_seed(1))

    def __len__(self) -> int:
        return len(self.words)

    def __getitem__(self, place: int) -> dict[str, Any]:
        return {"input_ids": self.words[place], "labels": int(self.words[place, 0] < 50)}


def bert() -> hf.BertForSequenceClassification:
    torch.manual_seed(0)
    config = hf.BertConfig(
        vocab_size=100,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=16,
    )
    return hf.BertForSequenceClassification(config)


def plan(model: torch.nn.Module) -> ms.Plan:
    return ms.Plan.of(model, {"bert.encoder*": ("4x1", 0.25), "*output.dense": ("2:4",)})


def trainer(folder: Path, method: str, **options: Any) -> hf.Trainer:
    arguments = hf.TrainingArguments(
        output_dir=str(folder),
        max_steps=STEPS,
        per_device_train_batch_size=4,
        gradient_accumulation_steps=2,
        learning_rate=1e-3,
        max_grad_norm=0.5,
        logging_steps=4,
        save_steps=5,
        report_to="none",
        use_cpu=True,
        disable_tqdm=True,
        **options,
    )
    make = METHODS[method]
    callback = PruningCallback(lambda model, optimizer, steps: make(model, optimizer, plan(model), steps))
    return hf.Trainer(bert(), arguments, train_dataset=Sentences(), eval_dataset=Sentences(), callbacks=[callback])


def callback_of(trained: hf.Trainer) -> PruningCallback:
    return next(each for each in trained.callback_handler.callbacks if isinstance(each, PruningCallback))


@pytest.mark.parametrize("method", METHODS)
def test_training_resumed_from_a_checkpoint_of_the_trainer_ends_bit_for_bit_the_same(
    tmp_path: Path, method: str
) -> None:
    whole = trainer(tmp_path / "whole", method)
    whole.train()
    later = trainer(tmp_path / "whole", method)
    shutil.rmtree(tmp_path / "whole" / "checkpoint-10")
    later.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-5"))
    for name, value in whole.model.state_dict().items():
        assert torch.equal(later.model.state_dict()[name], value), name
    report = callback_of(later).report
    assert report is not None
    assert str(report) == str(callback_of(whole).report)
    assert report.steps == report.planned_steps == STEPS
    assert plan(whole.model).verify(whole.model).ok


def test_mixed_precision_and_other_optimizers_need_nothing_else(tmp_path: Path) -> None:
    for options in ({"bf16": True}, {"optim": "adamw_torch"}, {"optim": "sgd"}):
        done = trainer(tmp_path / "run", "ADMM", **options)
        done.train()
        assert plan(done.model).verify(done.model).ok


def test_the_trainers_log_tells_density_and_residuals(tmp_path: Path) -> None:
    done = trainer(tmp_path, "ADMM")
    done.train()
    lines = [line for line in done.state.log_history if "loss" in line]
    assert [line["step"] for line in lines] == [4, 8, 12]
    assert [line["density"] for line in lines] == pytest.approx([1, 1, 0.34], abs=0.06)
    assert all(line["primal_residual"] > 0 for line in lines)
    saved = json.loads((tmp_path / "checkpoint-12" / "trainer_state.json").read_text())
    assert saved["log_history"][0]["density"] == 1


def test_a_run_stopped_early_is_pruned_and_says_so(tmp_path: Path) -> None:
    class Stop(hf.TrainerCallback):
        def on_step_end(self, _args: Any, state: Any, control: Any, **_: Any) -> None:
            control.should_training_stop = state.global_step == 3

    done = trainer(tmp_path, "ADMM")
    done.add_callback(Stop())
    done.train()
    assert "stopped early: 12 were planned" in str(callback_of(done).report)
    assert plan(done.model).verify(done.model).ok


def test_training_that_broke_off_begins_anew_with_one_pruner(tmp_path: Path) -> None:
    class Break(hf.TrainerCallback):
        def on_step_end(self, _args: Any, state: Any, _control: Any, **_: Any) -> None:
            if state.global_step == 3:
                raise KeyboardInterrupt

    done = trainer(tmp_path, "ADMM")
    done.add_callback(Break())
    with pytest.raises(KeyboardInterrupt):
        done.train()
    done.remove_callback(Break)
    first = callback_of(done).pruner
    done.train()  # with the optimizer of before
    assert first is not None
    assert first.step == 3
    assert plan(done.model).verify(done.model).ok


def test_a_checkpoint_made_without_the_callback_is_refused(tmp_path: Path) -> None:
    first = trainer(tmp_path, "ADMM")
    first.remove_callback(PruningCallback)
    first.train()
    with pytest.raises(FileNotFoundError, match=r"checkpoint-5.monstera\.pt: no state of a pruner.*`resumed_from`"):
        trainer(tmp_path, "ADMM").train(resume_from_checkpoint=str(tmp_path / "checkpoint-5"))


def test_a_checkpoint_that_was_moved_is_named(tmp_path: Path) -> None:
    whole = trainer(tmp_path / "whole", "ADMM")
    whole.train()
    later = trainer(tmp_path / "later", "ADMM")
    callback_of(later).resumed_from = shutil.move(tmp_path / "whole" / "checkpoint-5", tmp_path / "moved")
    later.train(resume_from_checkpoint=str(tmp_path / "moved"))
    for name, value in whole.model.state_dict().items():
        assert torch.equal(later.model.state_dict()[name], value), name


def test_loading_the_best_model_at_the_end_is_refused(tmp_path: Path) -> None:
    options = {"eval_strategy": "steps", "eval_steps": 5, "load_best_model_at_end": True}
    prepared = trainer(tmp_path, "ADMM", **options)
    with pytest.raises(ValueError, match="weights from before the holes"):
        prepared.train()


def one_of_two(rank: int, folder: Path) -> None:
    """What each of two processes does that accelerate puts together by DDP: train, and go on from the checkpoint."""
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "GLOO_SOCKET_IFNAME": "lo"}
    os.environ |= {"MASTER_ADDR": "localhost", "MASTER_PORT": "0"}  # accelerate wants them; the file below is used
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    ends = []
    for checkpoint in (None, str(folder / "run" / "checkpoint-5")):
        done = trainer(folder / "run", "SRSTE", ddp_backend="gloo")
        done.train(resume_from_checkpoint=checkpoint)
        assert done.args.parallel_mode.value == "distributed"
        ends.append(done.model.state_dict())
    torch.save(ends, folder / f"{rank}.pt")


@pytest.mark.full
def test_two_processes_of_the_trainer_end_alike_and_resume(tmp_path: Path) -> None:
    code = "import sys; from integrations.test_trainer import *; one_of_two(int(sys.argv[1]), Path(sys.argv[2]))"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", code]
    started = [subprocess.Popen([*command, str(rank), str(tmp_path)], env=environment) for rank in range(2)]
    try:
        assert [process.wait(timeout=300) for process in started] == [0, 0]
    finally:
        for process in started:
            process.kill()
    first, *others = [end for rank in range(2) for end in torch.load(tmp_path / f"{rank}.pt", weights_only=True)]
    assert len(others) == 3
    assert all(torch.equal(first[name], end[name]) for end in others for name in first)
    model = bert()
    model.load_state_dict(first)
    assert plan(model).verify(model).ok
