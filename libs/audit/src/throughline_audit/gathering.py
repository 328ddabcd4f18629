"""Asks the services for events and what proves them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from throughline.eventlog.v1 import eventlog_pb2
from throughline.identity.v1 import events_pb2 as identity
from throughline.proof.v1 import proof_pb2
from throughline.scoring.v1 import events_pb2 as scoring
from throughline_client.client import Throughline
from throughline_client.sdk.proofs import LogProofs
from throughline_eventlog.partitions import service_of
from throughline_proof import Checkpoint, PublicKey, open_checkpoint
from throughline_rpc import EVERYBODY, RemoteRefusal

AT_ONCE = 200
"""Events asked for in one call."""
_TRIES = 10
OF_ACCESS = "_access"
"""What the name of a service's access log ends in."""

CHOSEN, RANGE, BEGINNING = "chosen", "range", "beginning"
_ATTRIBUTED: Mapping[str, Callable[[bytes], identity.InteractionAttributed | identity.InteractionReattributed]] = {
    identity.InteractionAttributed.DESCRIPTOR.full_name: identity.InteractionAttributed.FromString,
    identity.InteractionReattributed.DESCRIPTOR.full_name: identity.InteractionReattributed.FromString,
}
_DEFINED = scoring.MetricDefined.DESCRIPTOR.full_name
_MERGED = identity.ClientsMerged.DESCRIPTOR.full_name
_FORGOTTEN = identity.ClientForgotten.DESCRIPTOR.full_name

Told = Callable[[str, int], None]
"""Hears how many events of a service were taken."""


@dataclass
class LogPart:
    """What a pack shows of one log: proofs of events, lists of subjects (by hex id), earlier checkpoints continued.

    `mode`: chosen events, a whole `range` of them, or the log's `beginning` up to one. `beginning`: what proves the
    tree of the events shown to be the beginning of the checkpoint's.
    """

    service: str
    mode: str
    checkpoint: proof_pb2.CheckpointSigned
    proofs: list[proof_pb2.InclusionProof] = field(default_factory=list[proof_pb2.InclusionProof])
    subjects: dict[str, proof_pb2.GetSubjectProofResponse] = field(
        default_factory=dict[str, proof_pb2.GetSubjectProofResponse]
    )
    earlier: list[tuple[str, list[bytes]]] = field(default_factory=list[tuple[str, list[bytes]]])
    beginning: list[bytes] = field(default_factory=list[bytes])


class NothingFoundError(Exception):
    """No log has an event of what was asked for; the message says what to give."""


