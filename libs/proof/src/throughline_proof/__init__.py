"""What proves a log: a Merkle tree and a map of subjects over it, checkpoints signed over both, and their verifier."""

from throughline_proof.concerns import subjects_of
from throughline_proof.notary import Complete, Notary, Placed, open_proofs, proofs_of
from throughline_proof.signing import SIGNING_KEYS, SigningKey, SigningKeys, SigningKeysError, write_signing_keys
from throughline_proof.summary import LogSummary
from throughline_proof.verifier import (
    Checkpoint,
    Head,
    NoteInvalidError,
    PublicKey,
    SubjectProof,
    open_checkpoint,
    open_note,
    verify_consistency,
    verify_inclusion,
    verify_subject,
)

__all__ = [
    "SIGNING_KEYS",
    "Checkpoint",
    "Complete",
    "Head",
    "LogSummary",
    "Notary",
    "NoteInvalidError",
    "Placed",
    "PublicKey",
    "SigningKey",
    "SigningKeys",
    "SigningKeysError",
    "SubjectProof",
    "open_checkpoint",
    "open_note",
    "open_proofs",
    "proofs_of",
    "subjects_of",
    "verify_consistency",
    "verify_inclusion",
    "verify_subject",
    "write_signing_keys",
]
