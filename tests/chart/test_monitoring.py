"""Alerts and dashboards ask for what the services measure, and every alert says what to do."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from chart.rendering import (
    CHART,
    ROOT,
    SERVICES,
    Document,
    installed,
    labels,
    named,
    of_kind,
    pods,
    port_names,
    selects,
)
from prometheus_client.metrics import MetricWrapperBase

from throughline_telemetry import metrics

RUNBOOKS = ROOT / "docs" / "runbooks"
SUFFIXES = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count"), "gauge": ("",)}
FROM_THE_TARGET = {"namespace", "pod", "throughline_release", "throughline_service", "throughline_partition", "le"}
WORDS = {
    *("by", "offset", "unless", "sum", "min", "max", "group", "rate", "increase", "histogram_quantile", "time"),
    *("namespace", "release", "h", "m", "s"),
}


def measured() -> dict[str, set[str]]:
    """Every series that a service exports, with its labels."""
    found: dict[str, set[str]] = {}
    for each in vars(metrics).values():
        if isinstance(each, MetricWrapperBase):
            (family,) = each.describe()
            for suffix in SUFFIXES[family.type]:
                found[family.name + suffix] = set(each._labelnames)
    return found


def rules() -> list[Document]:
    """The alerts of a release that has all of them."""
    (rule,) = of_kind(installed("production"), "PrometheusRule")
    (group,) = rule["spec"]["groups"]
    return group["rules"]


def dashboards() -> dict[str, Document]:
    """Each dashboard, as Grafana reads it."""
    found: dict[str, Document] = {}
    for config in of_kind(installed("production"), "ConfigMap"):
        if "grafana_dashboard" in labels(config):
            ((file, text),) = config["data"].items()
            found[file.removeprefix("shop-throughline-").removesuffix(".json")] = json.loads(text)
    return found


def expressions() -> Iterator[tuple[str, str]]:
    """(where, PromQL) of everything that is asked."""
    for rule in rules():
        yield rule["alert"], rule["expr"]
    for name, dashboard in dashboards().items():
        for panel in dashboard["panels"]:
            for target in panel["targets"]:
                yield f"{name}: {panel['title']}", target["expr"]
    for scaled in of_kind(installed("everything"), "ScaledObject"):
        for trigger in scaled["spec"]["triggers"]:
            if trigger["type"] == "prometheus":
                yield named(scaled), trigger["metadata"]["query"]


def test_whatever_is_asked_is_measured_with_the_labels_asked_for() -> None:
    """Every series and every label in alerts, dashboards and KEDA's queries is one that the services export."""
    known = measured()
    for where, text in expressions():
        bare = re.sub(r'"[^"]*"', '""', text)
        assert all(bare.count(left) == bare.count(right) for left, right in ("()", "[]", "{}")), where
        asked = set(re.findall(r"\bthroughline_\w+(?=\{)", bare))
        assert asked
        assert asked <= known.keys(), where
        allowed = set().union(*(known[name] for name in asked)) | FROM_THE_TARGET
        matched = {
            label for inside in re.findall(r"\{([^}]*)\}", bare) for label in re.findall(r"(\w+)\s*[=!]", inside)
        }
        grouped = {label for inside in re.findall(r"\bby \(([^)]*)\)", bare) for label in re.split(r",\s*", inside)}
        assert matched | grouped <= allowed, where
        assert set(re.findall(r"\b[a-z_]+\b", bare)) <= asked | allowed | WORDS | {"__rate_interval"}, where
        # Nothing is asked of other releases.
        assert bare.count("throughline_release=") == len(re.findall(r"\bthroughline_\w+(?=\{)", bare)), where


def test_what_is_defined_is_measured() -> None:
    """Every metric of the suite is set somewhere: one that stays 0 for ever would let an alert sleep for ever."""
    code = [file for folder in ("libs", "services") for file in (ROOT / folder).glob("*/src/**/*.py")]
    written = "".join(file.read_text() for file in code if file.name != "metrics.py")
    names = {name for name, each in vars(metrics).items() if isinstance(each, MetricWrapperBase)}
    assert {name for name in names if not re.search(rf"\bmetrics\.{name}\b", written)} == set()


