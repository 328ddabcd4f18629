"""What anybody needs to decode events without this program."""

from __future__ import annotations

from collections.abc import Iterable

from google.protobuf import descriptor_pb2
from google.protobuf.descriptor import FileDescriptor

from throughline.eventlog.v1 import eventlog_pb2


def file_descriptor_set(contracts: Iterable[FileDescriptor]) -> bytes:
    """A serialised FileDescriptorSet: these contracts, the envelope's, and before each what it stands on."""
    found: dict[str, FileDescriptor] = {}

    def add(file: FileDescriptor) -> None:
        for needed in file.dependencies:
            add(needed)
        found.setdefault(file.name, file)

    for contract in (eventlog_pb2.DESCRIPTOR, *contracts):
        add(contract)
    written = descriptor_pb2.FileDescriptorSet()
    for file in found.values():
        written.file.add().ParseFromString(file.serialized_pb)
    return written.SerializeToString(deterministic=True)
