"""Decoders of the transformers package, token by token: a step that torch.export takes, caches as plain tensors."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Cache, PreTrainedModel
from transformers.cache_utils import CacheLayerMixin

# Far above the rounding of fp32, far below what another mask makes of an answer.
_ROUNDING = 1e-4
# So many are tried, to see whether a model can be called step by step.
_FIRST_STEPS = 3


class _KeptLayer(CacheLayerMixin):
    """The keys and values of earlier tokens, which it leaves as they are, and of new ones, which it notes."""

    is_sliding = False

    def __init__(self, kept: tuple[Tensor, Tensor] | None = None) -> None:
        super().__init__()
        self.kept = kept
        self.is_initialized = True

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Nothing has to be made."""

    def update(self, key_states: Tensor, value_states: Tensor, *_args: Any, **_kwargs: Any) -> tuple[Tensor, Tensor]:
        """Note what is new, and answer with all of it, the earlier first."""
        self.keys, self.values = key_states, value_states
        if self.kept is None:
            return key_states, value_states
        keys, values = self.kept
        return torch.cat([keys, key_states], 2), torch.cat([values, value_states], 2)

    def get_seq_length(self) -> int:
        """How many earlier tokens there is room for."""
        return 0 if self.kept is None else self.kept[0].shape[2]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """All keys, from the first on."""
        return self.get_seq_length() + query_length, 0

    def get_max_length(self) -> int:
        """As many as there are."""
        return self.get_seq_length()


class Decoder(nn.Module):
    """One step of a decoder: the next token or tokens of every sequence, and what is kept of those before.

    Called with `input_ids` `[batch, tokens]` (int64), `position`, `[1]` (int64), which says how many tokens came
    before, and their keys and values, `[layers, batch, heads, context, width]`, of which the first `position` are
    looked at. Gives `logits` `[batch, tokens, vocabulary]`, and the `keys` and `values` of the new tokens. Made by
    `decoder`.
    """

    def __init__(self, model: PreTrainedModel, context: int, tokens: int, batch: int) -> None:
        super().__init__()
        self.model = model
        self.example = _example(model, context, tokens, batch)

    def forward(self, input_ids: Tensor, position: Tensor, keys: Tensor, values: Tensor) -> dict[str, Tensor]:
        """Logits, and the keys and values to keep."""
        tokens = input_ids.shape[1]
        layers = [_KeptLayer(kept) for kept in zip(keys, values, strict=True)]
        given = {
            "input_ids": input_ids,
            "attention_mask": _mask(position, keys.shape[3], tokens),
            # As it is for one token, so that the engine knows it for the row of a table.
            "position_ids": (position if tokens == 1 else position + torch.arange(tokens))[None],
            _cache_name(self.model): Cache(layers=[*layers]),
        }
        logits = self.model(**given, use_cache=True).logits
        new = [[getattr(layer, name) for layer in layers] for name in ("keys", "values")]
        return {"logits": logits, "keys": torch.stack(new[0]), "values": torch.stack(new[1])}


def decoder(model: PreTrainedModel, context: int, *, tokens: int = 1, batch: int = 1) -> Decoder:
    """Return a step of a causal language model, to be compiled and then called in a session.

    Args:
        model: a model of the transformers package with a head for the next token, whose layers all keep keys and values
            of one shape; in eval mode. It is used as it is, and pruning it later changes the step.
        context: how many tokens a session can hold.
        tokens: how many tokens a step takes: 1 to generate, more to read a prompt in pieces.
        batch: how many sequences go side by side, all of one length.

    Raises:
        ValueError: training mode; the context is longer than the model's positions or its window, or no longer than the
            step; the model takes no positions, its layers do not all keep keys and values of one shape, or steps give
            other logits than the first tokens at once.

    Example:
        >>> import torch, transformers, monstera as ms
        >>> from monstera.integrations.transformers import decoder
        >>> config = transformers.GPT2Config(vocab_size=50, n_positions=32, n_embd=16, n_layer=1, n_head=2)
        >>> step = decoder(transformers.GPT2LMHeadModel(config).eval(), context=32)
        >>> session = ms.compile(step, step.example).session(
        ...     append={"keys": "keys", "values": "values"}, count="position"
        ... )
        >>> session(torch.tensor([[7]]))["logits"].shape
        torch.Size([1, 1, 50])
    """
    if min(tokens, batch) < 1 or context <= tokens:
        raise ValueError(
            f"expected tokens and batch of at least 1 and more context than tokens, got {tokens}, {batch} and {context}"
        )
    if model.training:
        raise ValueError(f"{type(model).__name__} is in training mode; call model.eval() first")
    accepted = inspect.signature(model.forward).parameters
    if missing := [name for name in ("input_ids", "attention_mask", "position_ids") if name not in accepted]:
        raise ValueError(
            f"{type(model).__name__} takes no {missing[0]}, so that it cannot be told where a token stands"
        )
    config = model.config.get_text_config()
    positions = getattr(config, "max_position_embeddings", None)
    if positions is not None and context > positions:
        raise ValueError(f"{type(model).__name__} has {positions} positions; a context of {context} does not fit")
    window = getattr(config, "sliding_window", None)
    if window is not None and context >= window:
        raise ValueError(
            f"{type(model).__name__} forgets what lies {window} tokens back, and a session forgets nothing; "
            f"take a context below {window}"
        )
    step = Decoder(model, context, tokens, batch).eval()
    _check_first_steps(step)
    return step


