"""Real data, imported by the command into a running suite: every service answers what was computed independently."""

from __future__ import annotations

import csv
import gzip
import json
from base64 import b64decode
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from acceptance.world import DATA, Imported, World, credited

from throughline_client.endpoints import SERVICES
from throughline_eventlog import StoreSettings, open_store
from throughline_kernel import hex_id
from throughline_proof import LogSummary, SigningKeys
from throughline_proof.verifier import verify_pack

pytestmark = [pytest.mark.e2e, pytest.mark.large, pytest.mark.timeout(1_800)]

BOSTON_CHANNELS = {
    "Constituent Call": "constituent_call",
    "Self Service": "self_service",
    "Citizens Connect App": "citizens_connect_app",
    "Maximo Integration": "maximo_integration",
    "Twitter": "twitter",
}
BOSTON_STAFF = ("Employee Generated", "employee_generated")
BOSTON_DEPARTMENTS = {
    "PWDx": "pwdx",
    "ISD": "isd",
    "PARK": "park",
    "BTDT": "btdt",
    "INFO": "info",
    "PROP": "prop",
    "BWSC": "bwsc",
    "DISB": "disb",
    "No Q": "no_q",
    "BPS_": "bps",
    "BHA_": "bha",
}
METHODS = {"1": "gate_survey", "2": "mail_survey", "3": "online_survey"}
INCIDENT_CHANNELS = {"Phone": "phone", "Self service": "self_service", "Email": "email", "IVR": "ivr"}


def answers(folder: str) -> dict[str, Any]:
    """The published figures of a data set."""
    return json.loads((DATA / folder / "ANSWERS.json").read_text())


def check_account(imported: Imported, expected: dict[str, int]) -> None:
    """Everything that was offered was recorded, by source, and the five ends add up."""
    for source, count in expected.items():
        tally = imported.after.tallies[source]
        before = imported.before.tallies[source].recorded if source in imported.before.tallies else 0
        assert tally.recorded - before == count
        ends = (tally.recorded, tally.duplicate, tally.conflict, tally.quarantined, tally.refused)
        assert tally.offered == sum(ends)
    assert sum(each["recorded"] for each in imported.said.values()) == sum(expected.values())


# A retailer's households.


def test_households_are_recorded_once_each(households: Imported) -> None:
    """Baskets, mailings and redemptions, by the source that reported them."""
    truth = answers("complete_journey")
    check_account(
        households,
        {"till": truth["baskets"], "direct_mail": truth["campaign_sends"], "checkout": truth["redemptions"]},
    )


def test_households_sales_are_right_to_the_cent(households: Imported) -> None:
    """Value of the till, and contacts and clients of each channel."""
    truth = answers("complete_journey")
    sales = households.after.score("source", "till", "value", "USD")
    assert round(sales.value * 100) == round(truth["sales_value"] * 100)
    assert sales.parts["micros"] == round(truth["sales_value"] * 100) * 10_000
    assert sales.n == truth["baskets"]
    for channel, name in (("store", "baskets"), ("direct_mail", "campaign_sends"), ("checkout", "redemptions")):
        assert households.more("channel", channel, "volume") == truth[name]
    assert households.more("channel", "store", "clients") == truth["households"]
    assert households.more("channel", "checkout", "clients") == truth["redeeming_households"]


