"""The verifier as one file that needs nothing of Throughline: what packs carry as verify.py."""

from __future__ import annotations

from importlib.resources import files
from typing import Final

_FUTURE: Final = "from __future__ import annotations\n"
_BETWEEN: Final = "from throughline_proof.figures import"


def standalone() -> bytes:
    """The source of `figures`, then that of `verifier` without what it imports from the other."""
    here = files("throughline_proof")
    figures, verifier = ((here / name).read_text(encoding="utf-8") for name in ("figures.py", "verifier.py"))
    about, _, body = verifier.partition(_FUTURE)
    own = "".join(line for line in body.splitlines(keepends=True) if not line.startswith(_BETWEEN))
    return (about + _FUTURE + figures.partition(_FUTURE)[2] + own).encode()
