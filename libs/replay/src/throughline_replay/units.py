"""What is decided again, and who decides it: a service's log, and the service's own handlers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import cast

from throughline_eventlog import Derivation, StoreSettings
from throughline_eventlog.partitions import service_of
from throughline_replay.replaying import UnknownServiceError, code_of


@dataclass(frozen=True, slots=True)
class Unit:
    """One log to decide again, by its name, with all that is needed for it.

    `stores` are all logs by their names, those that others followed too; `env` has the installation's keys as the
    service's own environment would; `work` is the file of the store beside; `instead` a serialised rule to try (see
    the service's `derivation`); `named` the keys of state (by their ends) to look at alone, all where it is empty;
    `after` what is decided again before, and taken in the place of what those logs have.
    """

    log: str
    stores: Mapping[str, StoreSettings]
    env: Mapping[str, str] = field(repr=False)
    work: Path
    instead: bytes = b""
    named: tuple[str, ...] = ()
    after: tuple[Unit, ...] = ()

    @property
    def service(self) -> str:
        """Whose log it is."""
        return service_of(self.log)

    @property
    def code(self) -> str:
        """Names the code that decides, and what is tried instead: another one cannot go on where this one stopped."""
        return " ".join(code_of(each.service, each.instead) for each in (*self.after, self))


class DerivationError(Exception):
    """Deciding again cannot go on; the message says where and why."""


class StoreAwayError(DerivationError):
    """A store cannot be reached."""


def _offered() -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group="throughline.derivations")}


def derivable() -> tuple[str, ...]:
    """The services that can decide again: those that decide on the logs of others."""
    return tuple(sorted(_offered()))


def make_derivation(service: str, env: Mapping[str, str], instead: bytes = b"") -> Derivation:
    """A service's derivation, found through the entry point group `throughline.derivations`.

    Raises: UnknownServiceError; what the service raises for settings or rules that it cannot follow.
    """
    offered = _offered()
    if service not in offered:
        raise UnknownServiceError(service)
    return cast("Derivation", offered[service].load()(env, instead))
