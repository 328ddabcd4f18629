"""`throughline audit` and `throughline verify`: evidence packs, made and verified."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Self

import click
import orjson

from throughline.ingestion.v1 import interaction_pb2
from throughline.scoring.v1 import events_pb2
from throughline_audit.gathering import Gatherer, LogPart, NothingFoundError
from throughline_audit.packing import Asked, Pack, score_told, shown
from throughline_audit.page import Line, page
from throughline_client.client import Throughline
from throughline_client.commands import Commands
from throughline_client.commands.clients import identifier_option
from throughline_client.commands.logs import EventDecoder
from throughline_client.commands.running import (
    BAD_INPUT,
    DIFFERENCE,
    LOG,
    Failure,
    Instant,
    TakesToken,
    connected,
    output_option,
    tell,
    whom,
)
from throughline_client.commands.showing import exactly, gathering, plain, print_json, when
from throughline_eventlog import wall_clock
from throughline_proof import NoteInvalidError
from throughline_proof.verifier import PackInvalidError, notes_in, read_keys
from throughline_proof.verifier import verify as verify_file

_FILE = click.Path(path_type=Path, dir_okay=False)
_EXISTING = click.Path(path_type=Path, dir_okay=False, exists=True)
Definitions = Mapping[str, Any]


def _pack_options(command: Callable[..., Any]) -> Callable[..., Any]:
    command = click.option(
        "--since", type=_EXISTING, multiple=True, help="A checkpoint note, or an earlier pack, that this one continues."
    )(command)
    return click.option("--to", "file", type=_FILE, required=True, help="The file to write.")(command)


@click.group(cls=Commands, found_under="throughline.commands.audit")
def audit() -> None:
    """Write evidence packs: one file with events, what proves them, and a page to read. Find what is left of somebody.

    `throughline verify` verifies a pack, offline; so does the verify.py in it (docs/evidence.md).

    \b
    Examples:
      throughline audit client 5f0c... --to EVIDENCE.zip
      throughline audit range identity --after 100 --until 200 --to EVIDENCE.zip
      throughline audit forgotten 5f0c...

    \b
    Exit codes: 0 written; 1 refused, or there is nothing of it; 2 bad input; 3 a service is away.
    """


@audit.command("client")
@click.argument("client_id", default="")
@identifier_option
@click.option("--as-of", type=Instant(), default=0, help="Show what was recorded until then; count what came later.")
@_pack_options
@connected
async def client_pack(
    client: Throughline,
    *,
    client_id: str,
    identifiers: tuple[interaction_pb2.Identifier, ...],
    as_of: int,
    file: Path,
    since: tuple[Path, ...],
) -> None:
    """Everything that the five logs hold of a client, and the proof that it is everything.

    The client's id and aliases are followed through identity, journey, feedback and scoring, their personas through
    ingestion. Personal values stay sealed.

    \b
    Examples:
      throughline audit client 5f0c... --to EVIDENCE.zip
      throughline audit client --identifier loyalty_card=1 --as-of 2026-05-03T14:00 --to EVIDENCE.zip
    """
    client_id = await whom(client, client_id, identifiers)
    async with _Making(client, since, file) as making:
        ids, parts = await making.gatherer.of_client(client_id)
        await making.write(
            Asked("client", {"client_id": client_id, "ids": ids}, wall_clock(), as_of),
            parts,
            title=f"Client {ids[0]}",
            facts={"client": ids[0], "also known as": ", ".join(ids[1:])},
        )


@audit.command("interaction")
@click.argument("interaction_id")
@_pack_options
@connected
async def interaction_pack(client: Throughline, *, interaction_id: str, file: Path, since: tuple[Path, ...]) -> None:
    """What each of the five logs says of an interaction.

    \b
    Example:
      throughline audit interaction 9b2e... --to EVIDENCE.zip
    """
    async with _Making(client, since, file) as making:
        await making.write(
            Asked("interaction", {"interaction_id": interaction_id}, wall_clock()),
            await making.gatherer.of_interaction(interaction_id),
            title=f"Interaction {interaction_id}",
            facts={"interaction": interaction_id},
        )


@audit.command("range")
@click.argument("log", type=LOG)
@click.option("--after", type=click.IntRange(0), default=0, help="Only positions after this one.")
@click.option("--until", type=click.IntRange(0), default=0, help="Only positions up to this one; 0: to the end.")
@_pack_options
@connected
async def range_pack(
    client: Throughline, *, log: str, after: int, until: int, file: Path, since: tuple[Path, ...]
) -> None:
    """All events of a log in a range, and the proof that none of them is missing.

    \b
    Example:
      throughline audit range identity --after 100 --until 200 --to EVIDENCE.zip
    """
    async with _Making(client, since, file) as making:
        name = client.endpoints.log(log)
        await making.write(
            Asked("range", {"service": name, "after": after, "until": until}, wall_clock()),
            {name: await making.gatherer.of_range(name, after, until)},
            title=f"Log of {name}, positions {after + 1} to {until or 'the end'}",
            facts={"log": name},
        )


@audit.command("score", cls=TakesToken)
@click.argument("score_id")
@_pack_options
@connected
async def score_pack(client: Throughline, *, score_id: str, file: Path, since: tuple[Path, ...]) -> None:
    """A score with all that it stands on: whoever verifies the pack recomputes it to the last digit.

    A client's score needs the client's events in scoring's log, any other that log from its beginning up to the
    position that the score is of.

    \b
    Example:
      throughline audit score SCORE_ID --to EVIDENCE.zip       # score_id of `throughline scorecards --output json`
    """
    async with _Making(client, since, file) as making:
        explained = await client.scoring.explain(score_id)
        score = explained.score
        part = await making.gatherer.of_score(score, own_metric=explained.HasField("definition"))
        told = {
            "score": score_told(score),
            "formula": plain(explained.formula),
            "definition": plain(explained.definition) if explained.HasField("definition") else None,
            "evidence": [event_id async for event_id in client.scoring.evidence(score_id)],
        }
        await making.write(
            Asked("score", {"score_id": score_id}, wall_clock()),
            {"scoring": part},
            title=f"{score.metric} of {score.subject or 'everything'}",
            facts={
                "score": _said(score),
                "between": _between(score),
                "formula": f"{explained.formula.formula}, version {score.formula_version}",
            },
            more={"score.json": orjson.dumps(told, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)},
        )


def _said(score: events_pb2.Score) -> str:
    if not score.HasField("value"):
        return score.note
    interval = f", 95% {score.low!r} to {score.high!r}" if score.HasField("low") else ""
    return f"{score.value!r} {score.unit}{interval}, n {score.n}"


def _between(score: events_pb2.Score) -> str:
    if not score.HasField("between"):
        return ""
    return " and ".join(exactly(at) if at else "(open)" for at in (score.between.start, score.between.end))


@audit.command("access")
@click.argument("client_id", default="")
@identifier_option
@_pack_options
@connected
async def access_pack(
    client: Throughline,
    *,
    client_id: str,
    identifiers: tuple[interaction_pb2.Identifier, ...],
    file: Path,
    since: tuple[Path, ...],
) -> None:
    """Who read a client's data, and the proof that no read of it is missing; of CLIENT_ID `all`: every read of all.

    Reads of whole logs, which are of everybody, are among them. For auditors and admins.

    \b
    Examples:
      throughline audit access 5f0c... --to ACCESS.zip
      throughline audit access all --to ACCESS.zip
    """
    client_id = await whom(client, client_id, identifiers)
    async with _Making(client, since, file) as making:
        if client_id == "all":
            asked, parts = Asked("access", {}, wall_clock()), await making.gatherer.of_all_access()
            await making.write(asked, parts, title="Every read", facts={})
            return
        ids, parts = await making.gatherer.of_access(client_id)
        await making.write(
            Asked("access", {"client_id": client_id, "ids": ids}, wall_clock()),
            parts,
            title=f"Reads of client {ids[0]}",
            facts={"client": ids[0], "also known as": ", ".join(ids[1:])},
        )


@audit.command("certificate")
@click.argument("client_id")
@click.option("--to", "file", type=_FILE, required=True, help="The file to write.")
@connected
async def certificate(client: Throughline, *, client_id: str, file: Path) -> None:
    """The signed certificate that a client was forgotten, and that none of their sealing keys is left.

    \b
    Example:
      throughline audit certificate 5f0c... --to CERTIFICATE
    """
    _write(file, (await client.identity.certificate(client_id)).encode())
    click.echo(file)


@click.command()
@click.argument("pack", type=_EXISTING)
@click.option("--key", type=_EXISTING, required=True, help="The verifier keys that you trust, one a line.")
@click.option("--earlier", type=_EXISTING, multiple=True, help="A checkpoint note or pack that you hold from before.")
@output_option
def verify(pack: Path, *, key: Path, earlier: tuple[Path, ...], output: str) -> None:
    """Verify an evidence pack, offline: signatures, inclusion, consistency, completeness; or a forgetting certificate.

    Everything that does not hold is named. The keys are those that the installation gave you, not those in the pack.

    \b
    Examples:
      throughline verify EVIDENCE.zip --key VERIFIER_KEYS
      throughline verify EVIDENCE.zip --key VERIFIER_KEYS --earlier CHECKPOINTS/journey.note

    \b
    Exit codes: 0 everything holds; 2 no pack, or no key; 4 something does not hold.
    """
    try:
        keys = read_keys(key.read_text(encoding="utf-8"))
        held = [note for each in earlier for note in notes_in(each.read_bytes())]
        report = verify_file(pack.read_bytes(), keys, held)
    except PackInvalidError as error:
        raise Failure(f"{pack}: {error}", DIFFERENCE) from error
    except (OSError, ValueError) as error:
        raise Failure(str(error), BAD_INPUT) from error
    if output == "json":
        print_json({"holds": report.holds, "proved": report.proved, "broken": report.broken})
    else:
        for line in report.proved:
            click.echo(f"holds   {line}")
        for line in report.broken:
            click.echo(f"BROKEN  {line}")
    if not report.holds:
        sys.exit(DIFFERENCE)


class _Making:
    """Gathers, writes and tells how far it is."""

    def __init__(self, client: Throughline, since: tuple[Path, ...], file: Path) -> None:
        self._client = client
        self._file = file
        self._progress, self._task = gathering("gathering")
        try:
            notes = [note for each in since for note in notes_in(each.read_bytes())]
        except (OSError, ValueError) as error:
            raise Failure(f"--since: {error}", BAD_INPUT) from error
        self.gatherer = Gatherer(client, notes, self._moved)

    async def __aenter__(self) -> Self:
        self._progress.start()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        self._progress.stop()
        if isinstance(error, NothingFoundError):
            raise Failure(str(error), 1) from error
        if isinstance(error, NoteInvalidError):
            raise Failure(f"--since: {error}", BAD_INPUT) from error

    def _moved(self, service: str, events: int) -> None:
        self._progress.update(self._task, description=f"gathering {service}", advance=events)

    async def write(
        self,
        asked: Asked,
        parts: Mapping[str, LogPart],
        *,
        title: str,
        facts: Mapping[str, str],
        more: Mapping[str, bytes] | None = None,
    ) -> None:
        """Writes the pack whole, or not at all."""
        decode = EventDecoder()
        lines: list[Line] = []
        for name, part in parts.items():
            for proof in part.proofs:
                if shown(proof, asked.cut):
                    told = decode(proof.event)
                    times = (told["occurred_at"], told["recorded_at"])
                    lines.append(Line(name, proof.event.position, proof.event.type, *times, told["payload"]))
        said = {
            **{name: value for name, value in facts.items() if value},
            "as of": when(asked.cut) or "now",
            "made": when(asked.made_at),
            **{
                f"log of {name}": f"{len(part.proofs)} events of {each.size}, root {each.root.hex()}"
                for name, part in parts.items()
                for each in (part.checkpoint,)
            },
        }
        files = {
            "index.html": page(title, said, lines),
            "definitions.json": await self._definitions(),
            **(more or {}),
        }
        pack = Pack(asked, parts, await self.gatherer.keys(), files)
        note = await self._client.proofs(self._client.endpoints.logs[0]).sign_manifest(pack.digest)
        raw = pack.signed(note)
        _write(self._file, raw)
        counts = ", ".join(f"{name} {len(part.proofs)}" for name, part in parts.items())
        tell(f"{self._file}: {len(raw):,} bytes; events: {counts}")
        click.echo(self._file)

    async def _definitions(self) -> bytes:
        """What the services decided by when the pack was made: rules, journeys, routes, metrics, formulas."""
        metrics = await self._client.scoring.metrics()
        told = {
            "identity_rules": plain(await self._client.identity.rules()),
            "journeys": [plain(each) for each in await self._client.journey.journeys()],
            "routes": plain(await self._client.feedback.routes()),
            "metrics": [plain(each) for each in metrics.metrics],
            "formulas": [plain(each) for each in metrics.formulas],
        }
        return orjson.dumps(told, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)


def _write(file: Path, raw: bytes) -> None:
    draft = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        draft.write_bytes(raw)
        draft.replace(file)
    except OSError as error:
        draft.unlink(missing_ok=True)
        raise Failure(f"{file} cannot be written: {error.strerror}", BAD_INPUT) from error
