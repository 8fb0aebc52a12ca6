"""The recurrent network that papers on pruned speech recognition time, without its classifier.

Source: Dong et al., "RTMobile" (DAC 2020), and Niu et al., "GRIM" (TPAMI 2021): two GRU layers of 1024 units on TIMIT.
How we differ: 153 features a frame, as in the comparison that this project sets itself, and torch's GRU, whose reset
gate acts behind the product with the state.
"""

from __future__ import annotations

from torch import Tensor, nn

FEATURES = 153


class GRUSpeech(nn.Module):
    """`[N, frames, 153]` to `[N, frames, hidden]`: two GRU layers."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.gru = nn.GRU(FEATURES, hidden, num_layers=2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.gru(x)[0]


def gru_speech(hidden: int = 1024) -> GRUSpeech:
    """Build the network: 9.9 M parameters with 1024 units, 9.9 M MACs a frame."""
    return GRUSpeech(hidden)


def gru_speech_small() -> GRUSpeech:
    """Build the same with 48 units, quick enough for tests."""
    return GRUSpeech(48)
