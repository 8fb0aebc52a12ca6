"""Find operators that a model spells out: GELU by tanh, and the RMS norm."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import isclose, pi, sqrt

from monstera.compiler.ir import Activate, Activation, Add, Constant, Graph, Mean, Mul, Node, Norm
from monstera.compiler.ir.interpreter import Array


def fuse_formulas(graph: Graph) -> Graph:
    """Replace `0.5 x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3)))` and `x / sqrt(mean(x^2) + eps) [* scale]`.

    What was computed on the way stays, for others that may read it.
    """
    formulas = _Formulas({node.name: node for node in graph.nodes}, dict(graph.params))
    nodes: dict[str, Node] = {}
    for node in graph.nodes:
        found = formulas.gelu(node) or formulas.rms_norm(node) or formulas.scaled_norm(node)
        nodes[node.name] = formulas.made[node.name] = found or node
    return replace(graph, nodes=tuple(nodes.values()), params=formulas.params)


@dataclass(frozen=True, slots=True)
class _Formulas:
    """Nodes by name, and answers about what stands before one."""

    made: dict[str, Node]
    params: dict[str, Array]

    def gelu(self, node: Node) -> Node | None:
        """The node as GELU if it is that."""
        for half, gate in self._operands(node.name, Mul):
            x = self._times(half, 0.5)
            tanh = self._plus(gate, 1.0)
            inner = self._activated(tanh, "tanh")
            cubic = self._times(inner, sqrt(2 / pi))
            for a, b in self._operands(cubic, Add):
                cube = self._times(b, 0.044715)
                if x is not None and a == x and self._is_cube(cube, x):
                    return replace(node, op=Activate(Activation("gelu_tanh")), inputs=(x,))
        return None

    def rms_norm(self, node: Node) -> Node | None:
        """The node as an RMS norm along the last dimension if it is that."""
        for x, factor in self._operands(node.name, Mul):
            total = self._activated(factor, "rsqrt")
            for mean, eps in self._operands(total, Add):
                square = self.made.get(mean)
                number = self._number(eps)
                if square is None or number is None or not isinstance(square.op, Mean):
                    continue
                last = square.op.dims == (len(node.shape) - 1,) and len(square.shape) == len(node.shape)
                if last and (x, x) in self._operands(square.inputs[0], Mul):
                    return replace(node, op=Norm(len(node.shape) - 1, number, centered=False), inputs=(x,))
        return None

    def scaled_norm(self, node: Node) -> Node | None:
        """The node as a norm with a scale, if it is a norm times a known vector."""
        for scale, norm in self._operands(node.name, Mul):
            known, source = self.made.get(scale), self.made.get(norm)
            if known is None or source is None or not isinstance(source.op, Norm) or not isinstance(known.op, Constant):
                continue
            plain = source.op.scale is None and source.op.shift is None and source.op.dim == len(node.shape) - 1
            if plain and known.shape == node.shape[-1:]:
                return replace(node, op=replace(source.op, scale=known.op.value), inputs=source.inputs)
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
