"""The words every Throughline domain is written in: refusals, ids, digests, folds, intervals, consents.

And who takes whose log. Standard library only.
"""

from throughline_kernel.announcement import Announcement, announce
from throughline_kernel.consent import AUDIT, MARKETING, MEASUREMENT, SERVICE, Consent, Consents, LeftOut
from throughline_kernel.digests import canonical_json, combine_digests, digest
from throughline_kernel.folding import Fold, Recorded
from throughline_kernel.ids import HEX_ID, hex_id, is_hex_id
from throughline_kernel.intervals import ALWAYS, Interval
from throughline_kernel.refusals import (
    ConflictError,
    ExhaustedError,
    ForbiddenError,
    InvalidError,
    NotFoundError,
    PreconditionError,
    Refusal,
    UnauthenticatedError,
    UnavailableError,
    Violation,
)
from throughline_kernel.upstreams import UPSTREAMS

__all__ = [
    "ALWAYS",
    "AUDIT",
    "HEX_ID",
    "MARKETING",
    "MEASUREMENT",
    "SERVICE",
    "UPSTREAMS",
    "Announcement",
    "ConflictError",
    "Consent",
    "Consents",
    "ExhaustedError",
    "Fold",
    "ForbiddenError",
    "Interval",
    "InvalidError",
    "LeftOut",
    "NotFoundError",
    "PreconditionError",
    "Recorded",
    "Refusal",
    "UnauthenticatedError",
    "UnavailableError",
    "Violation",
    "announce",
    "canonical_json",
    "combine_digests",
    "digest",
    "hex_id",
    "is_hex_id",
]
