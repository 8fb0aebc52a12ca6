"""BERT's encoder: what lies between the embeddings and whatever head a task puts on top.

Source: Devlin et al., "BERT" (2018); parameter names are those of the encoder in published checkpoints ("layer.0.
attention.self.query.weight"), where they have "bert.encoder." or "encoder." in front.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.functional import gelu, scaled_dot_product_attention

_EPSILON = 1e-12


class _SelfAttention(nn.Module):
    def __init__(self, features: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(features, features)
        self.key = nn.Linear(features, features)
        self.value = nn.Linear(features, features)

    def forward(self, x: Tensor) -> Tensor:
        features = self.query(x), self.key(x), self.value(x)
        q, k, v = (y.unflatten(2, (self.heads, -1)).transpose(1, 2) for y in features)
        return scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


class _Added(nn.Module):
    """A linear layer whose result is added to what the block began with, and normalised."""

    def __init__(self, inputs: int, features: int) -> None:
        super().__init__()
        self.dense = nn.Linear(inputs, features)
        self.LayerNorm = nn.LayerNorm(features, _EPSILON)

    def forward(self, x: Tensor, before: Tensor) -> Tensor:
        return self.LayerNorm(self.dense(x) + before)


class _Layer(nn.Module):
    def __init__(self, features: int, heads: int, inner: int) -> None:
        super().__init__()
        attention = {"self": _SelfAttention(features, heads), "output": _Added(features, features)}
        self.attention = nn.ModuleDict(attention)
        self.intermediate = nn.ModuleDict({"dense": nn.Linear(features, inner)})
        self.output = _Added(inner, features)

    def forward(self, x: Tensor) -> Tensor:
        x = self.attention["output"](self.attention["self"](x), x)
        return self.output(gelu(self.intermediate["dense"](x)), x)


class BertEncoder(nn.Module):
    """`[N, tokens, features]` to the same shape; every token sees all others."""

    def __init__(self, layers: int, features: int, heads: int, inner: int) -> None:
        super().__init__()
        self.layer = nn.ModuleList(_Layer(features, heads, inner) for _ in range(layers))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layer:
            x = layer(x)
        return x


def bert_base() -> BertEncoder:
    """Build the encoder of BERT-base: 85 M parameters, 11.2 G MACs for 128 tokens."""
    return BertEncoder(layers=12, features=768, heads=12, inner=3072)


def bert_tiny() -> BertEncoder:
    """Build one of two layers and 48 features, quick enough for tests."""
    return BertEncoder(layers=2, features=48, heads=4, inner=96)
