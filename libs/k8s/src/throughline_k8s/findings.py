"""What is wrong with a release, and what to do about each. A pure function of a snapshot of it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final, Literal

from throughline_eventlog import PARTITIONS, Partitioning, SettingsError
from throughline_eventlog.partitions import listed
from throughline_eventlog.settings import UNSAFE
from throughline_k8s.release import (
    PARTITION,
    PROBES,
    SERVICES,
    Bus,
    Certificate,
    Container,
    Running,
    Snapshot,
    Workload,
)

Severity = Literal["fault", "warning", "note"]
SEVERITIES: Final[tuple[Severity, ...]] = ("fault", "warning", "note")

OLDEST_KUBERNETES: Final = (1, 32)
OUTBOX_SECONDS: Final = 60.0
LAG_MESSAGES: Final = 100
CLOCK_WARNING: Final = 2.0
CLOCK_FAULT: Final = 30.0
RESTARTS: Final = 3
FULL: Final = 0.8
CERTIFICATE_WARNING: Final = 30 * 86_400_000_000
CERTIFICATE_FAULT: Final = 7 * 86_400_000_000
_BUS: Final = "nats"
_STORE: Final = "postgres"
_KEPT: Final = (_BUS, _STORE)
_ELSEWHERE: Final = {_BUS: "NATS", _STORE: "PostgreSQL"}
_SWITCHED_OFF: Final = ("fsync=off", "synchronous_commit=off", "full_page_writes=off")


@dataclass(frozen=True, slots=True)
class Finding:
    """Something to know of `about`. A fault loses events, stands still or soon will; a warning may become one."""

    severity: Severity
    check: str
    about: str
    says: str
    remedy: str


def findings(seen: Snapshot) -> tuple[Finding, ...]:
    """Everything that is to be said of a release, the gravest first."""
    found = [finding for check in _CHECKS for finding in check(seen)]
    return tuple(sorted(found, key=lambda each: SEVERITIES.index(each.severity)))


def _workloads(seen: Snapshot) -> Iterator[Finding]:
    there = {each.component for each in seen.workloads}
    if not there:
        yield Finding(
            "fault",
            "workloads",
            f"release {seen.release}",
            f"nothing of it is in the namespace {seen.namespace}",
            "name both with --release and --namespace; `helm list --all-namespaces` knows them",
        )
        return
    for service in SERVICES:
        if service not in there:
            yield Finding(
                "fault",
                "workloads",
                service,
                "has neither a StatefulSet nor a Deployment",
                "install it again with `helm upgrade`: every service is needed",
            )
    for each in seen.workloads:
        yield from _workload(each)


def _workload(each: Workload) -> Iterator[Finding]:
    about = f"{each.kind} {each.name}"
    if each.wanted == 0:
        yield Finding(
            "fault",
            "replicas",
            about,
            "is scaled to 0: nothing of it runs",
            f"kubectl scale {each.kind.lower()}/{each.name} --replicas 1",
        )
    elif each.ready < each.wanted:
        yield Finding(
            "fault",
            "replicas",
            about,
            f"{each.ready} of {each.wanted} pods are ready",
            f"see what its pods wait for below, and `kubectl describe {each.kind.lower()}/{each.name}`",
        )
    if not each.settled or each.updated < each.wanted:
        yield Finding(
            "warning",
            "replicas",
            about,
            f"is being rolled out: {each.updated} of {each.wanted} pods have its newest form",
            f"wait: kubectl rollout status {each.kind.lower()}/{each.name}; where it stands still, see its pods",
        )


def _pods(seen: Snapshot) -> Iterator[Finding]:
    for pod in seen.pods:
        if pod.waiting:
            yield Finding(
                "fault",
                "pods",
                f"pod {pod.name}",
                f"waits: {pod.waiting}",
                f"kubectl describe pod/{pod.name}; an image that cannot be pulled needs image.repository, image.tag or "
                "image.pullSecrets, a pod that cannot be placed needs room or other affinities",
            )
        if pod.restarts >= RESTARTS:
            memory = "OOMKilled" in pod.last_end
            yield Finding(
                "fault" if memory else "warning",
                "pods",
                f"pod {pod.name}",
                f"was restarted {pod.restarts} times{f', last {pod.last_end}' if pod.last_end else ''}",
                f"give {pod.component} more memory (resources.limits.memory)"
                if memory
                else f"read its last words: kubectl logs {pod.name} --previous",
            )


def _versions(seen: Snapshot) -> Iterator[Finding]:
    number = _numbers(seen.kubernetes)
    if number and number < OLDEST_KUBERNETES:
        yield Finding(
            "warning",
            "versions",
            f"Kubernetes {seen.kubernetes}",
            f"is older than {'.'.join(map(str, OLDEST_KUBERNETES))}, the oldest that the chart is tested with",
            "upgrade the cluster",
        )
    images: defaultdict[str, set[str]] = defaultdict(set)
    for pod in seen.pods:
        if not pod.leaving and pod.component in SERVICES:
            images[pod.component].update(each.image for each in pod.containers)
    for component, found in sorted(images.items()):
        if len(found) > 1:
            yield Finding(
                "warning",
                "versions",
                component,
                f"runs from several images: {', '.join(sorted(found))}",
                "wait for the rollout to end; where it does not, see its pods below",
            )
    versions = defaultdict[str, list[str]](list)
    for each in seen.running:
        versions[each.version].append(each.component)
    if len(versions) > 1:
        told = "; ".join(f"{version or 'unknown'}: {', '.join(sorted(names))}" for version, names in versions.items())
        yield Finding(
            "warning",
            "versions",
            "services",
            f"run in several versions: {told}",
            "let the upgrade end, then give all of them one tag: an event of a newer version stops an older consumer",
        )
    if len(versions) == 1 and seen.command_version not in versions:
        yield Finding(
            "note",
            "versions",
            "this command",
            f"is version {seen.command_version}, the services are {next(iter(versions)) or 'unknown'}",
            "install the command in the services' version",
        )


def _numbers(version: str) -> tuple[int, ...]:
    parts = version.removeprefix("v").split(".")[:2]
    return tuple(int(part) for part in parts) if all(part.isdecimal() for part in parts) else ()


def _partitions(seen: Snapshot) -> Iterator[Finding]:
    """Whether all are told the same partitions, and each that is in force is served, and no other."""
    told: defaultdict[str, set[str]] = defaultdict(set)
    serving: defaultdict[str, dict[str, int | None]] = defaultdict(dict)
    for each in seen.workloads:
        if each.component in SERVICES:
            for container in _serving(each.component, each.containers):
                told[container.environment.get(PARTITIONS, "")].add(each.name)
                serving[each.component][f"{each.kind} {each.name}"] = _number(container)
    for pod in seen.pods:
        if pod.component in SERVICES and not pod.leaving:
            for container in _serving(pod.component, pod.containers):
                serving[pod.component][f"pod {pod.name}"] = _number(container)
    if len(told) > 1:
        said = "; ".join(f"{text or 'one each'}: {', '.join(sorted(names))}" for text, names in sorted(told.items()))
        yield Finding(
            "fault",
            "partitions",
            "services",
            f"are told different partitions: {said}",
            "run `helm upgrade` with services.ingestion.partitions as `throughline partitions show` has it",
        )
        return
    try:
        partitioning = Partitioning.parse(next(iter(told), ""))
    except SettingsError as error:
        yield Finding("fault", "partitions", "services", f"do not start: {error}", "set services.ingestion.partitions")
        return
    for service, numbers in serving.items():
        in_force = partitioning.in_force(service)
        yield from _not_served(service, in_force, numbers)


def _not_served(service: str, in_force: tuple[int, ...], numbers: dict[str, int | None]) -> Iterator[Finding]:
    served = {
        about: in_force[0] if number is None and len(in_force) == 1 else number for about, number in numbers.items()
    }
    for about, number in served.items():
        if number not in in_force:
            yield Finding(
                "fault",
                "partitions",
                about,
                f"serves {'no partition' if number is None else f'partition {number}'}, of {service} "
                f"{listed(in_force)} {'are' if len(in_force) > 1 else 'is'} in force",
                "where a rollout is under way, wait; else run `helm upgrade` with services.ingestion.partitions as "
                "`throughline partitions show` has it",
            )
    missing = [number for number in in_force if number not in served.values()]
    if missing:
        yield Finding(
            "fault",
            "partitions",
            service,
            f"has no Deployment for {listed(missing)}: calls for what stands there are refused",
            "run `helm upgrade`: the chart makes one for each partition in force",
        )


def _serving(component: str, containers: tuple[Container, ...]) -> Iterator[Container]:
    return (each for each in containers if each.name == component)


def _number(container: Container) -> int | None:
    text = container.environment.get(PARTITION, "")
    return int(text) if text.isdecimal() else None


def _probes(seen: Snapshot) -> Iterator[Finding]:
    for workload in seen.workloads:
        for each in workload.containers:
            missing = [probe for probe in PROBES if probe not in each.probes]
            # A container beside the one that serves (a proxy, a collector) is its giver's affair.
            if missing and each.ports:
                yield Finding(
                    "warning",
                    "probes",
                    f"{workload.kind} {workload.name}",
                    f"its container {each.name} has no {', '.join(missing)}",
                    "take out what removes the chart's probes: without them traffic reaches what cannot answer",
                )


def _answers(seen: Snapshot) -> Iterator[Finding]:
    """What PostgreSQL answers the services, and who cannot be asked from here."""
    for process in seen.running:
        for switch in sorted(name for name, on in process.switches.items() if not on):
            yield Finding(
                "fault",
                "fsync",
                f"PostgreSQL of {process.component} ({process.pod})",
                f"answers that {switch} is off: a power cut loses what was acknowledged",
                f"set {switch} to on for the server, the database and the role, and restart the service",
            )
    seen_here = {each.component for each in seen.workloads}
    if any(each.switches for each in seen.running):
        seen_here.add(_STORE)
    for component, what in _ELSEWHERE.items():
        if seen.workloads and component not in seen_here:
            yield Finding(
                "note",
                "fsync",
                what,
                "is run elsewhere: what it does with what it acknowledges is not seen from here",
                "ask it from inside: throughline k8s replay preflight",
            )


def _durability(seen: Snapshot) -> Iterator[Finding]:
    for each in seen.bus:
        yield from _bus(each)
    for workload in seen.workloads:
        arguments = [argument for each in workload.containers for argument in each.arguments]
        off = [switch for switch in _SWITCHED_OFF if switch in arguments]
        if workload.component == _STORE and off:
            yield Finding(
                "fault",
                "fsync",
                f"{workload.kind} {workload.name}",
                f"PostgreSQL is started with {', '.join(off)}: a power cut loses what was acknowledged",
                "take the switch out; PostgreSQL's defaults are right",
            )
        if workload.component in _KEPT and not workload.claims:
            yield Finding(
                "fault",
                "fsync",
                f"{workload.kind} {workload.name}",
                "keeps its data in no persistent volume: they end with the pod",
                f"give it one ({workload.component}.storage), or use one that is run elsewhere",
            )
    yield from _answers(seen)
    for pod in seen.pods:
        if any(_true(each, UNSAFE) for each in pod.containers):
            yield Finding(
                "fault",
                "fsync",
                f"pod {pod.name}",
                f"is started with {UNSAFE}: it does not ask whether its store syncs",
                "take the variable out of extraEnv; it is for tests alone",
            )


def _true(container: Container, name: str) -> bool:
    return container.environment.get(name, "").lower() not in {"", "0", "n", "no", "f", "false", "off"}


def _bus(each: Bus) -> Iterator[Finding]:
    about = f"pod {each.pod}"
    if not each.sync_always:
        yield Finding(
            "fault",
            "fsync",
            about,
            f"JetStream acknowledges before it syncs, which is every {each.sync_seconds:g} s: a power cut loses what "
            "it acknowledged",
            'set jetstream.sync_interval to "always", in quotes',
        )
    if each.limit and each.used > FULL * each.limit:
        yield Finding(
            "fault" if each.used >= each.limit else "warning",
            "replicas",
            about,
            f"JetStream uses {each.used:,} of {each.limit:,} bytes",
            "give it more storage: publishing stops when it is full (nothing is lost: the logs hold everything)",
        )
    for stream in each.streams:
        if stream.storage == "memory":
            yield Finding(
                "fault",
                "fsync",
                f"stream {stream.name}",
                "is kept in memory",
                "delete it while its service is down; the service makes it again and publishes its log anew",
            )
        if stream.replicas < min(each.members, 3):
            yield Finding(
                "warning",
                "replicas",
                f"stream {stream.name}",
                f"has {stream.replicas} replica{'s' if stream.replicas > 1 else ''} in a cluster of {each.members}",
                "set nats.replicas to 3, and `nats stream edit --replicas 3` what is there",
            )
        if stream.current < stream.replicas and each.members > 1:
            yield Finding(
                "warning",
                "replicas",
                f"stream {stream.name}",
                f"{stream.current} of its {stream.replicas} replicas keep up",
                "look at the NATS servers: with half of them away nothing can be published",
            )


def _budgets(seen: Snapshot) -> Iterator[Finding]:
    for each in seen.budgets:
        if each.expected and not each.allowed:
            yield Finding(
                "note",
                "replicas",
                f"PodDisruptionBudget {each.name}",
                f"allows no eviction of {each.component or 'its pods'} now: a node with one of them cannot be drained",
                "where a pod is not ready, mend that; where it is the only one by design, delete it by hand to move it",
            )


def _claims(seen: Snapshot) -> Iterator[Finding]:
    for each in seen.claims:
        about = f"PersistentVolumeClaim {each.name}"
        if each.phase != "Bound":
            yield Finding(
                "fault",
                "claims",
                about,
                f"is {each.phase}, of storage class {each.storage_class or '(the default)'}",
                "name a storage class that can be provisioned (storageClassName), or make the volume that it asks for; "
                "a claim that is Lost has lost its volume: restore from a backup",
            )
        for condition in each.mending:
            yield Finding(
                "warning",
                "claims",
                about,
                f"{condition} (it has {each.given or 'nothing'}, {each.asked} are asked for)",
                "a file system is grown when its pod starts: restart the pod; a storage class that cannot grow volumes "
                "needs a new one, restored into",
            )


def _lags(seen: Snapshot) -> Iterator[Finding]:
    for each in seen.running:
        about = f"{each.component} ({each.pod})"
        yield from _standing(about, each)
        for stream, lag in each.lags.items():
            if lag > LAG_MESSAGES:
                yield Finding(
                    "warning",
                    "lags",
                    about,
                    f"has {lag:,} messages of {stream} still to take",
                    "where it falls from one look to the next, wait; else give the service more CPU, and read its log",
                )
        if each.outbox_age > OUTBOX_SECONDS:
            yield Finding(
                "fault",
                "lags",
                about,
                f"has events that are not on the bus for {each.outbox_age:,.0f} s: {each.published:,} of "
                f"{each.position:,} are",
                "look at NATS and at the NetworkPolicy to it; nothing is lost, everything is published when it is back",
            )


def _standing(about: str, each: Running) -> Iterator[Finding]:
    if each.unhealthy:
        yield Finding(
            "fault",
            "health",
            about,
            f"says that something is wrong: {', '.join(each.unhealthy)}",
            f"its log names the reason (`unhealthy`): kubectl logs {each.pod}",
        )
    if each.poison:
        yield Finding(
            "fault",
            "lags",
            about,
            f"could not take {each.poison:,} events; they are kept whole",
            "its log says why; a version that can take them tries them again at its start",
        )
    if each.restarts or each.unexpected:
        yield Finding(
            "warning",
            "health",
            about,
            f"met {each.unexpected:,} errors that nobody expected; {each.restarts:,} times its background work ended",
            f"look for `unexpected` and `background_failed` in kubectl logs {each.pod}, and report it",
        )


def _clocks(seen: Snapshot) -> Iterator[Finding]:
    clocks = [
        ("this machine", seen.here_ahead, "set this machine's clock"),
        *((f"the node of pod {each.pod}", each.ahead, "") for each in (*seen.running, *seen.bus)),
    ]
    for about, ahead, remedy in clocks:
        if ahead is None or abs(ahead) < CLOCK_WARNING:
            continue
        yield Finding(
            "fault" if abs(ahead) >= CLOCK_FAULT and not remedy else "warning",
            "clock",
            about,
            f"is {abs(ahead):,.1f} s {'ahead of' if ahead > 0 else 'behind'} the Kubernetes API's clock",
            remedy or "run NTP on every node: deadlines, grace times and certificates go by these clocks",
        )


def _certificates(seen: Snapshot) -> Iterator[Finding]:
    for each in seen.certificates:
        left = each.expires_at - seen.taken_at
        if each.trouble:
            yield Finding(
                "fault",
                "certificates",
                each.about,
                f"is not ready: {each.trouble}",
                "kubectl describe the Certificate and its CertificateRequest: the issuer says what it needs",
            )
        if each.expires_at and left < CERTIFICATE_WARNING:
            yield Finding(
                "fault" if left < CERTIFICATE_FAULT else "warning",
                "certificates",
                each.about,
                _expiry(each, left),
                "renew it: with cert-manager `cmctl renew`, else put the new one into its secret; no restart is needed",
            )


def _expiry(each: Certificate, left: int) -> str:
    days = left / 86_400_000_000
    return f"expired {-days:,.1f} days ago" if left < 0 else f"expires in {days:,.1f} days"


def _unread(seen: Snapshot) -> Iterator[Finding]:
    for each in seen.unread:
        yield Finding(
            "note" if each.forbidden else "warning",
            "access",
            each.what,
            f"could not be looked at: {each.why}",
            "let who runs this have the chart's role: k8sClient.enabled, k8sClient.subjects"
            if each.forbidden
            else "mend that and look again: nothing is known of it",
        )


_CHECKS: Final[tuple[Callable[[Snapshot], Iterator[Finding]], ...]] = (
    _workloads,
    _pods,
    _versions,
    _partitions,
    _probes,
    _durability,
    _budgets,
    _claims,
    _lags,
    _clocks,
    _certificates,
    _unread,
)
