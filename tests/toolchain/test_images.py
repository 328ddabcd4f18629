"""Images install exactly what they need, from the hashed lock, are small, and run as nobody in particular."""

from __future__ import annotations

import re
import resource
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
SERVICES = ("ingestion", "identity", "journey", "feedback", "scoring")
DOCKERFILES = {
    **{service: ROOT / "services" / service / "Dockerfile" for service in SERVICES},
    "cli": ROOT / "libs" / "client" / "Dockerfile",
}
PACKAGES = {
    tomllib.loads(file.read_text())["project"]["name"]: file.parent
    for file in [*ROOT.glob("libs/*/pyproject.toml"), *ROOT.glob("services/*/pyproject.toml")]
}
# The base, and what Python compiles of the installed packages; unpacked.
IMAGE_MEGABYTES = 250
BASE_MEGABYTES = 125
BYTECODE_MEGABYTES = 30

every_image = pytest.mark.parametrize("image", DOCKERFILES)


def needed(package: Path) -> set[Path]:
    """The repository's own packages that a package stands on, however deep."""
    dependencies = tomllib.loads((package / "pyproject.toml").read_text())["project"]["dependencies"]
    direct = {PACKAGES[name] for name in dependencies if name in PACKAGES}
    return direct.union(*(needed(each) for each in direct)) if direct else direct


def wanted(image: str) -> set[Path]:
    """What an image is for: a service; or every command, and the services' folds that replays need."""
    if image in SERVICES:
        return {ROOT / "services" / image}
    commands = {
        folder
        for folder in PACKAGES.values()
        if "throughline.commands"
        in tomllib.loads((folder / "pyproject.toml").read_text())["project"].get("entry-points", {})
    }
    return commands | {ROOT / "services" / service for service in SERVICES}


def installed(image: str) -> list[Path]:
    """The packages that a Dockerfile names."""
    return [ROOT / path for path in re.findall(r"^ +\./(\S+)", DOCKERFILES[image].read_text(), re.MULTILINE)]


@every_image
def test_an_image_installs_what_it_needs_and_no_more(image: str) -> None:
    """The packages named in the Dockerfile are what it is for, and all that this stands on."""
    tops = wanted(image)
    assert set(installed(image)) == tops.union(*(needed(each) for each in tops))


@every_image
def test_images_follow_one_pattern(image: str) -> None:
    """But for names, packages and ports, and Arrow that the command goes without, all six are one Dockerfile."""

    def pattern(name: str) -> str:
        text = DOCKERFILES[name].read_text()
        text = re.sub(r"^ +\./\S+( \\)?\n", "", text, flags=re.MULTILINE)
        text = re.sub(r"# Arrow.*\nRUN .*uninstall.* pyarrow\n", "", text)
        text = re.sub(r"EXPOSE .*\n|ENTRYPOINT .*|description=\"[^\"]*\"|COPY services.*|-f \S+", "", text)
        return text.replace(f"throughline-{name}", "")

    assert pattern(image) == pattern("ingestion")


@every_image
def test_an_image_runs_as_user_10001_without_a_shell(image: str) -> None:
    """Exec form, so that SIGTERM reaches the program; nothing is built in the last stage; what is copied is there."""
    text = DOCKERFILES[image].read_text()
    final = text.rpartition("\nFROM ")[2]
    entry_point = '["throughline"]' if image == "cli" else f'["python", "-m", "{image}"]'
    assert f"ENTRYPOINT {entry_point}" in final
    assert "USER 10001:10001" in final
    assert not re.search(r"\b(apt-get|pip|gcc|uv)\b", final)
    assert "org.opencontainers.image.revision" in final
    for source in re.findall(r"^COPY (?!--from)(\S+) ", text, re.MULTILINE):
        assert (ROOT / source).exists(), source


