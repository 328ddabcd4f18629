"""Every item finds an owner, and says why."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from feedback.domain.items import OWN_SCALES, Kind, Remark
from feedback.domain.routing import Department, Route, Router, RouteSet, check_routes, check_version
from throughline_kernel import ConflictError, InvalidError

DEPARTMENTS = (Department("care"), Department("billing"), Department("delivery"))


def routes(*listed: Route, **changes: object) -> RouteSet:
    values: dict[str, object] = {
        "version": 1,
        "departments": DEPARTMENTS,
        "routes": listed,
        "default_department": "care",
        "acknowledge_within": 10,
        "resolve_within": 100,
        "reopen_within": 50,
    } | changes
    return RouteSet(**values)  # pyright: ignore[reportArgumentType] -- a table of test values


def owners(router: Router, remark: Remark) -> list[str]:
    return [each.department for each in router.classify(remark)]


texts = st.text(max_size=12)
kinds = st.sampled_from(list(Kind))
conditions = st.lists(st.sampled_from(["web", "store", "refund", ""]), max_size=2).map(tuple)
any_route = st.builds(
    Route,
    route=st.uuids().map(str),
    department=st.sampled_from([each.department for each in DEPARTMENTS]),
    priority=st.integers(-3, 3),
    final=st.booleans(),
    topic=st.sampled_from(["", "money"]),
    channels=conditions,
    matters=conditions,
    topics=conditions,
    kinds=st.lists(kinds, max_size=2).map(tuple),
    keywords=conditions,
    attributes=st.lists(st.tuples(texts, texts), max_size=1).map(tuple),
    score_at_most=st.none() | st.integers(0, 10),
)
any_remark = st.builds(
    Remark,
    kind=kinds,
    score=st.none() | st.integers(-5, 15),
    scale_min=st.integers(0, 1),
    scale_max=st.sampled_from([0, 2, 100]),
    channel=st.sampled_from(["web", "store", "till"]),
    matter=st.sampled_from(["", "refund"]),
    topic=st.sampled_from(["", "web"]),
    words=texts,
)


@given(st.lists(any_route, max_size=6), any_remark)
def test_every_item_has_an_owner_with_a_reason(listed: list[Route], remark: Remark) -> None:
    """Whatever the routes and the item: at least one department, each matter once, each with topic and reason."""
    assignments = Router(routes(*listed)).classify(remark)
    assert assignments
    assert len({(each.department, each.topic) for each in assignments}) == len(assignments)
    assert all(each.department and each.topic and each.route and each.because for each in assignments)


@given(st.lists(any_route, max_size=6), any_remark)
def test_classifying_again_gives_the_same(listed: list[Route], remark: Remark) -> None:
    """Classification is a function of routes and item."""
    assert Router(routes(*listed)).classify(remark) == Router(routes(*listed)).classify(remark)


def test_what_no_route_takes_goes_to_the_default_owner() -> None:
    """The default owner takes it, under the item's own topic, and the route says so."""
    router = Router(routes(Route("r", "billing", channels=("web",))))
    (taken,) = router.classify(Remark(Kind.VERBATIM, channel="store", topic="seats"))
    assert (taken.department, taken.topic, taken.route, taken.because) == (
        "care",
        "seats",
        "default",
        "no route holds",
    )


def test_all_conditions_of_a_route_must_hold() -> None:
    """A route with two conditions takes nothing that meets one of them."""
    route = Route("r", "billing", channels=("web", "app"), kinds=(Kind.COMPLAINT,), attributes=(("size", "4"),))
    router = Router(routes(route))
    whole = {"channel": "app", "kind": Kind.COMPLAINT, "attributes": {"size": "4"}}
    assert owners(router, Remark(**whole)) == ["billing"]
    for name, other in (("channel", "till"), ("kind", Kind.NPS), ("attributes", {"size": "5"})):
        assert owners(router, Remark(**{**whole, name: other})) == ["care"]


@pytest.mark.parametrize(
    ("words", "holds"),
    [
        ("I want my REFUND now", True),
        ("refunded already", False),
        ("Refund.", True),
        ("never   arrived!", True),
        ("never has arrived", False),
        ("Die Lieferung war in der STRASSE", True),
        ("don\u2019t call", True),
    ],
)
def test_keywords_are_whole_words_or_phrases_whatever_their_case(words: str, holds: bool) -> None:
    """Part of a word does not hold; case, spacing, punctuation and the kind of apostrophe do not matter."""
    router = Router(routes(Route("r", "billing", keywords=("refund", "Never arrived", "straße", "don't call"))))
    assert owners(router, Remark(Kind.VERBATIM, words=words)) == (["billing"] if holds else ["care"])


def test_the_reason_names_each_condition() -> None:
    """`because` gives what held, with the keyword that was found."""
    router = Router(routes(Route("r", "billing", topic="money", channels=("web",), keywords=("refund", "money back"))))
    (taken,) = router.classify(Remark(Kind.VERBATIM, channel="web", words="I want my money back"))
    assert taken.because == "channel: web; keyword: money back"
    assert taken.topic == "money"