@pytest.mark.usefixtures("households")
async def test_redemptions_are_credited_to_the_campaign_whose_coupon_it_was(world: World) -> None:
    """As often as published, for the first and the last of the campaigns that ran at the redemption."""
    truth = answers("complete_journey")
    with gzip.open(DATA / "complete_journey" / "coupon_redemptions.csv.gz", "rt", newline="") as file:
        rows = list(csv.DictReader(file))
    repeats: Counter[str] = Counter()
    campaigns: dict[str, str] = {}
    for row in rows:
        key = f"{row['household_id']}:{row['coupon_upc']}:{row['campaign_id']}:{row['redemption_date']:.10}"
        repeats[key] += 1
        campaigns[hex_id("interaction", "checkout", f"{key}:{repeats[key]}")] = row["campaign_id"]
    given = await credited(world, {row["household_id"] for row in rows})
    assert campaigns.keys() <= given.keys()
    hits = Counter(
        model
        for conversion, campaign in campaigns.items()
        for model in ("first", "last")
        if given[conversion].get(model) == [campaign]
    )
    assert hits == {"first": truth["first_touch_hits_truth"], "last": truth["last_touch_hits_truth"]}
    linear = [set(given[conversion]["linear"]) for conversion in campaigns]
    assert (
        sum(campaign in touches for campaign, touches in zip(campaigns.values(), linear, strict=True))
        == (truth["true_campaign_among_active_touches"])
    )


# An airport's passengers.


def test_survey_of_2017_gives_its_net_promoter_scores(survey_2017: Imported) -> None:
    """Overall with its parts, weighted, and by the channel that asked; code 11 is no answer."""
    truth = answers("sfo_survey")["2017"]
    check_account(survey_2017, {"sfo_survey": truth["rows"]})
    told = survey_2017.after
    overall = told.score("source", "sfo_survey", "nps", "overall")
    if not overall.n:
        overall = told.score("source", "sfo_survey", "nps")
    assert round(overall.value, 4) == truth["nps"]["nps"]
    assert overall.n == truth["nps"]["valid"]
    parts = ("promoters", "passives", "detractors")
    assert {name: overall.parts[name] for name in parts} == {name: truth["nps"][name] for name in parts}
    assert overall.low < overall.value < overall.high
    weighted = told.score("source", "sfo_survey", "nps_weighted", overall.aspect)
    assert weighted.value == pytest.approx(truth["nps"]["nps_weighted"], abs=1e-3)
    for method, expected in truth["nps_by_METHOD"].items():
        score = told.score("channel", METHODS[method], "nps", overall.aspect)
        assert (round(score.value, 4), score.n) == (expected["nps"], expected["valid"])
    # A touchpoint is told by channel: an area was asked about in up to three ways.
    for area, expected in truth["nps_by_BAREA"].items():
        scores = [
            told.score("touchpoint", f"{way}/boarding_area_{area}", "nps", overall.aspect) for way in METHODS.values()
        ]
        assert {name: sum(score.parts.get(name, 0) for score in scores) for name in parts} == {
            name: expected[name] for name in parts
        }


@pytest.mark.parametrize("year", ["2017", "2016"])
def test_surveys_give_their_satisfaction_by_aspect(year: str, request: pytest.FixtureRequest) -> None:
    """Valid answers, top-two share and mean of all fifteen aspects; 0 and 6 are no answers."""
    imported: Imported = request.getfixturevalue(f"survey_{year}")
    truth = answers("sfo_survey")[year]
    check_account(imported, {"sfo_survey": truth["rows"]})
    for name, expected in truth["csat"].items():
        aspect = "overall" if name == "Q7ALL" else name
        if name == "Q7ALL" and not imported.after.score("source", "sfo_survey", "csat", aspect).n:
            aspect = ""
        n = imported.more("source", "sfo_survey", "csat", aspect)
        satisfied = imported.more("source", "sfo_survey", "csat", aspect, part="satisfied")
        total = sum(
            mark * imported.more("source", "sfo_survey", "csat", aspect, part=f"answer_{mark}") for mark in range(1, 6)
        )
        assert n == expected["valid"], name
        assert round(100 * satisfied / n, 4) == expected["csat_top2_pct"], name
        assert round(total / n, 4) == expected["mean"], name
        if year == "2017":
            assert (
                round(imported.after.score("source", "sfo_survey", "csat", aspect).value, 4)
                == (expected["csat_top2_pct"])
            )


