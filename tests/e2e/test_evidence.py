"""Evidence packs of a running suite hold, stand alone, and whatever is changed in one is caught and named."""

from __future__ import annotations

import ast
import asyncio
import io
import json
import math
import os
import random
import shutil
import subprocess
import sys
import zipfile
from base64 import b64decode, b64encode
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from click.testing import CliRunner, Result
from eventful import who
from line import Line, connect, drop_schemas, identifier, leave_gaps, postgres_environment, scattered_history

from throughline.eventlog.v1 import eventlog_pb2
from throughline.eventlog.v1.eventlog_pb2 import Envelope
from throughline.identity.v1 import identity_pb2
from throughline.scoring.v1 import events_pb2, scoring_pb2
from throughline_client.commands import main
from throughline_client.endpoints import SERVICES
from throughline_client.suite.suite import Suite
from throughline_proof import SigningKey, SigningKeys
from throughline_proof.standalone import standalone
from throughline_proof.verifier import (
    PackInvalidError,
    Report,
    pack_bytes,
    read_keys,
    unpack,
    verify_pack,
)

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

PERSON = identity_pb2.ResolveClientRequest(identifiers=[identifier("email", "p3@post.eu")])


@dataclass
class Case:
    """A client's pack, an earlier one, and what verifies them."""

    folder: Path
    keys_file: Path
    client_id: str
    pack: Path
    before: Path
    line: Line

    def verify(self, files: Mapping[str, bytes]) -> Report:
        """Verifies a pack of these files."""
        return verify_pack(pack_bytes(files), read_keys(self.keys_file.read_text()))


async def run(*arguments: object) -> Result:
    """Runs the command."""
    return await asyncio.to_thread(CliRunner().invoke, main, [str(each) for each in arguments])


