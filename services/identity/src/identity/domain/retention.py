"""When a client is over: rules by channel or by consent purpose. Data, published whole."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import Final

from throughline_kernel import Consents, InvalidError, Violation

MAX_KEEP: Final = 36_525 * 86_400_000_000
"""A hundred years in microseconds."""
MAX_RULES: Final = 100
MAX_NAME: Final = 100


@dataclass(frozen=True, slots=True)
class RetentionRule:
    """Who is over after `keep` (microseconds): those of channels, or those without consent to a purpose."""

    name: str
    keep: int
    channels: tuple[str, ...] = ()
    purpose: str = ""


@dataclass(frozen=True, slots=True)
class RetentionRules:
    """One version of the rules; the first that holds is named."""

    version: int
    rules: tuple[RetentionRule, ...]


NO_RETENTION: Final = RetentionRules(0, ())
"""What holds until somebody publishes rules: nobody is over."""


@dataclass(frozen=True, slots=True)
class Known:
    """What rules ask about a client: when it was last seen (microseconds), on which channels ever, what it consents to.
    What costs something is only asked where it decides.
    """

    last_seen: int
    channels: Callable[[], Collection[str]]
    consents: Callable[[], Consents]


def rule_that_ends(rules: RetentionRules, client: Known, now: int) -> RetentionRule | None:
    """The first rule by which the client is over at `now` (microseconds)."""
    return next((rule for rule in rules.rules if _ends(rule, client, now - rule.keep)), None)


def _ends(rule: RetentionRule, client: Known, until: int) -> bool:
    if rule.channels:
        return client.last_seen <= until and set(rule.channels).issuperset(client.channels())
    consents = client.consents()
    words = [word for word in consents.words if word.purpose == rule.purpose]
    # A yes on one channel is none any more after a later no on all of them.
    if any(word.granted and consents.withdrawal(rule.purpose, word.scope) is None for word in words):
        return False
    return max((word.at for word in words), default=client.last_seen) <= until


def check_retention(rules: RetentionRules) -> None:
    """Refuses rules that nobody could follow.

    Raises: InvalidError with every rule that is broken (RULES_INVALID).
    """
    violations = [
        Violation(f"rules.rules[{index}]{field}", broken, remedy, "RULES_INVALID")
        for index, rule in enumerate(rules.rules)
        for field, broken, remedy in _broken(rule, [each.name for each in rules.rules[:index]])
    ]
    if len(rules.rules) > MAX_RULES:
        remedy = "put channels that are kept equally long into one rule"
        violations.append(Violation("rules.rules", f"at most {MAX_RULES}", remedy, "RULES_INVALID"))
    if violations:
        raise InvalidError.of(*violations)


def _broken(rule: RetentionRule, names: Collection[str]) -> Iterator[tuple[str, str, str]]:
    """Of everything that is wrong with the rule: the field, what it breaks, the remedy. `names` are taken."""
    if not rule.name or rule.name != rule.name.strip() or len(rule.name) > MAX_NAME:
        yield ".name", f"1 to {MAX_NAME} characters without blanks around them", "name the rule"
    if rule.name in names:
        yield ".name", "given twice", f"keep one rule named {rule.name!r}"
    if not 0 < rule.keep <= MAX_KEEP:
        yield ".keep", f"1 to {MAX_KEEP} microseconds (a hundred years)", "say for how long"
    if bool(rule.channels) == bool(rule.purpose):
        yield "", "channels or a purpose, not both", "say whom it is about; make two rules where it is both"
    if not all(channel.strip() for channel in rule.channels):
        yield ".channels", "a channel has a name", "leave the blank one out"
    if "\0" in rule.purpose:
        yield ".purpose", "no NUL", "leave it out"
