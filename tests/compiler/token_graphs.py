"""Random networks over tokens for tests: attention of every kind, norms, look-ups, gates; holes that kill heads.

`token_model(rng)` is a torch module with an example; equal generators give equal ones.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from compiler.graphs import Rng, normal, punch
from monstera.compiler.frontends import Imported, from_torch

TOKENS = (1, 2, 3, 7, 8, 15, 16, 17, 33)
ACTIVATIONS: tuple[Callable[[torch.Tensor], torch.Tensor], ...] = (
    F.gelu,
    F.relu,
    F.silu,
    torch.tanh,
    lambda x: F.gelu(x, approximate="tanh"),
    lambda x: 0.5 * x * (1.0 + torch.tanh(0.7978845608 * (x + 0.044715 * torch.pow(x, 3.0)))),
)


class TokenModel(nn.Module):
    """An embedding or a linear layer of features, some blocks, and one or two heads."""

    def __init__(self, stem: nn.Module, blocks: list[nn.Module], heads: list[nn.Module], shape: tuple[int, ...]):
        super().__init__()
        self.stem, self.blocks, self.heads = stem, nn.ModuleList(blocks), nn.ModuleList(heads)
        self.shape = shape

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> dict[str, Any]:
        y = self.stem(x)
        for block in self.blocks:
            y = block(y, mask)
        return {"heads": tuple(head(y, mask) for head in self.heads)}

    def example(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Inputs of the right shapes and dtypes."""
        tokens = isinstance(self.stem, Table)
        x = torch.zeros(self.shape[:2], dtype=torch.int64) if tokens else torch.zeros(self.shape)
        return x, torch.ones(self.shape[:2], dtype=torch.int64)


def token_model(rng: Rng) -> TokenModel:
    """A model of 1-3 sequences of 1-33 tokens with 1-3 blocks, in eval mode."""
    batch, tokens = int(rng.integers(1, 4)), int(rng.choice(TOKENS))
    heads, width = int(rng.choice([1, 2, 3, 4])), int(rng.choice([1, 3, 4, 5, 8]))
    features = heads * width
    wide = int(rng.integers(1, 12))
    stem = Table(rng, tokens, features) if rng.random() < 0.6 else linear(rng, wide, features)
    kinds: list[Callable[[], nn.Module]] = [
        lambda: Attend(rng, heads, width),
        lambda: Attend(rng, heads, width),
        lambda: Mix(rng, features),
        lambda: Gate(rng, features),
    ]
    blocks = [kinds[int(rng.integers(len(kinds)))]() for _ in range(int(rng.integers(1, 4)))]
    ends = [Head(rng, features) for _ in range(int(rng.integers(1, 3)))]
    return TokenModel(stem, blocks, ends, (batch, tokens, wide)).eval()


def imported_tokens(model: TokenModel) -> Imported:
    """The model as the frontend reads it."""
    return from_torch(model, model.example())


def linear(rng: Rng, in_: int, out: int) -> nn.Linear:
    """A linear layer with holes of some kind, with or without bias."""
    layer = nn.Linear(in_, out, bias=bool(rng.random() < 0.7))
    layer.weight.data = punch(rng, normal(rng, (out, in_), in_**-0.5))
    if layer.bias is not None:
        layer.bias.data = normal(rng, (out,), 0.5)
    return layer


class Table(nn.Module):
    """Rows of a table plus positions."""

    def __init__(self, rng: Rng, tokens: int, features: int) -> None:
        super().__init__()
        self.rows = nn.Embedding(int(rng.integers(1, 30)), features)
        self.rows.weight.data = normal(rng, self.rows.weight.shape)
        self.positions = nn.Embedding(tokens + 2, features)
        self.positions.weight.data = normal(rng, self.positions.weight.shape)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.rows(ids) + self.positions(torch.arange(2, 2 + ids.shape[1]))


class Norm(nn.Module):
    """Layer norm, or RMS norm as one operator or spelled out."""

    def __init__(self, rng: Rng, features: int) -> None:
        super().__init__()
        self.kind = int(rng.integers(4))
        self.scale = nn.Parameter(normal(rng, (features,)))
        self.shift = nn.Parameter(normal(rng, (features,)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        match self.kind:
            case 0:
                return F.layer_norm(x, x.shape[-1:], self.scale, self.shift, 1e-5)
            case 1:
                return F.layer_norm(x, x.shape[-1:], None, None, 1e-3)
            case 2:
                return F.rms_norm(x, x.shape[-1:], self.scale, 1e-5)
        return self.scale * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-5))


