"""What is known of a client, as this domain needs it: compact, immutable, in canonical order by comparison."""

from __future__ import annotations

from typing import Final, NamedTuple

# Times are microseconds since 1970-01-01T00:00:00Z everywhere in this package.
SECOND: Final = 1_000_000
HOUR: Final = 3_600 * SECOND
DAY: Final = 24 * HOUR


class Exchange(NamedTuple):
    """A question the client was asked. `answer` is empty where it is sealed or was not given."""

    question: str
    answer: str
    sealed: bool


class PromiseMade(NamedTuple):
    """Something the organisation said it would do; `due_at` 0 where no time was named."""

    promise_id: str
    text: str
    due_at: int


class Score(NamedTuple):
    """A number the client gave; `kind` is the number of ingestion's FeedbackKind."""

    kind: int
    score: int
    aspect: str


class Fact(NamedTuple):
    """One interaction.

    The first four fields are the canonical order of a client's interactions, and the fourth is unique: comparing two
    facts compares their places in the history.
    """

    occurred_at: int
    source: str
    sequence: int
    interaction_id: bytes
    channel: str
    group: str
    touchpoint: str
    kind: str
    conversation_id: str
    case_id: str
    campaign_id: str
    location_id: str
    matter: str
    outcome: str
    exchanges: tuple[Exchange, ...]
    promises: tuple[PromiseMade, ...]
    kept: tuple[str, ...]
    scores: tuple[Score, ...]
    # A JSON object, as it came.
    attributes: bytes
    # Staff acting for themselves: shown in the history, never counted as a contact of the client's.
    staff: bool

    @property
    def id(self) -> str:
        """The interaction id, which is also the id of the event it stands on: 32 hex digits."""
        return self.interaction_id.hex()


class FeedbackItem(NamedTuple):
    """One item of feedback as the feedback service sorted it; a higher `position` replaces a lower one."""

    feedback_id: str
    interaction_id: str
    at: int
    kind: int
    score: int | None
    aspect: str
    topics: tuple[str, ...]
    position: int


class Case(NamedTuple):
    """A case of one department; `position` is feedback's, `event_id` the feedback event that it stands on."""

    case_id: str
    department: str
    topic: str
    # open, acknowledged, resolved, reopened, withdrawn.
    state: str
    due_at: int
    since: int
    position: int
    event_id: str

    @property
    def is_open(self) -> bool:
        """Somebody still has to do something about it."""
        return self.state in {"open", "acknowledged", "reopened"}


class Handoff(NamedTuple):
    """A client offered to another channel; `accepted_at` 0 until somebody took over."""

    handoff_id: str
    from_channel: str
    to_channel: str
    note: str
    expires_at: int
    journey_id: str
    at: int
    event_id: str
    accepted_at: int = 0
    accepted_by: str = ""
    accepted_channel: str = ""

    def pending(self, now: int) -> bool:
        """Still waiting to be taken over."""
        return self.accepted_at == 0 and now < self.expires_at
