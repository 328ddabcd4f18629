"""The route sets that come with the service, and settings."""

from __future__ import annotations

import csv
import gzip
import json
from collections import Counter
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from feedback.adapters.route_files import PACKAGED, packaged_routes, parse_routes, read_routes_file
from feedback.application.codec import routes_message, routes_of
from feedback.domain.items import Kind, Remark
from feedback.domain.routing import Router, check_routes
from feedback.settings import Settings
from throughline_eventlog import SettingsError
from throughline_kernel import InvalidError

DATA = Path(__file__).parents[4].parent / "shared" / "data"


@pytest.mark.parametrize("name", PACKAGED)
def test_packaged_routes_can_be_followed(name: str) -> None:
    """Sound, and the same after a journey through the contract's message."""
    routes = packaged_routes(name)
    check_routes(routes)
    assert routes_of(routes_message(routes)) == routes


@pytest.mark.parametrize(
    ("words", "department"),
    [
        ("My parcel never arrived", "delivery"),
        ("I was charged twice, I want a refund", "billing"),
        ("The app crashed when I tried to log in", "website"),
        ("The cashier was rude", "store_operations"),
        ("Your coupon did nothing", "marketing"),
        ("The mug came broken", "product"),
        ("Delete my account please", "privacy"),
        ("Hello there", "customer_care"),
    ],
)
def test_the_default_routes_know_a_retailers_words(words: str, department: str) -> None:
    """Each department hears of what is its own; what nobody knows goes to customer care."""
    owners = [each.department for each in Router(packaged_routes()).classify(Remark(Kind.COMPLAINT, words=words))]
    assert department in owners


def test_city_service_requests_go_to_the_published_department() -> None:
    """41,827 real requests: the counts by department are those computed independently from the data."""
    folder = DATA / "boston311"
    if not folder.is_dir():
        pytest.skip("the real data is not on this machine")
    routes = packaged_routes("city_services")
    router = Router(routes)
    names = {each.department: each.name for each in routes.departments}
    counted: Counter[str] = Counter()
    with gzip.open(next(folder.glob("*.csv.gz")), "rt", encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            remark = Remark(Kind.COMPLAINT, matter=row["type"], attributes={"department": row["department"]})
            (owner,) = router.classify(remark)
            assert (owner.topic, owner.opens) == (row["type"], True)
            counted[names[owner.department]] += 1
    assert counted == json.loads((folder / "ANSWERS.json").read_text())["by_department"]


def test_airport_ratings_go_to_whom_the_aspect_belongs() -> None:
    """The aspects of a real survey, in their real numbers; only dissatisfaction opens a case."""
    folder = DATA / "sfo_survey"
    if not folder.is_dir():
        pytest.skip("the real data is not on this machine")
    router = Router(packaged_routes("airport_survey"))
    counted: Counter[str] = Counter()
    answers = json.loads((folder / "ANSWERS.json").read_text())["2017"]["csat"]
    aspects = [aspect for aspect in answers if aspect != "Q7ALL"]
    with gzip.open(folder / "sfo_customer_survey_2017.csv.gz", "rt", encoding="utf-8-sig", newline="") as file:
        for row in csv.DictReader(file):
            for aspect in aspects:
                if row[aspect] in {"1", "2", "3", "4", "5"}:
                    score = int(row[aspect])
                    (owner,) = router.classify(Remark(Kind.CSAT, score=score, aspect=aspect))
                    assert owner.opens == (score < 3)
                    counted[owner.department] += 1
    assert counted["food"] == answers["Q7FOOD"]["valid"]
    assert counted["technology"] == answers["Q7WIFI"]["valid"]
    assert counted["guest_experience"] == 0
    assert sum(counted.values()) == sum(answers[aspect]["valid"] for aspect in aspects)


@pytest.mark.parametrize(
    "text", ["- a list", "version: x", "unknown_field: 1", "noCaseFrom: {NOTHING: 1}", "{", "departments: []", ""]
)
def test_a_file_that_is_no_route_set_says_so(text: str) -> None:
    """ROUTES_INVALID, with the place it came from or the field."""
    with pytest.raises(InvalidError) as refused:
        parse_routes(text, "routes.yaml")
    assert refused.value.reason == "ROUTES_INVALID"


def test_a_routes_file_is_read(tmp_path: Path) -> None:
    """YAML and JSON alike."""
    path = tmp_path / "routes.json"
    path.write_text(
        '{"departments": [{"department": "care"}], "defaultDepartment": "care", "acknowledgeWithin": 1, '
        '"resolveWithin": "2"}',
        encoding="utf-8",
    )
    assert read_routes_file(path).default_department == "care"


def test_settings_come_from_the_environment() -> None:
    """Sound ones are taken; a time that is none is refused by name."""
    environment = {
        "PERSISTENCE_MODULE": "eventsourcing.sqlite",
        "SQLITE_DBNAME": "feedback.db",
        "THROUGHLINE_HASH_KEY": "A" * 43 + "=",
        "THROUGHLINE_KEY_ENCRYPTION_KEY": "A" * 43 + "=",
        "THROUGHLINE_KEY_STORE": "keys.db",
        "THROUGHLINE_SIGNING_KEYS": f"SIGNING+KEY+test+{'A' * 43}=",
        "FEEDBACK_ROUTES_FILE": "routes.yaml",
        "FEEDBACK_SWEEP_SECONDS": "0.5",
    }
    settings = Settings.from_env(environment)
    assert (settings.routes_file, settings.sweep_seconds) == (Path("routes.yaml"), 0.5)
    for wrong in ("-1", "soon"):
        with pytest.raises(SettingsError, match="FEEDBACK_SWEEP_SECONDS"):
            Settings.from_env({**environment, "FEEDBACK_SWEEP_SECONDS": wrong})


def test_the_fold_is_found_by_its_entry_point() -> None:
    """What replays finds feedback's fold without knowing the service."""
    (point,) = [each for each in entry_points(group="throughline.folds") if each.name == "feedback"]
    assert point.load()().service == "feedback"
