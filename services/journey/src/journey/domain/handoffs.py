"""Handing a client over to another channel: offered with a token, taken over once."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256
from typing import Final

from journey.domain.facts import DAY, HOUR, Handoff
from throughline_kernel import InvalidError, PreconditionError, Violation, hex_id

DEFAULT_VALIDITY: Final = HOUR
LONGEST_VALIDITY: Final = 30 * DAY
LONGEST_NOTE: Final = 2_000


@dataclass(frozen=True, slots=True)
class OfferHandoff:
    """Offer the client to `to_channel`. The token is random; only its hash comes in and is kept."""

    client_id: str
    from_channel: str
    to_channel: str
    note: str
    journey_id: str
    # Microseconds; 0 means one hour.
    valid_for: int
    token_hash: bytes
    at: int


@dataclass(frozen=True, slots=True)
class AcceptHandoff:
    """Take over on this channel, with the token of this hash."""

    token_hash: bytes
    channel: str
    accepted_by: str
    at: int


def token_hash(token: str) -> bytes:
    """SHA-256 of the token: all that is kept of it."""
    return sha256(token.encode()).digest()


def offer(command: OfferHandoff) -> Handoff:
    """Decides on an offer.

    Raises: InvalidError (FIELD_REQUIRED, FIELD_INVALID) naming each field.
    """
    broken: list[Violation] = []
    for name, value in (("from_channel", command.from_channel), ("to_channel", command.to_channel)):
        if not value:
            broken.append(Violation(name, "is required", "name the channel", "FIELD_REQUIRED"))
    if command.from_channel and command.from_channel == command.to_channel:
        broken.append(Violation("to_channel", "is another channel", "name the channel that takes over"))
    if len(command.note) > LONGEST_NOTE:
        broken.append(Violation("note", f"at most {LONGEST_NOTE} characters", "shorten it"))
    if not 0 <= command.valid_for <= LONGEST_VALIDITY:
        broken.append(Violation("valid_for", "0 to 30 days in microseconds", "give 0 for one hour"))
    if broken:
        raise InvalidError.of(*broken)
    handoff_id = hex_id("handoff", command.client_id, command.token_hash)
    return Handoff(
        handoff_id,
        command.from_channel,
        command.to_channel,
        command.note,
        command.at + (command.valid_for or DEFAULT_VALIDITY),
        command.journey_id,
        command.at,
        hex_id("handoff.offered", handoff_id),
    )


def accept(command: AcceptHandoff, handoff: Handoff) -> Handoff:
    """Decides on taking over.

    Raises: PreconditionError: HANDOFF_ALREADY_ACCEPTED, HANDOFF_EXPIRED, HANDOFF_OTHER_CHANNEL.
    """
    named = {"handoff_id": handoff.handoff_id}
    if handoff.accepted_at:
        raise PreconditionError(
            "HANDOFF_ALREADY_ACCEPTED",
            f"hand-off {handoff.handoff_id} was taken over already: ask the other channel, or for a new token",
            named,
        )
    if command.at >= handoff.expires_at:
        raise PreconditionError(
            "HANDOFF_EXPIRED",
            f"hand-off {handoff.handoff_id} expired at {handoff.expires_at}: ask for a new one",
            {**named, "expired_at": str(handoff.expires_at)},
        )
    if command.channel != handoff.to_channel:
        raise PreconditionError(
            "HANDOFF_OTHER_CHANNEL",
            f"hand-off {handoff.handoff_id} was offered to another channel than {command.channel}",
            {**named, "channel": handoff.to_channel},
        )
    return handoff._replace(accepted_at=command.at, accepted_by=command.accepted_by, accepted_channel=command.channel)