def test_survey_answers_reach_the_department_that_owns_the_aspect(survey_2017: Imported) -> None:
    """Ratings of restaurants, and comments coded so, are the food department's; nothing is nobody's."""
    truth = answers("sfo_survey")["2017"]
    # Further codes under restaurants are too rare to be listed.
    coded = sum(truth["comment_codes_Q8"].get(str(code), 0) for code in range(101, 111))
    assert survey_2017.items("food") >= truth["csat"]["Q7FOOD"]["valid"] + coded
    assert survey_2017.items("technology") >= truth["csat"]["Q7WIFI"]["valid"] + truth["comment_codes_Q8"]["11"]
    given = truth["nps"]["valid"] + sum(each["valid"] for each in truth["csat"].values())
    comments = sum(count for code, count in truth["comment_codes_Q8"].items() if code != "0")
    received = sum(survey_2017.items(department) for department in survey_2017.after.departments)
    assert received >= given + comments


# A city's residents.


@pytest.mark.large
def test_requests_are_counted_by_channel(boston: Imported) -> None:
    """Contacts by channel; what city staff entered is no contact of a client, and counted apart."""
    truth = answers("boston311")
    check_account(boston, {"boston311": truth["rows"]})
    for name, channel in BOSTON_CHANNELS.items():
        assert boston.more("channel", channel, "volume") == truth["by_source"][name], name
    name, channel = BOSTON_STAFF
    assert boston.more("channel", channel, "volume") == 0
    assert boston.more("channel", channel, "volume", part="staff") == truth["by_source"][name]


@pytest.mark.large
def test_requests_are_sorted_to_their_departments(boston: Imported) -> None:
    """Items by department, as the city itself sorted them."""
    truth = answers("boston311")["by_department"]
    assert {name: boston.items(department) for name, department in BOSTON_DEPARTMENTS.items()} == truth
    assert sum(boston.items(department) for department in boston.after.departments) == sum(truth.values())


@pytest.mark.large
def test_requests_give_their_first_contact_resolution(boston: Imported) -> None:
    """By household and type within seven days."""
    truth = answers("boston311")["fcr_proxy"]
    fcr = boston.after.score("source", "boston311", "fcr")
    assert fcr.n == truth["interactions"]
    assert fcr.n - fcr.parts["resolved"] == truth["followed_by_repeat"]
    assert round(fcr.value / 100, 5) == truth["fcr"]


# An IT service desk.


@pytest.mark.large
def test_incidents_give_their_strict_resolution(incidents: Imported) -> None:
    """A metric of one's own over cases: overall and by channel."""
    truth = answers("servicenow_incidents")
    check_account(incidents, {"servicenow": truth["events"]})
    strict = incidents.after.score("source", "servicenow", "fcr_strict")
    assert (strict.n, strict.parts["numerator"]) == (truth["incidents"], truth["fcr_strict"]["n"])
    assert round(strict.value / 100, 6) == truth["fcr_strict"]["rate"]
    for name, rate in truth["fcr_by_channel"].items():
        score = incidents.after.score("channel", INCIDENT_CHANNELS[name], "fcr_strict")
        assert score.n == truth["contact_type_of_final_event"][name], name
        assert round(score.value / 100, 6) == rate, name


@pytest.mark.large
def test_incident_events_are_counted_once(incidents: Imported) -> None:
    """Contacts and callers of the source."""
    truth = answers("servicenow_incidents")
    assert incidents.more("source", "servicenow", "volume") == truth["events"]


# All of it.


def check_again(world: World, mapping: str, folder: str) -> None:
    """A second run of an import finds nothing but duplicates, and moves no figure."""
    before = world.told()
    said = world.bring(mapping, DATA / folder, "--restart")
    after = world.told()
    assert all(each["duplicate"] == each["offered"] == each["interactions"] > 0 for each in said.values())
    assert {source: tally.recorded for source, tally in after.tallies.items()} == {
        source: tally.recorded for source, tally in before.tallies.items()
    }
    figures = [
        {
            (*subject, *name): (score.n, score.value, dict(score.parts))
            for subject, card in told.cards.items()
            for name, score in card.items()
        }
        for told in (before, after)
    ]
    assert figures[0] == figures[1]


