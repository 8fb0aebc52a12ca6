"""Find operators that a model spells out: GELU, and norms along the last dimension."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import isclose, pi, sqrt

from monstera.compiler.ir import Activate, Activation, Add, Constant, Graph, Mean, Mul, Node, Norm, Shape
from monstera.compiler.ir.interpreter import Array


def fuse_formulas(graph: Graph) -> Graph:
    """Replace GELU, by erf or tanh, and norms, `x / sqrt(mean(x^2) + eps) [* scale] [+ shift]`.

    GELU is `0.5 x (1 + erf(x / sqrt(2)))` or `0.5 x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3)))`. A norm is layer norm
    if x is `z - mean(z)`, else RMS norm. What was computed on the way stays, for others that may read it.
    """
    formulas = _Formulas({node.name: node for node in graph.nodes}, dict(graph.params))
    nodes: dict[str, Node] = {}
    for node in graph.nodes:
        found = formulas.gelu(node) or formulas.norm(node) or formulas.scaled_norm(node)
        nodes[node.name] = formulas.made[node.name] = found or node
    return replace(graph, nodes=tuple(nodes.values()), params=formulas.params)


@dataclass(frozen=True, slots=True)
class _Formulas:
    """Nodes by name, and answers about what stands before one."""

    made: dict[str, Node]
    params: dict[str, Array]

    def gelu(self, node: Node) -> Node | None:
        """The node as GELU if it is that."""
        for x, gate in self._halves(node.name):
            inner = self._plus(gate, 1.0)
            if self._times(self._activated(inner, "erf"), sqrt(0.5)) == x:
                return replace(node, op=Activate(Activation("gelu")), inputs=(x,))
            cubic = self._times(self._activated(inner, "tanh"), sqrt(2 / pi))
            for a, b in self._operands(cubic, Add):
                cube = self._times(b, 0.044715)
                if a == x and self._is_cube(cube, x):
                    return replace(node, op=Activate(Activation("gelu_tanh")), inputs=(x,))
        return None

    def _halves(self, name: str) -> Iterator[tuple[str, str]]:
        """Two factors whose product is halved, however the three are put together."""
        for a, b in self._operands(name, Mul):
            if (x := self._times(a, 0.5)) is not None:
                yield from ((x, b), (b, x))
            if self._number(a) == 0.5:
                yield from self._operands(b, Mul)

    def norm(self, node: Node) -> Node | None:
        """The node as a norm along the last dimension if it is that: layer norm if x is centered, else RMS norm."""
        last = len(node.shape) - 1
        for x, factor in self._operands(node.name, Mul):
            total = self._activated(factor, "rsqrt") or self._activated(self._activated(factor, "reciprocal"), "sqrt")
            for mean, eps in self._operands(total, Add):
                square, number = self._averaged(mean, node.shape), self._number(eps)
                if square is not None and number is not None and (x, x) in self._operands(square, Mul):
                    source = self._centered(x)
                    op = Norm(last, number, centered=source is not None)
                    return replace(node, op=op, inputs=(source or x,))
        return None

    def _averaged(self, name: str | None, shape: Shape) -> str | None:
        """What a mean along the last of these dimensions is taken of."""
        node = self.made.get(name or "")
        if node is None or not isinstance(node.op, Mean) or node.op.dims != (len(shape) - 1,):
            return None
        return node.inputs[0] if len(node.shape) == len(shape) else None

    def _centered(self, name: str) -> str | None:
        """What a value is, if that had not lost its mean along the last dimension."""
        for x, negated in self._operands(name, Add):
            if self._averaged(self._times(negated, -1.0), self.made[name].shape) == x:
                return x
        return None

    def scaled_norm(self, node: Node) -> Node | None:
        """The node as a norm with a scale or a shift, if it is a norm times a known vector or plus one."""
        for kind, field in ((Mul, "scale"), (Add, "shift")):
            for vector, norm in self._operands(node.name, kind):
                known, source = self.made.get(vector), self.made.get(norm)
                if known is None or source is None or not isinstance(known.op, Constant):
                    continue
                if not isinstance(source.op, Norm) or source.op.dim != len(node.shape) - 1:
                    continue
                # A shift is added last.
                if source.op.shift is None and getattr(source.op, field) is None and known.shape == node.shape[-1:]:
                    return replace(node, op=replace(source.op, **{field: known.op.value}), inputs=source.inputs)
        return None

    def _operands(self, name: str | None, kind: type[Add | Mul]) -> list[tuple[str, str]]:
        """Both orders of the operands of a sum or product that applies no function."""
        node = self.made.get(name or "")
        if node is None or not isinstance(node.op, kind) or node.op.activation is not None:
            return []
        a, b = node.inputs
        return [(a, b), (b, a)]

    def _number(self, name: str) -> float | None:
        node = self.made.get(name)
        if node is None or not isinstance(node.op, Constant) or self.params[node.op.value].size != 1:
            return None
        return float(self.params[node.op.value].reshape(()))

    def _times(self, name: str | None, factor: float) -> str | None:
        return self._beside(name, Mul, factor)

    def _plus(self, name: str | None, number: float) -> str | None:
        return self._beside(name, Add, number)

    def _beside(self, name: str | None, kind: type[Add | Mul], number: float) -> str | None:
        """The other operand of a sum or product with this number."""
        for other, known in self._operands(name, kind):
            value = self._number(known)
            if value is not None and isclose(value, number, rel_tol=1e-5):
                return other
        return None

    def _activated(self, name: str | None, kind: str) -> str | None:
        node = self.made.get(name or "")
        fits = node is not None and isinstance(node.op, Activate) and node.op.activation.kind == kind
        return node.inputs[0] if fits and node is not None else None

    def _is_cube(self, name: str | None, x: str) -> bool:
        return any(b == x and (x, x) in self._operands(a, Mul) for a, b in self._operands(name, Mul))
