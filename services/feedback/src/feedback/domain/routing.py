"""Sorts an item to the departments that own it. Never to none."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Final

from feedback.domain.items import Assignment, Kind, Remark
from throughline_kernel import ConflictError, InvalidError, Violation

DEFAULT_ROUTE: Final = "default"
UNROUTED: Final = "no route holds"

_WORD: Final = re.compile(r"\w+(?:'\w+)*")
_NAME: Final = re.compile(r"[a-z][a-z0-9_]{0,62}\Z")


@dataclass(frozen=True, slots=True)
class Department:
    """Somebody who owns things. Times in microseconds; 0 and the empty name mean the route set's own."""

    department: str
    name: str = ""
    acknowledge_within: int = 0
    resolve_within: int = 0
    escalates_to: str = ""


@dataclass(frozen=True, slots=True)
class Route:
    """Conditions that all have to hold, and the department that then owns the item."""

    route: str
    department: str
    topic: str = ""
    priority: int = 0
    final: bool = False
    channels: tuple[str, ...] = ()
    touchpoints: tuple[str, ...] = ()
    matters: tuple[str, ...] = ()
    topics: tuple[str, ...] = ()
    aspects: tuple[str, ...] = ()
    kinds: tuple[Kind, ...] = ()
    keywords: tuple[str, ...] = ()
    attributes: tuple[tuple[str, str], ...] = ()
    score_at_most: int | None = None


@dataclass(frozen=True, slots=True)
class RouteSet:
    """Who owns what, from one publication to the next. Times in microseconds."""

    version: int
    departments: tuple[Department, ...]
    routes: tuple[Route, ...]
    default_department: str
    acknowledge_within: int
    resolve_within: int
    reopen_within: int
    no_case_from: tuple[tuple[Kind, int], ...] = ()
    complaint_words: tuple[str, ...] = ()
    _departments: Mapping[str, Department] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_departments", {each.department: each for each in self.departments})

    def has(self, department: str) -> bool:
        """Whether the department is one of these."""
        return department in self._departments

    def times(self, department: str) -> tuple[int, int]:
        """Microseconds until a case must be acknowledged, and resolved. A department unknown here has the set's own."""
        known = self._departments.get(department)
        if known is None:
            return self.acknowledge_within, self.resolve_within
        return (
            known.acknowledge_within or self.acknowledge_within,
            known.resolve_within or self.resolve_within,
        )

    def escalates_to(self, department: str) -> str:
        """Where a case of the department goes that misses its deadline."""
        known = self._departments.get(department)
        return (known.escalates_to if known else "") or self.default_department


def spaced_words(text: str) -> str:
    """The words of a text, case-folded, with one space around each: ` a phrase ` can be looked for in it."""
    folded = unicodedata.normalize("NFC", unicodedata.normalize("NFC", text).casefold()).replace("\u2019", "'")
    return f" {' '.join(_WORD.findall(folded))} "


@dataclass(frozen=True, slots=True)
class _Conditions:
    """A route with only the conditions that it has."""

    route: Route
    facets: tuple[tuple[str, frozenset[str], Callable[[Remark], str]], ...]

    @classmethod
    def of(cls, route: Route) -> _Conditions:
        given = (route.channels, route.touchpoints, route.matters, route.topics, route.aspects)
        return cls(
            route,
            tuple(
                (name, frozenset(allowed), value_of)
                for (name, value_of), allowed in zip(_FACETS, given, strict=True)
                if allowed
            ),
        )

    def hold(self, remark: Remark, keyword: str | None) -> str | None:  # noqa: C901 # a branch per condition, often run
        """Why the route holds, or None where one of its conditions does not. `keyword` is the one found, if any."""
        route = self.route
        if route.keywords and keyword is None:
            return None
        reasons: list[str] = []
        for name, allowed, value_of in self.facets:
            value = value_of(remark)
            if value not in allowed:
                return None
            reasons.append(f"{name}: {value}")
        if route.kinds:
            if remark.kind not in route.kinds:
                return None
            reasons.append(f"kind: {remark.kind.name.lower()}")
        for name, value in route.attributes:
            if remark.attributes.get(name) != value:
                return None
            reasons.append(f"attribute: {name}={value}")
        if route.score_at_most is not None:
            if not remark.score_at_most(route.score_at_most):
                return None
            reasons.append(f"score: at most {route.score_at_most}")
        if keyword is not None:
            reasons.append(f"keyword: {keyword}")
        return "; ".join(reasons) or "holds for everything"


_FACETS: Final[tuple[tuple[str, Callable[[Remark], str]], ...]] = (
    ("channel", attrgetter("channel")),
    ("touchpoint", attrgetter("touchpoint")),
    ("matter", attrgetter("matter")),
    ("topic", attrgetter("topic")),
    ("aspect", attrgetter("aspect")),
)
_COMPLAINT: Final = -1
"""Stands for complaint words where a route's number would."""


