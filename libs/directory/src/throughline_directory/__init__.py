"""Who an identifier or client id means now, folded from what identity publishes."""

from throughline_directory.directory import ClearIdentifier, Directory, DirectoryFold, Resolution, resolve
from throughline_directory.folding import DIRECTORY_TABLES, MemoryRows, Rows, WritableRows, aggregates, fold

__all__ = [
    "DIRECTORY_TABLES",
    "ClearIdentifier",
    "Directory",
    "DirectoryFold",
    "MemoryRows",
    "Resolution",
    "Rows",
    "WritableRows",
    "aggregates",
    "fold",
    "resolve",
]
