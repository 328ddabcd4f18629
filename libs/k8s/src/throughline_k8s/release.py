"""What a release is, as its objects and its processes show it at one moment. Instants are microseconds since epoch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

NAME: Final = "throughline"
SERVICES: Final = ("ingestion", "identity", "journey", "feedback", "scoring")
NAME_LABEL: Final = "app.kubernetes.io/name"
RELEASE_LABEL: Final = "app.kubernetes.io/instance"
COMPONENT_LABEL: Final = "app.kubernetes.io/component"
VERSION_LABEL: Final = "app.kubernetes.io/version"
CHART_LABEL: Final = "helm.sh/chart"
PARTITION: Final = "THROUGHLINE_PARTITION"
"""Which of its service's partitions a pod serves."""
PROBES: Final = ("startupProbe", "readinessProbe", "livenessProbe")


def selector(release: str, component: str = "") -> str:
    """The label selector of a release's objects, or of one component's."""
    labels = {NAME_LABEL: NAME, RELEASE_LABEL: release, **({COMPONENT_LABEL: component} if component else {})}
    return ",".join(f"{name}={value}" for name, value in labels.items())


@dataclass(frozen=True, slots=True)
class Container:
    """One container as its pod asks for it. `environment` holds what stands there in the clear."""

    name: str
    image: str
    arguments: tuple[str, ...] = ()
    probes: frozenset[str] = frozenset()
    ports: Mapping[str, int] = field(default_factory=dict[str, int])
    environment: Mapping[str, str] = field(default_factory=dict[str, str])


@dataclass(frozen=True, slots=True)
class Workload:
    """A StatefulSet or Deployment. `settled`: its controller has seen its newest form."""

    kind: str
    name: str
    component: str
    wanted: int
    ready: int
    updated: int
    settled: bool
    containers: tuple[Container, ...]
    chart: str = ""
    version: str = ""
    memory_volumes: frozenset[str] = frozenset()
    claims: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Pod:
    """A pod. `waiting` is why it is not running or not placed, `last_end` how its container ended before."""

    name: str
    component: str
    node: str
    phase: str
    ready: bool
    restarts: int
    containers: tuple[Container, ...]
    waiting: str = ""
    last_end: str = ""
    leaving: bool = False

    @property
    def reachable(self) -> bool:
        """Whether it can be asked something."""
        return self.phase == "Running" and not self.leaving

    def told(self, variable: str) -> str:
        """What the container that serves is told by a variable, in the clear; empty where nothing."""
        return next((each.environment.get(variable, "") for each in self.containers if each.name == self.component), "")

    def port(self, name: str) -> int | None:
        """The number of a port by its name, None where no container names it."""
        return next((each.ports[name] for each in self.containers if name in each.ports), None)


@dataclass(frozen=True, slots=True)
class Claim:
    """A claim of a persistent volume; sizes as Kubernetes writes them. `mending`: conditions it is in."""

    name: str
    phase: str
    storage_class: str
    asked: str
    given: str
    mending: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Budget:
    """A PodDisruptionBudget: how many of a component's pods may be evicted now."""

    name: str
    component: str
    allowed: int
    expected: int


@dataclass(frozen=True, slots=True)
class Certificate:
    """A certificate as a port presents it, or as cert-manager keeps it; `trouble` where it cannot be renewed."""

    about: str
    expires_at: int
    trouble: str = ""


@dataclass(frozen=True, slots=True)
class Running:
    """What a service's process says of itself in its metrics. `ahead` is its clock over that of the API, in seconds.

    `offers` counts by verdict, `lags` messages not taken by stream, `unhealthy` names the checks with a reason.
    `switches` says of the settings by which its PostgreSQL keeps what it acknowledges whether they are on.
    """

    pod: str
    component: str
    version: str
    ahead: float | None
    position: int
    published: int
    outbox_age: float
    lags: Mapping[str, int]
    poison: int
    restarts: int
    unexpected: int
    unhealthy: tuple[str, ...]
    offers: Mapping[str, int]
    switches: Mapping[str, bool] = field(default_factory=dict[str, bool])


@dataclass(frozen=True, slots=True)
class Stream:
    """A stream of JetStream: its replicas as configured, and those that keep up."""

    name: str
    replicas: int
    current: int
    storage: str


@dataclass(frozen=True, slots=True)
class Bus:
    """What a NATS server says of itself. `members` counts the servers of its cluster, itself too; sizes in bytes.

    `streams` are those that it leads, and those that nobody leads.
    """

    pod: str
    version: str
    ahead: float | None
    sync_always: bool
    sync_seconds: float
    members: int
    used: int
    limit: int
    streams: tuple[Stream, ...]


@dataclass(frozen=True, slots=True)
class Unread:
    """Something that could not be looked at, and why."""

    what: str
    why: str
    forbidden: bool = False


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A release at one moment. `here_ahead` is this machine's clock over that of the API, in seconds."""

    release: str
    namespace: str
    taken_at: int
    kubernetes: str
    command_version: str
    here_ahead: float | None = None
    workloads: tuple[Workload, ...] = ()
    pods: tuple[Pod, ...] = ()
    claims: tuple[Claim, ...] = ()
    budgets: tuple[Budget, ...] = ()
    certificates: tuple[Certificate, ...] = ()
    running: tuple[Running, ...] = ()
    bus: tuple[Bus, ...] = ()
    unread: tuple[Unread, ...] = ()