class Router:
    """Classifies by one route set; immutable, built once per version."""

    def __init__(self, routes: RouteSet) -> None:
        self.routes = routes
        self._looked_at = [_Conditions.of(route) for route in sorted(routes.routes, key=lambda route: route.priority)]
        self._no_case_from = dict(routes.no_case_from)
        # By first word, so that a text is looked at once however many keywords there are.
        self._phrases: dict[str, list[tuple[str, int, int, str]]] = {}
        for number, conditions in enumerate(self._looked_at):
            self._listen_for(number, conditions.route.keywords)
        self._listen_for(_COMPLAINT, routes.complaint_words)
        self.reads_words = bool(self._phrases)
        """Whether any decision hangs on the words: else they need not be opened."""
        self.reads_attributes = any(route.attributes for route in routes.routes)

    def classify(self, remark: Remark) -> tuple[Assignment, ...]:
        """The departments that own the item, at least one, each topic of a department once."""
        found = self._found(remark.words) if remark.words else {}
        opens = self._opens_case(remark, _COMPLAINT in found)
        taken: dict[tuple[str, str], Assignment] = {}
        for number, conditions in enumerate(self._looked_at):
            because = conditions.hold(remark, found.get(number))
            if because is None:
                continue
            route = conditions.route
            topic = route.topic or remark.topic or remark.matter or route.route
            key = (route.department, topic)
            if key not in taken:
                taken[key] = Assignment(route.department, topic, route.route, because, opens)
            if route.final:
                break
        if not taken:
            topic = remark.topic or remark.matter or DEFAULT_ROUTE
            return (Assignment(self.routes.default_department, topic, DEFAULT_ROUTE, UNROUTED, opens),)
        return tuple(taken.values())

    def _listen_for(self, number: int, phrases: Iterable[str]) -> None:
        for place, phrase in enumerate(phrases):
            spaced = spaced_words(phrase)
            for first in spaced.split(maxsplit=1)[:1]:
                self._phrases.setdefault(first, []).append((spaced, number, place, phrase))

    def _found(self, text: str) -> dict[int, str]:
        """The keyword of each route that is in the text, the first listed of several."""
        words = spaced_words(text)
        best: dict[int, tuple[int, str]] = {}
        for word in set(words.split()):
            for spaced, number, place, phrase in self._phrases.get(word, ()):
                if spaced in words and (number not in best or place < best[number][0]):
                    best[number] = (place, phrase)
        return {number: phrase for number, (_, phrase) in best.items()}

    def _opens_case(self, remark: Remark, complains: bool) -> bool:
        praise_from = self._no_case_from.get(remark.kind)
        if praise_from is None or complains or remark.kind is Kind.COMPLAINT:
            return True
        return not remark.score_at_least(praise_from)


def check_routes(routes: RouteSet) -> None:
    """Raises InvalidError ROUTES_INVALID, every contradiction named, for a set that cannot be followed."""
    violations = [*_department_violations(routes), *_route_violations(routes), *_policy_violations(routes)]
    if violations:
        raise InvalidError.of(*violations)


def check_version(offered: int, current: int) -> int:
    """The version a publication gets; 0 asks for the next. Raises ConflictError ROUTES_VERSION_STALE for any other."""
    following = current + 1
    if offered not in {0, following}:
        raise ConflictError(
            "ROUTES_VERSION_STALE",
            f"routes version {offered} is not the next one: read the routes again and publish {following}",
            {"version": str(offered), "next": str(following)},
        )
    return following


def _invalid(field_name: str, rule: str, remedy: str) -> Violation:
    return Violation(field_name, rule, remedy, "ROUTES_INVALID")


def _department_violations(routes: RouteSet) -> list[Violation]:
    found: list[Violation] = []
    if not routes.departments:
        found.append(_invalid("routes.departments", "at least one department", "name the departments"))
    seen: set[str] = set()
    for number, each in enumerate(routes.departments):
        at = f"routes.departments[{number}]"
        if not _NAME.match(each.department):
            found.append(_invalid(f"{at}.department", "snake_case, at most 63 characters", "rename it"))
        if each.department in seen:
            found.append(_invalid(f"{at}.department", "names each department once", "remove the repeat"))
        seen.add(each.department)
        if each.acknowledge_within < 0 or each.resolve_within < 0:
            found.append(_invalid(at, "times are microseconds from 0", "give 0 for the route set's own"))
        if each.escalates_to and not routes.has(each.escalates_to):
            found.append(_invalid(f"{at}.escalates_to", "names a department", "add it or leave it empty"))
    if not routes.has(routes.default_department):
        found.append(
            _invalid("routes.default_department", "names a department", "name the owner of what no route takes")
        )
    return found


def _route_violations(routes: RouteSet) -> list[Violation]:
    found: list[Violation] = []
    seen: set[str] = set()
    for number, route in enumerate(routes.routes):
        at = f"routes.routes[{number}]"
        if not route.route or len(route.route) > 100 or route.route == DEFAULT_ROUTE:
            found.append(_invalid(f"{at}.route", "a name of 1 to 100 characters other than `default`", "rename it"))
        if route.route in seen:
            found.append(_invalid(f"{at}.route", "names each route once", "rename one of them"))
        seen.add(route.route)
        if not routes.has(route.department):
            found.append(_invalid(f"{at}.department", "names a department", "add it to departments"))
        for place, keyword in enumerate(route.keywords):
            if not spaced_words(keyword).strip():
                found.append(_invalid(f"{at}.keywords[{place}]", "holds a word", "remove it"))
    return found


def _policy_violations(routes: RouteSet) -> list[Violation]:
    found: list[Violation] = []
    for name, value, least in (
        ("acknowledge_within", routes.acknowledge_within, 1),
        ("resolve_within", routes.resolve_within, 1),
        ("reopen_within", routes.reopen_within, 0),
    ):
        if value < least:
            found.append(_invalid(f"routes.{name}", f"microseconds, at least {least}", "give a time"))
    for place, phrase in enumerate(routes.complaint_words):
        if not spaced_words(phrase).strip():
            found.append(_invalid(f"routes.complaint_words[{place}]", "holds a word", "remove it"))
    return found
