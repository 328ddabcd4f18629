"""One client's way over six channels, written by us: marked as such in every interaction's attributes.

Mira sees a coat on Instagram and asks about it, looks at it on the web without saying who she is, signs in and
reserves it, rings the call centre, collects it in the store, and answers a survey. Each channel knows her by something
else. Everything is anchored to one instant, so that "now" is a few hours after the survey.
"""

from __future__ import annotations

from throughline.ingestion.v1 import ingestion_pb2, interaction_pb2

MINUTE = 60 * 1_000_000
HOUR = 60 * MINUTE
DAY = 24 * HOUR

INSTAGRAM = "@mira.kw"
COOKIE = "c-7f31d2a90b"
EMAIL = "mira.kowalska@postbox.eu"
PHONE = "+49 171 5550842"
CARD = "9280034417"
MARK = b'{"scripted":true}'

VERIFIED = interaction_pb2.ASSURANCE_VERIFIED
CLAIMED = interaction_pb2.ASSURANCE_CLAIMED
OPERATIONAL = interaction_pb2.SENSITIVITY_OPERATIONAL
PERSONAL = interaction_pb2.SENSITIVITY_PERSONAL

CHANNELS = {
    "instagram": interaction_pb2.ChannelTraits(name="Instagram", group="social"),
    "web": interaction_pb2.ChannelTraits(name="Web shop", group="site"),
    "reservation": interaction_pb2.ChannelTraits(name="Click and reserve", group="site"),
    "call_centre": interaction_pb2.ChannelTraits(name="Call centre", assisted=True, group="contact_centre"),
    "store": interaction_pb2.ChannelTraits(name="Store", physical=True, assisted=True, group="store"),
    "survey": interaction_pb2.ChannelTraits(name="Survey by e-mail", group="survey"),
}
SOURCES = {
    "social_desk": ("Social media desk", ["instagram"]),
    "web_shop": ("Web shop", ["web", "reservation"]),
    "telephony": ("Call centre telephony", ["call_centre"]),
    "till": ("Store till", ["store"]),
    "surveys": ("Survey system", ["survey"]),
}


def registrations() -> tuple[list[ingestion_pb2.RegisterChannelRequest], list[ingestion_pb2.RegisterSourceRequest]]:
    """The channels and sources that the story's systems report."""
    return (
        [ingestion_pb2.RegisterChannelRequest(channel=channel, traits=traits) for channel, traits in CHANNELS.items()],
        [
            ingestion_pb2.RegisterSourceRequest(source=source, name=name, channels=channels)
            for source, (name, channels) in SOURCES.items()
        ],
    )


