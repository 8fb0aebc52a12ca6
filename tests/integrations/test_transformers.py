"""Decoders of the transformers package generate token by token what the package itself generates."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import monstera as ms

hf = pytest.importorskip("transformers")

from monstera.compiler.frontends import from_torch  # noqa: E402
from monstera.compiler.ir import Attention, CachedAttention, Conv, interpret  # noqa: E402
from monstera.compiler.passes import optimize  # noqa: E402
from monstera.integrations.transformers import decoder  # noqa: E402

ROOT = Path(__file__).parents[2]
CONTEXT, PROMPT, LENGTH = 24, 5, 14
KEEP: dict[str, Any] = {"append": {"keys": "keys", "values": "values"}, "count": "position"}
TEXT = {"vocab_size": 101, "max_position_embeddings": 48, "pad_token_id": 0, "eos_token_id": None}
DEEP = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 96}
GPT2 = {"vocab_size": 101, "n_positions": 48, "n_embd": 48, "n_layer": 2, "n_head": 3}


def network(name: str, density: float = 1.0, **more: Any):
    """A network whose answers depend on every weight, with its table of tokens as the head too, in eval mode."""
    torch.manual_seed(0)
    if name == "gpt2":
        config = hf.GPT2Config(**GPT2, bos_token_id=None, eos_token_id=None, pad_token_id=0, **more)
        model = hf.GPT2LMHeadModel(config)
    else:
        config = hf.LlamaConfig(**TEXT, **DEEP, num_key_value_heads=2, tie_word_embeddings=True, **more)
        model = hf.LlamaForCausalLM(config)
    with torch.no_grad():
        for parameter in model.eval().parameters():
            # Matrices keep the scale of what passes through, vectors are not trivial.
            spread, middle = (parameter.shape[-1] ** -0.5, 0) if parameter.ndim > 1 else (0.1, 0.5)
            parameter.normal_(middle, spread)
    if density < 1:
        ms.prune(model, ms.Plan.uniform(model, ms.Block(16, 1, 1), density, skip=()))
    return model


def example_script():
    spec = importlib.util.spec_from_file_location("generate", ROOT / "examples" / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def prompt(batch: int = 1) -> torch.Tensor:
    return torch.randint(3, 100, (batch, PROMPT), generator=torch.Generator().manual_seed(1))


def generated(model, ids: torch.Tensor) -> torch.Tensor:
    """What the package generates."""
    return model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=LENGTH, do_sample=False)


CASES = [("gpt2", 1.0, 1), ("gpt2", 0.25, 1), ("llama", 1.0, 2), ("llama", 0.25, 1)]


@pytest.mark.parametrize(("name", "density", "batch"), CASES)
def test_a_session_generates_what_the_package_generates(name, density, batch):
    model = network(name, density)
    step = decoder(model, CONTEXT, batch=batch)
    session = ms.compile(step, step.example).session(**KEEP)
    ids = example_script().generate(session, prompt(batch), LENGTH)
    expected = generated(model, prompt(batch))
    assert ids.tolist() == expected.tolist()
    session.reset()
    with torch.no_grad():
        logits = model(ids).logits
    for place in range(ids.shape[1]):
        ours = session(ids[:, place : place + 1])["logits"]
        torch.testing.assert_close(ours, logits[:, place : place + 1], rtol=0, atol=1e-4)


def test_the_example_writes_on(tmp_path):
    command = [sys.executable, str(ROOT / "examples" / "generate.py")]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(r"\[\[1, 2, 3(, \d+){20}\]\]\n", done.stdout)
    assert (tmp_path / "gpt2.monstera").exists()


@pytest.fixture(scope="module")
def gpt2():
    return network("gpt2", 0.5)


@pytest.fixture(scope="module")
def engine(gpt2) -> ms.Engine:
    step = decoder(gpt2, CONTEXT)
    return ms.compile(step, step.example)


def test_a_loaded_artifact_goes_on_with_numpy_alone(gpt2, engine, tmp_path):
    engine.save(tmp_path / "gpt2.monstera")
    session = ms.load(tmp_path / "gpt2.monstera").session(**KEEP)
    ids = generated(gpt2, prompt()).numpy()
    with torch.no_grad():
        logits = gpt2(torch.from_numpy(ids)).logits.numpy()
    for place in range(ids.shape[1]):
        answer = session(ids[:, place : place + 1])["logits"]
        assert isinstance(answer, np.ndarray)
        np.testing.assert_allclose(answer[:, 0], logits[:, place], atol=1e-4)


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_a_prompt_may_be_read_several_tokens_at_a_time(name):
    model = network(name, 0.5)
    one, several = decoder(model, CONTEXT), decoder(model, CONTEXT, tokens=9)
    session = ms.compile(one, one.example).session(**KEEP)
    reader = ms.compile(several, several.example).session(**KEEP)
    ids = torch.randint(3, 100, (1, 20), generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        logits = model(ids).logits
    for place in (0, 9):
        ours = reader(ids[:, place : place + 9])["logits"]
        torch.testing.assert_close(ours, logits[:, place : place + 9], rtol=0, atol=1e-4)
    session.state = reader.state
    for place in (18, 19):
        ours = session(ids[:, place : place + 1])["logits"]
        torch.testing.assert_close(ours, logits[:, place : place + 1], rtol=0, atol=1e-4)


def test_one_engine_may_read_the_prompt_in_pieces_and_go_on_token_by_token(gpt2):
    step = decoder(gpt2, CONTEXT, tokens=9)
    session = ms.compile(step, step.example, also=[decoder(gpt2, CONTEXT).example]).session(**KEEP)
    ids = torch.randint(3, 100, (1, CONTEXT), generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        logits = gpt2(ids).logits
    for first, last in ((0, 9), (9, 10), (10, 19), (19, 20)):
        ours = session(ids[:, first:last])["logits"]
        torch.testing.assert_close(ours, logits[:, first:last], rtol=0, atol=1e-4)
    before = session.state
    with pytest.raises(ValueError, match="20 of 24 places are taken, and a call adds 9"):
        session(ids[:, :9])
    assert all(np.array_equal(before[name], value) for name, value in session.state.items())
    torch.testing.assert_close(session(ids[:, 20:21])["logits"], logits[:, 20:21], rtol=0, atol=1e-4)


def test_the_state_of_a_full_session_can_be_set(gpt2):
    step = decoder(gpt2, 48)  # all the positions that the model has
    engine = ms.compile(step, step.example)
    full = {**engine.session(**KEEP).state, "position": np.array([48])}
    session = engine.session(**KEEP)
    session.state = full
    assert session.state["position"].tolist() == [48]
    with pytest.raises(ValueError, match="48 of 48 places are taken"):
        session(torch.tensor([[3]]))


def test_the_last_place_can_be_taken_and_no_more(gpt2, engine):
    session = engine.session(**KEEP)
    ids = torch.randint(3, 100, (1, CONTEXT + 1), generator=torch.Generator().manual_seed(3))
    answers = [session(ids[:, place : place + 1])["logits"] for place in range(CONTEXT)]
    with torch.no_grad():
        torch.testing.assert_close(answers[-1], gpt2(ids[:, :CONTEXT]).logits[:, -1:], rtol=0, atol=1e-4)
    with pytest.raises(ValueError, match="24 of 24 places are taken"):
        session(ids[:, -1:])


@pytest.mark.parametrize("name", ["gpt2", "llama"])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_every_linear_layer_of_a_token_streams_its_weights_and_attention_reads_caches_in_place(name, attention):
    model = network(name, 0.25, attn_implementation=attention)
    step = decoder(model, CONTEXT)
    graph = optimize(from_torch(step, (), step.example).graph)
    kinds = [type(node.op) for node in graph.nodes]
    assert kinds.count(CachedAttention) == 2
    assert not {Attention, Conv} & {*kinds}
    steps = ms.compile(step, step.example).manifest.layers
    products = [s.kernel for s in steps if s.packing]
    linear = [m for m in model.modules() if type(m).__name__ in ("Conv1D", "Linear")]
    assert len({s.layer for s in steps if s.packing}) == len(linear)
    assert all(kernel.startswith("f32_spmv_") for kernel in products)
    stored = sum(p.stored for s in steps for p in s.packing)
    assert stored == sum(int((m.weight != 0).sum()) for m in linear)


# Every other layer sees the last four places.
NEO = {
    "vocab_size": 101,
    "max_position_embeddings": 48,
    "hidden_size": 48,
    "num_layers": 2,
    "num_heads": 4,
    "attention_types": [[["global", "local"], 1]],
    "window_size": 4,
    "intermediate_size": 96,
}


class NoPositions(torch.nn.Module):
    def forward(self, input_ids, attention_mask):
        return input_ids + attention_mask


@pytest.mark.parametrize(
    ("model", "options", "message"),
    [
        (lambda: network("gpt2"), {"context": 49}, "GPT2LMHeadModel has 48 positions; a context of 49 does not fit"),
        (lambda: network("gpt2"), {"context": 0}, "more context than tokens, got 1, 1 and 0"),
        (
            lambda: network("gpt2"),
            {"context": 8, "tokens": 0},
            "at least 1 and more context than tokens, got 0, 1 and 8",
        ),
        (
            lambda: hf.MistralForCausalLM(
                hf.MistralConfig(**TEXT, **DEEP, num_key_value_heads=2, sliding_window=8)
            ).eval(),
            {"context": 8},
            "forgets what lies 8 tokens back, and a session forgets nothing; take a context below 8",
        ),
        (lambda: network("gpt2"), {"context": 8, "tokens": 8}, "more context than tokens, got 8, 1 and 8"),
        (lambda: network("gpt2").train(), {"context": 8}, r"training mode; call model\.eval\(\) first"),
        (
            lambda: hf.GPTNeoForCausalLM(hf.GPTNeoConfig(**NEO)).eval(),
            {"context": 9},
            "answers otherwise token by token",
        ),
        (lambda: NoPositions().eval(), {"context": 8}, "NoPositions takes no position_ids"),
    ],
)
def test_a_step_that_would_compute_something_else_is_refused(model, options, message):
    with pytest.raises(ValueError, match=message):
        decoder(model(), **options)


OTHERS = {
    "OPT": {"ffn_dim": 96, "word_embed_proj_dim": 48},
    "GPTNeoX": {},
    "Mistral": {"num_key_value_heads": 2},
    "Qwen2": {"num_key_value_heads": 2},
    "Qwen3": {"num_key_value_heads": 2, "head_dim": 16},
    "Phi": {"num_key_value_heads": 2},
    "Phi3": {"num_key_value_heads": 2},
    "Gemma": {"num_key_value_heads": 2, "head_dim": 16},
    "Falcon": {},
    "StableLm": {"num_attention_heads": 3, "num_key_value_heads": 3},
    "Olmo": {"num_key_value_heads": 2},
    "Starcoder2": {"num_key_value_heads": 2},
}


@pytest.mark.full
@pytest.mark.parametrize("name", OTHERS)
def test_other_decoders_mean_the_same_token_by_token(name):
    torch.manual_seed(0)
    config = getattr(hf, f"{name}Config")(**{**TEXT, **DEEP, **OTHERS[name]})
    model = getattr(hf, f"{name}ForCausalLM")(config).eval()
    step = decoder(model, 8)
    graph = optimize(from_torch(step, (), step.example).graph)
    assert sum(isinstance(node.op, CachedAttention) for node in graph.nodes) == 2
    ids, kept = torch.randint(3, 100, (1, 6)), [step.example[name].numpy().copy() for name in ("keys", "values")]
    with torch.no_grad():
        expected = model(ids).logits.numpy()
    for place in range(6):
        inputs = {"input_ids": ids[:, place : place + 1].numpy(), "position": np.array([place])}
        values = interpret(graph, {**inputs, "keys": kept[0], "values": kept[1]})
        logits, *new = (values[output] for output in graph.outputs)
        for cache, rows in zip(kept, new, strict=True):
            cache[:, :, :, place] = rows[:, :, :, 0]
        np.testing.assert_allclose(logits[:, 0], expected[:, place], atol=1e-5 * np.abs(expected).max())
