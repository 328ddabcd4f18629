"""Who calls: what they say about themselves in the metadata of a call, and what was found out about them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import Any, Final, Protocol, TypeAlias

import grpc.aio

from throughline.access.v1 import options_pb2
from throughline_kernel import SERVICE, ForbiddenError, InvalidError, UnauthenticatedError, Violation

PURPOSE_KEY: Final = "throughline-purpose"
ROLE_KEY: Final = "throughline-role"
CALLER_KEY: Final = "throughline-caller"
LOG_KEY: Final = "throughline-log"
"""Metadata of calls about a log: which one is meant, by its name (`ingestion-101`)."""

ROLES: Final = tuple(name.removeprefix("ROLE_").lower() for name, number in options_pb2.Role.items() if number)
"""The roles of the contract, in lower case."""
AUDITOR: Final = "auditor"
ADMIN: Final = "admin"
EVERYBODY: Final = "0" * 32
"""In an access log the id of all, where a whole log was read."""
NOBODY: Final = "none"
"""As the default role: who names no role is refused."""

_WORD: Final = re.compile(r"[a-z][a-z0-9_]{0,63}\Z")
_MAX_NAME: Final = 200
_KEYS: Final = frozenset({PURPOSE_KEY, ROLE_KEY, CALLER_KEY})
Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"
Metadata: TypeAlias = Iterable[tuple[str, str | bytes]]


@dataclass(frozen=True, slots=True)
class Caller:
    """What a caller says: a name for people, the role to act in (both may be empty), and what the call is for."""

    name: str = ""
    role: str = ""
    purpose: str = SERVICE

    def metadata(self) -> tuple[tuple[str, str], ...]:
        """As the metadata of a call; letters that do not fit into it are written as question marks."""
        name = self.name.encode("ascii", "replace").decode()
        said = ((CALLER_KEY, name), (ROLE_KEY, self.role), (PURPOSE_KEY, self.purpose))
        return tuple((key, value) for key, value in said if value)

    @classmethod
    def of(cls, metadata: Metadata | None) -> Caller:
        """What the metadata says; who says no purpose calls for `service`. Raises: InvalidError for what is no word."""
        said = {key: value for key, value in metadata or () if key in _KEYS and isinstance(value, str)}
        name, role, purpose = said.get(CALLER_KEY, ""), said.get(ROLE_KEY, ""), said.get(PURPOSE_KEY, SERVICE)
        violations: list[Violation] = []
        if len(name) > _MAX_NAME:
            violations.append(Violation(f"metadata[{CALLER_KEY}]", f"at most {_MAX_NAME} letters", "give a short name"))
        if role and role not in ROLES:
            violations.append(
                Violation(f"metadata[{ROLE_KEY}]", f"one of {', '.join(ROLES)}", "name a role that the caller has")
            )
        if not _WORD.match(purpose):
            violations.append(
                Violation(
                    f"metadata[{PURPOSE_KEY}]",
                    "a lower-case word of up to 64 letters, digits and underscores",
                    f"name what the call is for, e.g. marketing, or leave it out for {SERVICE}",
                )
            )
        if violations:
            raise InvalidError.of(*violations)
        return cls(name, role, purpose)


@dataclass(frozen=True, slots=True)
class Identity:
    """Who calls, as it was found out.

    `name`: for the access log. `roles`: what they may act as, of `ROLES`. `sources`: those that they may report for,
    None for any.
    """

    name: str
    roles: frozenset[str]
    sources: frozenset[str] | None = None

    def acting_as(self, role: str) -> Identity:
        """In this role alone; in all of theirs where it is empty. An admin may act in any.

        Raises: ForbiddenError (ROLE_FORBIDS) for a role that is not theirs.
        """
        if not role:
            return self
        if role not in self.roles and ADMIN not in self.roles:
            own = ", ".join(sorted(self.roles)) or "none"
            raise ForbiddenError(
                "ROLE_FORBIDS",
                f"the caller may not act as {role}: name one of their roles ({own}), or none for all of them",
                {"field": f"metadata[{ROLE_KEY}]", "role": role, "roles": own},
            )
        return replace(self, roles=frozenset({role}))

    def check_sources(self, sources: Iterable[str]) -> None:
        """Raises: ForbiddenError (SOURCE_FORBIDS) where one is not the caller's."""
        if self.sources is None:
            return
        for source in sources:
            if source not in self.sources:
                own = ", ".join(sorted(self.sources)) or "none"
                raise ForbiddenError(
                    "SOURCE_FORBIDS",
                    f"the caller may not report for source {source!r}, only for: {own}",
                    {"source": source, "bound": own},
                )


ACTING: Final[ContextVar[Identity]] = ContextVar("acting")
"""Who calls, within a call that was let through."""


def check_own_sources(sources: Iterable[str]) -> None:
    """For a servicer that reads its requests itself: holds the caller of this call to their own sources.

    Raises: ForbiddenError (SOURCE_FORBIDS).
    """
    ACTING.get().check_sources(sources)


class Authenticator(Protocol):
    """Finds out who calls."""

    async def identify(self, metadata: Metadata, auth_context: Mapping[str, Iterable[bytes]]) -> Identity:
        """Who calls, from the call's metadata and what gRPC knows of the connection (`ServicerContext.auth_context`).

        Raises: UnauthenticatedError where nobody is known by it.
        """
        ...


class Trusting:
    """Believes what callers say of themselves: for services that listen where nobody else can call, as on loopback.

    Who names no role has the default one; with `none` they are refused (ROLE_REQUIRED).
    """

    def __init__(self, default_role: str) -> None:
        self._default_role = default_role

    async def identify(self, metadata: Metadata, auth_context: Mapping[str, Iterable[bytes]]) -> Identity:
        """See Authenticator. Raises: InvalidError as `Caller.of` too."""
        said = Caller.of(metadata)
        role = said.role or self._default_role
        if role == NOBODY:
            raise UnauthenticatedError(
                "ROLE_REQUIRED",
                f"metadata[{ROLE_KEY}] is required here: name the caller's role, one of {', '.join(ROLES)}",
                {"field": f"metadata[{ROLE_KEY}]", "roles": ", ".join(ROLES)},
            )
        return Identity(said.name, frozenset({role}))


def purpose_of(context: Context) -> str:
    """What the call reads for, as its metadata names it; `service` where it does not. Raises: InvalidError."""
    return Caller.of(context.invocation_metadata()).purpose