def story(now: int) -> list[interaction_pb2.Interaction]:
    """The eight interactions, oldest first, ending three hours before `now` (microseconds)."""
    return [
        interaction_pb2.Interaction(
            source="social_desk",
            source_interaction_id="ig-ad-88121",
            channel="instagram",
            touchpoint="story_ad",
            kind="ad_shown",
            occurred_at=now - 6 * DAY - 30 * MINUTE,
            identifiers=[_identifier("social_handle", INSTAGRAM, VERIFIED)],
            campaign_id="ig-winter",
            attributes=MARK,
        ),
        interaction_pb2.Interaction(
            source="social_desk",
            source_interaction_id="ig-dm-5512",
            channel="instagram",
            touchpoint="direct_message",
            kind="question",
            occurred_at=now - 6 * DAY,
            identifiers=[_identifier("social_handle", INSTAGRAM, VERIFIED)],
            matter="winter_coat",
            exchanges=[_asked("product", "winter coat 4410", OPERATIONAL), _asked("size", "M", OPERATIONAL)],
            outcome="resolved",
            staff_id="social-2",
            handling_time=4 * MINUTE,
            attributes=MARK,
        ),
        interaction_pb2.Interaction(
            source="web_shop",
            source_interaction_id="visit-90311",
            channel="web",
            touchpoint="product_page",
            kind="visit",
            occurred_at=now - 6 * DAY + 20 * MINUTE,
            identifiers=[_identifier("cookie", COOKIE, CLAIMED)],
            session_id="s-90311",
            campaign_id="ig-winter",
            matter="winter_coat",
            attributes=MARK,
        ),
        interaction_pb2.Interaction(
            source="web_shop",
            source_interaction_id="login-90377",
            channel="web",
            touchpoint="sign_in",
            kind="login",
            occurred_at=now - 5 * DAY,
            identifiers=[
                _identifier("cookie", COOKIE, CLAIMED),
                _identifier("email", EMAIL, VERIFIED),
                _identifier("social_handle", INSTAGRAM, VERIFIED),
            ],
            session_id="s-90377",
            attributes=MARK,
        ),
        interaction_pb2.Interaction(
            source="web_shop",
            source_interaction_id="reservation-3381",
            channel="reservation",
            touchpoint="reserve_in_store",
            kind="reservation",
            occurred_at=now - 5 * DAY + 6 * MINUTE,
            identifiers=[_identifier("email", EMAIL, VERIFIED), _identifier("phone", PHONE, VERIFIED)],
            session_id="s-90377",
            case_id="reservation-3381",
            location_id="store-12",
            matter="winter_coat",
            exchanges=[_asked("size", "M", OPERATIONAL), _asked("pickup_name", "Mira Kowalska", PERSONAL)],
            promises=[
                interaction_pb2.PromiseMade(
                    promise_id="hold-3381",
                    text="Coat 4410, size M, is held at store 12",
                    due_at=now - DAY,
                )
            ],
            value=interaction_pb2.Money(micros=0, currency="EUR"),
            attributes=MARK,
        ),
        interaction_pb2.Interaction(
            source="telephony",
            source_interaction_id="call-771",
            channel="call_centre",
            touchpoint="inbound_call",
            kind="call",
            occurred_at=now - 2 * DAY,
            identifiers=[_identifier("phone", PHONE, VERIFIED)],
            conversation_id="call-771",
            matter="winter_coat",
            outcome="resolved",
            staff_id="agent-31",
            wait_time=7 * MINUTE,
            handling_time=5 * MINUTE,
            cost=interaction_pb2.Money(micros=4_200_000, currency="EUR"),
            exchanges=[_asked("size", "M", OPERATIONAL), _asked("reservation_number", "3381", OPERATIONAL)],
            promises=[
                interaction_pb2.PromiseMade(
                    promise_id="alteration-771",
                    text="The store calls when the sleeves are shortened",
                    due_at=now + 2 * DAY,
                )
            ],
            attributes=MARK,
        ),
        interaction_pb2.Interaction(
            source="till",
            source_interaction_id="till-12-88410",
            channel="store",
            touchpoint="pickup_desk",
            kind="purchase",
            occurred_at=now - DAY,
            identifiers=[
                _identifier("loyalty_card", CARD, VERIFIED),
                _identifier("phone", PHONE, VERIFIED),
            ],
            case_id="reservation-3381",
            location_id="store-12",
            staff_id="sales-7",
            matter="winter_coat",
            wait_time=25 * MINUTE,
            value=interaction_pb2.Money(micros=189_000_000, currency="EUR"),
            cost=interaction_pb2.Money(micros=121_500_000, currency="EUR"),
            promises_kept=["hold-3381"],
            attributes=MARK,
        ),
        interaction_pb2.Interaction(
            source="surveys",
            source_interaction_id="survey-2204",
            channel="survey",
            touchpoint="after_pickup",
            kind="survey",
            occurred_at=now - 3 * HOUR,
            identifiers=[_identifier("email", EMAIL, VERIFIED)],
            location_id="store-12",
            matter="winter_coat",
            feedback=[
                interaction_pb2.Feedback(
                    kind=interaction_pb2.FEEDBACK_KIND_NPS,
                    score=6,
                    verbatim="Lovely coat, but I waited 25 minutes at the pickup desk although it was reserved.",
                    solicited=True,
                ),
                interaction_pb2.Feedback(kind=interaction_pb2.FEEDBACK_KIND_CES, score=3, solicited=True),
            ],
            attributes=MARK,
        ),
    ]


def _identifier(kind: str, value: str, assurance: interaction_pb2.Assurance.ValueType) -> interaction_pb2.Identifier:
    return interaction_pb2.Identifier(type=kind, value=value, assurance=assurance)


def _asked(question: str, answer: str, sensitivity: interaction_pb2.Sensitivity.ValueType) -> interaction_pb2.Exchange:
    return interaction_pb2.Exchange(question=question, answer=answer, sensitivity=sensitivity)
