"""What the chart asks of running services, asked of a suite of processes."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from chart.rendering import SERVICES, installed, of_kind

from throughline_client.endpoints import address_variable
from throughline_client.suite.suite import Suite


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Suite]:
    """Five services and their bus, told as in production that callers name their role."""
    folder = tmp_path_factory.mktemp("chart") / "suite"
    with Suite(folder, environment={"THROUGHLINE_DEFAULT_ROLE": "none"}) as running:
        yield running


@pytest.mark.e2e
@pytest.mark.timeout(300)
def test_helm_test_records_an_interaction_and_reads_the_history_back(suite: Suite, tmp_path: Path) -> None:
    """The pod's own command line, with this suite's addresses instead of the release's; twice: it may be run again."""
    (pod,) = of_kind(installed("default"), "Pod")
    (container,) = pod["spec"]["containers"]
    told = {each["name"]: each["value"] for each in container["env"]}
    assert told.keys() == {"THROUGHLINE_ROLE", *(address_variable(service) for service in SERVICES)}
    environment = {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "TMPDIR": str(tmp_path),
        "THROUGHLINE_ROLE": told["THROUGHLINE_ROLE"],
        **{address_variable(service): suite.addresses[service] for service in SERVICES},
    }
    for _ in range(2):
        run = subprocess.run(
            [*container["command"], *container["args"]],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert run.returncode == 0, run.stdout + run.stderr
        assert "recorded and read back: helm-test-" in run.stdout
