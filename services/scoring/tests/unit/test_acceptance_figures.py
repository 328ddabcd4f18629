"""Figures computed independently from public data come out to the last digit shown."""

from __future__ import annotations

import csv
import gzip
import json
from collections import defaultdict
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from scoring.domain.client import Client, move_case_end
from scoring.domain.dimensions import ALL, Kind
from scoring.domain.facts import IDENTIFIED, STAFF, Contact, FeedbackItem, FeedbackKind
from scoring.domain.formulas.attribution import attribute, eligible
from scoring.domain.metrics import Condition, MetricDefinition, Metrics, Unit
from scoring.domain.scorecard import Figure, figures
from scoring.domain.tally import Counter, Tally, of_subject
from throughline_kernel import hex_id

DATA = Path(__file__).parents[5] / "shared" / "data"
NONE = Metrics()


def answers(folder: str) -> dict[str, Any]:
    path = DATA / folder / "ANSWERS.json"
    if not path.exists():
        pytest.skip(f"{path} is absent: the public data lies outside the repository")
    return json.loads(path.read_text())


def rows(folder: str, name: str) -> Iterator[dict[str, str]]:
    with gzip.open(DATA / folder / name, "rt", encoding="utf-8-sig", newline="") as lines:
        yield from csv.DictReader(lines)


def contact(at: int, source: str, sequence: int, key: str, **fields: Any) -> Contact:
    given: dict[str, Any] = dict.fromkeys(Contact._fields, "")
    given |= {"value": 0, "cost": 0, "wait": 0, "handling": 0, "flags": IDENTIFIED, "attributes": b""}
    given |= {"at": at, "source": source, "sequence": sequence, "interaction_id": hex_id("interaction", source, key)}
    return Contact(**(given | fields))


def told(counters: dict[Counter, int], kind: Kind = Kind.ALL, subject: str = "", **more: Any) -> dict[Any, Figure]:
    lines = of_subject(counters, (kind.value, subject))
    return {(figure.metric, figure.aspect): figure for figure in figures(lines, **more)}


def survey(year: int) -> dict[Counter, int]:
    tally = Tally()
    for row in rows("sfo_survey", f"sfo_customer_survey_{year}.csv.gz"):
        respondent = Client(hex_id(row.get("RESPNUM") or row["*RESPNUM"]))
        weight = round(float(row["WEIGHT"]) * 1_000_000) if row["WEIGHT"] else 0
        given = [(FeedbackKind.NPS, "", row["NETPRO"], {"11", "Blank"})] if year == 2017 else []
        given += [(FeedbackKind.CSAT, name, row[name], {"0", "6", "Blank"}) for name in row if name.startswith("Q7")]
        for kind, aspect, value, blanks in given:
            if value and value not in blanks:
                respondent.note_feedback(
                    FeedbackItem(
                        0,
                        hex_id(respondent.client_id, aspect),
                        "",
                        "sfo",
                        row["METHOD"],
                        "",
                        -1,
                        kind.value,
                        int(float(value)),
                        0,
                        0,
                        aspect,
                        weight,
                        (),
                    ),
                    tally,
                )
    return tally.counters()


def test_airport_survey_of_2017_gives_its_net_promoter_scores() -> None:
    """Overall, weighted and by method; the blank code 11 is no promoter."""
    expected = answers("sfo_survey")["2017"]
    counters = survey(2017)
    overall = told(counters)
    nps = overall["nps", ""]
    assert nps.value is not None
    assert round(nps.value, 4) == expected["nps"]["nps"]
    assert nps.n == expected["nps"]["valid"]
    assert dict(nps.parts) == {name: expected["nps"][name] for name in ("promoters", "passives", "detractors")}
    weighted = overall["nps_weighted", ""]
    assert weighted.value is not None
    assert round(weighted.value, 4) == expected["nps"]["nps_weighted"]
    for method, figures_expected in expected["nps_by_METHOD"].items():
        by_method = told(counters, Kind.CHANNEL, method, minimum=1)["nps", ""]
        assert by_method.value is not None
        assert round(by_method.value, 4) == figures_expected["nps"]
        assert by_method.n == figures_expected["valid"]


@pytest.mark.parametrize("year", [2016, 2017])
def test_airport_surveys_give_their_satisfaction_by_aspect(year: int) -> None:
    """Top-two share, mean and number of valid answers of all fifteen aspects."""
    expected = answers("sfo_survey")[str(year)]["csat"]
    overall = told(survey(year))
    for aspect, figures_expected in expected.items():
        share, mean = overall["csat", aspect], overall["csat_mean", aspect]
        assert share.value is not None
        assert mean.value is not None
        assert round(share.value, 4) == figures_expected["csat_top2_pct"]
        assert round(mean.value, 4) == figures_expected["mean"]
        assert share.n == mean.n == figures_expected["valid"]


