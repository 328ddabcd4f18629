"""A whole installation as files that anybody can read, and back again, on either store."""

from throughline_client.installation import Installation
from throughline_portability.exporting import export_installation
from throughline_portability.form import ExportError, Manifest, read_manifest
from throughline_portability.restoring import restore_installation

__all__ = [
    "ExportError",
    "Installation",
    "Manifest",
    "export_installation",
    "read_manifest",
    "restore_installation",
]
