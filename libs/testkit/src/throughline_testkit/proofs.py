"""Keys to sign with, for services that a test builds or starts itself."""

from __future__ import annotations

from typing import Final

from throughline_proof import SIGNING_KEYS, SigningKey, SigningKeys
from throughline_rpc import ProofSettings

SIGNING_ENVIRONMENT: Final = {SIGNING_KEYS: SigningKey.new("test").line}
"""What a service's environment says of them."""


def new_proof_settings() -> ProofSettings:
    """New keys of an installation named `test`."""
    return ProofSettings(SigningKeys((SigningKey.new("test"),)))
