"""A GPT-2 with holes writes on, token by token: `python examples/generate.py` (needs the transformers package).

The weights are random, so is what it writes; with `GPT2LMHeadModel.from_pretrained(...)` and a pruner that trains, all
else stays as it is.
"""

from __future__ import annotations

import torch
import transformers

import monstera as ms
from monstera.integrations.transformers import decoder

CONTEXT = 64


def generate(session, prompt: torch.Tensor, length: int) -> torch.Tensor:
    """Return `prompt` `[batch, tokens]` with `length` tokens behind it, the likeliest each time."""
    ids = prompt
    for place in range(prompt.shape[1] + length - 1):
        logits = session(ids[:, place : place + 1])["logits"]
        if place + 1 == ids.shape[1]:
            ids = torch.cat([ids, logits[:, -1:].argmax(-1)], 1)
    return ids


def main() -> None:
    """Prune, compile, save, load, write."""
    config = transformers.GPT2Config(vocab_size=1000, n_positions=CONTEXT, n_embd=128, n_layer=2, n_head=4)
    model = transformers.GPT2LMHeadModel(config).eval()
    # Nothing is skipped, so that the head goes along, and the table of tokens that it shares its weight with.
    ms.prune(model, ms.Plan.uniform(model, ms.Block(16, 1, 1), 0.25, skip=()))
    step = decoder(model, context=CONTEXT)
    ms.compile(step, step.example).save("gpt2.monstera")

    # From here on, neither transformers nor a compiler is needed.
    engine = ms.load("gpt2.monstera")
    session = engine.session(append={"keys": "keys", "values": "values"}, count="position")
    print(generate(session, torch.tensor([[1, 2, 3]]), 20).tolist())


if __name__ == "__main__":
    main()