@pytest.mark.usefixtures("survey_2016")
@pytest.mark.parametrize("year", ["2016", "2017"])
def test_a_survey_imported_twice_counts_nothing_twice(world: World, year: str) -> None:
    """All duplicates, both years."""
    check_again(world, f"sfo_survey_{year}", "sfo_survey")


@pytest.mark.usefixtures("households")
def test_households_imported_twice_count_nothing_twice(world: World) -> None:
    """All duplicates."""
    check_again(world, "complete_journey", "complete_journey")


@pytest.mark.large
@pytest.mark.usefixtures("boston")
def test_requests_imported_twice_count_nothing_twice(world: World) -> None:
    """All duplicates."""
    check_again(world, "boston311", "boston311")


@pytest.mark.large
@pytest.mark.usefixtures("incidents")
def test_incidents_imported_twice_count_nothing_twice(world: World) -> None:
    """All duplicates."""
    check_again(world, "servicenow_incidents", "servicenow_incidents")


@pytest.mark.usefixtures("households", "survey_2016")
def test_replay_gives_the_live_state(world: World) -> None:
    """Every log folded from its beginning is the state of the service that wrote it."""
    run = world.run("replay", "all", "--from-files", "--output", "json")
    assert run.returncode == 0, run.stderr[-2000:]
    services = json.loads(run.stdout)["services"]
    assert [each["service"] for each in services if each["equal"]] == [
        "ingestion",
        "identity",
        "journey",
        "feedback",
        "scoring",
    ]


@pytest.mark.usefixtures("households", "survey_2016")
def test_decided_again_every_log_is_what_it_was(world: World) -> None:
    """The services' own handlers, fed from the upstream logs, decide what was decided, event by event."""
    run = world.run("rederive", "--output", "json")
    assert run.returncode == 0, f"{run.stderr[-2000:]}\n{run.stdout[-2000:]}"
    services = json.loads(run.stdout)["services"]
    assert {each["service"] for each in services if each["same"]} == {"identity", "journey", "feedback", "scoring"}
    assert all(each["events"] == each["derived"] > 0 for each in services)


@pytest.mark.usefixtures("households", "survey_2016")
def test_every_log_is_proved(world: World, tmp_path: Path) -> None:
    """The signed roots are those of the events alone, and a household's pack verifies and is complete."""
    run = world.run("checkpoint", "--output", "json")
    assert run.returncode == 0, run.stderr[-2000:]
    signed = json.loads(run.stdout)["checkpoints"]
    for service in SERVICES:
        summary = LogSummary()
        store = open_store(StoreSettings.sqlite(service, world.suite.folder / f"{service}.db"))
        try:
            after = 0
            with store.snapshot() as reader:
                while rows := reader.read_logged(after, limit=10_000):
                    summary.take(rows)
                    after = rows[-1].position
        finally:
            store.close()
        told = (signed[service]["size"], b64decode(signed[service]["root"]), b64decode(signed[service]["map"]))
        assert told == (summary.size, summary.root, summary.map_root), service
    pack = tmp_path / "household.zip"
    with gzip.open(DATA / "complete_journey" / "coupon_redemptions.csv.gz", "rt", newline="") as file:
        household = next(csv.DictReader(file))["household_id"]
    made = world.run("audit", "client", "--identifier", f"loyalty_card={household}", "--to", str(pack))
    assert made.returncode == 0, made.stderr[-2000:]
    keys = SigningKeys.of_file(world.suite.folder / "signing.keys").public
    report = verify_pack(pack.read_bytes(), keys)
    assert report.holds, report.broken
