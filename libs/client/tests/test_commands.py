"""The `throughline` command against the real suite: what it prints, and what it exits with."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

from throughline.ingestion.v1 import interaction_pb2
from throughline_client import Throughline
from throughline_client.commands import main
from throughline_client.commands.registry import read_interaction
from throughline_client.commands.running import failure_of
from throughline_client.commands.showing import how_long, plain, when
from throughline_client.importer.problems import DataFileError
from throughline_testkit import eventually_sync

Run = Callable[..., Result]
MakeVisit = Callable[..., interaction_pb2.Interaction]
AT = 1_700_000_000_000_000


def parsed(result: Result) -> Any:
    """The JSON that a command printed."""
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def every_command(group: click.Group, path: tuple[str, ...] = ()) -> list[tuple[tuple[str, ...], click.Command]]:
    """All commands below a group, with the words that lead to them; only those of this package."""
    found: list[tuple[tuple[str, ...], click.Command]] = []
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        if command.callback is not None and not command.callback.__module__.startswith("throughline_client"):
            continue
        found.append(((*path, name), command))
        if isinstance(command, click.Group):
            found += every_command(command, (*path, name))
    return found


def test_every_command_has_a_sentence_and_an_example() -> None:
    """Help that can be copied from."""
    commands = every_command(main)
    assert len(commands) > 35
    for path, command in commands:
        help_text = command.help or ""
        assert help_text.split("\n")[0].endswith((".", "…", "FILE.")), path
        assert f"throughline {path[0]}" in help_text, path
        assert "Example" in help_text, path


def test_the_exit_codes_are_documented() -> None:
    """`throughline --help` says what each code means."""
    result = CliRunner().invoke(main, ["--help"])
    for code in range(6):
        assert f"  {code}  " in result.output


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts(shell: str) -> None:
    """A script for each shell."""
    result = CliRunner().invoke(main, ["completion", shell])
    assert result.exit_code == 0
    assert "_THROUGHLINE_COMPLETE" in result.output


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["resolve"], "CLIENT_ID or by --identifier"),
        (["resolve", "-i", "email"], "write TYPE=VALUE"),
        (["history", "x", "--as-of", "yesterday"], "is no time"),
        (["history", "x", "--between", "2026-05-01", "2026-04-01"], "must be later"),
        (["history", "x", "--watch", "--as-of", "2026-05-01"], "choose one"),
        (["status", "--address", "journey"], "journey=HOST:PORT"),
        (["status", "--address", "journal=a:1"], "is no service"),
        (["scorecard", "planet"], "channel"),
        (["nonsense"], "No such command"),
        (["record", "/nowhere.ndjson"], "does not exist"),
        (["import", "--mapping", "boston31", "x.csv"], "boston311"),
    ],
)
def test_wrong_usage_ends_with_2_and_says_how(arguments: list[str], told: str, tmp_path: Path) -> None:
    """Usage errors name what is wrong and what to write."""
    result = CliRunner().invoke(main, arguments, env={"THROUGHLINE_DATA": str(tmp_path)})
    assert result.exit_code == 2, result.output
    assert told in result.output


@pytest.mark.parametrize(
    "arguments",
    [["resolve", "0" * 32], ["channels"], ["import", "--mapping", "boston311", "DATA"], ["status"], ["variants"]],
)
def test_without_a_suite_the_code_is_3(arguments: list[str], tmp_path: Path) -> None:
    """Nobody said where the services are: said so, with the remedy."""
    (tmp_path / "boston311.csv").write_text("", encoding="utf-8")
    arguments = [str(tmp_path / "boston311.csv") if each == "DATA" else each for each in arguments]
    if "import" in arguments:
        header = (
            "case_enquiry_id,open_dt,closed_dt,source,type,location_street_name,ontime,neighborhood,department,queue"
        )
        more = "subject,reason,case_status,ward,target_dt,location,location_zipcode"
        (tmp_path / "boston311.csv").write_text(f"{header},{more}\n", encoding="utf-8")
    result = CliRunner().invoke(main, arguments, env={"THROUGHLINE_DATA": str(tmp_path / "none")})
    assert result.exit_code == 3, result.output
    assert "throughline up" in result.output


def test_a_service_that_is_away_is_3_and_told(tmp_path: Path) -> None:
    """Unreachable is not refused."""
    arguments = ["channels", "list", "--address", "ingestion=127.0.0.1:1"]
    result = CliRunner().invoke(main, arguments, env={"THROUGHLINE_DATA": str(tmp_path)})
    assert result.exit_code == 3
    assert "throughline status" in result.output


def test_an_unexpected_error_stays_one() -> None:
    """Only what is expected becomes a message."""
    assert failure_of(ZeroDivisionError()) is None
    expected = failure_of(DataFileError("f", "rule", "remedy"))
    assert expected is not None
    assert expected.exit_code == 2


def test_status_tells_positions_lags_and_tallies(run: Run, client: Throughline) -> None:
    """For people a table; for programs every field; with the digest where asked for."""
    assert client is not None
    table = run("status")
    assert table.exit_code == 0
    for word in ("ingestion", "SERVING", "position"):
        assert word in table.output
    found = parsed(run("status", "--wait", "60", "--digest", "-o", "json"))
    assert set(found["services"]) == {"ingestion", "identity", "journey", "feedback", "scoring"}
    journey = found["services"]["journey"]
    assert journey["health"] == "SERVING"
    assert len(journey["digest"]) == 64
    assert {each["stream"] for each in journey["inbox"]} <= {"TL_FEEDBACK_0", "TL_IDENTITY_0"}
    for tally in found["tallies"]:
        ends = ("recorded", "duplicate", "conflict", "quarantined", "refused")
        assert tally["offered"] == sum(tally[end] for end in ends)


def line(number: int, **fields: object) -> str:
    """One interaction as a line of NDJSON."""
    made: dict[str, object] = {
        "source": "desk",
        "source_interaction_id": f"cli-{number}",
        "channel": "web",
        "kind": "visit",
        "occurred_at": AT + number,
        "identifiers": [{"type": "email", "value": "cli@shop.eu", "assurance": "verified"}],
        "attributes": {"floor": 2},
    }
    return json.dumps({**made, **fields}) + "\n"


def test_a_client_from_recording_to_the_next_step(run: Run, run_until: Run, client: Throughline) -> None:
    """record, resolve, resume, history, client, explain, interaction, log read: one story over the command line."""
    assert client is not None
    recorded = run("record", "-", text=line(1) + line(2, channel="phone"))
    assert recorded.exit_code == 0, recorded.output
    assert parsed(run("record", "-", "-o", "json", text=line(1) + line(2, channel="phone")))["duplicate"] == 2
    client_id = parsed(run_until("resolve", "-i", "email=cli@shop.eu", "-o", "json"))["client_id"]
    assert client_id in run("resolve", client_id).output
    context = parsed(run_until("resume", client_id, "--channel", "phone", "-o", "json"))
    assert context["client_id"] == client_id
    assert "last steps" in run("resume", "-i", "email=cli@shop.eu", "--channel", "web").output
    entries = [json.loads(each) for each in run("history", client_id, "-o", "json").stdout.splitlines()]
    (first, *_) = [each for each in entries if each["type"] == "interaction"]
    assert first["interaction"]["attributes"] == {"floor": 2}
    assert "visit" in run("history", "-i", "email=cli@shop.eu").output
    assert "known by the id" in run("history", client_id, "--as-of", "2020-01-01").stderr
    shown = run("history", client_id).output
    instant = shown.rpartition(" at ")[2].partition(",")[0]
    assert run("history", client_id, "--as-of", instant).output == shown
    between = ("--between", str(AT + 2), "2999-01-01", "-o", "json")
    later = [json.loads(each) for each in run("history", client_id, *between, "--as-of", instant).stdout.splitlines()]
    assert {each["channel"] for each in later} == {"phone"}
    known_then = parsed(run("resume", client_id, "--channel", "phone", "--as-of", instant, "-o", "json"))
    assert known_then["last_steps"] == context["last_steps"]
    assert "email" in run("client", client_id).output
    explained = parsed(run("explain", first["event_id"], "-o", "json"))
    assert explained["client_id"] == client_id
    assert explained["steps"]
    assert "IdentifierLinked" in run("explain", "-i", "email=cli@shop.eu").output
    assert "email=cli@shop.eu" in run("interaction", first["event_id"]).output
    events = run("log", "read", "identity", "--client", client_id, "-o", "json").stdout.splitlines()
    attributed = [each for each in map(json.loads, events) if each["type"].endswith("InteractionAttributed")]
    assert {each["payload"]["client_id"] for each in attributed} == {client_id}
    assert run("log", "read", "ingestion", "--limit", "1").exit_code == 0


def test_what_waits_in_quarantine_is_listed_and_redriven(run: Run, client: Throughline) -> None:
    """Quarantined: exit code 1 and the remedy; registered and redriven: recorded."""
    assert client is not None
    recorded = run("record", "-", text=line(10, channel="kiosk"))
    assert recorded.exit_code == 1
    assert "register" in recorded.output
    waiting = parsed(run("quarantine", "list", "-o", "json"))
    assert "cli-10" in {each["source_interaction_id"] for each in waiting}
    assert "CHANNEL_UNKNOWN" in run("quarantine", "list").output
    add = ("channels", "add", "kiosk", "--name", "Kiosk", "--physical", "--automated", "--group", "store")
    assert parsed(run(*add, "-o", "json"))["created"]
    assert run(*add).exit_code == 0
    conflicting = run("channels", "add", "kiosk", "--name", "Booth", "--physical", "--automated")
    assert conflicting.exit_code == 1
    assert "CHANNEL_CONFLICT" in conflicting.output
    assert parsed(run("quarantine", "redrive", "--channel", "kiosk", "-o", "json"))["recorded"] == 1
    listed = {each["channel"]: each["traits"] for each in parsed(run("channels", "list", "-o", "json"))}
    assert listed["kiosk"]["physical"]
    assert "Kiosk" in run("channels").output
    assert run("sources", "add", "kiosks", "--name", "Kiosks", "--channel", "kiosk").exit_code == 0
    assert "kiosks" in run("sources").output


def test_lines_that_cannot_be_read_harm_no_other(run: Run, client: Throughline) -> None:
    """Told with their number, rule and remedy; exit code 2; the others are recorded."""
    assert client is not None
    text = line(20) + "{nonsense\n" + '["a list"]\n' + '{"sorce":"x"}\n' + line(21) + line(22, kind="No Snake")
    result = run("record", "-", "-o", "json", text=text)
    assert result.exit_code == 2
    told = json.loads(result.stdout)
    assert [each["line"] for each in told["unreadable"]] == [2, 3, 4]
    assert (told["recorded"], told["refused"]) == (2, 1)
    assert told["not_recorded"][0]["violations"][0]["field"] == "kind"


def test_feedback_to_a_resolved_case(run: Run, run_until: Run, client: Throughline) -> None:
    """departments, inbox, case show, ack, reassign, resolve, reopen."""
    assert client is not None
    feedback = [{"kind": "complaint", "verbatim": "the refund never came", "topic": "refund"}]
    assert run("record", "-", text=line(30, kind="complaint", feedback=feedback)).exit_code == 0

    def open_case() -> tuple[str, str]:
        for department in parsed(run_until("departments", "-o", "json")):
            for case in parsed(run("inbox", department["department"], "-o", "json")):
                if case["topic"] == "refund":
                    return department["department"], case["case_id"]
        raise AssertionError("no department has it yet")

    department, case_id = until(open_case)
    assert case_id in run("inbox", department).output
    assert parsed(run("case", "show", case_id, "-o", "json"))["department"] == department
    assert "acknowledged" in run("case", "ack", case_id, "--by", "ana").output
    resolved = run("case", "resolve", case_id, "--by", "ana", "--resolution", "paid", "--cause", "lost")
    assert "resolved" in resolved.output
    assert run("case", "resolve", case_id, "--by", "ben", "--resolution", "again").exit_code in {0, 1}
    assert parsed(run("case", "reopen", case_id, "--by", "ana", "--reason", "no", "-o", "json"))["reopened"] == 1
    others = [each["department"] for each in parsed(run("departments", "-o", "json"))]
    moved = run("case", "reassign", case_id, "nowhere", "--by", "ana", "--reason", "x")
    assert moved.exit_code == 1
    assert "DEPARTMENT_UNKNOWN" in moved.output
    assert department in others


def until(condition: Callable[[], Any]) -> Any:
    from throughline_testkit import eventually_sync

    return eventually_sync(condition, 60.0)


def test_figures_and_journeys(run: Run, run_until: Run, client: Throughline, tmp_path: Path) -> None:
    """scorecard(s), explain-score, attribution, metrics, journeys, variants; definitions from files."""
    assert client is not None
    assert run("record", "-", text=line(40)).exit_code == 0
    run_until("resolve", "-i", "email=cli@shop.eu")

    def volume() -> Any:
        scores = parsed(run("scorecard", "channel", "web", "-o", "json"))["scores"]
        (found,) = [each for each in scores if each["metric"] == "volume"]
        return found if found["n"] else None

    score = until(volume)
    assert "volume" in run("scorecard", "channel", "web").output
    explained = parsed(run("explain-score", score["score_id"], "--evidence", "-o", "json"))
    assert len(explained["event_ids"]) == score["n"]
    assert "formula" in run("explain-score", score["score_id"]).output
    # One id in 64 begins with a dash: it is an id all the same, and this one is nobody's.
    unknown = run("explain-score", "-Dc9xapYBoKNucHOgASI", "-o", "json")
    assert (unknown.exit_code, "no score has the id" in unknown.output) == (1, True), unknown.output
    refused = run("handoff", "accept", f"--{'a' * 41}", "--channel", "store")
    assert refused.exit_code == 1, refused.output
    shown = run("scorecards", "channel").output
    instant = shown.rpartition(" at ")[2].partition(",")[0]
    assert run("scorecards", "channel", "--as-of", instant).output == shown
    nothing = parsed(run("scorecard", "channel", "web", "--between", "1999-01-01", "1999-02-01", "-o", "json"))
    assert {score["n"] for score in nothing["scores"]} == {0}
    inside = run("explain-score", nothing["scores"][0]["score_id"]).output
    assert "1999-02-01" in inside
    credit = parsed(run("attribution", "--between", "1999-01-01", "1999-02-01", "--as-of", instant, "-o", "json"))
    assert credit["conversions_total"] == 0
    assert "scorecards" in parsed(run("scorecards", "channel", "--metric", "volume", "-o", "json"))
    assert "conversions_total" in parsed(run("attribution", "-o", "json"))
    assert run("attribution", "--model", "last").exit_code == 0
    metric = tmp_path / "metric.yaml"
    metric.write_text(
        "metric: web_share\nversion: 1\nname: Web share\ndefinition: contacts on the web\nunit: UNIT_CONTACT\n"
        "population: {}\nnumerator: {channels: [web]}\n",
        encoding="utf-8",
    )
    assert parsed(run("metrics", "define", str(metric), "--by", "ana", "-o", "json"))["metric"] == "web_share"
    assert "web_share" in run("metrics").output
    metric.write_text("metrick: x\n", encoding="utf-8")
    wrong = run("metrics", "define", str(metric), "--by", "ana")
    assert wrong.exit_code == 2
    assert "metrick" in wrong.output
    listed = parsed(run("journeys", "list", "-o", "json"))
    assert "service_request" in {each["journey"] for each in listed}
    assert "owner" in run("journeys").output
    assert "stages" in run("journeys", "show", "service_request").output
    assert run("journeys", "show", "nowhere").exit_code == 1
    assert parsed(run("variants", "-o", "json"))["total"] >= 1
    assert "all others" in run("variants", "--top", "3").output


def test_merge_undo_and_forget(run: Run, run_until: Run, client: Throughline) -> None:
    """A person merges, undoes, and forgets; a forgotten client is refused everywhere."""
    assert client is not None
    mails = ("one@cli.eu", "two@cli.eu")
    for number, mail in enumerate(mails, start=50):
        identifiers = [{"type": "email", "value": mail, "assurance": "verified"}]
        assert run("record", "-", text=line(number, identifiers=identifiers)).exit_code == 0
    one, two = (parsed(run_until("resolve", "-i", f"email={mail}", "-o", "json"))["client_id"] for mail in mails)
    merged = parsed(run("merge", one, two, "--by", "ana", "--reason", "same passport", "-o", "json"))
    assert merged["reattributed"] == 1
    assert parsed(run("resolve", two, "-o", "json"))["client_id"] == merged["client_id"]
    assert run("merge", one, two, "--by", "ana", "--reason", "again").exit_code == 1
    undone = run("undo-merge", merged["merge_id"], "--by", "ana", "--reason", "two sisters")
    assert undone.exit_code == 0, undone.output
    assert parsed(run("resolve", "-i", "email=two@cli.eu", "-o", "json"))["client_id"] == two
    assert run("undo-merge", merged["merge_id"], "--by", "ana", "--reason", "again").exit_code == 1
    assert run("proposals").exit_code == 0
    kept = run("forget", two, "--by", "dpo", "--reason", "asked", text="n\n")
    assert kept.exit_code == 1
    assert parsed(run("forget", two, "--by", "dpo", "--reason", "asked", "--yes", "-o", "json"))["interactions"] == 1
    gone = run("client", two)
    assert gone.exit_code == 1
    assert "CLIENT_FORGOTTEN" in gone.output


def test_retention_is_tried_published_and_shown(run: Run, run_until: Run, client: Throughline, tmp_path: Path) -> None:
    """A dry run names who would go and publishes nothing; without a yes nothing is published either."""
    assert client is not None
    assert run("channels", "add", "booth", "--name", "Booth", "--physical", "--automated").exit_code == 0
    identifiers = [{"type": "email", "value": "booth@cli.eu", "assurance": "verified"}]
    assert run("record", "-", text=line(80, channel="booth", identifiers=identifiers)).exit_code == 0
    visitor = parsed(run_until("resolve", "-i", "email=booth@cli.eu", "-o", "json"))["client_id"]
    file = tmp_path / "retention.yaml"
    file.write_text("rules: [{name: booth visits, channels: [booth], keep: 1}]", encoding="utf-8")
    publish = ("retention", "publish", str(file), "--by", "dpo")
    assert parsed(run(*publish, "--dry-run", "-o", "json")) == {
        "version": 1,
        "clients": 1,
        "over": [{"client_id": visitor, "rule": "booth visits"}],
    }
    assert visitor in run(*publish, "--dry-run").output
    assert run(*publish, text="n\n").exit_code == 1
    assert parsed(run("retention", "show", "-o", "json"))["version"] == 0
    assert run(*publish, "--yes").exit_code == 0
    shown = run("retention", "show", "-o", "json")
    assert parsed(shown)["rules"][0]["name"] == "booth visits"
    assert "booth visits" in run("retention", "show").output
    until(lambda: "CLIENT_FORGOTTEN" in run("client", visitor).output)
    file.write_text(shown.stdout, encoding="utf-8")
    again = run(*publish, "--yes")
    assert again.exit_code == 1
    assert "CONCURRENT_CHANGE" in again.output
    file.write_text("rules: []", encoding="utf-8")
    assert parsed(run(*publish, "--yes", "-o", "json"))["version"] == 2


def test_a_withdrawn_consent_is_heeded_and_said(run: Run, run_until: Run, client: Throughline) -> None:
    """consent record and show; resume, timeline and scorecard tell what they leave out, an audit and others nothing."""
    assert client is not None
    assert run("record", "-", text=line(70) + line(71, channel="phone")).exit_code == 0
    client_id = parsed(run_until("resolve", "-i", "email=cli@shop.eu", "-o", "json"))["client_id"]
    run_until("resume", client_id, "--channel", "phone")
    word = ("consent", "record", "research", "-i", "email=cli@shop.eu", "--source", "letter")
    assert run(*word, "--withdraw", "--at", "2026-11-01").exit_code == 0
    (said,) = parsed(run("consent", "show", client_id, "-o", "json"))
    assert (said["purpose"], said["granted"], said["source"]) == ("research", False, "letter")
    assert "withdrawn" in run("consent", "show", client_id).output

    def told() -> Result | None:
        result = run("resume", client_id, "--channel", "phone", "--purpose", "research")
        return result if "left out by consent" in result.output else None

    result = eventually_sync(told, 60.0, why="journey hears of the withdrawal")
    assert result is not None
    assert "everything" in result.output
    assert "last steps" not in result.output
    assert parsed(run("resume", client_id, "--channel", "phone", "-o", "json"))["left_out"] == []
    assert "entries" in run("history", client_id, "--purpose", "research").output
    assert "visit" in run("history", client_id, "--purpose", "audit").output
    assert run("resume", client_id, "--channel", "phone", "--purpose", "no such").exit_code == 1
    assert run("consent", "record", "audit", client_id, "--withdraw", "--source", "letter").exit_code == 1
    assert run(*word, "--grant").exit_code == 0


def test_a_hand_over_works_once(run: Run, run_until: Run, client: Throughline) -> None:
    """offer, accept, and the second accept is refused."""
    assert client is not None
    assert run("record", "-", text=line(60)).exit_code == 0
    client_id = parsed(run_until("resolve", "-i", "email=cli@shop.eu", "-o", "json"))["client_id"]
    run_until("resume", client_id, "--channel", "phone")
    offer = ("handoff", "offer", client_id, "--from", "web", "--to", "phone", "--note", "size M")
    token = parsed(run(*offer, "-o", "json"))["token"]
    accepted = run("handoff", "accept", token, "--channel", "phone", "--by", "ana")
    assert accepted.exit_code == 0, accepted.output
    assert "size M" in accepted.output
    assert run("handoff", "accept", token, "--channel", "phone").exit_code == 1


def test_interactions_are_read_from_json_with_short_enums() -> None:
    """Attributes as objects, enums short or whole, unknown fields refused."""
    made = read_interaction(
        json.dumps(
            {
                "source": "s",
                "subject_type": "staff",
                "occurred_at": 5,
                "identifiers": [{"type": "t", "value": "v", "assurance": "verified"}],
                "exchanges": [{"question": "q", "answer": "a", "sensitivity": "SENSITIVITY_OPERATIONAL"}],
                "feedback": [{"kind": "nps", "score": 9}],
                "personal_attributes": {"a": "é"},
            }
        ).encode()
    )
    assert made.subject_type == interaction_pb2.SUBJECT_TYPE_STAFF
    assert made.identifiers[0].assurance == interaction_pb2.ASSURANCE_VERIFIED
    assert made.exchanges[0].sensitivity == interaction_pb2.SENSITIVITY_OPERATIONAL
    assert made.feedback[0].kind == interaction_pb2.FEEDBACK_KIND_NPS
    assert json.loads(made.personal_attributes) == {"a": "é"}
    for wrong in (b"[]", b"{", b'{"nope":1}', b'{"feedback":[{"kind":"nqs"}]}', b'{"identifiers":"x"}'):
        with pytest.raises(ValueError, match=r"\w"):
            read_interaction(wrong)


def test_messages_become_plain_values() -> None:
    """Enums by name, JSON as JSON, ids in hex, unset optionals left out."""
    made = interaction_pb2.Interaction(attributes=b'{"a":1}', sequence=2**60)
    made.feedback.add(kind=interaction_pb2.FEEDBACK_KIND_NPS)
    told = plain(made)
    assert told["attributes"] == {"a": 1}
    assert told["sequence"] == 2**60
    assert told["feedback"][0]["kind"] == "FEEDBACK_KIND_NPS"
    assert "score" not in told["feedback"][0]
    assert "value" not in told
    assert plain(interaction_pb2.IdentifierHash(hash=b"\x01\xff"))["hash"] == "01ff"


def test_times_for_people() -> None:
    """UTC to the second, durations in the unit that fits."""
    assert when(AT) == "2023-11-14 22:13:20"
    assert when(0) == ""
    assert [how_long(each) for each in (0, 1500, 2_000_000, 90_000_000, 7_200_000_000, 2 * 86_400_000_000)] == [
        "-",
        "2 ms",
        "2.0 s",
        "1.5 min",
        "2.0 h",
        "2.0 d",
    ]
