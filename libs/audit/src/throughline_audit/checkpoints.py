"""`throughline checkpoint`: what every log is now, signed."""

from __future__ import annotations

import asyncio
from base64 import b64encode
from collections.abc import Mapping
from pathlib import Path

import click

from throughline_audit.gathering import OF_ACCESS
from throughline_client.client import Throughline
from throughline_client.commands.running import BAD_INPUT, LOG, Failure, connected, output_option
from throughline_client.commands.showing import print_json, print_table, when
from throughline_client.sdk.proofs import LogProofs
from throughline_proof import NoteInvalidError, PublicKey, open_checkpoint


@click.command()
@click.argument("logs", nargs=-1, type=LOG)
@click.option(
    "--notes",
    type=click.Path(path_type=Path, file_okay=False),
    help="Write each checkpoint into this folder, as LOG.note and LOG_access.note.",
)
@output_option
@connected
async def checkpoint(client: Throughline, *, logs: tuple[str, ...], notes: Path | None, output: str) -> None:
    """Sign what each log and access log (or that of LOGS) is now. Keep the notes: no later log can contradict them
    unseen.

    A note is a C2SP checkpoint: origin, number of events, RFC 6962 root; then time, last position, and the root of the
    map from every client to their events.

    \b
    Examples:
      throughline checkpoint
      throughline checkpoint journey scoring --notes CHECKPOINTS

    \b
    Exit codes: 0 signed; 2 the folder cannot be written; 3 a service is away.
    """
    proofs: dict[str, LogProofs] = {}
    for log in map(client.endpoints.log, logs or client.endpoints.logs):
        proofs |= {log: client.proofs(log), log + OF_ACCESS: client.access_proofs(log)}
    made = await asyncio.gather(*(each.checkpoint() for each in proofs.values()))
    signed = dict(zip(proofs, made, strict=True))
    vkeys = sorted({vkey for each in signed.values() for vkey in each.vkeys})
    try:
        said = {name: open_checkpoint(each.note, map(PublicKey.of_vkey, vkeys)) for name, each in signed.items()}
        if notes is not None:
            _write(notes, {name: each.note for name, each in signed.items()})
    except (OSError, NoteInvalidError) as error:
        raise Failure(str(error), BAD_INPUT) from error
    if output == "json":
        print_json(
            {
                "vkeys": vkeys,
                "checkpoints": {
                    name: {
                        "origin": each.origin,
                        "size": each.size,
                        "root": b64encode(each.root).decode(),
                        "map": b64encode(each.map_root).decode(),
                        "position": each.position,
                        "time": each.time,
                        "note": signed[name].note,
                    }
                    for name, each in said.items()
                },
            }
        )
        return
    print_table(
        ["log", "events", "root", "clients", "signed"],
        [
            [each.origin, f"{each.size:,}", each.root.hex()[:16], each.map_root.hex()[:16], when(each.time)]
            for each in said.values()
        ],
        title=f"signed with {', '.join(vkeys)}",
    )


def _write(folder: Path, notes: Mapping[str, str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, note in notes.items():
        (folder / f"{name}.note").write_text(note, encoding="utf-8")
