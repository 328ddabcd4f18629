"""`throughline k8s`: a release on Kubernetes, looked at and worked with through the Kubernetes API."""

from __future__ import annotations

import functools
import os
import signal
import subprocess
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Any, Final

import click

from throughline_client.commands.running import BAD_INPUT, FAULT, UNAVAILABLE, Failure, output_option, tell
from throughline_client.commands.showing import print_json, print_table, when
from throughline_client.endpoints import PEERS, SERVICES, address_variable
from throughline_eventlog import PARTITIONS, Partitioning
from throughline_k8s.findings import Finding, findings
from throughline_k8s.jobs import OUTPUT, Asked, NotHereError, in_the_cluster
from throughline_k8s.release import PARTITION, Pod, Snapshot, selector

if TYPE_CHECKING:
    # Loads the client of Kubernetes; every command would.
    from throughline_k8s.cluster import Cluster, Tunnel

PORT_BASE: Final = 7520
GRPC: Final = "grpc"
_EXISTING = click.Path(path_type=Path, dir_okay=False, exists=True)


@click.group()
def k8s() -> None:
    """Look at a release on Kubernetes, run replays and audits in it, and reach its services.

    The cluster is that of the kubeconfig (KUBECONFIG, else ~/.kube/config); inside a pod it is the pod's own. What
    these may do there is the chart's role: k8sClient.enabled, k8sClient.subjects (docs/kubernetes.md).

    \b
    Examples:
      throughline k8s doctor --namespace shop
      throughline k8s replay rederive identity
      throughline k8s port-forward
    """


def _in_cluster(command: Callable[..., None]) -> Callable[..., None]:
    """Adds --namespace, --release, --context and --kubeconfig; the command is given the cluster and the release."""

    @click.option("--namespace", "-n", help="Where the release is; else that of the context.")
    @click.option("--release", help="Its name with Helm; else the only one in the namespace.")
    @click.option("--context", help="A context of the kubeconfig; else the current one.")
    @click.option("--kubeconfig", type=_EXISTING, help="Else KUBECONFIG, else ~/.kube/config.")
    @functools.wraps(command)
    def run(
        *, namespace: str | None, release: str | None, context: str | None, kubeconfig: Path | None, **asked: Any
    ) -> None:
        try:
            from throughline_k8s.cluster import Cluster  # noqa: PLC0415 -- loads the client of Kubernetes
            from throughline_k8s.gathering import find_release  # noqa: PLC0415 -- as above
        except ModuleNotFoundError as error:
            raise Failure(
                f"the client of Kubernetes is not installed here ({error}): run this from outside the cluster, "
                "with the Python package throughline-k8s[cluster]",
                BAD_INPUT,
            ) from error

        cluster = Cluster.find(kubeconfig, context, namespace)
        command(cluster=cluster, release=find_release(cluster, release), **asked)

    return run


@k8s.command()
@_in_cluster
@click.option("--strict", is_flag=True, help="Warnings end with exit code 6 too.")
@output_option
def doctor(*, cluster: Cluster, release: str, strict: bool, output: str) -> None:
    """Say what is wrong with a release, and what to do about it.

    Reads workloads, pods, claims, disruption budgets and certificates from the API, and asks the services and NATS
    themselves through its port-forwarding: versions, probes, sync before acknowledgement, replicas, volumes, lags,
    clocks, certificates that expire. Changes nothing, and reads no secret.

    A fault loses events, stands still or soon will; a warning may become one.

    \b
    Exit codes: 0 no fault; 2 the kubeconfig or the release is wrong; 3 the API cannot be reached; 6 a fault.
    """
    from throughline_k8s.gathering import Gatherer  # noqa: PLC0415 -- loads the client of Kubernetes

    seen = Gatherer(cluster, release).snapshot()
    found = findings(seen)
    if output == "json":
        print_json(
            {
                "release": seen.release,
                "namespace": seen.namespace,
                "taken_at": seen.taken_at,
                "kubernetes": seen.kubernetes,
                "findings": [asdict(each) for each in found],
                "services": [asdict(each) for each in seen.running],
                "bus": [asdict(each) for each in seen.bus],
                "certificates": [asdict(each) for each in seen.certificates],
            }
        )
    else:
        _print_release(seen, found)
    grave = {"fault", "warning"} if strict else {"fault"}
    if any(each.severity in grave for each in found):
        raise click.exceptions.Exit(FAULT)


