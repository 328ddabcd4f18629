"""What each service's user may do on the bus, and nothing else: pure. Guides, chart and tests take it from here."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from throughline_eventlog.streams import API, stream_name, subject_name
from throughline_kernel import UPSTREAMS

RELAYED: Final = ("", "_proofs", "_access_proofs")
"""What is put behind a service's name for each of its logs that is relayed to the bus."""
_OF_OWN: Final = ("STREAM.INFO", "STREAM.CREATE", "STREAM.MSG.GET")
_OF_UPSTREAM: Final = ("CONSUMER.CREATE", "CONSUMER.MSG.NEXT", "CONSUMER.DELETE")


@dataclass(frozen=True, slots=True)
class BusRights:
    """Subjects that a service's user may publish to, requests to JetStream among them, and may subscribe to.

    `logs` are those that it relays, each with its partition.
    """

    service: str
    user: str
    publish: tuple[str, ...]
    subscribe: tuple[str, ...]
    logs: tuple[tuple[str, int], ...]


def inbox_of(service: str, prefix: str = "TL") -> str:
    """What the subjects begin with on which a service is answered, e.g. `_INBOX_TL_IDENTITY`: no other may listen."""
    return f"_INBOX_{prefix}_{service.upper()}"


def user_of(service: str, prefix: str = "TL") -> str:
    """What a service's user is called, e.g. `tl_identity`; an operator may call them otherwise."""
    return f"{prefix.lower()}_{service}"


def relayed_logs(service: str) -> tuple[str, ...]:
    """The names of a service's logs that are on the bus: its own, and the proofs of it and of its access log."""
    return tuple(f"{service}{log}" for log in RELAYED)


def rights_of(service: str, *, prefix: str = "TL", partitions: Mapping[str, Sequence[int]] | None = None) -> BusRights:
    """What the service's user needs: to make, look at and fill the streams of its own logs, and to read those of the
    services that it takes from, by consumers that it makes and takes away again.

    `partitions` are the numbers of each service's partitions, 0 alone where it is not named. Raises: KeyError for no
    service of ours.
    """
    numbers = partitions or {}
    own = [(log, number) for log in relayed_logs(service) for number in numbers.get(service, (0,))]
    taken = [
        stream_name(upstream, number, prefix)
        for upstream in UPSTREAMS[service]
        for number in numbers.get(upstream, (0,))
    ]
    return BusRights(
        service,
        user_of(service, prefix),
        publish=(
            *(subject_name(log, number, prefix) for log, number in own),
            *(f"{API}{what}.{stream_name(log, number, prefix)}" for log, number in own for what in _OF_OWN),
            *(f"{API}STREAM.INFO.{stream}" for stream in taken),
            *(f"{API}{what}.{stream}.*" for stream in taken for what in _OF_UPSTREAM),
        ),
        subscribe=(f"{inbox_of(service, prefix)}.>",),
        logs=tuple(own),
    )


def all_rights(*, prefix: str = "TL", partitions: Mapping[str, Sequence[int]] | None = None) -> tuple[BusRights, ...]:
    """Those of every service."""
    return tuple(rights_of(service, prefix=prefix, partitions=partitions) for service in UPSTREAMS)


def server_lines(rights: Sequence[BusRights], passwords: Mapping[str, str]) -> str:
    """Lines of a nats-server's configuration: a user for each service, and nobody else.

    A password is written as it is given: quote it, or give `$VARIABLE`, which the server reads from its environment.
    """
    lines = ["authorization {", "  users: ["]
    for each in rights:
        lines += [
            "    {",
            f"      user: {each.user}",
            f"      password: {passwords[each.service]}",
            "      permissions: {",
            f"        publish: {{allow: {json.dumps(each.publish)}}}",
            f"        subscribe: {{allow: {json.dumps(each.subscribe)}}}",
            "      }",
            "    }",
        ]
    return "\n".join([*lines, "  ]", "}"]) + "\n"
