"""From the text of a search to a typed condition (grammar: `search.lark`); nothing here knows SQL.

`a != b` is `NOT a = b` everywhere. So `tags.source != 'world'` also finds versions without that tag, and
with several values (the splits of a metric, the aliases of a version) it says that none of them equals.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from difflib import get_close_matches
from enum import StrEnum
from functools import cache
from pathlib import Path
from typing import cast

from lark import Lark, Token, Transformer
from lark.exceptions import UnexpectedCharacters, UnexpectedInput, UnexpectedToken

from registry.errors import QuerySyntax

LONGEST, MOST_COMPARISONS, DEEPEST = 10_000, 100, 50
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Kind(StrEnum):
    """What a field can be compared with."""

    TEXT = "text"
    NUMBER = "number"
    TIME = "time"
    EITHER = "text or number"


FIELDS: Mapping[str, Kind] = {
    "name": Kind.TEXT,
    "version": Kind.NUMBER,
    "created_at": Kind.TIME,
    "created_by": Kind.TEXT,
    "source": Kind.TEXT,
    "training_set": Kind.TEXT,
    "aliases": Kind.TEXT,
    "features": Kind.TEXT,
    "arms": Kind.TEXT,
    "tags": Kind.TEXT,
    "params": Kind.EITHER,
    "metrics": Kind.NUMBER,
}
KEYED = frozenset({"tags", "params", "metrics"})
_SYNONYMS = {
    "alias": "aliases", "feature": "features", "arm": "arms", "tag": "tags", "param": "params",
    "parameters": "params", "parameter": "params", "metric": "metrics",
}  # fmt: skip
_LABELS = ("dataset", "split")
_WORDS = {
    "NAME": "a field", "KEY": "a key", "OPERATOR": "one of = != < <= > >=", "NUMBER": "a number",
    "QUOTED": "a text in quotes", "DOUBLE_QUOTED": "a text in quotes", "BACKQUOTED": "a key in backquotes",
    "LIKE": "LIKE", "IN": "IN", "_NOT": "NOT", "_AND": "AND", "_OR": "OR", "LPAR": "(", "RPAR": ")",
    "COMMA": ",", "_DOT": ".", "LSQB": "[", "RSQB": "]", "EQUAL": "=", "DIRECTION": "ASC or DESC",
    "$END": "the end",
}  # fmt: skip

Value = str | float | datetime


@dataclass(frozen=True)
class Field:
    """What is compared: a column, or a key of tags, params or metrics, these with labels if need be."""

    name: str
    key: str = ""
    labels: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Comparison:
    """`field operator values`; operators are = < <= > >= LIKE ILIKE IN, only IN takes several values."""

    field: Field
    operator: str
    values: tuple[Value, ...]


@dataclass(frozen=True)
class Not:
    """The opposite of a condition."""

    term: Condition


@dataclass(frozen=True)
class AllOf:
    """Every one of some conditions; of none: always so."""

    terms: tuple[Condition, ...]


@dataclass(frozen=True)
class AnyOf:
    """At least one of some conditions."""

    terms: tuple[Condition, ...]


Condition = Comparison | Not | AllOf | AnyOf


@dataclass(frozen=True)
class Order:
    """One sort key; what a version lacks sorts last either way."""

    field: Field
    descending: bool = False


def parse_query(text: str) -> Condition:
    """Read a search.

    Raises:
        QuerySyntax: shows the place with a caret, and what would have been understood there.
    """
    if len(text) > LONGEST:
        raise QuerySyntax(
            text[:60] + "…", 60, f"the query has {len(text)} characters; the limit is {LONGEST}."
        )
    return cast("Condition", _parse(text, "query"))


def parse_order(text: str) -> Order:
    """Read one sort key, as in `metrics.recall_at_200 DESC`.

    Raises:
        QuerySyntax: as `parse_query`; also for aliases, features and arms, of which there are several.
    """
    order = cast("Order", _parse(text, "order"))
    if order.field.name in {"aliases", "features", "arms"}:
        raise QuerySyntax(text, 0, f"a version has any number of {order.field.name}: they are no sort key.")
    return order


class _Problem(Exception):
    def __init__(self, position: int, message: str) -> None:
        super().__init__(message)
        self.position, self.message = position, message


class _Builder(Transformer[Token, object]):
    """Builds the condition while the text is parsed; the method of a rule gets what the rule matched."""

    def query(self, parts: list[Condition]) -> Condition:
        if not parts or parts[0] is None:
            return AllOf(())
        if _count(parts[0]) > MOST_COMPARISONS:
            raise _Problem(
                0, f"the query has {_count(parts[0])} comparisons; the limit is {MOST_COMPARISONS}."
            )
        return parts[0]

    def disjunction(self, terms: list[Condition]) -> Condition:
        return terms[0] if len(terms) == 1 else _checked(AnyOf(tuple(terms)))

    def conjunction(self, terms: list[Condition]) -> Condition:
        return terms[0] if len(terms) == 1 else _checked(AllOf(tuple(terms)))

    def inverse(self, terms: list[Condition]) -> Condition:
        return _checked(Not(terms[0]))

    def comparison(self, parts: list[Field | Token]) -> Condition:
        field, operator, literals = (
            cast("Field", parts[0]),
            cast("Token", parts[1]),
            cast("list[Token]", parts[2:]),
        )
        word = operator.upper()
        if word.endswith("LIKE") and FIELDS[field.name] in {Kind.NUMBER, Kind.TIME}:
            raise _Problem(_start(operator), f"{field.name} is a {FIELDS[field.name]}; LIKE compares text.")
        values = tuple(_value(field, literal, like=word.endswith("LIKE")) for literal in literals)
        if len({type(value) for value in values}) > 1:
            raise _Problem(_start(literals[0]), "text and numbers in one list: compare with one of them.")
        if word == "!=":
            return Not(Comparison(field, "=", values))
        return Comparison(field, word, values)

    def inverse_comparison(self, parts: list[Field | Token]) -> Condition:
        return Not(self.comparison(parts))

    def field(self, parts: tuple[Token, str | None, tuple[tuple[str, str], ...] | None]) -> Field:
        token, key, labels = parts
        name = _field_name(token)
        if (key is None) is (name in KEYED):
            example = f"{name}.some_key" if name in KEYED else name
            raise _Problem(
                _start(token), f"write it as {example}: {name} has {'' if name in KEYED else 'no '}keys."
            )
        if labels and name != "metrics":
            raise _Problem(
                _start(token), f"only metrics have labels ({', '.join(_LABELS)}), {name} has none."
            )
        return Field(name, key or "", labels or ())

    def key(self, parts: list[Token]) -> str:
        return str(parts[0]) if parts[0].type == "KEY" else _unquote(parts[0])

    def labels(self, parts: list[tuple[str, str]]) -> tuple[tuple[str, str], ...]:
        return tuple(parts)

    def label(self, parts: list[Token]) -> tuple[str, str]:
        if parts[0] not in _LABELS:
            raise _Problem(
                _start(parts[0]), f"a metric has no label {str(parts[0])!r}. It has: {', '.join(_LABELS)}."
            )
        return str(parts[0]), _unquote(parts[1])

    def order(self, parts: tuple[Field, Token | None]) -> Order:
        field, direction = parts
        return Order(field, descending=direction is not None and direction.lower() == "desc")


@cache
def _parser() -> Lark:
    grammar = Path(__file__).with_name("search.lark").read_text(encoding="utf-8")
    return Lark(
        grammar, parser="lalr", start=["query", "order"], transformer=_Builder(), maybe_placeholders=True
    )


def _parse(text: str, start: str) -> object:
    try:
        return _parser().parse(text, start=start)
    except _Problem as problem:
        raise QuerySyntax(text, problem.position, problem.message) from None
    except UnexpectedInput as error:
        raise _explained(text, error, start) from None


def _explained(text: str, error: UnexpectedInput, start: str) -> QuerySyntax:
    at_end = isinstance(error, UnexpectedToken) and error.token.type == "$END"
    position = len(text) if at_end or error.pos_in_stream is None else error.pos_in_stream
    names: set[str] = set()
    if isinstance(error, UnexpectedToken):
        names = set(error.accepts or error.expected)
    elif isinstance(error, UnexpectedCharacters):
        names = set(error.allowed or ())
    names -= {"$END"} if at_end else set()
    names -= {"DIRECTION"} if start == "query" else set()
    expected = sorted({_WORDS[name] for name in names})
    found = "the end of the text" if at_end else f"{text[position : position + 12]!r}"
    return QuerySyntax(text, position, f"did not expect {found}; expected {_listed(expected)}.")


def _listed(words: list[str]) -> str:
    return (
        words[0]
        if len(words) == 1
        else f"{', '.join(words[:-1])} or {words[-1]}"
        if words
        else "something else"
    )


def _field_name(token: Token) -> str:
    word = token.lower()
    name = _SYNONYMS.get(word, word)
    if name not in FIELDS:
        near = get_close_matches(word, FIELDS, n=1)
        hint = f"Did you mean {near[0]!r}?" if near else f"There are: {', '.join(FIELDS)}."
        raise _Problem(_start(token), f"there is no field {word!r}. {hint}")
    return name


def _value(field: Field, literal: Token, *, like: bool) -> Value:
    kind = FIELDS[field.name]
    shown = f"{field.name}.{field.key}" if field.key else field.name
    number = literal.type == "NUMBER"
    if kind is Kind.TIME:
        return _time(literal)
    if number and (kind is Kind.TEXT or like):
        raise _Problem(_start(literal), f"{shown} is compared with text here: put quotes around {literal}.")
    if number:
        return float(literal)
    if kind is Kind.NUMBER:
        raise _Problem(_start(literal), f"{shown} is a number: compare it with one, as in {shown} > 0.3.")
    return _unquote(literal)


def _time(literal: Token) -> datetime:
    """A time in ISO 8601 (no zone means UTC), or milliseconds since 1970."""
    try:
        if literal.type == "NUMBER":
            return _EPOCH + timedelta(milliseconds=float(literal))
        when = datetime.fromisoformat(_unquote(literal))
        return (when if when.tzinfo else when.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError) as error:
        problem = f"{literal} is no time ({error}). Write '2026-01-31' or '2026-01-31T12:00:00Z'."
        raise _Problem(_start(literal), problem) from None


def _unquote(token: Token) -> str:
    inner = token[1:-1].replace(token[0] * 2, token[0])
    if "\0" in inner or any("\ud800" <= letter <= "\udfff" for letter in inner):
        raise _Problem(_start(token), "text may not hold a NUL or a lone surrogate; no version has them.")
    return inner


def _checked(condition: Condition) -> Condition:
    if _depth(condition) > DEEPEST:
        raise _Problem(0, f"the query is nested more than {DEEPEST} deep.")
    return condition


def _depth(condition: Condition) -> int:
    match condition:
        case Comparison():
            return 0
        case Not(term):
            return 1 + _depth(term)
        case AllOf(terms) | AnyOf(terms):
            return 1 + max(map(_depth, terms), default=0)


def _count(condition: Condition) -> int:
    match condition:
        case Comparison():
            return 1
        case Not(term):
            return _count(term)
        case AllOf(terms) | AnyOf(terms):
            return sum(map(_count, terms))


def _start(token: Token) -> int:
    return token.start_pos or 0
