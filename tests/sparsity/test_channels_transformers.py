"""Channels of real transformers, as the `transformers` package writes them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from sparsity.test_channels import assert_nobody_can_tell, groups, sizes

transformers = pytest.importorskip("transformers")

IDS = torch.randint(0, 50, (2, 7), generator=torch.Generator().manual_seed(0))
PICTURE = torch.randn(2, 3, 32, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
SIZES = {"num_hidden_layers": 2, "hidden_size": 24, "intermediate_size": 32}


class FirstResult(nn.Module):
    """A model whose only result is its first: a tensor that callers see."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net.double().eval()
        generator = torch.Generator().manual_seed(0)
        for parameter in net.parameters():
            parameter.data.normal_(0, 0.3, generator=generator)

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)[0]


def test_bert_has_groups_in_its_heads_and_between_its_linear_layers() -> None:
    config = transformers.BertConfig(vocab_size=50, num_attention_heads=3, **SIZES)
    graph = assert_nobody_can_tell(FirstResult(transformers.BertModel(config)), IDS)
    layer = "net.encoder.layer.0"
    assert sizes(graph, f"{layer}.attention.self.query.weight", 0) == [8, 8, 8]
    assert sizes(graph, f"{layer}.attention.output.dense.weight", 1) == [8, 8, 8]
    assert sizes(graph, f"{layer}.intermediate.dense.weight", 0) == [32]
    # The table of positions is longer than the example: what is beyond it is not free to move.
    assert not groups(graph, "net.embeddings.position_embeddings.weight", 0)


def test_gpt2_has_its_residual_stream_as_a_group_since_only_scores_of_words_are_seen() -> None:
    config = transformers.GPT2Config(
        vocab_size=50, n_embd=24, n_layer=2, n_head=3, use_cache=False, bos_token_id=0, eos_token_id=0
    )
    graph = assert_nobody_can_tell(FirstResult(transformers.GPT2LMHeadModel(config)), IDS)
    (stream,) = groups(graph, "net.transformer.wte.weight", 1)
    assert len(stream) == 24
    assert not stream.removable
    assert {"net.transformer.h.1.mlp.c_proj.weight", "net.transformer.ln_f.weight"} <= {m.name for m in stream.members}
    assert sizes(graph, "net.transformer.h.0.attn.c_attn.weight", 1) == [8] * 6


def test_llama_keeps_what_rotary_positions_tell_apart() -> None:
    config = transformers.LlamaConfig(
        vocab_size=50, num_attention_heads=4, num_key_value_heads=2, use_cache=False, **SIZES
    )
    # Its norms count in fp32 whatever the model is in.
    graph = assert_nobody_can_tell(FirstResult(transformers.LlamaForCausalLM(config)), IDS, within=1e-5)
    layer = "net.model.layers.0"
    assert not groups(graph, f"{layer}.self_attn.q_proj.weight", 0)
    assert sizes(graph, f"{layer}.self_attn.v_proj.weight", 0) == [6, 6]
    assert sizes(graph, f"{layer}.mlp.down_proj.weight", 1) == [32]
    assert sizes(graph, "net.model.embed_tokens.weight", 1) == [24]


def test_a_vision_transformer_ties_patches_and_positions() -> None:
    config = transformers.ViTConfig(num_attention_heads=3, image_size=32, patch_size=8, **SIZES)
    net = transformers.ViTForImageClassification(config)
    graph = assert_nobody_can_tell(FirstResult(net), PICTURE)
    (stream,) = groups(graph, "net.classifier.weight", 1)
    names = {m.name.removeprefix("net.vit.embeddings.") for m in stream.members}
    assert {"cls_token", "position_embeddings", "patch_embeddings.projection.weight"} <= names
