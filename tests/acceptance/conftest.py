"""One suite for all data sets, each imported once, when a test first asks for it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from acceptance.world import DATA, Imported, World

from throughline.scoring.v1 import metrics_pb2
from throughline_client.suite.suite import Suite


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A suite that tells figures of few answers too: the published ones have groups of five."""
    if not DATA.is_dir():
        pytest.skip("the real data under ../shared/data is not here")
    suite = Suite(tmp_path_factory.mktemp("acceptance") / "suite", environment={"SCORING_MINIMUM_N": "1"})
    with suite:
        yield World(suite)


@pytest.fixture(scope="session")
def households(world: World) -> Imported:
    """Complete Journey."""
    return world.bring_and_ask("complete_journey", DATA / "complete_journey")


@pytest.fixture(scope="session")
def survey_2017(world: World) -> Imported:
    """The airport survey that asked for NPS, sorted by the airport's own routes."""
    world.publish_routes("airport_survey")
    return world.bring_and_ask("sfo_survey_2017", DATA / "sfo_survey")


@pytest.fixture(scope="session")
def survey_2016(world: World, survey_2017: Imported) -> Imported:
    """The survey before, on top of the later one."""
    assert survey_2017.said
    return world.bring_and_ask("sfo_survey_2016", DATA / "sfo_survey")


@pytest.fixture(scope="session")
def boston(world: World) -> Imported:
    """The city's requests, sorted by the city's routes."""
    world.publish_routes("city_services")
    return world.bring_and_ask("boston311", DATA / "boston311")


@pytest.fixture(scope="session")
def incidents(world: World) -> Imported:
    """The incident log; the strict resolution is defined before it."""
    world.define(
        metrics_pb2.MetricDefinition(
            metric="fcr_strict",
            version=1,
            name="Strict first contact resolution",
            definition="last event of the incident says closed or resolved, with no reassignment and no reopening",
            unit=metrics_pb2.UNIT_CASE,
            population=metrics_pb2.Condition(sources=["servicenow"]),
            numerator=metrics_pb2.Condition(
                outcomes=["closed", "resolved"], attributes={"reassignment_count": "0", "reopen_count": "0"}
            ),
        )
    )
    return world.bring_and_ask("servicenow_incidents", DATA / "servicenow_incidents")
