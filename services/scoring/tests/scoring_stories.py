"""Three upstream logs that hang together, made of a few small numbers."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st
from scoring_upstream import DAY, Upstream

from throughline.feedback.v1 import events_pb2 as feedback
from throughline.ingestion.v1 import interaction_pb2 as interaction
from throughline.journey.v1 import events_pb2 as journey
from throughline_kernel import Recorded

CLIENTS = ("ann", "bob", "cy")
Step = tuple[str, int, int, int]


def story(steps: list[Step]) -> Upstream:  # noqa: C901 -- one case for each kind of step
    """Three logs that hang together, from a few small numbers."""
    up = Upstream()
    starts: dict[str, Recorded] = {}
    owner: dict[str, str] = {}
    received: set[int] = set()
    for number, (what, who, where, day) in enumerate(steps):
        client, name, at = CLIENTS[who % 3], f"i{where}", day * DAY // 2
        match what:
            case "contact":
                name = f"i{number}"
                kinds = ("visit", "purchase", "campaign_sent", "call")
                up.attributed(
                    client,
                    name,
                    at,
                    kind=kinds[where % 4],
                    channel=("web", "phone", "store")[where % 3],
                    touchpoint=("", "home")[where % 2],
                    campaign_id=("", "spring")[where % 2],
                    matter=("", "bill", "bill")[where % 3],
                    case_id=("", "c1")[day % 2],
                    wait_time=where,
                    value=interaction.Money(micros=10 * where, currency=("USD", "EUR")[day % 2]),
                    cost=interaction.Money(micros=where, currency="USD"),
                    subject_type=2 if where == 7 else 1,
                    identifiers=[]
                    if where == 6
                    else [
                        interaction.IdentifierHash(
                            type="card", hash=b"x" * 32, shape=interaction.IDENTIFIER_SHAPE_NORMAL
                        )
                    ],
                )
                owner[name] = client
            case "moved" if owner:
                name = sorted(owner)[where % len(owner)]
                up.reattributed(client, owner[name], name)
                owner[name] = client
            case "answer":
                on = sorted(owner)[where % len(owner)] if owner else ""
                kind = (1, 2, 3, 4, 5)[where % 5]
                received.add(where)
                up.received(client, f"f{where}", at, on, kind=kind, score=where % 6 + 1, weight_micros=day * 100_000)
            case "moved_answer" if where in received:
                up.reassigned(client, "ann", f"f{where}", len(up.identity.events))
            case "sorted" if where in received:
                up.classified(client, f"f{where}", *(("desk", "shop")[: day % 3]))
            case "case":
                kinds_of_steps: list[tuple[type[Any], dict[str, Any]]] = [
                    (feedback.CaseOpened, {"department": "desk", "channel": "web"}),
                    (feedback.CaseAcknowledged, {}),
                    (feedback.CaseResolved, {}),
                    (feedback.CaseReopened, {}),
                    (feedback.CaseWithdrawn, {}),
                    (feedback.CaseReassigned, {"department": "shop"}),
                ]
                kind_of_step, fields = kinds_of_steps[where % 6]
                up.case(kind_of_step, client, f"{client}-case", at, **fields)
            case "journey":
                on = sorted(owner)[where % len(owner)] if owner else ""
                kind_of_step = (
                    journey.JourneyStarted,
                    journey.StageReached,
                    journey.JourneyCompleted,
                    journey.JourneyAbandoned,
                )[where % 4]
                starts[client] = up.on_journey(kind_of_step, client, f"{client}-journey", at, on)
            case "retracted" if client in starts:
                up.retracted(client, starts[client])
            case "consent":
                up.consented(client, granted=where % 2 == 0, at=at, scope=("", "web", "phone")[where % 3])
            case _:
                pass
    return up


STEPS = st.lists(
    st.tuples(
        st.sampled_from(
            ["contact"] * 6
            + [
                "moved",
                "moved",
                "answer",
                "answer",
                "moved_answer",
                "sorted",
                "case",
                "case",
                "journey",
                "journey",
                "retracted",
                "consent",
                "consent",
            ]
        ),
        st.integers(0, 2),
        st.integers(0, 7),
        st.integers(0, 40),
    ),
    min_size=8,
    max_size=40,
)