class Attend(nn.Module):
    """Attention and a residual: any mask, one matrix or three, shared keys, as one operator or spelled out."""

    def __init__(self, rng: Rng, heads: int, width: int) -> None:
        super().__init__()
        features = heads * width
        self.heads, self.width = heads, width
        self.groups = heads if rng.random() < 0.7 else 1
        self.norm = Norm(rng, features)
        self.mask, self.spelled = str(rng.choice(["none", "bool", "float", "causal", "both"])), bool(rng.random() < 0.4)
        self.joined = bool(rng.random() < 0.3)
        sizes = [features, self.groups * width, self.groups * width]
        layers = [linear(rng, features, sum(sizes))] if self.joined else [linear(rng, features, size) for size in sizes]
        self.qkv, self.sizes = nn.ModuleList(layers), sizes
        self.out = linear(rng, features, features)

    def forward(self, x: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
        y = self.norm(x)
        parts = self.qkv[0](y).split(self.sizes, -1) if self.joined else [layer(y) for layer in self.qkv]
        q, k, v = (part.view(*part.shape[:2], -1, self.width).transpose(1, 2) for part in parts)
        mask = self._mask(seen)
        if self.groups != self.heads:
            k, v = (self._repeated(t) for t in (k, v))
        if self.spelled:
            scores = q @ k.transpose(2, 3) * self.width**-0.5
            scores = scores if mask is None else scores + mask
            y = scores.softmax(-1) @ v
        else:
            causal = self.mask == "causal"
            y = F.scaled_dot_product_attention(q, k, v, None if causal else mask, is_causal=causal)
        return x + self.out(y.transpose(1, 2).reshape(x.shape))

    def _repeated(self, x: torch.Tensor) -> torch.Tensor:
        batch, groups, tokens, width = x.shape
        wide = x[:, :, None].expand(batch, groups, self.heads // groups, tokens, width)
        return wide.reshape(batch, self.heads, tokens, width)

    def _mask(self, seen: torch.Tensor) -> torch.Tensor | None:
        tokens = seen.shape[1]
        lower = torch.ones(tokens, tokens, dtype=torch.bool).tril()
        if self.mask == "none":
            return None
        keys = seen[:, None, None, :].to(torch.bool)
        mask = {"bool": keys, "float": keys, "causal": lower[None, None], "both": keys & lower}[self.mask]
        if self.spelled or self.mask == "float":
            return torch.where(mask, 0.0, -1e4)
        return mask


class Mix(nn.Module):
    """Two linear layers with an activation, and a residual or none."""

    def __init__(self, rng: Rng, features: int) -> None:
        super().__init__()
        self.norm = Norm(rng, features) if rng.random() < 0.7 else nn.Identity()
        middle = int(rng.integers(1, 40))
        self.up, self.down = linear(rng, features, middle), linear(rng, middle, features)
        self.act, self.residual = ACTIVATIONS[int(rng.integers(len(ACTIVATIONS)))], bool(rng.random() < 0.8)

    def forward(self, x: torch.Tensor, _seen: torch.Tensor) -> torch.Tensor:
        # Some models join batch and tokens for their linear layers.
        flat = self.norm(x).view(-1, x.shape[-1])
        y = self.down(self.act(self.up(flat))).view(x.shape)
        return x + y if self.residual else y


class Gate(nn.Module):
    """A gated layer, whose gate may also hide tokens."""

    def __init__(self, rng: Rng, features: int) -> None:
        super().__init__()
        self.gate, self.up = linear(rng, features, features), linear(rng, features, features)
        self.hide = bool(rng.random() < 0.5)

    def forward(self, x: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
        y = F.silu(self.gate(x)) * self.up(x)
        return y.masked_fill(seen[..., None] == 0, 0.25) if self.hide else y


class Head(nn.Module):
    """What networks over tokens give: all tokens, the first one, a mean of those that are seen, joined tokens."""

    def __init__(self, rng: Rng, features: int) -> None:
        super().__init__()
        self.kind, self.out = int(rng.integers(6)), linear(rng, features, int(rng.integers(1, 20)))
        self.token = nn.Parameter(normal(rng, (1, 1, features)))

    def forward(self, x: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
        match self.kind:
            case 0:
                return self.out(x)
            case 1:
                return torch.tanh(self.out(x[:, 0]))
            case 2:
                weights = seen[..., None].float()
                return (x * weights).sum(1) / weights.sum(1).clamp(min=1e-9)
            case 3:
                return torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1).transpose(1, 2)
            case 4:
                return self.out(x.mean(1))
        return x
