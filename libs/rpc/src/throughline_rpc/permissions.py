"""What the contract says of each method: what it reads, whom of, and who may call for it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final

from google.protobuf import descriptor_pool
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import Message

from throughline.access.v1 import options_pb2
from throughline_kernel import AUDIT, ForbiddenError
from throughline_rpc.callers import ADMIN, AUDITOR, Identity

FOR_AUDIT: Final = frozenset({AUDITOR, ADMIN})
"""Who may read for `audit`, which nothing is left out of."""


class AccessUnstatedError(ValueError):
    """The contract does not say of a method what it reads or who may call for it: the service must not start."""


class Permission:
    """One method's, by its path: `/throughline.journey.v1.JourneyService/ResumeContext`."""

    def __init__(self, path: str, access: options_pb2.Access) -> None:
        self.path = path
        self.reads = access.reads
        self.changes = access.changes
        self.roles = frozenset(options_pb2.Role.Name(role).removeprefix("ROLE_").lower() for role in access.roles)
        self.asked = _paths(access.asked)
        self.told = _paths(access.told)
        self.sources = _paths(access.sources)

    @classmethod
    def of(cls, method: MethodDescriptor) -> Permission:
        """As the contract has it. Raises: AccessUnstatedError."""
        path = f"/{method.containing_service.full_name}/{method.name}"
        access = method.GetOptions().Extensions[options_pb2.access]
        if not access.reads or not access.roles or options_pb2.ROLE_UNSPECIFIED in access.roles:
            raise AccessUnstatedError(
                f"{path} does not say what it reads and who may call for it: give it the option "
                "(throughline.access.v1.access) with `reads` and `roles`"
            )
        return cls(path, access)

    def check(self, identity: Identity, purpose: str) -> None:
        """Raises: ForbiddenError (ROLE_FORBIDS) where none of the roles may call for this, or read for this purpose."""
        permitted = self.roles
        what = f"call {self.path.rpartition('/')[2]}"
        if permitted & identity.roles:
            if purpose != AUDIT or identity.roles & FOR_AUDIT:
                return
            permitted, what = FOR_AUDIT, f"read for {AUDIT}"
        own, able = ", ".join(sorted(identity.roles)) or "nobody", ", ".join(sorted(permitted))
        raise ForbiddenError(
            "ROLE_FORBIDS",
            f"{own} may not {what}: that is for {able}",
            {"method": self.path, "roles": own, "permitted": able},
        )

    def check_sources(self, identity: Identity, request: Message | bytes) -> None:
        """Raises: ForbiddenError (SOURCE_FORBIDS) where a request reports for a source that is not the caller's.

        A servicer that takes its requests as bytes looks itself, once it has read them: `check_own_sources`.
        """
        if identity.sources is not None and not isinstance(request, bytes):
            identity.check_sources(values_at(request, self.sources))


def permissions_of(services: Iterable[str]) -> dict[str, Permission]:
    """Of every method of these services (full names), by path. Raises: AccessUnstatedError."""
    pool = descriptor_pool.Default()
    found = (Permission.of(method) for name in services for method in pool.FindServiceByName(name).methods)
    return {permission.path: permission for permission in found}


def values_at(message: Message, paths: Iterable[Sequence[str]]) -> Iterator[Any]:
    """Every value that stands at the end of a path of field names; repeated fields give each of theirs."""
    for path in paths:
        yield from _values(message, path)


def _values(message: Any, path: Sequence[str]) -> Iterator[Any]:
    name, *rest = path
    field = message.DESCRIPTOR.fields_by_name[name]
    value = getattr(message, name)
    for each in value if field.is_repeated else (value,):
        if rest:
            yield from _values(each, rest)
        else:
            yield each


def _paths(dotted: Iterable[str]) -> tuple[tuple[str, ...], ...]:
    return tuple(tuple(path.split(".")) for path in dotted)
