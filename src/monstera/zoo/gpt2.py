"""One step of GPT-2: the next token of every sequence, beside what is kept of the tokens before it.

Source: Radford et al., "Language Models are Unsupervised Multitask Learners" (2019); parameter names are those of
published checkpoints with the head ("transformer.h.0.attn.c_attn.weight"). How we differ: linear layers hold their
weights as torch's do, `[out, in]`, and those of the checkpoints have to be turned.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, scaled_dot_product_attention

POSITIONS = 1024


class _Attention(nn.Module):
    def __init__(self, features: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.c_attn = nn.Linear(features, 3 * features)
        self.c_proj = nn.Linear(features, features)

    def forward(self, x: Tensor, seen: Tensor, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = (y.unflatten(2, (self.heads, -1)).transpose(1, 2) for y in self.c_attn(x).chunk(3, 2))
        y = scaled_dot_product_attention(q, torch.cat([keys, k], 2), torch.cat([values, v], 2), seen)
        return self.c_proj(y.transpose(1, 2).flatten(2)), k, v


class _Layer(nn.Module):
    def __init__(self, features: int, heads: int) -> None:
        super().__init__()
        self.ln_1, self.ln_2 = nn.LayerNorm(features), nn.LayerNorm(features)
        self.attn = _Attention(features, heads)
        linear = {"c_fc": nn.Linear(features, 4 * features), "c_proj": nn.Linear(4 * features, features)}
        self.mlp = nn.ModuleDict(linear)

    def forward(self, x: Tensor, seen: Tensor, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        y, k, v = self.attn(self.ln_1(x), seen, keys, values)
        x = x + y
        y = gelu(self.mlp["c_fc"](self.ln_2(x)), approximate="tanh")
        return x + self.mlp["c_proj"](y), k, v


class GPT2Step(nn.Module):
    """Tokens `[N, 1]` (int64) and `position` `[1]` (int64), the count of tokens before, to logits and what to keep.

    `keys` and `values`, `[layers, N, heads, context, width]`, are of the tokens before; the first `position` are looked
    at. The answer is logits `[N, 1, vocabulary]`, and the keys and values of the new tokens, `[layers, N, heads, 1,
    width]`: what `Engine.session` appends. The head shares its weight with the table of tokens.
    """

    def __init__(self, layers: int, features: int, heads: int, vocabulary: int) -> None:
        super().__init__()
        # Before the table, so that plans know the weight that both share as a linear layer's.
        self.lm_head = nn.Linear(features, vocabulary, bias=False)
        tables = {"wte": nn.Embedding(vocabulary, features), "wpe": nn.Embedding(POSITIONS, features)}
        blocks = nn.ModuleList(_Layer(features, heads) for _ in range(layers))
        self.transformer = nn.ModuleDict({**tables, "h": blocks, "ln_f": nn.LayerNorm(features)})
        tables["wte"].weight = self.lm_head.weight
        self.kept = (layers, heads, features // heads)

    def forward(self, tokens: Tensor, position: Tensor, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        parts = self.transformer
        seen = torch.cat([torch.arange(keys.shape[3]) < position, torch.ones(1, dtype=torch.bool)])[None]
        x = parts["wte"](tokens) + parts["wpe"](position)
        new = []
        for layer, *kept in zip(parts["h"].children(), keys, values, strict=True):
            x, *own = layer(x, seen, *kept)
            new.append(own)
        k, v = (torch.stack(own) for own in zip(*new, strict=True))
        return self.lm_head(parts["ln_f"](x)), k, v

    def example(self, context: int, batch: int = 1) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return random tokens behind `context` others, of which random keys and values are kept."""
        layers, heads, width = self.kept
        tokens = torch.randint(0, self.lm_head.out_features, (batch, 1))
        keys, values = torch.randn(2, layers, batch, heads, context, width)
        return tokens, torch.tensor([context]), keys, values


def gpt2_step() -> GPT2Step:
    """Build a step of GPT-2 small: 124 M parameters, 124 M MACs a token and as much attention as tokens are kept."""
    return GPT2Step(layers=12, features=768, heads=12, vocabulary=50257)


def gpt2_step_small() -> GPT2Step:
    """Build one of two layers, 48 features and 101 tokens, quick enough for tests."""
    return GPT2Step(layers=2, features=48, heads=3, vocabulary=101)