def test_every_alert_has_a_runbook_and_every_runbook_an_alert() -> None:
    """Under the alert's name, in the list of runbooks, with what it says, what it means and what to do."""
    alerts = {rule["alert"] for rule in rules()}
    assert alerts == {file.stem for file in RUNBOOKS.glob("*.md")} - {"README"}
    listed = (RUNBOOKS / "README.md").read_text()
    for alert in alerts:
        text = (RUNBOOKS / f"{alert}.md").read_text()
        assert text.startswith(f"# {alert}\n")
        assert all(part in text for part in ("**What it says.**", "**What it means.**", "**What to do**"))
        assert f"({alert}.md)" in listed
    for file in RUNBOOKS.glob("*.md"):
        for link in re.findall(r"\]\(([^)#]+)\)", file.read_text()):
            assert (RUNBOOKS / link).resolve().exists(), f"{file.name}: {link}"


def test_an_alert_says_how_bad_it_is_and_where_its_runbook_is() -> None:
    """Severity, a summary that names what is at fault, a runbook; some can be left out by name."""
    for rule in rules():
        assert rule["labels"]["severity"] in {"critical", "warning"}
        assert rule["annotations"]["runbook"] == f"docs/runbooks/{rule['alert']}.md"
        grouped = set(re.findall(r"\$labels\.(\w+)", rule["annotations"]["summary"]))
        by = {label for inside in re.findall(r"\bby \(([^)]*)\)", rule["expr"]) for label in re.split(r",\s*", inside)}
        assert grouped <= by, rule["alert"]
    (everything,) = of_kind(installed("everything"), "PrometheusRule")
    left = {rule["alert"]: rule for rule in everything["spec"]["groups"][0]["rules"]}
    assert "ThroughlineRefusalsRise" not in left
    url = left["ThroughlineNotWriting"]["annotations"]["runbook_url"]
    assert url == "https://runbooks.example.com/throughline/ThroughlineNotWriting.md"


def test_there_is_a_dashboard_for_each_thing_to_look_at() -> None:
    """Seven of them, each with panels that do not overlap, of the release that it came with."""
    found = dashboards()
    assert found.keys() == {"ingest", "lag", "identity", "journeys", "feedback", "scoring", "durability"}
    assert {file.stem for file in Path(CHART / "dashboards").glob("*.yaml")} == found.keys()
    assert len({each["uid"] for each in found.values()}) == len(found)
    for name, dashboard in found.items():
        places = [(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in dashboard["panels"]]
        assert len(places) == len(set(places)) >= 6, name
        assert len({panel["title"] for panel in dashboard["panels"]}) == len(places), name
        release = next(each for each in dashboard["templating"]["list"] if each["name"] == "release")
        assert release["current"]["value"] == "shop"


@pytest.mark.parametrize(("installation", "running"), [("production", 5), ("everything", 5), ("partitioned", 6)])
def test_monitors_find_the_services_pods_and_no_others(installation: str, running: int) -> None:
    """ServiceMonitor and PodMonitor select the five, by a port that exists and once, and say whose a sample is."""
    documents = installed(installation)
    (monitor,) = of_kind(documents, "ServiceMonitor", "PodMonitor")
    (endpoint,) = monitor["spec"].get("endpoints") or monitor["spec"]["podMetricsEndpoints"]
    assert {each["targetLabel"] for each in endpoint["relabelings"]} == {
        "throughline_release",
        "throughline_service",
        "throughline_partition",
    }
    hit = [pod for pod in pods(documents).values() if selects(monitor["spec"]["selector"], pod)]
    assert len(hit) == running
    assert all(endpoint["port"] in port_names(pod) for pod in hit)
    if monitor["kind"] == "ServiceMonitor":
        chosen = [
            each
            for each in of_kind(documents, "Service")
            if selects(monitor["spec"]["selector"], each)
            and endpoint["port"] in {port["name"] for port in each["spec"]["ports"]}
        ]
        assert [named(each).rpartition("-")[2] for each in chosen] == sorted(SERVICES)
