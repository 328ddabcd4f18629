"""Why a service says no. The tree is the documentation: each kind tells a caller what to do next."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Violation:
    """One rule that one field broke, and how to mend it."""

    field: str
    rule: str
    remedy: str
    reason: str = "FIELD_INVALID"

    def __str__(self) -> str:
        return f"{self.field}: {self.rule}; {self.remedy}"


class Refusal(Exception):  # noqa: N818 -- the kinds below end in Error; this names what they have in common
    """A decision not to do what was asked, with nothing changed.

    `reason` is the name of a value of the service's `ErrorReason` enum without its prefix; every value that the message
    speaks of stands in `metadata` too, so that programs need not read prose.
    """

    def __init__(
        self,
        reason: str,
        message: str,
        metadata: Mapping[str, str] | None = None,
        violations: tuple[Violation, ...] = (),
    ) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.metadata: dict[str, str] = dict(metadata or {})
        self.violations = violations


class InvalidError(Refusal):
    """The request can never succeed as it is: fix it."""

    @classmethod
    def of(cls, *violations: Violation) -> InvalidError:
        """Refuses for one or more broken field rules."""
        first = violations[0]
        return cls(
            first.reason,
            " | ".join(map(str, violations)),
            {"field": first.field, "rule": first.rule},
            violations,
        )


class NotFoundError(Refusal):
    """What was named does not exist: stop."""


class PreconditionError(Refusal):
    """The state of things does not allow it: change that first."""


class ConflictError(Refusal):
    """Somebody else was faster: read again and retry."""


class ExhaustedError(Refusal):
    """Too much at once: wait as told, then retry."""


class ForbiddenError(Refusal):
    """The caller may not do this: stop."""


class UnauthenticatedError(Refusal):
    """Nobody knows who calls: give credentials, or better ones."""


class UnavailableError(Refusal):
    """Something this service needs is away: retry."""
