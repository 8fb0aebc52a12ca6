"""Phase 1: what stands in for sigmoid and SiLU is what it should be, in modules and in functions."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import monstera as ms
from monstera.search.npas.unfriendly import replace_unfriendly, with_stand_ins
from monstera.zoo import fused_mobilenet

ALWAYS = -math.inf


class Gated(nn.Module):
    """Squeeze and excite, with functions where `as_modules` is not set."""

    def __init__(self, as_modules: bool, trick: bool = False) -> None:
        super().__init__()
        self.conv, self.gate = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 1)
        if as_modules:
            self.act, self.sigmoid = nn.SiLU(), nn.Sigmoid()
        self.as_modules, self.trick = as_modules, trick

    def forward(self, x: Tensor) -> Tensor:
        if self.trick and float(x.sum()) > 1e9:  # no graph for torch.fx
            return x
        x = self.act(self.conv(x)) if self.as_modules else F.silu(self.conv(x))
        gate = self.gate(x.mean((2, 3), keepdim=True))
        gate = self.sigmoid(gate) if self.as_modules else gate.sigmoid()
        return x * gate


def _expected(model: Gated, x: Tensor) -> Tensor:
    def hard(x: Tensor) -> Tensor:
        return (x + 3).clamp(0, 6) / 6

    y = model.conv(x)
    y = y * hard(y)
    return y * hard(model.gate(y.mean((2, 3), keepdim=True)))


@pytest.mark.parametrize("as_modules", [True, False])
def test_stand_ins_are_relu6_of_x_plus_3_by_6_wherever_the_function_is_called(as_modules: bool) -> None:
    torch.manual_seed(0)
    model, x = Gated(as_modules).eval(), 5 * torch.randn(2, 3, 6, 6)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    changed, places = with_stand_ins(model, x, ["sigmoid", "silu"])
    torch.testing.assert_close(changed(x), _expected(model, x))
    assert places == ("sigmoid", "act" if as_modules else "silu")
    assert isinstance(changed, torch.fx.GraphModule) != as_modules
    # The network that was given is as it was, and the new one has its weights by the same names.
    assert all(torch.equal(value, before[name]) for name, value in changed.state_dict().items())
    assert not torch.equal(model(x), changed(x))


def test_each_kind_is_judged_by_itself_and_nothing_is_replaced_that_saves_too_little(monkeypatch) -> None:
    model, x = Gated(True).eval(), torch.randn(1, 3, 6, 6)
    compiled: list[nn.Module] = []
    monkeypatch.setattr("monstera.search.npas.unfriendly._engine", lambda network, *_: compiled.append(network))
    # As it is, without sigmoid, without SiLU.
    monkeypatch.setattr("monstera.search.npas.unfriendly._profiled", lambda _: [2.0, 1.97, 1.5])
    changed, report = replace_unfriendly(model, x)
    kinds = [(type(network.act), type(network.sigmoid)) for network in compiled]
    assert kinds == [(nn.SiLU, nn.Sigmoid), (nn.SiLU, nn.Hardsigmoid), (nn.Hardswish, nn.Sigmoid)]
    assert [(row.kind, row.places, row.made) for row in report] == [
        ("sigmoid", ("sigmoid",), False),
        ("silu", ("act",), True),
    ]
    assert [round(row.saving, 3) for row in report] == [0.015, 0.25]
    assert isinstance(changed, Gated)
    assert (type(changed.act), type(changed.sigmoid)) == (nn.Hardswish, nn.Sigmoid)


def test_a_network_without_such_functions_is_copied_and_not_compiled(monkeypatch) -> None:
    monkeypatch.setattr("monstera.search.npas.unfriendly.compile_", None)
    model = fused_mobilenet(activation="relu6")
    changed, report = replace_unfriendly(model, torch.randn(1, 1, 28, 28))
    assert report == ()
    assert changed is not model
    assert changed.training


def test_what_cannot_be_traced_is_refused_only_where_functions_have_to_be_replaced() -> None:
    x = torch.randn(1, 3, 6, 6)
    assert with_stand_ins(Gated(True, trick=True).eval(), x, ["sigmoid", "silu"])[1] == ("sigmoid", "act")
    with pytest.raises(ValueError, match=r"calls sigmoid.* as a function, and torch\.fx cannot trace it"):
        with_stand_ins(Gated(False, trick=True).eval(), x, ["sigmoid", "silu"])


def test_the_compiled_network_has_the_stand_ins_where_it_had_exponentials() -> None:
    """Times are printed only: other programs run on the machine of a test."""
    torch.manual_seed(0)
    model, x = fused_mobilenet(), torch.randn(1, 1, 28, 28)
    changed, (row,) = replace_unfriendly(model.eval(), x, least_saving=ALWAYS)
    print(f"SiLU {row.before_ms:.4f} ms, hard swish {row.after_ms:.4f} ms: {row.saving:.1%} less")
    assert len(row.places) == 10
    engine = ms.compile(changed, x)
    torch.testing.assert_close(torch.as_tensor(engine(x)), changed(x), rtol=1e-4, atol=1e-5)
    source = engine.c_source
    assert "act_hardswish(" in source.partition("int run(")[0]