def _print_release(seen: Snapshot, found: tuple[Finding, ...]) -> None:
    asked = {each.pod: each for each in seen.running}
    rows: list[list[object]] = []
    for pod in seen.pods:
        process = asked.get(pod.name)
        rows.append(
            [
                pod.name,
                "ready" if pod.ready else pod.waiting or pod.phase,
                pod.restarts,
                pod.node or "-",
                *(
                    ["-", "-", "-", "-"]
                    if process is None
                    else [
                        process.version,
                        f"{process.position:,}",
                        f"{process.position - process.published:,}",
                        [f"{stream} {lag}" for stream, lag in process.lags.items()] or "-",
                    ]
                ),
            ]
        )
    title = f"{seen.release} in {seen.namespace}, Kubernetes {seen.kubernetes}, {when(seen.taken_at)}"
    columns = ["pod", "", "restarts", "node", "version", "position", "outbox", "lag"]
    print_table(columns, rows, title=title)
    if not found:
        click.echo("\nNothing is wrong.")
        return
    print_table(
        ["", "check", "what", "is", "remedy"],
        [[each.severity, each.check, each.about, each.says, each.remedy] for each in found],
        title="",
    )


@k8s.command(context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@_in_cluster
@click.option(
    "--into",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path(),
    help="Where the files of the result go; else here.",
)
@click.option("--send", "sent", type=_EXISTING, multiple=True, help="A file that the command reads by its name.")
@click.option("--limit", type=click.IntRange(1), default=86_400, show_default=True, help="Seconds it may take.")
@click.option("--keep", is_flag=True, help="Leave the Job there; it goes by itself after ten minutes.")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def replay(
    *,
    cluster: Cluster,
    release: str,
    into: Path,
    sent: tuple[Path, ...],
    limit: int,
    keep: bool,
    command: tuple[str, ...],
) -> None:
    """Run a replay, a re-derivation or an audit inside the cluster, and fetch its result.

    COMMAND is typed as it is for `throughline`: all, client or interaction (of `replay`), rederive, whatif, audit,
    checkpoint or preflight. It runs as a Job beside the stores, with the release's settings and a service account that
    may do nothing; what it says is told as it comes, what it prints is printed, and the files that it writes arrive in
    --into. The Job is deleted at the end, or when you interrupt.

    \b
    Examples:
      throughline k8s replay all
      throughline k8s replay rederive identity journey --output json
      throughline k8s replay --send RULES.yaml whatif identity RULES.yaml
      throughline k8s replay --into EVIDENCE audit client 5f0c... --to EVIDENCE.zip

    \b
    Exit codes: the command's own; 2 it does not run as a Job; 3 the API cannot be reached, or the Job ended too soon.
    """
    from throughline_k8s.remote import Remote  # noqa: PLC0415 -- loads the client of Kubernetes

    try:
        asked = Asked(in_the_cluster(command), {each.name: each.read_bytes() for each in sent}, limit)
    except NotHereError as error:
        raise Failure(str(error), BAD_INPUT) from error
    with _terminated_as_interrupted():
        code = Remote(cluster, release, tell).run(asked, into, keep=keep)
    printed = into / OUTPUT
    click.echo(printed.read_bytes(), nl=False)
    printed.unlink()
    raise click.exceptions.Exit(code)


@contextmanager
def _terminated_as_interrupted() -> Generator[None]:
    """A SIGTERM takes the Job away too."""

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@k8s.command("port-forward")
@_in_cluster
@click.option(
    "--port-base",
    type=click.IntRange(0, 65_530),
    default=PORT_BASE,
    show_default=True,
    help="First port, the services in order; 0 takes free ones.",
)
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
def port_forward(*, cluster: Cluster, release: str, port_base: int, command: tuple[str, ...]) -> None:
    """Reach the five services from this machine, until Ctrl-C; of ingestion each partition, from +5 on.

    Prints the variables by which every other command finds them; with a COMMAND it runs that with them set, and ends
    with it. Each new connection goes to a pod that is ready then, so that a rolling upgrade is outlived.

    \b
    Examples:
      throughline k8s port-forward
      throughline k8s port-forward -- throughline status

    \b
    Exit codes: 0 ended as asked; 2 the kubeconfig or the release is wrong; 3 a port is busy, or the API is away; else
    those of COMMAND.
    """
    from throughline_k8s.forwarding import Forward  # noqa: PLC0415 -- loads the client of Kubernetes

    addresses: dict[str, str] = {}
    with ExitStack() as open_things:
        for index, service in enumerate(SERVICES):
            forward = Forward(
                functools.partial(to_ready_pod, cluster, release, service),
                port_base + index if port_base else 0,
                tell,
            )
            open_things.enter_context(forward)
            addresses[address_variable(service)] = forward.address
        partitioning = partitions_of(cluster, release)
        if text := partitioning.write():
            addresses[PARTITIONS] = text
        numbers = partitioning.in_force("ingestion")
        if len(numbers) > 1:
            peers: list[str] = []
            for index, number in enumerate(numbers, len(SERVICES)):
                leads = functools.partial(to_ready_pod, cluster, release, "ingestion", number)
                forward = Forward(leads, port_base + index if port_base else 0, tell)
                open_things.enter_context(forward)
                peers.append(forward.address)
            addresses[PEERS] = ",".join(peers)
        if command:
            code = subprocess.run(command, env={**os.environ, **addresses}, check=False).returncode
            raise click.exceptions.Exit(code if code >= 0 else 128 - code)
        for variable, address in addresses.items():
            click.echo(f"export {variable}={address}")
        tell("forwarding until Ctrl-C ...")
        _until_asked()


def _until_asked() -> None:
    """Returns at Ctrl-C or SIGTERM."""
    asked = Event()
    for each in (signal.SIGTERM, signal.SIGINT):
        signal.signal(each, lambda _number, _frame: asked.set())
    asked.wait()


def partitions_of(cluster: Cluster, release: str) -> Partitioning:
    """In how many partitions the pods of ingestion are told that their log stands. Raises: ClusterError, Failure."""
    from throughline_k8s import reading  # noqa: PLC0415 -- loads the parser of metrics
    from throughline_k8s.cluster import PODS  # noqa: PLC0415 -- loads the client of Kubernetes

    pods: list[Pod] = [reading.pod(each) for each in cluster.listed(PODS, selector(release, "ingestion"))]
    told = {each.told(PARTITIONS) for each in pods if each.reachable}
    if len(told) > 1:
        raise Failure(
            "pods of ingestion are told different partitions; `throughline k8s doctor` says which", UNAVAILABLE
        )
    return Partitioning.parse(next(iter(told), ""))


@contextmanager
def to_ready_pod(cluster: Cluster, release: str, service: str, partition: int | None = None) -> Generator[Tunnel]:
    """A tunnel to a pod of a service, or of one of its partitions, that is ready now. Raises: ClusterError."""
    from throughline_k8s import reading  # noqa: PLC0415 -- loads the parser of metrics
    from throughline_k8s.cluster import PODS, ClusterError  # noqa: PLC0415 -- loads the client of Kubernetes

    pods: list[Pod] = [reading.pod(each) for each in cluster.listed(PODS, selector(release, service))]
    ready = [
        (each.name, port)
        for each in pods
        if each.ready and each.reachable and (port := each.port(GRPC))
        if partition is None or each.told(PARTITION) == str(partition)
    ]
    if not ready:
        of = service if partition is None else f"partition {partition} of {service}"
        raise ClusterError(f"no pod of {of} is ready; `throughline k8s doctor` says why")
    with cluster.tunnel(*ready[0]) as tunnel:
        yield tunnel
