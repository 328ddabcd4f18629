"""Checkpoints and proofs of any service's log."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

import grpc.aio

from throughline.proof.v1 import proof_pb2, proof_pb2_grpc
from throughline_client.sdk.calling import call, pages


class LogProofs:
    """Asks for what proves one log. Every method raises RemoteRefusal where the call fails."""

    def __init__(self, stub: proof_pb2_grpc.ProofServiceStub | proof_pb2_grpc.AccessProofServiceStub) -> None:
        self._stub = stub

    async def checkpoint(self) -> proof_pb2.CheckpointSigned:
        """A checkpoint of the log as it ends now; made where none says so yet, however long that takes."""
        response = await call(self._stub.MakeCheckpoint, proof_pb2.MakeCheckpointRequest(), timeout=None)
        return response.checkpoint

    def checkpoints(
        self, *, newest_first: bool = False, page_size: int = 100
    ) -> AsyncIterator[proof_pb2.CheckpointSigned]:
        """Those made so far."""

        async def fetch(token: str) -> tuple[list[proof_pb2.CheckpointSigned], str]:
            request = proof_pb2.ListCheckpointsRequest(page_size=page_size, page_token=token, newest_first=newest_first)
            page = await call(self._stub.ListCheckpoints, request)
            return list(page.checkpoints), page.next_page_token

        return pages(fetch)

    async def inclusion(
        self, positions: Sequence[int], *, size: int = 0, events: bool = False
    ) -> proof_pb2.GetInclusionProofsResponse:
        """What proves events, at most 1,000 by position, against the checkpoint of a size (0: the last)."""
        request = proof_pb2.GetInclusionProofsRequest(size=size, positions=positions, events=events)
        return await call(self._stub.GetInclusionProofs, request)

    async def consistency(self, old_size: int, new_size: int) -> list[bytes]:
        """What proves an older checkpoint's log to be the beginning of a newer one's, by their sizes."""
        request = proof_pb2.GetConsistencyProofRequest(old_size=old_size, new_size=new_size)
        return list((await call(self._stub.GetConsistencyProof, request)).hashes)

    async def subject(self, subject: bytes) -> proof_pb2.GetSubjectProofResponse:
        """All events of a subject (16 bytes) up to the last checkpoint, and what proves that they are all."""
        return await call(self._stub.GetSubjectProof, proof_pb2.GetSubjectProofRequest(subject=subject))


class AccessProofClient(LogProofs):
    """Asks one service for what proves its access log."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        super().__init__(proof_pb2_grpc.AccessProofServiceStub(channel))


class ProofClient(LogProofs):
    """Asks one service for what proves its own log, and for what the installation signs with."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.stub = proof_pb2_grpc.ProofServiceStub(channel)
        super().__init__(self.stub)

    async def keys(self) -> list[str]:
        """The verifier keys of the installation."""
        return list((await call(self.stub.ListPublicKeys, proof_pb2.ListPublicKeysRequest())).vkeys)

    async def sign_manifest(self, sha256: bytes) -> str:
        """The note that says which installation made an evidence pack, by the SHA-256 of its manifest."""
        return (await call(self.stub.SignManifest, proof_pb2.SignManifestRequest(sha256=sha256))).note
