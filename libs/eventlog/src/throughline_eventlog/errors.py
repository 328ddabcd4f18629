"""What the log refuses, and why it can be away."""

from __future__ import annotations

from throughline_kernel import ConflictError, PreconditionError, UnavailableError


class SettingsError(ValueError):
    """A setting that would make the log lose events, or that cannot be understood: change it before starting."""


class NewerLogError(PreconditionError):
    """The log, or an event in it, was written by a newer version of this code: start that version."""


class SealedLogError(PreconditionError):
    """The log was followed by others and is kept as it is: nothing is written to it any more."""

    def __init__(self, service: str, successors: str) -> None:
        super().__init__(
            "LOG_SEALED",
            f"this log of {service} is sealed: partitions {successors} follow it. Write to those, where "
            "THROUGHLINE_PARTITIONS and THROUGHLINE_PARTITION name them; this one can be read, replayed and proved",
            {"service": service, "successors": successors},
        )


class LogGrewError(ConflictError):
    """Something was written between looking at a log and sealing it: a service still runs."""

    def __init__(self, service: str) -> None:
        super().__init__(
            "CONCURRENT_CHANGE",
            f"the log of {service} grew meanwhile and was not sealed: {service} still runs; stop it and begin again",
            {"service": service},
        )


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
