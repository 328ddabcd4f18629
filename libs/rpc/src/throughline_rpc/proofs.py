"""`throughline.proof.v1.ProofService` for any service, and the work that keeps its proofs up with its log."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final, TypeAlias, TypeVar

import grpc.aio

from throughline.eventlog.v1.eventlog_pb2 import LoggedEvent
from throughline.proof.v1 import proof_pb2 as pb
from throughline.proof.v1 import proof_pb2_grpc
from throughline_eventlog import BusSettings, Connection, Relay, Store, StoreSettings
from throughline_kernel import InvalidError, UnavailableError, Violation
from throughline_proof import Notary, SigningKeys, open_proofs
from throughline_proof.concerns import SUBJECT_BYTES
from throughline_proof.verifier import PACK_HEADER
from throughline_rpc.hosted import Background, Hosted
from throughline_rpc.settings import HostSettingsError

CHECKPOINT_SECONDS: Final = "THROUGHLINE_CHECKPOINT_SECONDS"
DEFAULT_CHECKPOINT_SECONDS: Final = 30.0
RESTS: Final = 3.0
"""How long the notary rests after a step of a longer way, by how long the step took: it has a quarter of a thread."""
DEFAULT_PAGE: Final = 100
MAX_PAGE: Final = 1_000
MAX_POSITIONS: Final = 1_000
_SHA256_BYTES: Final = 32

R = TypeVar("R")
ServicerContext: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"
logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ProofSettings:
    """The keys that sign, and how long a log may grow without a checkpoint, in seconds."""

    keys: SigningKeys
    checkpoint_seconds: float = DEFAULT_CHECKPOINT_SECONDS

    @classmethod
    def from_env(cls, env: Mapping[str, str] = os.environ) -> ProofSettings:
        """Reads THROUGHLINE_SIGNING_KEYS, or _FILE, and THROUGHLINE_CHECKPOINT_SECONDS.

        Raises: SigningKeysError, HostSettingsError, naming the variable.
        """
        text = env.get(CHECKPOINT_SECONDS, "").strip() or str(DEFAULT_CHECKPOINT_SECONDS)
        try:
            seconds = float(text)
        except ValueError:
            seconds = 0.0
        if not 0.01 <= seconds <= 86_400:
            raise HostSettingsError(f"{CHECKPOINT_SECONDS} is {text!r}; give a number from 0.01 to 86400")
        return cls(SigningKeys.from_env(env), seconds)


class Proofs:
    """Keeps one log's proofs in a store beside it, publishes what is signed, and serves them. `name`: of its work.

    Works in a thread of its own: neither calls nor commits wait for it. Raises what `open_store` raises.
    """

    def __init__(
        self,
        log: Store,
        kept: StoreSettings,
        settings: ProofSettings,
        *,
        connection: Connection,
        bus: BusSettings,
        partition: int,
        name: str = "proofs",
    ) -> None:
        self._name = name
        self.store = open_proofs(kept, log.clock)
        self._seconds = settings.checkpoint_seconds
        self.origin = f"{settings.keys.installation}/{log.service}/{partition}"
        self._notary = Notary(log, self.store, settings.keys, self.origin)
        self._relay = Relay(
            self.store, connection, self.store.service, partition, prefix=bus.prefix, replicas=bus.replicas
        )
        self._thread = ThreadPoolExecutor(1, "proofs")
        self._trouble: str | None = None

    @property
    def hosted(self) -> Hosted[ProofServicer]:
        """The service, ready to be hosted."""
        return Hosted(
            pb.DESCRIPTOR.services_by_name["ProofService"].full_name,
            proof_pb2_grpc.add_ProofServiceServicer_to_server,
            ProofServicer(self._notary, self.in_thread),
        )

    @property
    def hosted_of_access(self) -> Hosted[ProofServicer]:
        """The same for an access log, ready to be hosted."""
        return Hosted(
            pb.DESCRIPTOR.services_by_name["AccessProofService"].full_name,
            proof_pb2_grpc.add_AccessProofServiceServicer_to_server,
            ProofServicer(self._notary, self.in_thread),
        )

    @property
    def background(self) -> tuple[Background, ...]:
        """The work, ready to be hosted. Nothing that is answered or recorded waits for proofs."""
        return (
            Background(self._name, self.run, self.health, needed_to_serve=False),
            Background(f"{self._name} relay", self._relay.run, self._relay.health, needed_to_serve=False),
        )

    def sign(self, text: str) -> str:
        """The note of a text, in the installation's name. Raises: NoteInvalidError for a text that no note can have."""
        return self._notary.keys.sign(text)

    async def run(self) -> None:
        """Makes a checkpoint whenever the log grew, every `checkpoint_seconds`, and rests on the way.

        A log that grows faster than it is proved is caught up with when it grows slower: who appends goes first.
        """
        loop = asyncio.get_running_loop()
        while True:
            began = loop.time()
            try:
                more = await self.in_thread(self._notary.follow)
            except UnavailableError as error:
                self._trouble = str(error)
                logger.warning("no checkpoint: %s", error)
                more = False
            else:
                self._trouble = None
            await asyncio.sleep(RESTS * (loop.time() - began) if more else self._seconds)

    def health(self) -> str | None:
        """None, or why there is no checkpoint of late."""
        return self._trouble

    async def in_thread(self, work: Callable[[], R]) -> R:
        """Does something with the proofs, one thing after the other."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    async def close(self) -> None:
        """Signs what the log holds, so that a log at rest is proved whole, and lets go of the store."""
        try:
            await self.in_thread(self._notary.checkpoint)
        except UnavailableError as error:
            logger.warning("no last checkpoint: %s", error)
        await asyncio.to_thread(self._thread.shutdown)
        self.store.close()


class ProofServicer(proof_pb2_grpc.ProofServiceServicer, proof_pb2_grpc.AccessProofServiceServicer):
    """Serves one log's proofs, a service's own or those of its access log."""

    def __init__(self, notary: Notary, in_thread: Callable[[Callable[[], Any]], Any]) -> None:
        self._notary = notary
        self._in_thread = in_thread

    async def MakeCheckpoint(  # noqa: N802 -- named by the contract
        self, request: pb.MakeCheckpointRequest, context: ServicerContext
    ) -> pb.MakeCheckpointResponse:
        """A checkpoint of the log as it ends now."""
        return pb.MakeCheckpointResponse(checkpoint=await self._in_thread(self._notary.checkpoint))

    async def ListCheckpoints(  # noqa: N802 -- named by the contract
        self, request: pb.ListCheckpointsRequest, context: ServicerContext
    ) -> pb.ListCheckpointsResponse:
        """Those made so far, paged."""
        if not 0 <= request.page_size <= MAX_PAGE:
            raise _invalid("page_size", f"0 to {MAX_PAGE}", f"give 1 to {MAX_PAGE}, or 0 for {DEFAULT_PAGE}")
        token = request.page_token
        if token and not (token.isascii() and token.isdecimal() and len(token) < 19):
            raise _invalid("page_token", "a token of ours", "give the next_page_token of the page before")
        size, newest_first = request.page_size or DEFAULT_PAGE, request.newest_first
        found = await self._in_thread(
            lambda: self._notary.checkpoints(after=int(token or 0), limit=size + 1, newest_first=newest_first)
        )
        page = found[:size]
        return pb.ListCheckpointsResponse(
            checkpoints=[signed for _, signed in page],
            next_page_token=str(page[-1][0]) if len(found) > size else "",
        )

    async def GetInclusionProofs(  # noqa: N802 -- named by the contract
        self, request: pb.GetInclusionProofsRequest, context: ServicerContext
    ) -> pb.GetInclusionProofsResponse:
        """Proofs of events in the log of a checkpoint. Raises: NotFoundError."""
        if request.size < 0:
            raise _invalid("size", "at least 0", "give the size of a checkpoint, or 0 for the last one")
        if len(request.positions) > MAX_POSITIONS:
            raise _invalid("positions", f"at most {MAX_POSITIONS}", "ask in several calls")
        size, placed = await self._in_thread(
            lambda: self._notary.inclusion(request.size, request.positions, events=request.events)
        )
        return pb.GetInclusionProofsResponse(
            size=size,
            proofs=[
                pb.InclusionProof(
                    position=each.position,
                    index=each.index,
                    hashes=each.hashes,
                    event=None if each.row is None else LoggedEvent(**each.row._asdict()),
                )
                for each in placed
            ],
        )

    async def GetConsistencyProof(  # noqa: N802 -- named by the contract
        self, request: pb.GetConsistencyProofRequest, context: ServicerContext
    ) -> pb.GetConsistencyProofResponse:
        """The proof that one log is the beginning of another. Raises: NotFoundError."""
        hashes = await self._in_thread(lambda: self._notary.consistency(request.old_size, request.new_size))
        return pb.GetConsistencyProofResponse(hashes=hashes)

    async def GetSubjectProof(  # noqa: N802 -- named by the contract
        self, request: pb.GetSubjectProofRequest, context: ServicerContext
    ) -> pb.GetSubjectProofResponse:
        """All events of a subject, with their proof. Raises: NotFoundError before the first checkpoint."""
        if len(request.subject) != SUBJECT_BYTES:
            raise _invalid("subject", f"{SUBJECT_BYTES} bytes", "give a client's id, or a persona's, as bytes")
        found = await self._in_thread(lambda: self._notary.complete(request.subject))
        return pb.GetSubjectProofResponse(
            checkpoint=found.checkpoint,
            positions=found.positions,
            head=found.head.head,
            entries=found.proof.entries,
            group=found.proof.group,
            top=found.proof.top,
        )

    async def ListPublicKeys(  # noqa: N802 -- named by the contract
        self, request: pb.ListPublicKeysRequest, context: ServicerContext
    ) -> pb.ListPublicKeysResponse:
        """The keys that verify what this installation signs and signed."""
        return pb.ListPublicKeysResponse(vkeys=[key.vkey for key in self._notary.keys.public])

    async def SignManifest(  # noqa: N802 -- named by the contract
        self, request: pb.SignManifestRequest, context: ServicerContext
    ) -> pb.SignManifestResponse:
        """The signed hash of a manifest."""
        if len(request.sha256) != _SHA256_BYTES:
            raise _invalid("sha256", f"{_SHA256_BYTES} bytes", "give the SHA-256 of the manifest")
        return pb.SignManifestResponse(note=self._notary.keys.sign(f"{PACK_HEADER}\n{request.sha256.hex()}\n"))


def _invalid(field: str, rule: str, remedy: str) -> InvalidError:
    return InvalidError.of(Violation(field, rule, remedy))
