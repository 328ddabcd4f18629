"""What follows from the facts, told as events whose ids follow from what they say."""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

from throughline_kernel import hex_id


class JourneyStarted(NamedTuple):
    """The client set out."""

    journey_id: str
    interaction_id: str
    at: int
    journey: str
    definition_version: int
    stage: str
    channel: str
    matter: str


class StageReached(NamedTuple):
    """The client went on, or back: `loop` where it had left that stage before."""

    journey_id: str
    interaction_id: str
    at: int
    journey: str
    stage: str
    from_stage: str
    channel: str
    loop: bool


class ChannelSwitched(NamedTuple):
    """The client went on elsewhere; `journey_id` is empty where no journey spans the two interactions."""

    journey_id: str
    interaction_id: str
    at: int
    from_channel: str
    to_channel: str
    from_interaction_id: str
    gap: int


class JourneyCompleted(NamedTuple):
    """The client reached a goal."""

    journey_id: str
    interaction_id: str
    at: int
    journey: str
    stage: str
    duration: int
    channels: tuple[str, ...]


class JourneyAbandoned(NamedTuple):
    """Silence for longer than the definition allows; `at` is the moment at which it became too long."""

    journey_id: str
    interaction_id: str
    at: int
    journey: str
    stage: str
    channels: tuple[str, ...]


Transition: TypeAlias = JourneyStarted | StageReached | ChannelSwitched | JourneyCompleted | JourneyAbandoned


def transition_id(client_id: str, transition: Transition) -> bytes:
    """Names a transition by all that it says: one that says something else is another one. 16 bytes."""
    kind = type(transition).__name__
    return bytes.fromhex(hex_id("transition", "\x1f".join([client_id, kind, *map(str, transition)])))
