"""Why identity says no."""

from __future__ import annotations

from throughline_kernel import ConflictError, InvalidError, NotFoundError, PreconditionError, Violation


class ClientNotFoundError(NotFoundError):
    """No client has this id."""

    def __init__(self, client_id: str) -> None:
        super().__init__("CLIENT_NOT_FOUND", f"no client has the id {client_id}", {"client_id": client_id})


class ClientForgottenError(PreconditionError):
    """The client was forgotten."""

    def __init__(self, client_id: str) -> None:
        super().__init__(
            "CLIENT_FORGOTTEN",
            f"client {client_id} was forgotten; nothing of it is kept and nothing can be added to it",
            {"client_id": client_id},
        )


class ForgettingScheduledError(PreconditionError):
    """The client is to be forgotten already."""

    def __init__(self, client_id: str, due_at: int) -> None:
        super().__init__(
            "FORGETTING_SCHEDULED",
            f"client {client_id} is to be forgotten already; cancel that first, or forget it at once",
            {"client_id": client_id, "due_at": str(due_at)},
        )


class ForgettingNotFoundError(NotFoundError):
    """Nothing is scheduled for the client."""

    def __init__(self, client_id: str) -> None:
        super().__init__(
            "FORGETTING_NOT_FOUND", f"client {client_id} is not going to be forgotten", {"client_id": client_id}
        )


class AlreadyOneClientError(PreconditionError):
    """Both ids mean one client already."""

    def __init__(self, client_id: str, other_client_id: str) -> None:
        super().__init__(
            "ALREADY_ONE_CLIENT",
            f"{client_id} and {other_client_id} are one client already",
            {"client_id": client_id, "other_client_id": other_client_id},
        )


class MergeNotFoundError(NotFoundError):
    """No merge has this id."""

    def __init__(self, merge_id: str) -> None:
        super().__init__("MERGE_NOT_FOUND", f"no merge has the id {merge_id}", {"merge_id": merge_id})


class MergeAlreadyUndoneError(PreconditionError):
    """The merge is undone already."""

    def __init__(self, merge_id: str) -> None:
        super().__init__("MERGE_ALREADY_UNDONE", f"merge {merge_id} is undone already", {"merge_id": merge_id})


class InteractionNotFoundError(NotFoundError):
    """No interaction has this id here (yet)."""

    def __init__(self, interaction_id: str) -> None:
        super().__init__(
            "INTERACTION_NOT_FOUND",
            f"no interaction {interaction_id} has arrived here; if ingestion recorded it just now, ask again",
            {"interaction_id": interaction_id},
        )


class IdentifiersUnknownError(NotFoundError):
    """None of the identifiers belongs to a client."""

    def __init__(self, count: int) -> None:
        super().__init__(
            "IDENTIFIERS_UNKNOWN",
            f"none of the {count} identifiers is linked to a client",
            {"identifiers": str(count)},
        )


class RulesChangedError(ConflictError):
    """Other rules were published first."""

    def __init__(self, version: int, expected: int) -> None:
        super().__init__(
            "CONCURRENT_CHANGE",
            f"the next version of the rules is {expected} and not {version}: read the rules again",
            {"version": str(version), "expected": str(expected)},
        )


class ClientNotForgottenError(PreconditionError):
    """There is nothing to certify."""

    def __init__(self, client_id: str) -> None:
        super().__init__(
            "CLIENT_NOT_FORGOTTEN",
            f"client {client_id} was not forgotten here: forget it first, or give the id that it had then",
            {"client_id": client_id},
        )


def required(field: str) -> InvalidError:
    """The field must be given."""
    return InvalidError.of(Violation(field, "must be given", f"give {field}", "FIELD_REQUIRED"))


def invalid(field: str, rule: str, remedy: str) -> InvalidError:
    """The field breaks a rule."""
    return InvalidError.of(Violation(field, rule, remedy, "FIELD_INVALID"))
