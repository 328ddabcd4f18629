"""What the log refuses, and why it can be away."""

from __future__ import annotations

from throughline_kernel import ConflictError, PreconditionError, UnavailableError


class SettingsError(ValueError):
    """A setting that would make the log lose events, or that cannot be understood: change it before starting."""


class NewerLogError(PreconditionError):
    """The log, or an event in it, was written by a newer version of this code: start that version."""


class StreamConflictError(ConflictError):
    """Another writer took this version of the stream first: read the stream again and decide anew."""


class InboxConflictError(ConflictError):
    """Another consumer took this part of the upstream stream first: continue from where it stands."""


class LogUnavailableError(UnavailableError):
    """The store itself is away or full: nothing can be written now, whatever it is."""


class PositionLostError(Exception):
    """The stream on the bus lacks a part of the upstream log that this consumer has not taken."""


def log_unavailable(cause: BaseException, doing: str) -> LogUnavailableError:
    """Says that the store is away: nothing was changed as far as this side knows; retry."""
    text = " ".join(str(cause).split()) or type(cause).__name__
    return LogUnavailableError(
        "LOG_UNAVAILABLE",
        f"the event log is unavailable while {doing}: {text}; retry with back-off",
        {"cause": text, "doing": doing},
    )
