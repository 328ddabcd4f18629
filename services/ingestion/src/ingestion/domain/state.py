"""Everything that ingestion's log says, small enough to hold: interactions are counted and digested, not kept."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from ingestion.domain.accounting import Account
from ingestion.domain.registry import Registry
from throughline_kernel import canonical_json


class Waiting(NamedTuple):
    """What waits in quarantine under one id and content, and how many offers of it."""

    source: str
    source_interaction_id: str
    channel: str
    reason: str
    occurred_at: int
    offers: int


@dataclass(slots=True)
class State:
    """The registry, each source's account, and quarantine by interaction id and content MAC (hex, `/` between)."""

    registry: Registry = field(default_factory=Registry)
    accounts: dict[str, Account] = field(default_factory=dict[str, Account])
    quarantine: dict[str, Waiting] = field(default_factory=dict[str, Waiting])

    def account(self, source: str) -> Account:
        """The source's account, empty where it has none."""
        return self.accounts.get(source, _EMPTY)

    def keys(self) -> list[str]:
        """The key of each aggregate, sorted."""
        return sorted(
            [
                *(f"account/{source}" for source in self.accounts),
                *(f"channel/{channel}" for channel in self.registry.channels),
                *(f"quarantine/{content}" for content in self.quarantine),
                *(f"source/{source}" for source in self.registry.sources),
            ]
        )

    def aggregate(self, key: str) -> bytes | None:
        """One aggregate in canonical JSON, None where there is none of that key."""
        kind, _, name = key.partition("/")
        match kind:
            case "account" if name in self.accounts:
                return _account(self.accounts[name])
            case "channel" if name in self.registry.channels:
                traits = self.registry.channels[name]
                return canonical_json(
                    {
                        "name": traits.name,
                        "physical": traits.physical,
                        "assisted": traits.assisted,
                        "group": traits.group,
                    }
                )
            case "source" if name in self.registry.sources:
                source = self.registry.sources[name]
                return canonical_json({"name": source.name, "channels": source.channels})
            case "quarantine" if name in self.quarantine:
                return canonical_json(self.quarantine[name]._asdict())
            case _:
                return None

    def aggregates(self) -> Iterator[tuple[str, bytes]]:
        """(key, canonical JSON) in key order."""
        for key in self.keys():
            aggregate = self.aggregate(key)
            if aggregate is not None:
                yield key, aggregate


def quarantine_key(interaction_id: str, content_mac: bytes) -> str:
    """Names what waits."""
    return f"{interaction_id}/{content_mac.hex()}"


def _account(account: Account) -> bytes:
    tally = account.tally
    return canonical_json(
        {
            "offered": tally.offered,
            "recorded": tally.recorded,
            "duplicate": tally.duplicate,
            "conflict": tally.conflict,
            "quarantined": tally.quarantined,
            "refused": tally.refused,
            "interactions": account.recorded.members,
            "interactions_digest": account.recorded.hex(),
            "conflicts": account.conflicting.members,
            "conflicts_digest": account.conflicting.hex(),
        }
    )


_EMPTY = Account()