@pytest.mark.timeout(300)
def test_the_biggest_image_is_small(tmp_path: Path) -> None:
    """The command's install line, run as it stands in a clean environment: with base and bytecode under 250 MB. Without
    what the image goes without, the command starts all the same, and knows every service.
    """
    environment = tmp_path / "app"
    uv, python = ROOT / ".config" / "uv.sh", environment / "bin" / "python"
    packages = [f"./{package.relative_to(ROOT)}" for package in installed("cli")]
    into = ["--python", str(python)]
    for command in (
        ["venv", "--python", str(ROOT / ".venv" / "bin" / "python"), str(environment)],
        ["pip", "install", *into, "--constraint", "requirements.lock", *packages],
        ["pip", "uninstall", *into, "pyarrow"],
    ):
        subprocess.run([str(uv), *command], cwd=ROOT, check=True, capture_output=True)
    size = sum(file.stat().st_size for file in environment.rglob("*") if file.is_file() and not file.is_symlink())
    assert BASE_MEGABYTES + BYTECODE_MEGABYTES + size / 1e6 < IMAGE_MEGABYTES
    assert "One client, every channel, one history." in _said(environment / "bin" / "throughline", "--help")
    assert "--from-files" in _said(environment / "bin" / "throughline", "replay", "all", "--help")
    # What a Job runs; and what comes to a cluster from outside.
    assert "hand out its result" in _said(python, "-m", "throughline_k8s.inside", "--help")
    assert "is not installed here" in _said(environment / "bin" / "throughline", "k8s", "doctor")


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_starts_fast(service: str) -> None:
    """From nothing to reading its settings in less than three seconds of work, however busy the machine is."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert "PERSISTENCE_MODULE is ''" in _said(Path(sys.executable), "-m", service)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 3


def _said(*command: Path | str) -> str:
    run = subprocess.run(list(map(str, command)), env={}, check=False, capture_output=True, text=True)
    return run.stdout + run.stderr


def test_skaffold_builds_the_images_that_the_chart_runs() -> None:
    """One artifact per image, from a Dockerfile that exists, given to the chart under the value that it reads."""
    skaffold = yaml.safe_load((ROOT / "skaffold.yaml").read_text())
    artifacts = {each["image"]: each["docker"]["dockerfile"] for each in skaffold["build"]["artifacts"]}
    assert artifacts == {f"throughline-{name}": str(file.relative_to(ROOT)) for name, file in DOCKERFILES.items()}
    profiles = {each["name"]: each for each in skaffold["profiles"]}
    assert profiles.keys() == {"local", "production"}
    for deploying in (skaffold, *profiles.values()):
        (release,) = deploying["deploy"]["helm"]["releases"]
        assert (ROOT / release["chartPath"] / "Chart.yaml").is_file()
        assert all((ROOT / file).is_file() for file in release.get("valuesFiles", []))
        named = {re.sub(r".*throughline_(\w+)\}\}", r"\1", value) for value in release["setValueTemplates"].values()}
        assert named >= DOCKERFILES.keys()


@every_image
def test_development_puts_changed_code_where_the_image_looks_first(image: str) -> None:
    """What Skaffold syncs is the code of packages that the image has, into the folder that the chart puts first."""
    skaffold = yaml.safe_load((ROOT / "skaffold.yaml").read_text())
    artifact = next(each for each in skaffold["build"]["artifacts"] if each["image"] == f"throughline-{image}")
    if image == "cli":
        assert "sync" not in artifact
        return
    values = yaml.safe_load((ROOT / "charts" / "throughline" / "values-dev.yaml").read_text())
    assert values["development"] == {"sync": True}
    template = (ROOT / "charts" / "throughline" / "templates" / "services.yaml").read_text()
    for each in artifact["sync"]["manual"]:
        assert f"{{name: PYTHONPATH, value: {each['dest']}}}" in template
        assert each["src"].startswith(each["strip"])
        assert (ROOT / each["strip"]).parent in installed(image)