def test_city_requests_give_their_first_contact_resolution() -> None:
    """By household and type within seven days; what staff entered for themselves is no contact."""
    expected = answers("boston311")["fcr_proxy"]
    boston = ZoneInfo("America/New_York")
    clients: dict[str, Client] = {}
    tally = Tally()
    for row in rows("boston311", "boston311_2011-07_to_10.csv.gz"):
        household = row["location_street_name"].strip()
        known = bool(household) and not household.startswith("INTERSECTION") and household != "1 City Hall Plz"
        opened = datetime.strptime(row["open_dt"], "%Y-%m-%d %H:%M:%S").replace(tzinfo=boston)
        client_id = hex_id("household", household) if known else hex_id("anonymous", row["case_enquiry_id"])
        clients.setdefault(client_id, Client(client_id)).note_contact(
            contact(
                int(opened.timestamp()) * 1_000_000,
                "boston311",
                0,
                row["case_enquiry_id"],
                channel=row["source"],
                kind="service_request",
                matter=row["type"],
                flags=(STAFF if row["source"] == "Employee Generated" else 0) | (IDENTIFIED if known else 0),
            ),
            tally,
            NONE,
        )
    fcr = told(tally.counters())["fcr", ""]
    assert fcr.value is not None
    assert round(fcr.value / 100, 6) == expected["fcr"]
    assert fcr.n == expected["interactions"]
    assert fcr.n - fcr.parts["resolved"] == expected["followed_by_repeat"]


def test_incidents_give_their_strict_resolution_as_a_metric_of_ones_own() -> None:
    """Over cases, each once by its last event, also where an incident changed its caller midway."""
    expected = answers("servicenow_incidents")
    definition = MetricDefinition(
        "fcr_strict",
        1,
        "Strict first contact resolution",
        "Closed or resolved without reassignment or reopening",
        Unit.CASE,
        Condition(),
        Condition(
            outcomes=frozenset({"Closed", "Resolved"}),
            attributes=(("reassignment_count", "0"), ("reopen_count", "0")),
        ),
    )
    metrics = Metrics.of([definition])
    clients: dict[str, Client] = {}
    tally = Tally()
    for number, row in enumerate(rows("servicenow_incidents", "incident_event_log.csv.gz"), start=1):
        at = datetime.strptime(row["sys_updated_at"], "%d/%m/%Y %H:%M").replace(tzinfo=UTC)
        clients.setdefault(row["caller_id"], Client(hex_id(row["caller_id"]))).note_contact(
            contact(
                int(at.timestamp()) * 1_000_000,
                "servicenow",
                int(row["sys_mod_count"]),
                str(number),
                channel=row["contact_type"],
                kind="incident_update",
                case_id=row["number"],
                outcome=row["incident_state"],
                attributes=json.dumps(
                    {"reassignment_count": row["reassignment_count"], "reopen_count": int(row["reopen_count"])}
                ).encode(),
            ),
            tally,
            metrics,
        )
    for changes in tally.case_ends.values():
        move_case_end({}, changes, tally, metrics)
    counters = tally.counters()
    strict = told(counters, definitions=[definition])["fcr_strict", ""]
    assert strict.value is not None
    assert round(strict.value / 100, 6) == expected["fcr_strict"]["rate"]
    assert (strict.n, strict.parts["numerator"]) == (expected["incidents"], expected["fcr_strict"]["n"])
    for channel, rate in expected["fcr_by_channel"].items():
        by_channel = told(counters, Kind.CHANNEL, channel, definitions=[definition], minimum=1)["fcr_strict", ""]
        assert by_channel.value is not None
        assert round(by_channel.value / 100, 6) == rate


def test_coupon_redemptions_are_credited_to_the_true_campaign_as_often_as_published() -> None:
    """First and last touch among the campaigns that run at the redemption."""
    expected = answers("complete_journey")
    day = lambda text: int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()) * 1_000_000  # noqa: E731 -- said once
    campaigns = {row["campaign_id"]: row for row in rows("complete_journey", "campaign_descriptions.csv.gz")}
    touches: dict[str, list[Contact]] = defaultdict(list)
    for row in rows("complete_journey", "campaigns.csv.gz"):
        campaign = campaigns[row["campaign_id"]]
        touches[row["household_id"]].append(
            contact(
                day(campaign["start_date"]),
                "direct_mail",
                int(row["campaign_id"]),
                f"{row['household_id']}-{row['campaign_id']}",
                channel="mail",
                kind="campaign_sent",
                campaign=row["campaign_id"],
                attributes=json.dumps({"active_until": day(campaign["end_date"])}).encode(),
            )
        )
    hits = {"first": 0, "last": 0}
    credit = {"linear": 0, "time_decay": 0}
    redemptions = list(rows("complete_journey", "coupon_redemptions.csv.gz"))
    for number, row in enumerate(redemptions):
        redeemed = contact(day(row["redemption_date"]), "till", 0, str(number), channel="store", kind="coupon_redeemed")
        shares = attribute(redeemed, eligible(redeemed, sorted(touches[row["household_id"]])))
        for model in hits:
            (share,) = shares[model]
            hits[model] += share.touch.campaign == row["campaign_id"]
        for model in credit:
            credit[model] += sum(share.credit for share in shares[model])
    assert hits == {"first": expected["first_touch_hits_truth"], "last": expected["last_touch_hits_truth"]}
    assert credit == dict.fromkeys(credit, expected["redemptions"] * 1_000_000)


def test_subjects_are_told_apart() -> None:
    """A figure of one channel holds nothing of another."""
    tally = Tally()
    client = Client(hex_id("a"))
    for number, channel in enumerate(("web", "store", "web")):
        client.note_contact(contact(number, "s", 0, str(number), channel=channel), tally, NONE)
    counters = tally.counters()
    assert [told(counters, Kind.CHANNEL, name)["volume", ""].n for name in ("web", "store")] == [2, 1]
    assert told(counters)["clients", ""].n == 1
    assert of_subject(counters, ALL)["volume", "", "n"] == 3
