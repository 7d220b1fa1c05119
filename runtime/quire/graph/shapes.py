"""Symbolic sizes: `Dim`, a polynomial with integer coefficients over named symbols.

Symbols are `T` (tokens of the step), `S` (sequences), `L` (logit rows) and the model's named axes
(`heads`, `kv_heads`, `mlp`, `vocab`, `experts`, `ep`). A projection of grouped-query attention has
`heads*64 + 2*kv_heads*64` rows; cutting an axis for tensor parallelism is substitution of its size.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from math import prod

STEP_SYMBOLS = ("T", "S", "L")

_Monomial = tuple[str, ...]  # sorted symbols, repeated for powers; () is the constant term


@dataclass(frozen=True)
class Dim:
    """A size such as `heads*64 + 2*kv_heads*64`; hashable, compared by value.

    `terms` maps monomials to coefficients and is kept sorted and free of zeros.
    """

    terms: tuple[tuple[_Monomial, int], ...]

    @staticmethod
    def of(value: int | str | Dim) -> Dim:
        """The Dim of an int, a symbol's name, or a Dim itself."""
        if isinstance(value, Dim):
            return value
        if isinstance(value, str):
            return Dim((((value,), 1),))
        return Dim((((), int(value)),) if value else ())

    @cached_property
    def symbols(self) -> frozenset[str]:
        """Every symbol that occurs."""
        return frozenset(symbol for monomial, _ in self.terms for symbol in monomial)

    @property
    def is_constant(self) -> bool:
        return not self.symbols

    def __add__(self, other: int | Dim) -> Dim:
        return _collect((*self.terms, *Dim.of(other).terms))

    def __mul__(self, other: int | Dim) -> Dim:
        right = Dim.of(other).terms
        return _collect(tuple((tuple(sorted((*m1, *m2))), c1 * c2) for m1, c1 in self.terms for m2, c2 in right))

    def __sub__(self, other: int | Dim) -> Dim:
        return self + Dim.of(other) * -1

    __radd__ = __add__
    __rmul__ = __mul__

    def substitute(self, sizes: Mapping[str, int]) -> Dim:
        """This Dim with every symbol found in `sizes` replaced by its size."""
        return _collect(
            tuple(
                (tuple(s for s in monomial if s not in sizes), coef * prod(sizes[s] for s in monomial if s in sizes))
                for monomial, coef in self.terms
            )
        )

    def evaluate(self, sizes: Mapping[str, int]) -> int:
        """The value; KeyError names a symbol without a size."""
        return sum(coef * prod(sizes[s] for s in monomial) for monomial, coef in self.terms)

    def __str__(self) -> str:
        if not self.terms:
            return "0"
        return " + ".join(
            "*".join([*monomial, *([str(coef)] if coef != 1 or not monomial else [])]) for monomial, coef in self.terms
        )

    __repr__ = __str__


Shape = tuple[Dim, ...]
DimLike = int | str | Dim

T, S, L = (Dim.of(symbol) for symbol in STEP_SYMBOLS)


def shape_of(*sizes: DimLike) -> Shape:
    """A shape from ints, symbol names and Dims."""
    return tuple(Dim.of(size) for size in sizes)


def num_elements(shape: Shape) -> Dim:
    """The product of a shape's sizes."""
    total = Dim.of(1)
    for dim in shape:
        total = total * dim
    return total


def concrete(shape: Shape, sizes: Mapping[str, int]) -> tuple[int, ...]:
    """The shape in plain ints."""
    return tuple(dim.evaluate(sizes) for dim in shape)


def _collect(terms: tuple[tuple[_Monomial, int], ...]) -> Dim:
    sums: dict[_Monomial, int] = {}
    for monomial, coef in terms:
        sums[monomial] = sums.get(monomial, 0) + coef
    return Dim(tuple(sorted((m, c) for m, c in sums.items() if c)))
