"""The expressions of a mapping file: parsed once, bound to a file's columns, then called once for each row.

A bound expression takes a row (a list of texts, "" meaning blank) and gives a text; "" is blank again.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import time
from decimal import ROUND_HALF_EVEN, Decimal, InvalidOperation
from typing import Final, cast
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from throughline_client.importer.nodes import Node
from throughline_client.importer.problems import ValueProblem, nearest
from throughline_client.importer.times import Ambiguous, Nonexistent, TimeProblem, known_formats, make_reader

Row = list[str]
Text = Callable[[Row], str]
Test = Callable[[Row], bool]
Number = Callable[[Row], int | None]

MICRO: Final = 1_000_000
INT64_MAX: Final = 2**63 - 1
_REFERENCE: Final = re.compile(r"\{([^{}]*)\}")
_SLICE: Final = re.compile(r"(?P<name>.+):(?P<start>\d*)\.(?P<end>\d*)\Z", re.DOTALL)
_SNAKE: Final = re.compile(r"[^0-9a-z]+")
_DURATIONS: Final = {
    "microseconds": 1,
    "milliseconds": 1_000,
    "seconds": MICRO,
    "minutes": 60 * MICRO,
    "hours": 3_600 * MICRO,
    "days": 86_400 * MICRO,
}
_SIMPLE: Final = ("constant", "column", "template", "first_of", "choose")
_MODIFIERS: Final = ("blanks", "map", "otherwise", "as", "default", "extract")
TEXT_KEYS: Final = _SIMPLE + _MODIFIERS
_TIME_KEYS: Final = ("formats", "zone", "at", "ambiguous", "nonexistent")


class Scope:
    """The names that expressions may refer to, and the place of each in a row.

    While `layout` is not given the scope collects the names that are used; afterwards it tells their places.
    """

    def __init__(self, known: Sequence[str] | None, layout: Mapping[str, int] | None = None) -> None:
        self._known = None if known is None else frozenset(known)
        self._listed = list(known or ())
        self._layout = layout
        self.used: dict[str, None] = {}

    def slot(self, name: str, node: Node) -> int:
        """The place of a name. Raises: MappingError naming the nearest names where there is no such name."""
        if self._known is not None and name not in self._known:
            raise node.wrong(f"names {name!r}, which is not in the data", nearest(name, self._listed))
        self.used[name] = None
        return 0 if self._layout is None else self._layout[name]


@dataclass(frozen=True, slots=True)
class Defaults:
    """What a mapping says once for all its expressions."""

    zone: ZoneInfo | None = None
    formats: tuple[str, ...] = ("iso",)
    currency: str = ""


@dataclass(frozen=True, slots=True)
class TextExpression:
    """A parsed expression; `constant` is set where it is the same for every row."""

    bind: Callable[[Scope], Text]
    name: str
    constant: str | None = None


@dataclass(frozen=True, slots=True)
class NumberExpression:
    """A parsed expression that gives a whole number, or None where it is blank."""

    bind: Callable[[Scope], Number]
    name: str


@dataclass(frozen=True, slots=True)
class TestExpression:
    """A parsed condition."""

    bind: Callable[[Scope], Test]


def parse_text(node: Node, extra: Sequence[str] = ()) -> TextExpression:
    """Parses an expression for a text. `extra` are keys that the caller reads by itself.

    Raises: MappingError.
    """
    if not node.is_mapping:
        if node.is_list:
            raise node.wrong("is a list", "write one value, or `first_of:` with the list")
        return _constant(node.text())
    entries = node.fields(*TEXT_KEYS, *extra)
    kinds = [key for key in _SIMPLE if key in entries]
    if len(kinds) != 1:
        raise node.wrong(
            "needs exactly one of " + ", ".join(_SIMPLE),
            "add `column: NAME`" if not kinds else f"keep one of {' and '.join(kinds)}",
        )
    source = entries[kinds[0]]
    match kinds[0]:
        case "constant":
            base = _constant(source.text())
        case "column":
            base = _column(source)
        case "template":
            base = _template(source)
        case "first_of":
            base = _first_of(source)
        case _:
            base = _choose(source, entries.get("otherwise"))
    steps = _steps(entries, base.name, choosing=kinds[0] == "choose")
    if not steps:
        return base
    return _with_steps(base, steps)


def _constant(value: str) -> TextExpression:
    return TextExpression(lambda _: lambda _row: value, repr(value), value)


def _column(node: Node) -> TextExpression:
    name = node.required_text()

    def bind(scope: Scope) -> Text:
        place = scope.slot(name, node)
        return lambda row: row[place]

    return TextExpression(bind, name)


def _template(node: Node) -> TextExpression:
    text = node.required_text()
    literals: list[str] = []
    names: list[tuple[str, slice | None]] = []
    end = 0
    for match in _REFERENCE.finditer(text):
        literals.append(text[end : match.start()])
        sliced = _SLICE.match(match[1])
        names.append((sliced["name"], _cut(sliced)) if sliced else (match[1], None))
        end = match.end()
    literals.append(text[end:])
    if not names:
        raise node.wrong("names no column", "write columns in braces, e.g. {id}, or use `constant:`")
    if any("{" in literal or "}" in literal for literal in literals):
        raise node.wrong("has a brace without its partner", "close each {name}")

    def bind(scope: Scope) -> Text:
        places = [(scope.slot(name, node), cut, literals[i + 1]) for i, (name, cut) in enumerate(names)]
        head = literals[0]

        def fill(row: Row) -> str:
            filled = head
            for place, cut, literal in places:
                value = row[place]
                if not value:
                    return ""
                filled += (value if cut is None else value[cut]) + literal
            return filled

        return fill

    return TextExpression(bind, text)


def _cut(match: re.Match[str]) -> slice:
    """`{name:.10}` is the first ten characters, `{name:11.}` all from the twelfth on."""
    return slice(int(match["start"] or 0), int(match["end"]) if match["end"] else None)


def _first_of(node: Node) -> TextExpression:
    options = [parse_text(child) for child in node]

    def bind(scope: Scope) -> Text:
        getters = [option.bind(scope) for option in options]

        def first(row: Row) -> str:
            for getter in getters:
                value = getter(row)
                if value:
                    return value
            return ""

        return first

    return TextExpression(bind, " or ".join(option.name for option in options))


def _choose(node: Node, otherwise: Node | None) -> TextExpression:
    cases: list[tuple[TestExpression, TextExpression]] = []
    for child in node:
        entries = child.fields("when", "value", required=("when", "value"))
        cases.append((parse_test(entries["when"]), parse_text(entries["value"])))
    rest = _constant("") if otherwise is None else parse_text(otherwise)

    def bind(scope: Scope) -> Text:
        bound = [(test.bind(scope), value.bind(scope)) for test, value in cases]
        last = rest.bind(scope)

        def choose(row: Row) -> str:
            for test, value in bound:
                if test(row):
                    return value(row)
            return last(row)

        return choose

    return TextExpression(bind, node.key)


Step = Callable[[str], str]


def _steps(entries: dict[str, Node], name: str, *, choosing: bool) -> list[Step]:
    steps: list[Step] = []
    if "blanks" in entries:
        blanks = frozenset(entries["blanks"].texts())
        steps.append(lambda value: "" if value in blanks else value)
    if "extract" in entries:
        steps.append(_extract(entries["extract"]))
    if "map" in entries:
        steps.append(_map(entries["map"], entries.get("otherwise"), name))
    elif "otherwise" in entries and not choosing:
        raise entries["otherwise"].wrong("stands without `map` or `choose`", "use `default:` for blank values")
    if "as" in entries:
        steps.append(_shape(entries["as"]))
    if "default" in entries:
        default = entries["default"].text()
        steps.append(lambda value: value or default)
    return steps


def _with_steps(base: TextExpression, steps: list[Step]) -> TextExpression:
    def apply(value: str) -> str:
        for step in steps:
            value = step(value)
        return value

    if base.constant is not None:
        return _constant(apply(base.constant))

    def bind(scope: Scope) -> Text:
        getter = base.bind(scope)
        if len(steps) == 1:
            only = steps[0]
            return lambda row: only(getter(row))
        return lambda row: apply(getter(row))

    return TextExpression(bind, base.name)


def _extract(node: Node) -> Step:
    pattern = _pattern(node)
    if pattern.groups != 1:
        raise node.wrong(f"has {pattern.groups} groups", "put one ( ) around the part to take")

    def extract(value: str) -> str:
        match = pattern.search(value) if value else None
        return (match[1] or "") if match else ""

    return extract


def _map(node: Node, otherwise: Node | None, name: str) -> Step:
    table = {key: value.text() for key, value in node.items()}
    if otherwise is None:

        def strict(value: str) -> str:
            if not value:
                return table.get("", "")
            try:
                return table[value]
            except KeyError:
                raise ValueProblem(
                    name, "has a value that the mapping does not know", "add it under `map:`, or give `otherwise:`"
                ) from None

        return strict
    rest = otherwise.text()
    if rest == "$value":
        return lambda value: table.get(value, value)
    return lambda value: table.get(value, rest if value else "")


def _shape(node: Node) -> Step:
    match node.one_of("snake_case", "lower", "upper", "digits"):
        case "lower":
            return str.lower
        case "upper":
            return str.upper
        case "digits":
            return lambda value: "".join(filter(str.isdigit, value))
        case _:
            return snake_case


def snake_case(value: str) -> str:
    """Lower case, with one underscore for whatever is neither a letter of a to z nor a digit."""
    return _SNAKE.sub("_", value.lower()).strip("_")


def _pattern(node: Node) -> re.Pattern[str]:
    try:
        return re.compile(node.required_text())
    except re.error as error:
        raise node.wrong(f"is not a regular expression: {error}", "mend the expression") from None


# Conditions.

_TESTS: Final = (
    "equals",
    "not_equals",
    "in",
    "not_in",
    "matches",
    "not_matches",
    "starts_with",
    "blank",
)


def parse_test(node: Node) -> TestExpression:
    """Parses a condition; of a list, all must hold. Raises: MappingError."""
    if node.is_list:
        return _all([parse_test(child) for child in node])
    entries = node.fields("column", *_TESTS, "all", "any", "not")
    joined = [key for key in ("all", "any", "not") if key in entries]
    if joined:
        if len(entries) != 1:
            raise node.wrong(f"has more than {joined[0]!r}", "nest the other conditions in `all:`")
        child = entries[joined[0]]
        if joined[0] == "not":
            return _not(parse_test(child))
        tests = [parse_test(each) for each in child]
        return _all(tests) if joined[0] == "all" else _any(tests)
    if "column" not in entries:
        raise node.wrong("lacks the key 'column'", "name the column that is looked at")
    checks = [_check(key, entries[key]) for key in _TESTS if key in entries]
    if not checks:
        raise node.wrong("tests nothing", f"add one of {', '.join(_TESTS)}")
    column = _column(entries["column"])

    def bind(scope: Scope) -> Test:
        getter = column.bind(scope)
        if len(checks) == 1:
            only = checks[0]
            return lambda row: only(getter(row))
        return lambda row: all(check(getter(row)) for check in checks)

    return TestExpression(bind)


def _check(key: str, node: Node) -> Callable[[str], bool]:
    if key == "blank":
        return (lambda value: not value) if node.boolean() else bool
    if key in {"in", "not_in"}:
        values = frozenset(node.texts())
        return _negated(values.__contains__, key == "not_in")
    if key in {"matches", "not_matches"}:
        pattern = _pattern(node)
        return _negated(lambda value: pattern.search(value) is not None, key == "not_matches")
    wanted = node.text()
    if key == "starts_with":
        return lambda value: value.startswith(wanted)
    return _negated(lambda value: value == wanted, key == "not_equals")


def _negated(check: Callable[[str], bool], negate: bool) -> Callable[[str], bool]:
    return (lambda value: not check(value)) if negate else check


def _all(tests: list[TestExpression]) -> TestExpression:
    def bind(scope: Scope) -> Test:
        bound = [test.bind(scope) for test in tests]
        return bound[0] if len(bound) == 1 else lambda row: all(test(row) for test in bound)

    return TestExpression(bind)


def _any(tests: list[TestExpression]) -> TestExpression:
    def bind(scope: Scope) -> Test:
        bound = [test.bind(scope) for test in tests]
        return lambda row: any(test(row) for test in bound)

    return TestExpression(bind)


def _not(test: TestExpression) -> TestExpression:
    def bind(scope: Scope) -> Test:
        bound = test.bind(scope)
        return lambda row: not bound(row)

    return TestExpression(bind)


def parse_switch(entries: Mapping[str, Node]) -> TestExpression | None:
    """The condition of `when:` and `unless:` together, or None where neither is given."""
    tests: list[TestExpression] = []
    if "when" in entries:
        tests.append(parse_test(entries["when"]))
    if "unless" in entries:
        tests.append(_not(parse_test(entries["unless"])))
    return _all(tests) if tests else None


# Times, amounts, numbers.


def read_zone(node: Node) -> ZoneInfo:
    name = node.required_text()
    try:
        return ZoneInfo(name)
    except (OSError, ValueError, ZoneInfoNotFoundError):
        raise node.wrong(f"{name!r} is not a time zone", "write a name such as Europe/Vienna or UTC") from None


def read_formats(node: Node) -> tuple[str, ...]:
    formats = node.texts()
    for pattern in formats:
        try:
            make_reader([pattern], None, None, "earlier", "shift")
        except ValueError as error:
            raise node.wrong(f"{pattern!r}: {error}", f"known are {known_formats()}") from None
    return formats


def parse_time(node: Node, defaults: Defaults, extra: Sequence[str] = ()) -> NumberExpression:
    """Parses an expression for an instant, in microseconds since epoch. Raises: MappingError."""
    if not node.is_mapping:
        raise node.wrong("is no expression for a time", "write `{column: NAME, formats: [...], zone: ...}`")
    text = parse_text(node, (*_TIME_KEYS, *extra))
    entries = dict(node.items())
    formats = read_formats(entries["formats"]) if "formats" in entries else defaults.formats
    zone = read_zone(entries["zone"]) if "zone" in entries else defaults.zone
    at = _read_time_of_day(entries["at"]) if "at" in entries else None
    ambiguous = entries["ambiguous"].one_of("earlier", "later", "refuse") if "ambiguous" in entries else "earlier"
    nonexistent = entries["nonexistent"].one_of("shift", "refuse") if "nonexistent" in entries else "shift"
    read = make_reader(formats, zone, at, cast(Ambiguous, ambiguous), cast(Nonexistent, nonexistent))
    return _instant(text, read)


def time_of(text: TextExpression, defaults: Defaults) -> NumberExpression:
    """The instant that a text names in the formats and the zone given, in microseconds since epoch."""
    return _instant(text, make_reader(defaults.formats, defaults.zone, None, "earlier", "shift"))


def _instant(text: TextExpression, read: Callable[[str], int]) -> NumberExpression:
    remedy = "mend the value, or add its form under `formats:`"

    def bind(scope: Scope) -> Number:
        getter = text.bind(scope)

        def instant(row: Row) -> int | None:
            value = getter(row)
            if not value:
                return None
            try:
                return read(value)
            except TimeProblem as problem:
                raise ValueProblem(text.name, str(problem), remedy) from None

        return instant

    return NumberExpression(bind, text.name)


def _read_time_of_day(node: Node) -> time:
    try:
        value = time.fromisoformat(node.required_text())
    except ValueError:
        raise node.wrong(f"is {node.text()!r}", 'write a time of day such as "12:00"') from None
    if value.tzinfo is not None:
        raise node.wrong("has an offset", "write a local time of day; `zone:` says where")
    return value


@dataclass(frozen=True, slots=True)
class NumberStyle:
    """How numbers are written in a file."""

    decimal_mark: str = "."
    thousands: str = ""
    strip: str = ""

    def read(self, text: str, column: str) -> Decimal:
        """Exactly the number that is written. Raises: ValueProblem."""
        value = text
        if self.strip:
            value = value.strip(self.strip)
        if self.thousands:
            value = value.replace(self.thousands, "")
        if self.decimal_mark != ".":
            value = value.replace(self.decimal_mark, ".")
        try:
            number = Decimal(value)
        except InvalidOperation:
            number = Decimal("NaN")
        if not number.is_finite() or "_" in value:
            raise ValueProblem(column, "is not a number", "mend the value, or say under `decimal_mark:`, `thousands:`")
        return number


STYLE_KEYS: Final = ("decimal_mark", "thousands", "strip")


def read_style(entries: Mapping[str, Node]) -> NumberStyle:
    return NumberStyle(
        entries["decimal_mark"].required_text() if "decimal_mark" in entries else ".",
        entries["thousands"].text() if "thousands" in entries else "",
        entries["strip"].text() if "strip" in entries else "",
    )


def to_whole(number: Decimal, column: str) -> int:
    """Rounds half to even. Raises: ValueProblem where it does not fit in 64 bits."""
    whole = int(number.to_integral_value(ROUND_HALF_EVEN))
    if abs(whole) > INT64_MAX:
        raise ValueProblem(column, "does not fit in 64 bits", "mend the value")
    return whole


@dataclass(frozen=True, slots=True)
class MoneyExpression:
    """An amount in millionths, and its currency."""

    amount: NumberExpression
    currency: str


def parse_money(node: Node, defaults: Defaults) -> MoneyExpression:
    """Parses an amount; it becomes millionths exactly, half to even beyond the sixth place. Raises: MappingError."""
    if not node.is_mapping:
        raise node.wrong("is no amount", "write `{column: NAME, currency: EUR}`")
    text = parse_text(node, ("currency", "unit", *STYLE_KEYS))
    entries = dict(node.items())
    currency = entries["currency"].required_text() if "currency" in entries else defaults.currency
    if not re.fullmatch(r"[A-Z]{3}", currency):
        raise node.wrong(f"has the currency {currency!r}", "add `currency:` with an ISO 4217 code such as USD")
    unit = entries["unit"].one_of("major", "cents", "micros") if "unit" in entries else "major"
    factor = {"major": MICRO, "cents": 10_000, "micros": 1}[unit]
    return MoneyExpression(_scaled(text, read_style(entries), factor), currency)


def parse_number(node: Node, factor: int = 1) -> NumberExpression:
    """Parses an expression for a number times `factor`, rounded half to even. Raises: MappingError."""
    text = parse_text(node, STYLE_KEYS)
    return _scaled(text, read_style(dict(node.items()) if node.is_mapping else {}), factor)


def parse_whole(node: Node) -> NumberExpression:
    """Parses an expression for a whole number; a fraction rejects the row. Raises: MappingError."""
    text = parse_text(node, STYLE_KEYS)
    style = read_style(dict(node.items()) if node.is_mapping else {})

    def bind(scope: Scope) -> Number:
        getter = text.bind(scope)

        def whole(row: Row) -> int | None:
            value = getter(row)
            if not value:
                return None
            if value.isascii() and value.isdigit() and len(value) < 19:
                return int(value)
            number = style.read(value, text.name)
            if number != number.to_integral_value():
                raise ValueProblem(text.name, "is not a whole number", "mend the value, or list it under `blanks:`")
            return to_whole(number, text.name)

        return whole

    return NumberExpression(bind, text.name)


def _scaled(text: TextExpression, style: NumberStyle, factor: int) -> NumberExpression:
    multiplier = Decimal(factor)

    def bind(scope: Scope) -> Number:
        getter = text.bind(scope)

        def scaled(row: Row) -> int | None:
            value = getter(row)
            return to_whole(style.read(value, text.name) * multiplier, text.name) if value else None

        return scaled

    return NumberExpression(bind, text.name)


def parse_duration(node: Node, defaults: Defaults) -> NumberExpression:
    """Parses a duration in microseconds: `{from: time, to: time}`, or a number with its `unit`.

    Raises: MappingError.
    """
    if node.has("from") or node.has("to"):
        entries = node.fields("from", "to", "negative", required=("from", "to"))
        refuse = entries["negative"].one_of("blank", "refuse") == "refuse" if "negative" in entries else True
        return _between(parse_time(entries["from"], defaults), parse_time(entries["to"], defaults), refuse=refuse)
    if not node.is_mapping:
        raise node.wrong("is no duration", "write `{column: NAME, unit: seconds}` or `{from: ..., to: ...}`")
    text = parse_text(node, ("unit", *STYLE_KEYS))
    entries = dict(node.items())
    if "unit" not in entries:
        raise node.wrong("lacks the key 'unit'", f"add `unit:`, one of {', '.join(_DURATIONS)}")
    return _scaled(text, read_style(entries), _DURATIONS[entries["unit"].one_of(*_DURATIONS)])


def _between(start: NumberExpression, end: NumberExpression, *, refuse: bool) -> NumberExpression:
    def bind(scope: Scope) -> Number:
        read_start, read_end = start.bind(scope), end.bind(scope)

        def between(row: Row) -> int | None:
            first, last = read_start(row), read_end(row)
            if first is None or last is None:
                return None
            if last < first:
                if refuse:
                    raise ValueProblem(end.name, f"lies before {start.name}", "mend one of the two times")
                return None
            return last - first

        return between

    return NumberExpression(bind, f"{start.name} to {end.name}")


# Attributes: JSON objects.

Json = str | int | float | bool
Attribute = Callable[[Row], Json | None]


@dataclass(frozen=True, slots=True)
class AttributeExpression:
    """One entry of a JSON object; None leaves it out."""

    key: str
    bind: Callable[[Scope], Attribute] = field(repr=False)


def parse_attributes(node: Node, defaults: Defaults) -> list[AttributeExpression]:
    """Parses a JSON object: name -> expression, each with a `type` (text where none is given). Raises: MappingError."""
    if node.is_list:
        # A list of columns stands for themselves.
        return [_attribute_of_column(child) for child in node]
    return [_attribute(key, child, defaults) for key, child in node.items()]


def _attribute_of_column(node: Node) -> AttributeExpression:
    column = _column(node)

    def bind(scope: Scope) -> Attribute:
        getter = column.bind(scope)
        return lambda row: getter(row) or None

    return AttributeExpression(column.name, bind)


def _attribute(key: str, node: Node, defaults: Defaults) -> AttributeExpression:
    kind = "text"
    if node.is_mapping and node.has("type"):
        kind = dict(node.items())["type"].one_of("text", "integer", "number", "boolean", "time")
    if kind == "time":
        return AttributeExpression(key, parse_time(node, defaults, ("type",)).bind)
    text = parse_text(node, ("type", *STYLE_KEYS))
    style = read_style(dict(node.items()) if node.is_mapping else {})
    reader = _json_reader(kind, text.name, style)

    def bind(scope: Scope) -> Attribute:
        getter = text.bind(scope)
        if reader is None:
            return lambda row: getter(row) or None
        convert = reader

        def read(row: Row) -> Json | None:
            value = getter(row)
            return convert(value) if value else None

        return read

    return AttributeExpression(key, bind)


def _json_reader(kind: str, name: str, style: NumberStyle) -> Callable[[str], Json] | None:
    def integer(value: str) -> Json:
        number = style.read(value, name)
        if number != number.to_integral_value():
            raise ValueProblem(name, "is not a whole number", "mend the value, or use `type: number`")
        return to_whole(number, name)

    def number(value: str) -> Json:
        return float(style.read(value, name))

    def boolean(value: str) -> Json:
        folded = value.casefold()
        if folded in {"true", "t", "yes", "y", "1"}:
            return True
        if folded in {"false", "f", "no", "n", "0"}:
            return False
        raise ValueProblem(name, "is neither true nor false", "mend the value, or use `type: text`")

    return {"integer": integer, "number": number, "boolean": boolean}.get(kind)
