"""Many expressions over one user and n titles, evaluated together and bit for bit as if one by one.

Equal parts of different expressions are computed once. Parts of one operator and one depth lie side by
side, so that NumPy is called once for each such layer rather than once for each feature.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from itertools import groupby

import numpy as np
from numpy.typing import NDArray

from feature_repo.arithmetic import Array, Binary, Constant, Expression, OrElse, Ref, Unary

Slots = NDArray[np.int64] | slice


class Side(IntEnum):
    """Whether a value is the same for every title."""

    USER = 0
    PAIR = 1


@dataclass(frozen=True)
class _Node:
    """A part of an expression; operands are positions of earlier nodes."""

    key: tuple[object, ...]
    operands: tuple[int, ...]
    side: Side
    level: int

    @property
    def place(self) -> tuple[object, ...]:
        """Where it lies in the buffer of its side: stored features by table, constants, then layer by layer."""
        leaf = str(self.key) if self.level == 0 else ""
        return (self.side, self.level, self.key[0] == "constant", str(self.layer), leaf)

    @property
    def layer(self) -> tuple[object, ...]:
        """Nodes of one layer are computed in one call."""
        detail = self.key[1:] if self.key[0] == "orelse" else ()
        return (self.level, self.side, self.key[0], detail)


@dataclass(frozen=True)
class _Step:
    """One layer: operands are read from, and the result written to, the buffer of a side."""

    compute: Callable[..., None]
    operands: tuple[tuple[Side, Slots], ...]
    side: Side
    target: slice

    def run(self, buffers: tuple[Array, Array]) -> None:
        """Compute the layer in place."""
        values = [_rows(buffers[side], slots) for side, slots in self.operands]
        self.compute(*values, out=buffers[self.side][self.target])


@dataclass(frozen=True)
class Pairing:
    """Compiled expressions. `users` and `titles` say which stored features to give to `run`."""

    users: tuple[Ref, ...]
    titles: tuple[Ref, ...]
    constants: tuple[float, ...]
    steps: tuple[_Step, ...]
    sizes: tuple[int, int]  # rows of the user's and of the pairs' buffer
    outputs: tuple[tuple[Side, Slots, Slots], ...]  # side, slots, columns of the result
    width: int

    def run(self, user: NDArray[np.float32], title: NDArray[np.float32], out: NDArray[np.float32]) -> None:
        """Evaluate for one user and n titles, rounding to float32 once.

        Args:
            user: (len(self.users),) stored values, NaN where null.
            title: (n, len(self.titles)) stored values, NaN where null.
            out: (n, self.width) receives the values, NaN where null.
        """
        count = len(title)
        one, many = np.empty((self.sizes[0], 1)), np.empty((self.sizes[1], count))
        one[: len(user), 0] = user
        one[len(user) : len(user) + len(self.constants), 0] = self.constants
        many[: title.shape[1]] = title.T
        with np.errstate(invalid="ignore", over="ignore"):
            for step in self.steps:
                step.run((one, many))
            for side, slots, columns in self.outputs:
                out[:, columns] = (one, many)[side][slots].T


def compile_pairing(expressions: Sequence[Expression], user_tables: Collection[str]) -> Pairing:
    """Compile `expressions`; references to `user_tables` hold one value, all others one a title."""
    interned = _Interned(frozenset(user_tables))
    roots = [interned.add(expression) for expression in expressions]
    nodes = interned.nodes
    order = sorted(range(len(nodes)), key=lambda i: (nodes[i].place, _sides(nodes, i)))
    counts = [0, 0]
    slot: dict[int, int] = {}
    for i in order:
        slot[i] = counts[nodes[i].side]
        counts[nodes[i].side] += 1
    leaves = [nodes[i] for i in order if nodes[i].level == 0]
    return Pairing(
        users=tuple(_refs(node for node in leaves if node.side is Side.USER)),
        titles=tuple(_refs(node for node in leaves if node.side is Side.PAIR)),
        constants=tuple(float(str(node.key[1])) for node in leaves if node.key[0] == "constant"),
        steps=tuple(_steps(nodes, order, slot)),
        sizes=(counts[0], counts[1]),
        outputs=tuple(_outputs(nodes, roots, slot)),
        width=len(roots),
    )


class _Interned:
    """Nodes so far, each distinct one once."""

    def __init__(self, user_tables: frozenset[str]) -> None:
        self.user_tables = user_tables
        self.nodes: list[_Node] = []
        self._known: dict[tuple[object, ...], int] = {}

    def add(self, expression: Expression) -> int:
        """The position of the node that computes `expression`."""
        match expression:
            case Ref(table, feature):
                side = Side.USER if table in self.user_tables else Side.PAIR
                return self._leaf(("ref", table, feature), side)
            case Constant(value):
                return self._leaf(("constant", repr(value)), Side.USER)
            case Binary(operator, left, right):
                return self._operation((operator,), (self.add(left), self.add(right)))
            case Unary(function, operand):
                return self._operation((function,), (self.add(operand),))
            case OrElse(operand, value):
                return self._operation(("orelse", repr(value)), (self.add(operand),))
        raise TypeError(f"{expression!r} has no NumPy form.")

    def _leaf(self, key: tuple[object, ...], side: Side) -> int:
        return self._place(key, _Node(key, (), side, 0))

    def _operation(self, key: tuple[object, ...], operands: tuple[int, ...]) -> int:
        read = [self.nodes[i] for i in operands]
        node = _Node(key, operands, max(n.side for n in read), 1 + max(n.level for n in read))
        return self._place((*key, *operands), node)

    def _place(self, key: tuple[object, ...], node: _Node) -> int:
        if key not in self._known:
            self._known[key] = len(self.nodes)
            self.nodes.append(node)
        return self._known[key]


def _refs(leaves: Iterable[_Node]) -> Iterable[Ref]:
    return (Ref(str(leaf.key[1]), str(leaf.key[2])) for leaf in leaves if leaf.key[0] == "ref")


def _steps(nodes: Sequence[_Node], order: Sequence[int], slot: dict[int, int]) -> Iterable[_Step]:
    """The layers, those of the lowest level first; within a layer, operands of one pair of sides."""
    inner = sorted((i for i in order if nodes[i].level), key=lambda i: nodes[i].level)
    for _, layer in groupby(inner, key=lambda i: nodes[i].layer):
        members = list(layer)
        sides = [_sides(nodes, i) for i in members]
        for pattern, run in groupby(zip(members, sides, strict=True), key=lambda pair: pair[1]):
            of = [i for i, _ in run]
            columns = zip(*(nodes[i].operands for i in of), strict=True)
            operands = tuple((s, _slots([slot[j] for j in c])) for s, c in zip(pattern, columns, strict=True))
            first = nodes[of[0]]
            target = slice(slot[of[0]], slot[of[0]] + len(of))
            yield _Step(_compute(first.key), operands, first.side, target)


def _rows(buffer: Array, slots: Slots) -> Array:
    """Rows of a buffer; `take` copies whole rows, where indexing by an array goes element by element."""
    return buffer[slots] if isinstance(slots, slice) else buffer.take(slots, axis=0)


def _sides(nodes: Sequence[_Node], i: int) -> tuple[Side, ...]:
    """Where the operands of a node lie; nodes of a layer that agree in it are computed in one call."""
    return tuple(nodes[j].side for j in nodes[i].operands)


def _outputs(
    nodes: Sequence[_Node], roots: Sequence[int], slot: dict[int, int]
) -> Iterable[tuple[Side, Slots, Slots]]:
    for side in Side:
        columns = [column for column, root in enumerate(roots) if nodes[root].side is side]
        if columns:
            yield side, _slots([slot[roots[column]] for column in columns]), _slots(columns)


def _slots(positions: Sequence[int]) -> Slots:
    """A slice, which NumPy reads without copying, where the positions are a run."""
    first = positions[0]
    if list(positions) == list(range(first, first + len(positions))):
        return slice(first, first + len(positions))
    return np.array(positions, dtype=np.int64)


def _compute(key: tuple[object, ...]) -> Callable[..., None]:
    simple: dict[object, Callable[..., None]] = {
        "+": np.add, "-": np.subtract, "*": np.multiply, "/": _divide, "abs": np.abs,
    }  # fmt: skip
    if key[0] == "orelse":
        return _or_else(float(str(key[1])))
    return simple[key[0]]


def _divide(left: Array, right: Array, out: Array) -> None:
    np.divide(left, np.where(right == 0, np.nan, right), out=out)


def _or_else(value: float) -> Callable[..., None]:
    def compute(operand: Array, out: Array) -> None:
        out[...] = operand
        np.copyto(out, value, where=np.isnan(operand))

    return compute