def test_lower_priority_is_looked_at_first_and_final_ends_it() -> None:
    """A final route keeps later ones from being looked at; one that is not lets them take the item too."""
    first = Route("first", "delivery", priority=1, channels=("web",))
    second = Route("second", "billing", priority=2)
    remark = Remark(Kind.REVIEW, channel="web")
    assert owners(Router(routes(second, first)), remark) == ["delivery", "billing"]
    final = Route("first", "delivery", priority=1, channels=("web",), final=True)
    assert owners(Router(routes(second, final)), remark) == ["delivery"]
    assert owners(Router(routes(second, final)), Remark(Kind.REVIEW, channel="till")) == ["billing"]


def test_a_topic_is_the_routes_else_the_items_else_its_matter_else_the_routes_name() -> None:
    """The topic of a case is never empty."""
    router = Router(routes(Route("r", "billing")))
    assert router.classify(Remark(Kind.CSAT, topic="seats", matter="m"))[0].topic == "seats"
    assert router.classify(Remark(Kind.CSAT, matter="pothole"))[0].topic == "pothole"
    assert router.classify(Remark(Kind.CSAT))[0].topic == "r"


@pytest.mark.parametrize(
    ("remark", "opens"),
    [
        (Remark(Kind.NPS, score=6), True),
        (Remark(Kind.NPS, score=7), False),
        (Remark(Kind.NPS), True),
        (Remark(Kind.NPS, score=10, words="great, but the lid was broken"), True),
        (Remark(Kind.NPS, score=10, words="an unbroken delight"), False),
        (Remark(Kind.NPS, score=70, scale_max=100), False),
        (Remark(Kind.NPS, score=69, scale_max=100), True),
        (Remark(Kind.COMPLAINT, score=5), True),
        (Remark(Kind.CSAT, score=5), True),
    ],
)
def test_praise_opens_no_case_and_words_of_complaint_always_do(remark: Remark, opens: bool) -> None:
    """Only a score at or above the kind's limit, on the kind's own scale, and without complaint, opens none."""
    router = Router(routes(no_case_from=((Kind.NPS, 7), (Kind.COMPLAINT, 1)), complaint_words=("broken",)))
    assert router.classify(remark)[0].opens is opens


@given(st.sampled_from(list(Kind)), st.integers(-20, 20), st.integers(-20, 20))
def test_on_its_own_scale_a_score_is_compared_as_it_is(kind: Kind, score: int, limit: int) -> None:
    """Without a scale, at most and at least are those of the numbers."""
    remark = Remark(kind, score=score)
    assert remark.score_at_most(limit) == (score <= limit)
    assert remark.score_at_least(limit) == (score >= limit)
    low, high = OWN_SCALES[kind]
    assert Remark(kind, score=score, scale_min=low, scale_max=high).score_at_most(limit) == (score <= limit)


@pytest.mark.parametrize(
    ("broken", "field"),
    [
        ({"departments": ()}, "routes.departments"),
        ({"departments": (*DEPARTMENTS, Department("care"))}, "routes.departments[3].department"),
        ({"departments": (*DEPARTMENTS, Department("Big Care"))}, "routes.departments[3].department"),
        ({"departments": (*DEPARTMENTS, Department("x", escalates_to="y"))}, "routes.departments[3].escalates_to"),
        ({"departments": (*DEPARTMENTS, Department("x", resolve_within=-1))}, "routes.departments[3]"),
        ({"default_department": "nobody"}, "routes.default_department"),
        ({"routes": (Route("r", "nobody"),)}, "routes.routes[0].department"),
        ({"routes": (Route("", "care"),)}, "routes.routes[0].route"),
        ({"routes": (Route("default", "care"),)}, "routes.routes[0].route"),
        ({"routes": (Route("r", "care"), Route("r", "care"))}, "routes.routes[1].route"),
        ({"routes": (Route("r", "care", keywords=(" ! ",)),)}, "routes.routes[0].keywords[0]"),
        ({"acknowledge_within": 0}, "routes.acknowledge_within"),
        ({"resolve_within": 0}, "routes.resolve_within"),
        ({"reopen_within": -1}, "routes.reopen_within"),
        ({"complaint_words": ("",)}, "routes.complaint_words[0]"),
    ],
)
def test_routes_that_contradict_themselves_are_refused(broken: dict[str, object], field: str) -> None:
    """Each contradiction names its field and a remedy."""
    with pytest.raises(InvalidError) as refused:
        check_routes(routes(**broken))
    assert refused.value.reason == "ROUTES_INVALID"
    assert field in [each.field for each in refused.value.violations]
    assert all(each.remedy for each in refused.value.violations)


def test_sound_routes_pass() -> None:
    """Nothing is refused that can be followed."""
    check_routes(routes(Route("r", "billing", keywords=("a b",))))


def test_versions_follow_each_other() -> None:
    """The next version, or 0 for it; anything else is stale and hears which is next."""
    assert check_version(3, 2) == check_version(0, 2) == 3
    for stale in (1, 2, 4):
        with pytest.raises(ConflictError) as refused:
            check_version(stale, 2)
        assert (refused.value.reason, refused.value.metadata["next"]) == ("ROUTES_VERSION_STALE", "3")