@torch.no_grad()
def _check_first_steps(step: Decoder) -> None:
    """Some models look at the places of keys, and not only at their positions; a few tokens tell.

    Raises:
        ValueError: the first steps and the model at once differ by more than rounding.
    """
    keys, values = step.example["keys"].clone(), step.example["values"].clone()
    batch, tokens = step.example["input_ids"].shape
    ids = torch.arange(tokens * min(_FIRST_STEPS, keys.shape[3] // tokens)).remainder(
        step.model.config.get_text_config().vocab_size
    )
    ids = ids.expand(batch, -1)
    answer: dict[str, Tensor] = {}
    for place, piece in enumerate(ids.split(tokens, 1)):
        answer = step(piece, torch.tensor([place * tokens]), keys, values)
        for kept, name in ((keys, "keys"), (values, "values")):
            kept[:, :, :, place * tokens : (place + 1) * tokens] = answer[name]
    expected = step.model(input_ids=ids, use_cache=False).logits[:, -tokens:]
    if not (answer["logits"] - expected).abs().max() <= _ROUNDING * expected.abs().max():
        raise ValueError(
            f"{type(step.model).__name__} answers otherwise token by token: where keys lie in its cache matters to it, "
            "and a session puts them at the front of a cache of fixed length"
        )


def _cache_name(model: PreTrainedModel) -> str:
    """What the model's forward calls its cache, which depends on the version of the package."""
    return "cache" if "cache" in inspect.signature(model.forward).parameters else "past_key_values"


def _mask(position: Tensor, context: int, tokens: int) -> Tensor:
    """What is added to scores: every token sees those kept, of which there are `position`, and the new up to itself."""
    kept = (torch.arange(context) < position).expand(tokens, context)
    new = torch.ones(tokens, tokens, dtype=torch.bool).tril()
    return torch.where(torch.cat([kept, new], 1), 0.0, -torch.inf)[None, None]


def _example(model: PreTrainedModel, context: int, tokens: int, batch: int) -> Mapping[str, Tensor]:
    """Arguments of the right shapes; what is kept of a token is seen by trying one.

    Raises:
        ValueError: there are layers that keep nothing, or something else than others.
    """
    layers = [_KeptLayer() for _ in range(model.config.get_text_config().num_hidden_layers)]
    cache = {_cache_name(model): Cache(layers=[*layers])}
    with torch.no_grad():
        model(input_ids=torch.zeros(1, 1, dtype=torch.int64), use_cache=True, **cache)
    kept = [(layer.keys, layer.values) for layer in layers]
    shapes = {None if k is None or v is None else (tuple(k.shape[1:]), tuple(v.shape[1:])) for k, v in kept}
    if len(shapes) != 1 or None in shapes:
        raise ValueError(f"the layers of {type(model).__name__} do not all keep keys and values of one shape: {shapes}")
    keys, values = (torch.zeros(len(kept), batch, x.shape[1], context, x.shape[3]) for x in kept[0] if x is not None)
    ids = torch.zeros(batch, tokens, dtype=torch.int64)
    return {"input_ids": ids, "position": torch.zeros(1, dtype=torch.int64), "keys": keys, "values": values}
