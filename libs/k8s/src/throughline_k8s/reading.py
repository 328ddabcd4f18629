"""What the Kubernetes API, a service's metrics and a NATS server answer, read into a release's parts. Pure."""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Final

from prometheus_client.parser import text_string_to_metric_families

from throughline_client.importer.times import micros
from throughline_k8s.release import (
    CHART_LABEL,
    COMPONENT_LABEL,
    PROBES,
    RELEASE_LABEL,
    VERSION_LABEL,
    Budget,
    Bus,
    Certificate,
    Claim,
    Container,
    Pod,
    Running,
    Stream,
    Workload,
)

Json = Mapping[str, Any]
# Go writes nanoseconds; Python reads microseconds.
_FRACTION: Final = re.compile(r"\.(\d{1,6})\d*")


def instant(text: str) -> int:
    """RFC 3339, nanoseconds allowed, in microseconds since epoch. Raises: ValueError."""
    return micros(datetime.fromisoformat(_FRACTION.sub(r".\1", text)))


def date_header(text: str | None) -> float | None:
    """An HTTP date in seconds since epoch, None where there is none that can be read."""
    try:
        return parsedate_to_datetime(text).timestamp() if text else None
    except ValueError:
        return None


def labels(found: Json) -> Mapping[str, str]:
    """An object's labels."""
    return _part(found["metadata"], "labels")


def _part(found: Json, name: str) -> Json:
    return found.get(name) or {}


def _parts(found: Json, name: str) -> list[Json]:
    return found.get(name) or []


def releases(objects: Iterable[Json]) -> list[str]:
    """The releases that objects belong to, by name."""
    return sorted({labels(each)[RELEASE_LABEL] for each in objects if RELEASE_LABEL in labels(each)})


def workload(found: Json) -> Workload:
    """A StatefulSet or Deployment."""
    spec, status = found["spec"], _part(found, "status")
    pod = spec["template"]["spec"]
    volumes = _parts(pod, "volumes")
    return Workload(
        found["kind"],
        found["metadata"]["name"],
        labels(found).get(COMPONENT_LABEL, ""),
        spec.get("replicas", 1),
        status.get("readyReplicas") or 0,
        status.get("updatedReplicas") or 0,
        (status.get("observedGeneration") or 0) >= (found["metadata"].get("generation") or 0),
        tuple(map(container, pod["containers"])),
        labels(found).get(CHART_LABEL, ""),
        labels(found).get(VERSION_LABEL, ""),
        frozenset(each["name"] for each in volumes if "emptyDir" in each),
        frozenset(each["metadata"]["name"] for each in _parts(spec, "volumeClaimTemplates")),
    )


def container(found: Json) -> Container:
    """A container of a pod's spec."""
    return Container(
        found["name"],
        found["image"],
        (*(found.get("command") or ()), *(found.get("args") or ())),
        frozenset(each for each in PROBES if each in found),
        {each["name"]: each["containerPort"] for each in _parts(found, "ports") if "name" in each},
        {each["name"]: each["value"] for each in _parts(found, "env") if "value" in each},
    )


def pod(found: Json) -> Pod:
    """A pod, with the trouble of the first of its containers that has any."""
    status = _part(found, "status")
    states: list[Json] = [*_parts(status, "initContainerStatuses"), *_parts(status, "containerStatuses")]
    conditions: dict[str, Json] = {each["type"]: each for each in _parts(status, "conditions")}
    waiting = [_told(each["state"]["waiting"]) for each in states if "waiting" in _part(each, "state")]
    placed = conditions.get("PodScheduled", {})
    if placed.get("status") == "False":
        waiting.append(_told(placed))
    ends = [_ended(each["lastState"]["terminated"]) for each in states if "terminated" in _part(each, "lastState")]
    return Pod(
        found["metadata"]["name"],
        labels(found).get(COMPONENT_LABEL, ""),
        found["spec"].get("nodeName") or "",
        status.get("phase") or "Pending",
        conditions.get("Ready", {}).get("status") == "True",
        sum(each.get("restartCount") or 0 for each in states),
        tuple(map(container, found["spec"]["containers"])),
        next(iter(waiting), ""),
        next(iter(ends), ""),
        "deletionTimestamp" in found["metadata"],
    )


def _told(state: Json) -> str:
    return ": ".join(filter(None, (state.get("reason"), state.get("message"))))


