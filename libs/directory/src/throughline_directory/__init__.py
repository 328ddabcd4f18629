"""Who an identifier or client id means now or meant, folded from what identity publishes."""

from throughline_directory.directory import (
    ClearIdentifier,
    Directory,
    DirectoryFold,
    Resolution,
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
    "fold",
    "resolve",
    "resolve_earlier",
]
