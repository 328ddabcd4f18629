"""Images install exactly what their service needs, from the hashed lock, and run as nobody in particular."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
SERVICES = ("ingestion", "identity", "journey", "feedback", "scoring")
PACKAGES = {
    tomllib.loads(file.read_text())["project"]["name"]: file.parent
    for file in [*ROOT.glob("libs/*/pyproject.toml"), *ROOT.glob("services/*/pyproject.toml")]
}


def needed(package: Path) -> set[Path]:
    """The repository's own packages that a package stands on, however deep."""
    dependencies = tomllib.loads((package / "pyproject.toml").read_text())["project"]["dependencies"]
    direct = {PACKAGES[name] for name in dependencies if name in PACKAGES}
    return direct.union(*(needed(each) for each in direct)) if direct else direct


@pytest.mark.parametrize("service", SERVICES)
def test_an_image_installs_what_its_service_needs_and_no_more(service: str) -> None:
    """The packages named in the Dockerfile are the service and all that it stands on."""
    text = (ROOT / "services" / service / "Dockerfile").read_text()
    installed = {ROOT / path for path in re.findall(r"^ +\./(\S+)", text, re.MULTILINE)}
    assert installed == needed(ROOT / "services" / service) | {ROOT / "services" / service}
    assert "--constraint requirements.lock" in text


@pytest.mark.parametrize("service", SERVICES)
def test_an_image_runs_its_service_as_user_10001_without_a_shell(service: str) -> None:
    """Exec form, so that SIGTERM reaches the service itself; and everything copied is there."""
    text = (ROOT / "services" / service / "Dockerfile").read_text()
    final = text.rpartition("\nFROM ")[2]
    assert f'ENTRYPOINT ["python", "-m", "{service}"]' in final
    assert "USER 10001:10001" in final
    for source in re.findall(r"^COPY (?!--from)(\S+) ", text, re.MULTILINE):
        assert (ROOT / source).exists(), source


def test_skaffold_builds_the_images_that_the_chart_runs() -> None:
    """One artifact per service, from a Dockerfile that exists, under the name that the chart composes."""
    skaffold = yaml.safe_load((ROOT / "skaffold.yaml").read_text())
    artifacts = {each["image"]: each["docker"]["dockerfile"] for each in skaffold["build"]["artifacts"]}
    assert set(artifacts) == {f"throughline-{service}" for service in SERVICES}
    assert all((ROOT / file).is_file() for file in artifacts.values())
    (release,) = skaffold["deploy"]["helm"]["releases"]
    assert (ROOT / release["chartPath"] / "Chart.yaml").is_file()