def _ended(state: Json) -> str:
    return f"{state.get('reason') or 'Ended'} (exit code {state.get('exitCode', '?')})"


def claim(found: Json) -> Claim:
    """A PersistentVolumeClaim."""
    spec, status = found["spec"], _part(found, "status")
    return Claim(
        found["metadata"]["name"],
        status.get("phase") or "Pending",
        spec.get("storageClassName") or "",
        spec["resources"]["requests"]["storage"],
        _part(status, "capacity").get("storage", ""),
        tuple(_told({"reason": each["type"], **each}) for each in _parts(status, "conditions")),
    )


def budget(found: Json) -> Budget:
    """A PodDisruptionBudget."""
    status = _part(found, "status")
    chosen = _part(_part(found["spec"], "selector"), "matchLabels")
    return Budget(
        found["metadata"]["name"],
        chosen.get(COMPONENT_LABEL, ""),
        status.get("disruptionsAllowed") or 0,
        status.get("expectedPods") or 0,
    )


def kept_certificate(found: Json) -> Certificate:
    """A Certificate of cert-manager."""
    status = _part(found, "status")
    ready = next((each for each in _parts(status, "conditions") if each["type"] == "Ready"), dict[str, Any]())
    trouble = "" if ready.get("status") == "True" else _told(ready) or "it was not issued yet"
    return Certificate(
        f"Certificate {found['metadata']['name']}",
        instant(status["notAfter"]) if status.get("notAfter") else 0,
        trouble,
    )


def running(of: Pod, text: str, now: float | None) -> Running:
    """A service's metrics in Prometheus's text form. `now`: the API's clock, in seconds."""
    values: dict[str, float] = {}
    by_label: defaultdict[str, Counter[str]] = defaultdict(Counter)
    version = ""
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if math.isnan(sample.value):
                # A store that was away when it was asked.
                continue
            values[sample.name] = values.get(sample.name, 0.0) + sample.value
            for name, value in sample.labels.items():
                by_label[f"{sample.name}.{name}"][value] += int(sample.value)
            if sample.name == "throughline_build":
                version = sample.labels.get("version", "")
    clock = values.get("throughline_clock_seconds")
    return Running(
        of.name,
        of.component,
        version,
        None if clock is None or now is None else clock - now,
        int(values.get("throughline_log_position", 0)),
        int(values.get("throughline_published_position", 0)),
        values.get("throughline_outbox_age_seconds", 0.0),
        dict(by_label["throughline_consumer_lag_messages.stream"]),
        int(values.get("throughline_poison_events", 0)),
        int(values.get("throughline_background_restarts_total", 0)),
        int(values.get("throughline_unexpected_errors_total", 0)),
        tuple(sorted(name for name, well in by_label["throughline_healthy.check"].items() if not well)),
        dict(by_label["throughline_offers_total.verdict"]),
        {switch: on > 0 for switch, on in by_label["throughline_store_syncs.setting"].items()},
    )


def bus(of: Pod, server: Json, streams: Json, now: float | None) -> Bus:
    """`/varz` and `/jsz?config=1&streams=1` of a NATS server. `now`: the API's clock, in seconds."""
    config = _part(streams, "config")
    accounts = _parts(streams, "account_details")
    return Bus(
        of.name,
        server.get("version", ""),
        None if now is None else instant(server["now"]) / 1_000_000 - now,
        bool(config.get("sync_always")),
        config.get("sync_interval", 0) / 1_000_000_000,
        # A server alone has none.
        _part(streams, "meta_cluster").get("cluster_size", 1),
        streams.get("storage", 0),
        config.get("max_storage", 0),
        tuple(
            _stream(each)
            for account in accounts
            for each in _parts(account, "stream_detail")
            # Who keeps up is known to a stream's leader alone; without one everybody tells of it.
            if _part(each, "cluster").get("leader") in {None, "", server.get("server_name")}
        ),
    )


def _stream(found: Json) -> Stream:
    config = _part(found, "config")
    followers = _parts(_part(found, "cluster"), "replicas")
    keeping_up = sum(1 for each in followers if each.get("current") and not each.get("offline"))
    return Stream(found["name"], config.get("num_replicas", 1), 1 + keeping_up, config.get("storage", ""))


def now_micros() -> int:
    """This machine's clock."""
    return micros(datetime.now(UTC))
