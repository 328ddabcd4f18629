"""A whole installation as files that anybody can read, and back again, on either store."""

from throughline_client.installation import Installation
from throughline_portability.exporting import export_installation
from throughline_portability.form import ExportError, Manifest, read_manifest
from throughline_portability.leftovers import Finding, NotForgottenError, find_leftovers
from throughline_portability.restoring import restore_installation

__all__ = [
    "ExportError",
    "Finding",
    "Installation",
    "Manifest",
    "NotForgottenError",
    "export_installation",
    "find_leftovers",
    "read_manifest",
    "restore_installation",
]
