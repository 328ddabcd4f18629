"""Who an identifier or client id means now or meant, and what they consented to, folded from identity's log."""

from throughline_directory.consents import consents_of
from throughline_directory.directory import (
    ClearIdentifier,
    Directory,
    DirectoryFold,
    Resolution,
    consents_after,
    resolve,
    resolve_earlier,
)
from throughline_directory.folding import DIRECTORY_TABLES, History, MemoryRows, Rows, WritableRows, aggregates, fold

__all__ = [
    "DIRECTORY_TABLES",
    "ClearIdentifier",
    "Directory",
    "DirectoryFold",
    "History",
    "MemoryRows",
    "Resolution",
    "Rows",
    "WritableRows",
    "aggregates",
    "consents_after",
    "consents_of",
    "fold",
    "resolve",
    "resolve_earlier",
]