async def alone(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Runs a Python file that finds nothing of this repository beside it."""
    command = [sys.executable, "-I", *map(str, arguments)]
    return await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, check=False)


async def standing_alone(case: Case, pack: Path, *more: object) -> subprocess.CompletedProcess[str]:
    """Verifies a pack with the verifier in it."""
    shutil.unpack_archive(pack, case.folder / pack.stem, "zip")
    return await alone(case.folder / pack.stem / "verify.py", pack, "--key", case.keys_file, *more)


@pytest.fixture
async def case(line: Line, tmp_path: Path) -> Case:
    """Two packs of a client with a history, the second after more of it."""
    await line.record(scattered_history(5, 12, 200))
    await line.settled()
    client_id = (await line.identity.ResolveClient(PERSON)).client_id
    before, pack, keys = tmp_path / "before.zip", tmp_path / "pack.zip", tmp_path / "keys.txt"
    keys.write_text((await run("signing", "public", line.suite.folder / "signing.keys")).stdout)
    made = await run("audit", "client", client_id, "--to", before, "--data", line.suite.folder)
    assert made.exit_code == 0, made.output
    await line.record(scattered_history(6, 12, 200))
    await line.settled()
    made = await run("audit", "client", client_id, "--to", pack, "--since", before, "--data", line.suite.folder)
    assert made.exit_code == 0, made.output
    return Case(tmp_path, keys, client_id, pack, before, line)


def lines(files: Mapping[str, bytes], name: str) -> list[dict[str, Any]]:
    """The objects of a file."""
    return [json.loads(line) for line in files[name].splitlines()]


def with_lines(files: Mapping[str, bytes], name: str, changed: list[dict[str, Any]]) -> dict[str, bytes]:
    """The pack with other objects in a file."""
    return {**files, name: b"".join(json.dumps(line).encode() + b"\n" for line in changed)}


def resigned(files: Mapping[str, bytes], installation: str) -> dict[str, bytes]:
    """A forger's pack: the manifest fits the files, and is signed with a key of their own under the same name."""
    manifest = json.loads(files["manifest.json"])
    manifest["files"] = {name: sha256(files[name]).hexdigest() for name in manifest["files"] if name in files}
    raw = json.dumps(manifest).encode()
    keys = SigningKeys((SigningKey.new(installation),))
    note = keys.sign(f"throughline evidence pack v1\n{sha256(raw).hexdigest()}\n")
    return {**files, "manifest.json": raw, "manifest.note": note.encode()}


async def test_a_clients_pack_holds_and_is_everything(case: Case) -> None:
    """Every event of the client in every log, no personal value, and it continues the earlier pack."""
    checked = await run("verify", case.pack, "--key", case.keys_file, "--earlier", case.before, "--output", "json")
    assert checked.exit_code == 0, checked.output
    proved = "\n".join(json.loads(checked.stdout)["proved"])
    assert proved.count("continues its checkpoint") >= len(SERVICES)
    assert f"journey: of {case.client_id} every event is shown" in proved
    files = unpack(case.pack.read_bytes())
    for service in ("identity", "journey", "scoring"):
        expected = [
            event.position
            for event in [
                event async for page in case.line.logs[service].ReadEvents(_of(case.client_id)) for event in page.events
            ]
        ]
        assert set(expected) <= {line["position"] for line in lines(files, f"logs/{service}/events.ndjson")}, service
    recorded = {
        Envelope.FromString(b64decode(line["envelope"])).event_id.hex()
        for line in lines(files, "logs/ingestion/events.ndjson")
    }
    theirs = await case.line.identity.ListClientInteractions(
        identity_pb2.ListClientInteractionsRequest(client_id=case.client_id, page_size=500)
    )
    assert set(theirs.interaction_ids) <= recorded
    assert b"p3@post.eu" not in case.pack.read_bytes()
    html = files["index.html"].decode()
    assert "<svg" in html
    assert html.count("<tr><td>") == sum(len(lines(files, f"logs/{each}/events.ndjson")) for each in SERVICES)


async def test_the_pack_verifies_itself_without_throughline(case: Case) -> None:
    """Its own verify.py, isolated from this environment's packages but `cryptography`, says the same."""
    told = await standing_alone(case, case.pack, "--earlier", case.before)
    verifier = case.folder / case.pack.stem / "verify.py"
    assert told.returncode == 0, told.stderr
    assert "BROKEN" not in told.stdout
    source = verifier.read_text()
    assert "throughline_" not in source.partition('"""')[2].partition('"""')[2]
    bent = case.folder / "bent.zip"
    files = unpack(case.pack.read_bytes())
    bent.write_bytes(pack_bytes({**files, "index.html": files["index.html"] + b" "}))
    told = await alone(verifier, bent, "--key", case.keys_file)
    assert (told.returncode, "BROKEN  index.html: was changed" in told.stdout) == (4, True)


async def test_every_forgery_of_an_event_is_caught_and_named(case: Case) -> None:
    """Changed, dropped, added or reordered, with the manifest made to fit and signed by somebody else."""
    files = unpack(case.pack.read_bytes())
    installation = json.loads(files["manifest.json"])["installation"]
    name = "logs/journey/events.ndjson"
    events = lines(files, name)
    one, other = events[1], events[2]
    at = one["position"]

    def said(changed: list[dict[str, Any]], **more: bytes) -> str:
        report = case.verify(resigned({**with_lines(files, name, changed), **more}, installation))
        assert any("manifest.note" in each for each in report.broken)
        return "\n".join(report.broken)

    envelope = Envelope.FromString(b64decode(one["envelope"]))
    envelope.occurred_at += 1
    forged = {**one, "envelope": _b64(envelope.SerializeToString())}
    assert f"the event at position {at} is not in the log" in said([events[0], forged, *events[2:]])
    assert f"the events at positions {at} are left out" in said([events[0], *events[2:]])
    assert f"stands behind that at {other['position']}" in said([events[0], other, one, *events[3:]])
    invented = {**events[-1], "index": events[-1]["index"] + 1, "position": events[-1]["position"] + 1}
    assert f"the event at position {invented['position']} is not in the log" in said([*events, invented])
    # The list of the client's events made to fit as well: then it is not the one that was signed.
    subjects = lines(files, "logs/journey/subjects.ndjson")
    (mine,) = [each for each in subjects if each["subject"] == case.client_id]
    mine["positions"].remove(at)
    shorter = with_lines(files, "logs/journey/subjects.ndjson", subjects)["logs/journey/subjects.ndjson"]
    assert f"of {case.client_id} are not all" in said(
        [events[0], *events[2:]], **{"logs/journey/subjects.ndjson": shorter}
    )
    assert "nothing proves" in said(events, **{"logs/journey/subjects.ndjson": b""})
    # A checkpoint of their own, under the installation's name; one of another log.
    note = files["logs/journey/checkpoint.note"].decode()
    own = SigningKeys((SigningKey.new(installation),)).sign(note.partition("\n\n")[0] + "\n")
    assert "its checkpoint does not hold" in said(events, **{"logs/journey/checkpoint.note": own.encode()})
    assert "its checkpoint is of" in said(
        events, **{"logs/journey/checkpoint.note": files["logs/scoring/checkpoint.note"]}
    )


async def test_what_was_rewritten_since_an_earlier_checkpoint_is_told(case: Case) -> None:
    """Whoever holds a checkpoint that the pack does not continue is told so."""
    keys = read_keys(case.keys_file.read_text())
    held = unpack(case.before.read_bytes())["logs/journey/checkpoint.note"].decode()
    alone = case.folder / "alone.zip"
    made = await run("audit", "client", case.client_id, "--to", alone, "--data", case.line.suite.folder)
    assert made.exit_code == 0, made.output
    assert verify_pack(alone.read_bytes(), keys).holds
    assert any("--since" in each for each in verify_pack(alone.read_bytes(), keys, [held]).broken)
    files = unpack(case.pack.read_bytes())
    earlier = lines(files, "logs/journey/earlier.ndjson")
    earlier[-1]["hashes"] = earlier[-1]["hashes"][:-1]
    report = case.verify(with_lines(files, "logs/journey/earlier.ndjson", earlier))
    assert any("it was rewritten" in each for each in report.broken)


async def test_packs_of_an_interaction_a_range_and_an_instant(case: Case) -> None:
    """Each holds; a range has no hole; behind an instant events are counted and not shown."""
    keys = read_keys(case.keys_file.read_text())
    data = ("--data", case.line.suite.folder)
    files = unpack(case.pack.read_bytes())
    first = Envelope.FromString(b64decode(lines(files, "logs/ingestion/events.ndjson")[0]["envelope"]))
    made = await run("audit", "interaction", first.event_id.hex(), "--to", case.folder / "one.zip", *data)
    assert made.exit_code == 0, made.output
    report = verify_pack((case.folder / "one.zip").read_bytes(), keys)
    assert report.holds, report.broken
    assert {each.partition(":")[0] for each in report.proved} >= {"ingestion", "identity", "journey", "scoring"}

    made = await run(
        "audit", "range", "identity", "--after", "10", "--until", "40", "--to", case.folder / "range.zip", *data
    )
    assert made.exit_code == 0, made.output
    ranged = unpack((case.folder / "range.zip").read_bytes())
    assert verify_pack(pack_bytes(ranged), keys).holds
    events = lines(ranged, "logs/identity/events.ndjson")
    assert [line["position"] for line in events] == list(range(11, 41))
    report = case.verify(with_lines(ranged, "logs/identity/events.ndjson", events[:5] + events[6:]))
    assert any("events are missing between position 15 and 17" in each for each in report.broken)

    cut = first.recorded_at
    made = await run("audit", "client", case.client_id, "--as-of", cut, "--to", case.folder / "cut.zip", *data)
    assert made.exit_code == 0, made.output
    cutting = unpack((case.folder / "cut.zip").read_bytes())
    assert verify_pack(pack_bytes(cutting), keys).holds
    for service in SERVICES:
        then, now = (lines(each, f"logs/{service}/events.ndjson") for each in (cutting, files))
        assert [line["position"] for line in then] == [line["position"] for line in now]
        for line in then:
            shown = "envelope" in line
            assert not shown or Envelope.FromString(b64decode(line["envelope"])).recorded_at <= cut
    assert any("leaf" in line for line in lines(cutting, "logs/journey/events.ndjson"))

    nobody = await run("audit", "client", "0" * 32, "--to", case.folder / "x.zip", *data)
    assert nobody.exit_code == 1
    nothing = await run("audit", "interaction", "0" * 32, "--to", case.folder / "x.zip", *data)
    assert (nothing.exit_code, "no log has an event" in nothing.output) == (1, True)
    assert not (case.folder / "x.zip").exists()


async def test_a_scores_pack_recomputes_it_to_the_last_digit(case: Case) -> None:
    """A channel's from the log's beginning, a client's from their events; whatever is changed is named."""
    keys = read_keys(case.keys_file.read_text())
    data = ("--data", case.line.suite.folder)
    kinds = {"channel": (events_pb2.SUBJECT_KIND_CHANNEL, "store"), "all": (events_pb2.SUBJECT_KIND_ALL, "")}
    kinds["client"] = (events_pb2.SUBJECT_KIND_CLIENT, case.client_id)
    for name, (kind, subject) in kinds.items():
        card = await case.line.scoring.GetScorecard(scoring_pb2.GetScorecardRequest(subject_kind=kind, subject=subject))
        told = {score.metric: score for score in card.scores}
        for metric in ("volume", "nps") if name == "all" else ("fcr", "value"):
            pack = case.folder / f"{name}-{metric}.zip"
            made = await run("audit", "score", told[metric].score_id, "--to", pack, *data)
            assert made.exit_code == 0, made.output
            report = verify_pack(pack.read_bytes(), keys)
            assert report.holds, report.broken
            assert any(f"{metric} of" in each and "to the last digit" in each for each in report.proved)
    contacts = lines(unpack((case.folder / "all-volume.zip").read_bytes()), "logs/scoring/events.ndjson")
    times = sorted(
        events_pb2.ContactNoted.FromString(
            Envelope.FromString(b64decode(each["envelope"])).payload
        ).interaction.occurred_at
        for each in contacts
        if each["type"].endswith(".ContactNoted")
    )
    between = eventlog_pb2.Interval(start=times[len(times) // 4], end=times[3 * len(times) // 4])
    everything = scoring_pb2.GetScorecardRequest(subject_kind=events_pb2.SUBJECT_KIND_ALL, between=between)
    card = await case.line.scoring.GetScorecard(everything)
    # Published with both times, as it was known then, it is the same figure and has the same evidence.
    published = await case.line.scoring.PublishScorecard(
        scoring_pb2.PublishScorecardRequest(
            subject_kind=events_pb2.SUBJECT_KIND_ALL, between=between, as_of=card.as_of, published_by="ann"
        )
    )
    assert list(published.scores) == list(card.scores)
    volume = next(score for score in published.scores if score.metric == "volume")
    assert 0 < volume.n < len(times)
    made = await run("audit", "score", volume.score_id, "--to", case.folder / "interval.zip", *data)
    assert made.exit_code == 0, made.output
    report = case.verify(unpack((case.folder / "interval.zip").read_bytes()))
    assert report.holds, report.broken
    assert any("volume of everything from " in each and "to the last digit" in each for each in report.proved)
    told_alone = await standing_alone(case, case.folder / "interval.zip")
    assert (told_alone.returncode, "to the last digit" in told_alone.stdout) == (0, True), told_alone.stdout

    files = unpack((case.folder / "interval.zip").read_bytes())
    said = json.loads(files["score.json"])
    assert (said["score"]["begins"], said["score"]["ends"]) == (between.start, between.end)
    always = json.dumps({**said, "score": {**said["score"], "begins": 0, "ends": 0}}).encode()
    assert any("n is told as" in each for each in case.verify({**files, "score.json": always}).broken)

    files = unpack((case.folder / "channel-value.zip").read_bytes())
    said = json.loads(files["score.json"])

    def broken(**changed: Any) -> str:
        bent = {**files, "score.json": json.dumps({**said, **changed}).encode()}
        return "\n".join(case.verify(bent).broken)

    value = said["score"]["value"]
    assert "value is told as" in broken(score={**said["score"], "value": math.nextafter(value, math.inf)})
    assert "n is told as" in broken(score={**said["score"], "n": said["score"]["n"] + 1})
    assert "the evidence lacks it" in broken(evidence=said["evidence"][1:])
    assert "no event here" in broken(evidence=[*said["evidence"], "0" * 32])
    events = lines(files, "logs/scoring/events.ndjson")
    report = case.verify(with_lines(files, "logs/scoring/events.ndjson", events[:5] + events[6:]))
    assert any("are not the first" in each for each in report.broken)


@pytest.fixture(params=["sqlite", "postgres"])
def suite(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Suite]:
    """A suite that runs, on each kind of store in turn; on PostgreSQL its positions have gaps."""
    if request.param == "sqlite":
        with Suite(tmp_path / "suite") as started:
            yield started
        return
    postgres, run_name = request.getfixturevalue("postgres"), f"t_{uuid4().hex[:16]}"
    with Suite(tmp_path / "suite", environment=postgres_environment(postgres, run_name)) as started:
        leave_gaps(postgres, run_name)
        yield started
    drop_schemas(postgres, run_name)


async def test_packs_hold_of_who_withdrew_consent_and_of_who_was_merged(suite: Suite, tmp_path: Path) -> None:
    """A merge that was undone again, and a consent withdrawn, on either store: client, score and range verify, by the
    command and by the verifier in the pack.
    """
    keys = tmp_path / "keys.txt"
    keys.write_text((await run("signing", "public", suite.folder / "signing.keys")).stdout)
    async with connect(suite) as line:
        await line.register()
        await line.record(scattered_history(5, 12, 200), 20)
        await line.settled()
        withdrew, one, other = [await who(line, f"p{number}@post.eu") for number in (3, 4, 7)]
        await line.identity.RecordConsent(
            identity_pb2.RecordConsentRequest(
                client_id=withdrew, purpose="measurement", granted=False, source="desk", scope="web"
            )
        )
        merged = await line.identity.MergeClients(
            identity_pb2.MergeClientsRequest(client_id=one, other_client_id=other, decided_by="kim", reason="the same")
        )
        await line.record(scattered_history(6, 12, 100), 20)
        await line.settled()
        await line.identity.UndoMerge(
            identity_pb2.UndoMergeRequest(merge_id=merged.merge_id, decided_by="lee", reason="two people")
        )
        await line.settled()
        cards = {
            client_id: await line.scoring.GetScorecard(
                scoring_pb2.GetScorecardRequest(subject_kind=events_pb2.SUBJECT_KIND_CLIENT, subject=client_id)
            )
            for client_id in (withdrew, one, other)
        }
        assert {left.purpose for left in cards[withdrew].left_out} == {"measurement"}
        assert not cards[one].left_out
        end = (await line.checkpoints())["identity"].position
        case = Case(tmp_path, keys, withdrew, tmp_path / "none", tmp_path / "none", line)

        async def holding(name: str, *asked: object) -> dict[str, bytes]:
            pack = tmp_path / f"{name}.zip"
            made = await run("audit", *asked, "--to", pack, "--data", suite.folder)
            assert made.exit_code == 0, made.output
            checked = await run("verify", pack, "--key", keys)
            assert (checked.exit_code, "BROKEN" in checked.output) == (0, False), checked.output
            told = await standing_alone(case, pack)
            assert (told.returncode, "BROKEN" in told.stdout) == (0, False), told.stdout
            return unpack(pack.read_bytes())

        for client_id, happened in (
            (withdrew, {"ConsentRecorded"}),
            (one, {"ClientsMerged", "MergeUndone"}),
            (other, {"ClientsMerged", "MergeUndone"}),
        ):
            files = await holding(f"client-{client_id}", "client", client_id)
            kinds = {line["type"].rpartition(".")[2] for line in lines(files, "logs/identity/events.ndjson")}
            assert happened <= kinds
            score = next(each for each in cards[client_id].scores if each.HasField("value") and each.n)
            files = await holding(f"score-{client_id}", "score", score.score_id)
            assert json.loads(files["score.json"])["score"]["value"] == score.value
        files = await holding("range", "range", "identity", "--after", "0", "--until", str(end))
        events = [event async for page in line.logs["identity"].ReadEvents(_of("")) for event in page.events]
        assert [each["position"] for each in lines(files, "logs/identity/events.ndjson")] == [
            event.position for event in events
        ]
        assert (end == len(events)) == (not suite.environment)


def test_the_verifier_in_one_file_has_no_name_twice() -> None:
    """Two modules are put together in it: what one defines must not be what the other means by that name."""
    names = Counter(
        name
        for statement in ast.parse(standalone()).body
        for name in (
            [statement.name]
            if isinstance(statement, ast.FunctionDef | ast.ClassDef)
            else [target.id for target in statement.targets if isinstance(target, ast.Name)]
            if isinstance(statement, ast.Assign)
            else [statement.target.id]
            if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name)
            else []
        )
    )
    assert [name for name, times in names.items() if times > 1] == []


async def test_the_forgotten_are_proved_too(case: Case) -> None:
    """Forgetting destroys a key and no leaf: the pack made before holds, and so does one made after."""
    await case.line.identity.ForgetClient(
        identity_pb2.ForgetClientRequest(client_id=case.client_id, reason="asked for it", decided_by="test")
    )
    await case.line.settled()
    data = ("--data", case.line.suite.folder)
    certificate = case.folder / "certificate"
    made = await run("audit", "certificate", case.client_id, "--to", certificate, *data)
    assert made.exit_code == 0, made.output
    checked = await run("verify", certificate, "--key", case.keys_file)
    assert (checked.exit_code, f"client {case.client_id} was forgotten" in checked.output) == (0, True)
    certificate.write_text(certificate.read_text().replace("asked for it", "asked for us"))
    checked = await run("verify", certificate, "--key", case.keys_file)
    assert (checked.exit_code, "BROKEN" in checked.output) == (4, True)
    someone = await case.line.identity.ResolveClient(
        identity_pb2.ResolveClientRequest(identifiers=[identifier("email", "p4@post.eu")])
    )
    refused = await run("audit", "certificate", someone.client_id, "--to", case.folder / "none", *data)
    assert (refused.exit_code, "was not forgotten" in refused.output) == (1, True)
    after = case.folder / "after.zip"
    made = await run("audit", "client", case.client_id, "--to", after, "--since", case.pack, *data)
    assert made.exit_code == 0, made.output
    keys = read_keys(case.keys_file.read_text())
    assert verify_pack(case.pack.read_bytes(), keys).holds
    files, before = unpack(after.read_bytes()), unpack(case.pack.read_bytes())
    assert verify_pack(after.read_bytes(), keys).holds
    for service in SERVICES:
        positions = {line["position"] for line in lines(files, f"logs/{service}/events.ndjson")}
        assert positions >= {line["position"] for line in lines(before, f"logs/{service}/events.ndjson")}, service


async def test_no_flipped_byte_of_a_pack_goes_unseen(case: Case) -> None:
    """Each byte of a small pack in turn, one bit: none is undetected. Every 97th, unless all are asked for."""
    small = case.folder / "small.zip"
    made = await run(
        "audit", "range", "identity", "--after", "10", "--until", "12", "--to", small, "--data", case.line.suite.folder
    )
    assert made.exit_code == 0, made.output
    raw, keys = bytearray(small.read_bytes()), read_keys(case.keys_file.read_text())
    assert verify_pack(bytes(raw), keys).holds
    stride = 1 if os.environ.get("THROUGHLINE_TEST_EVERY_BYTE") else 97
    chance, undetected = random.Random(1), list[int]()
    directory = raw.rfind(b"PK\x05\x06") - 1_500
    for at in (at for at in range(len(raw)) if at % stride == 0 or at >= directory):
        bit = 1 << chance.randrange(8)
        raw[at] ^= bit
        try:
            if verify_pack(bytes(raw), keys).holds:
                undetected.append(at)
        except PackInvalidError:
            pass
        raw[at] ^= bit
    assert undetected == []


async def test_a_pack_that_is_none_is_refused(case: Case) -> None:
    """Not a zip, a zip of something else, a format to come, no trusted key: said in one line."""
    keys = read_keys(case.keys_file.read_text())
    with pytest.raises(PackInvalidError, match="no readable zip"):
        verify_pack(b"PK", keys)
    with pytest.raises(PackInvalidError, match=r"no readable manifest\.json"):
        verify_pack(pack_bytes({"a": b"b"}), keys)
    newer = pack_bytes({"manifest.json": b'{"format":"throughline-evidence/2"}'})
    with pytest.raises(PackInvalidError, match="throughline-evidence/2"):
        verify_pack(newer, keys)
    loose = io.BytesIO()
    with zipfile.ZipFile(loose, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in unpack(case.pack.read_bytes()).items():
            archive.writestr(name, content)
    with pytest.raises(PackInvalidError, match="not as it was written"):
        verify_pack(loose.getvalue(), keys)
    stranger = case.folder / "stranger.txt"
    stranger.write_text(SigningKey.new("stranger").public.vkey)
    told = await run("verify", case.pack, "--key", stranger)
    assert (told.exit_code, "no known key signed it" in told.output) == (4, True)
    stranger.write_text("")
    told = await run("verify", case.pack, "--key", stranger)
    assert (told.exit_code, "no verifier key" in told.output) == (2, True)


def _of(client_id: str) -> eventlog_pb2.ReadEventsRequest:
    return eventlog_pb2.ReadEventsRequest(client_id=client_id)


def _b64(raw: bytes) -> str:
    return b64encode(raw).decode()
