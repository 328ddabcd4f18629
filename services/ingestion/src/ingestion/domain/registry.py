"""Channels and sources as data: what is registered at run time decides what may be recorded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from ingestion.domain.validation import name_violations, text_violations
from throughline_kernel import InvalidError, PreconditionError, Violation


@dataclass(frozen=True, slots=True)
class ChannelTraits:
    """What a channel is, as stamped on each interaction when it is recorded."""

    name: str
    physical: bool = False
    assisted: bool = False
    group: str = ""


@dataclass(frozen=True, slots=True)
class Source:
    """A system that reports; `channels` are those it may report, sorted, empty for any."""

    source: str
    name: str
    channels: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class RegisterChannel:
    """Make it so that this channel has these traits; `replace` allows to change them."""

    channel: str
    traits: ChannelTraits
    replace: bool = False


@dataclass(frozen=True, slots=True)
class RegisterSource:
    """Make it so that this source may report these channels; `replace` allows to change that."""

    source: str
    name: str
    channels: Sequence[str] = ()
    replace: bool = False


@dataclass(frozen=True, slots=True)
class ChannelRegistered:
    """From here on the channel has these traits."""

    channel: str
    traits: ChannelTraits


@dataclass(frozen=True, slots=True)
class SourceRegistered:
    """From here on the source may report so."""

    source: Source


@dataclass(frozen=True, slots=True)
class Standing:
    """Why something cannot be recorded yet: one violation for each thing that is not registered."""

    violations: tuple[Violation, ...]

    @property
    def reason(self) -> str:
        """The first reason, by name."""
        return self.violations[0].reason

    @property
    def remedy(self) -> str:
        """Everything that must be done before redriving."""
        return " and ".join(violation.remedy for violation in self.violations) + ", then redrive"


@dataclass(slots=True)
class Registry:
    """Every channel and source, by name."""

    channels: dict[str, ChannelTraits] = field(default_factory=dict[str, ChannelTraits])
    sources: dict[str, Source] = field(default_factory=dict[str, Source])

    def standing(self, source: str, channel: str) -> Standing | None:
        """None where the source may report the channel, else what stands in the way."""
        known = self.sources.get(source)
        if known is not None and channel in self.channels and (not known.channels or channel in known.channels):
            return None
        found: list[Violation] = []
        if known is None:
            remedy = f"register source '{source}'"
            found.append(Violation("source", "a registered source", remedy, "SOURCE_UNKNOWN"))
        if channel not in self.channels:
            remedy = f"register channel '{channel}'"
            found.append(Violation("channel", "a registered channel", remedy, "CHANNEL_UNKNOWN"))
        if known is not None and known.channels and channel not in known.channels:
            remedy = f"allow source '{source}' to report channel '{channel}'"
            rule = f"one that source '{source}' may report"
            found.append(Violation("channel", rule, remedy, "CHANNEL_NOT_ALLOWED"))
        return Standing(tuple(found))

    def register_channel(self, command: RegisterChannel) -> ChannelRegistered | None:
        """Decides: the event, or None where it stands so already. Without a name the channel is called by its key.

        Raises: InvalidError FIELD_INVALID or FIELD_REQUIRED; PreconditionError CHANNEL_CONFLICT.
        """
        traits = command.traits
        violations = [
            *name_violations("channel", command.channel, "name the channel, e.g. `store`"),
            *text_violations("traits.name", traits.name),
            *text_violations("traits.group", traits.group),
        ]
        if violations:
            raise InvalidError.of(*violations)
        if not traits.name:
            traits = ChannelTraits(command.channel, traits.physical, traits.assisted, traits.group)
        registered = self.channels.get(command.channel)
        if registered == traits:
            return None
        if registered is not None and not command.replace:
            raise PreconditionError(
                "CHANNEL_CONFLICT",
                f"channel '{command.channel}' has other traits; set `replace` to change them from now on",
                {"channel": command.channel},
            )
        return ChannelRegistered(command.channel, traits)

    def register_source(self, command: RegisterSource) -> SourceRegistered | None:
        """Decides: the event, or None where it stands so already. Channels may be named before they are registered.

        Raises: InvalidError FIELD_INVALID or FIELD_REQUIRED; PreconditionError SOURCE_CONFLICT.
        """
        violations = [
            *name_violations("source", command.source, "name the system that reports, e.g. `till`"),
            *text_violations("name", command.name),
        ]
        for number, channel in enumerate(command.channels):
            violations += name_violations(f"channels[{number}]", channel, "name a channel")
        if violations:
            raise InvalidError.of(*violations)
        source = Source(command.source, command.name or command.source, tuple(sorted(set(command.channels))))
        registered = self.sources.get(command.source)
        if registered == source:
            return None
        if registered is not None and not command.replace:
            raise PreconditionError(
                "SOURCE_CONFLICT",
                f"source '{command.source}' has other settings; set `replace` to change them from now on",
                {"source": command.source},
            )
        return SourceRegistered(source)

    def apply(self, event: ChannelRegistered | SourceRegistered) -> None:
        """Takes what was registered."""
        match event:
            case ChannelRegistered():
                self.channels[event.channel] = event.traits
            case SourceRegistered():
                self.sources[event.source.source] = event.source