class Gatherer:
    """Gathers for one pack. Every method raises RemoteRefusal where a call fails, EndpointError."""

    def __init__(self, client: Throughline, since: Sequence[str], told: Told) -> None:
        self._client = client
        self._since = since
        self._told = told
        self.vkeys: list[str] = []

    @property
    def _logs(self) -> Sequence[str]:
        return self._client.endpoints.logs

    async def keys(self) -> list[str]:
        """The installation's verifier keys."""
        if not self.vkeys:
            self.vkeys = await self._client.proofs(self._logs[0]).keys()
        return self.vkeys

    def _proofs(self, log: str) -> LogProofs:
        """What proves a log: a service's own, or `<log>_access`."""
        name = log.removesuffix(OF_ACCESS)
        return self._client.proofs(log) if name == log else self._client.access_proofs(name)

    async def checkpoints(self) -> dict[str, proof_pb2.CheckpointSigned]:
        """Every log as it ends now, signed."""
        made = await asyncio.gather(*(self._client.proofs(log).checkpoint() for log in self._logs))
        return dict(zip(self._logs, made, strict=True))

    async def whose(self, client_id: str) -> list[str]:
        """The client's id and aliases; of a forgotten client all ids that were ever merged with it."""
        try:
            found = await self._client.identity.client(client_id)
        except RemoteRefusal as refusal:
            if refusal.reason != "CLIENT_FORGOTTEN":
                raise
            return await self._merged_with(client_id)
        return [found.client_id, *found.alias_ids]

    async def _merged_with(self, client_id: str) -> list[str]:
        found, asked = [client_id], 0
        while asked < len(found):
            events = self._client.log("identity").read(client_id=found[asked])
            async for event in events:
                if event.type == _MERGED:
                    payload = eventlog_pb2.Envelope.FromString(event.envelope).payload
                    merged = identity.ClientsMerged.FromString(payload)
                    found += [each for each in (merged.client_id, merged.merged_client_id) if each not in found]
            asked += 1
        return found

    async def of_client(self, client_id: str) -> tuple[list[str], dict[str, LogPart]]:
        """The client's ids, and of each log all events that concern them; of ingestion's those of their personas."""
        ids = await self.whose(client_id)
        await self.checkpoints()
        parts = {log: await self._of_subjects(log, ids) for log in self._logs if service_of(log) != "ingestion"}
        personas = sorted(_personas(parts["identity"].proofs))
        for log in self._logs:
            if log not in parts:
                parts[log] = await self._of_subjects(log, personas)
        if not any(part.proofs for part in parts.values()):
            raise NothingFoundError(f"no log has an event of client {client_id}: give an id that identity told")
        return ids, {log: parts[log] for log in self._logs}

    async def of_interaction(self, interaction_id: str) -> dict[str, LogPart]:
        """What each log says of an interaction."""
        signed = await self.checkpoints()
        parts: dict[str, LogPart] = {}
        for service, checkpoint in signed.items():
            events = self._client.log(service).read(interaction_ids=[interaction_id], until=checkpoint.position)
            positions = [event.position async for event in events]
            if positions:
                parts[service] = await self._part(service, CHOSEN, checkpoint, positions)
        if not parts:
            raise NothingFoundError(f"no log has an event of interaction {interaction_id}: give an interaction's id")
        return parts

    async def of_range(self, service: str, after: int, until: int) -> LogPart:
        """All events of a log (by its name) behind a position, up to one (0: to the end)."""
        checkpoint = await self._client.proofs(service).checkpoint()
        last = min(until or checkpoint.position, checkpoint.position)
        events = self._client.log(service).read(after=after, until=last)
        positions = [event.position async for event in events]
        if not positions:
            raise NothingFoundError(f"the log of {service} has no event behind {after} up to {last}")
        return await self._part(service, RANGE, checkpoint, positions)

    async def of_all_access(self) -> dict[str, LogPart]:
        """Every read that the access logs hold, by log."""
        parts: dict[str, LogPart] = {}
        for name in self._logs:
            log = name + OF_ACCESS
            checkpoint = await self._proofs(log).checkpoint()
            entries = self._client.access(name).entries()
            positions = [entry.position async for entry in entries if entry.position <= checkpoint.position]
            if positions:
                parts[log] = await self._part(log, RANGE, checkpoint, positions)
        if not parts:
            raise NothingFoundError("nobody has read anything yet")
        return parts

    async def of_access(self, client_id: str) -> tuple[list[str], dict[str, LogPart]]:
        """The client's ids, and of each access log all reads of them, or of everybody; of ingestion's those of their
        personas.
        """
        ids = await self.whose(client_id)
        await self.checkpoints()
        personas = sorted(_personas((await self._of_subjects("identity", ids)).proofs))
        subjects = {
            log + OF_ACCESS: [EVERYBODY, *(personas if service_of(log) == "ingestion" else ids)] for log in self._logs
        }
        for log in subjects:
            await self._proofs(log).checkpoint()
        return ids, {log: await self._of_subjects(log, named) for log, named in subjects.items()}

    async def of_score(self, score: scoring.Score, *, own_metric: bool) -> LogPart:
        """What a score stands on: a client's events in scoring's log, or that log up to the score's position.

        `own_metric`: whether it is of a metric of the installation's own, whose definition is an event too.
        """
        if score.subject_kind != scoring.SUBJECT_KIND_CLIENT:
            return await self._beginning("scoring", score.position)
        await self._client.proofs("scoring").checkpoint()
        part = await self._of_subjects("scoring", [score.subject])
        if own_metric:
            events = self._client.log("scoring").read(until=part.checkpoint.position)
            positions = [event.position async for event in events if event.type == _DEFINED]
            defined = await self._part("scoring", CHOSEN, part.checkpoint, positions)
            part.proofs = sorted((*part.proofs, *defined.proofs), key=lambda proof: proof.position)
        return part

    async def _beginning(self, service: str, until: int) -> LogPart:
        """The log from its first event to that at a position, proved as a whole."""
        checkpoint = await self._client.proofs(service).checkpoint()
        events = [event async for event in self._client.log(service).read(until=until)]
        self._told(service, len(events))
        part = LogPart(service, BEGINNING, checkpoint)
        part.proofs = [
            proof_pb2.InclusionProof(position=event.position, index=index, event=event)
            for index, event in enumerate(events)
        ]
        part.beginning = await self._client.proofs(service).consistency(len(events), checkpoint.size)
        part.earlier = await self._earlier(service, checkpoint)
        return part

    async def _of_subjects(self, service: str, subjects: Sequence[str]) -> LogPart:
        proofs = self._proofs(service)
        for _ in range(_TRIES):
            found = {subject: await proofs.subject(bytes.fromhex(subject)) for subject in subjects}
            checkpoints = [response.checkpoint for response in found.values()] or [await proofs.checkpoint()]
            # The log may grow, and a checkpoint be made, between two answers: all must be about one.
            if all(each.size == checkpoints[0].size for each in checkpoints):
                break
        else:
            raise NothingFoundError(f"the log of {service} grows faster than it can be asked: try again")
        positions = sorted({position for response in found.values() for position in response.positions})
        part = await self._part(service, CHOSEN, checkpoints[0], positions)
        part.subjects = found
        return part

    async def _part(
        self, service: str, mode: str, checkpoint: proof_pb2.CheckpointSigned, positions: Sequence[int]
    ) -> LogPart:
        part = LogPart(service, mode, checkpoint)
        for start in range(0, len(positions), AT_ONCE):
            some = positions[start : start + AT_ONCE]
            response = await self._proofs(service).inclusion(some, size=checkpoint.size, events=True)
            part.proofs.extend(response.proofs)
            self._told(service, len(some))
        part.earlier = await self._earlier(service, checkpoint)
        return part

    async def _earlier(self, service: str, checkpoint: proof_pb2.CheckpointSigned) -> list[tuple[str, list[bytes]]]:
        """Checkpoints that this one continues: the first that was ever made of events, and those that were given."""
        keys = [PublicKey.of_vkey(vkey) for vkey in await self.keys()]
        said = open_checkpoint(checkpoint.note, keys)
        found: dict[Checkpoint, str] = {}
        async for each in self._proofs(service).checkpoints():
            if each.size:
                found[open_checkpoint(each.note, keys)] = each.note
                break
        for note in self._since:
            held = open_checkpoint(note, keys)
            if held.origin == said.origin:
                found[held] = note
        continued: list[tuple[str, list[bytes]]] = []
        for held, note in sorted(found.items(), key=lambda item: item[0].size):
            if held.size <= said.size and held != said:
                hashes = await self._proofs(service).consistency(held.size, said.size)
                continued.append((note, hashes))
        return continued


def _personas(proofs: Iterable[proof_pb2.InclusionProof]) -> set[str]:
    """The personas that identity's events of a client speak of: whose interactions were ever the client's."""
    found: set[str] = set()
    for proof in proofs:
        payload = eventlog_pb2.Envelope.FromString(proof.event.envelope).payload
        if proof.event.type in _ATTRIBUTED:
            found.add(_ATTRIBUTED[proof.event.type](payload).interaction.persona_id.hex())
        elif proof.event.type == _FORGOTTEN:
            found.update(persona.hex() for persona in identity.ClientForgotten.FromString(payload).persona_ids)
    return found
