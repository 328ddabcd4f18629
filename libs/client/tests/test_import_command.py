"""`throughline import` against the real suite: once, twice, stopped in the middle, with bad rows."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from throughline_client import RemoteRefusal, Throughline
from throughline_client.commands import main
from throughline_client.importer.mapping import Mapping, load_mapping, parse_mapping
from throughline_client.importer.producing import find_files
from throughline_client.importer.running import ImportOptions, run_import
from throughline_client.sdk.recording import Verdicts
from throughline_client.suite import Suite

Run = Callable[..., Result]

MAPPING = """\
mapping: {name}
zone: Europe/Vienna
currency: EUR
channels:
  market: {{name: Market, physical: true, assisted: true}}
sources:
  {name}: {{name: Stall}}
files:
  sales: [sales.csv]
imports:
  sales:
    from: sales
    interaction:
      source: {name}
      source_interaction_id: {{column: id}}
      channel: {channel}
      kind: purchase
      occurred_at: {{column: at}}
      value: {{column: amount}}
      identifiers:
        - {{type: loyalty_card, value: {{column: card}}, assurance: verified}}
"""


def prepare(folder: Path, name: str, rows: list[str], channel: str = "market") -> tuple[Path, Path]:
    """A mapping and its data, in a folder."""
    mapping = folder / "mapping.yaml"
    mapping.write_text(MAPPING.format(name=name, channel=channel), encoding="utf-8")
    data = folder / "sales.csv"
    data.write_text("id,at,amount,card\n" + "".join(f"{row}\n" for row in rows), encoding="utf-8")
    return mapping, data


def sales(count: int) -> list[str]:
    return [f"{number},2020-05-04 10:00:{number % 60:02},{number}.50,c{number % 97}" for number in range(count)]


def counts_of(result: Result) -> dict[str, Any]:
    return json.loads(result.stdout)["imports"][0]


def test_an_import_twice_counts_nothing_twice(run: Run, tmp_path: Path) -> None:
    """First recorded, then duplicates; exit code 0 both times; channels and sources are registered by it."""
    mapping, data = prepare(tmp_path, "stall_twice", sales(2_345))
    first = run("import", "--mapping", str(mapping), str(data), "-o", "json")
    assert first.exit_code == 0, first.output
    assert {name: counts_of(first)[name] for name in ("rows", "interactions", "recorded", "duplicate")} == {
        "rows": 2_345,
        "interactions": 2_345,
        "recorded": 2_345,
        "duplicate": 0,
    }
    second = run("import", "--mapping", str(mapping), str(tmp_path))
    assert second.exit_code == 0
    assert "2345" in second.output
    assert counts_of(run("import", "--mapping", str(mapping), str(data), "-o", "json"))["duplicate"] == 2_345


def test_rows_that_are_not_recorded_are_reported_with_their_place(run: Run, tmp_path: Path) -> None:
    """Rejected by the mapping, in conflict or refused by ingestion: each with row, rule and remedy; exit code 2."""
    rows = [*sales(3), "x,never,1,c", "0,2020-05-04 10:00:00,99,c0", "5,2120-05-04 10:00:00,1,c"]
    mapping, data = prepare(tmp_path, "stall_rejects", rows)
    rejects = tmp_path / "rejects.ndjson"
    result = run("import", "--mapping", str(mapping), str(data), "--rejects", str(rejects), "-o", "json")
    assert result.exit_code == 2, result.output
    counts = counts_of(result)
    assert (counts["rejected"], counts["recorded"], counts["conflict"], counts["refused"]) == (1, 3, 1, 1)
    told = {each["row"]: each for each in map(json.loads, rejects.read_text(encoding="utf-8").splitlines())}
    assert (told[4]["verdict"], told[4]["column"]) == ("rejected", "at")
    assert told[4]["rule"]
    assert told[4]["remedy"]
    assert told[5]["verdict"] == "conflict"
    assert told[6]["verdict"] == "refused"
    assert told[6]["violations"][0]["field"] == "occurred_at"
    assert str(rejects) in result.stderr


def test_trouble_at_ingestion_alone_is_1(run: Run, tmp_path: Path) -> None:
    """Every row could be offered, one was in conflict."""
    mapping, data = prepare(tmp_path, "stall_trouble", [*sales(3), "0,2020-05-04 10:00:00,99,c0"])
    result = run("import", "--mapping", str(mapping), str(data))
    assert result.exit_code == 1, result.output
    assert "conflict" in result.output


def test_a_mapping_that_does_not_fit_sends_and_registers_nothing(run: Run, client: Throughline, tmp_path: Path) -> None:
    """File, key, rule, remedy; exit code 2."""
    assert client is not None
    mapping, data = prepare(tmp_path, "stall_misfit", sales(3))
    mapping.write_text(mapping.read_text(encoding="utf-8").replace("column: amount", "column: amout"), encoding="utf-8")
    result = run("import", "--mapping", str(mapping), str(data))
    assert result.exit_code == 2
    assert "mapping.yaml:19: imports.sales.interaction.value.column" in result.output
    assert "did you mean 'amount'" in result.output
    sources = json.loads(run("sources", "list", "-o", "json").stdout)
    assert "stall_misfit" not in {each["source"] for each in sources}


def test_a_dry_run_needs_no_suite(tmp_path: Path) -> None:
    """Maps everything, sends nothing, shows the first interaction."""
    mapping, data = prepare(tmp_path, "stall_dry", sales(3))
    arguments = ["import", "--mapping", str(mapping), str(data), "--dry-run", "-o", "json"]
    result = CliRunner().invoke(main, arguments, env={"THROUGHLINE_DATA": str(tmp_path / "none")})
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    assert told["imports"][0]["interactions"] == 3
    assert told["examples"][0]["value"] == {"micros": 500_000, "currency": "EUR"}


class Interrupting:
    """Breaks an import off after so many acknowledged interactions, as a power cut would."""

    def __init__(self, after: int = 1 << 60) -> None:
        self.after = after
        self.resumed = -1

    def began(self, name: str, size: int, resumed: int) -> None:
        self.resumed = resumed

    def moved(self, name: str, done: int, verdicts: Verdicts) -> None:
        if verdicts.offered >= self.after:
            raise KeyboardInterrupt

    def interrupted(self, name: str, refusal: RemoteRefusal) -> None:
        return

    def ended(self, name: str) -> None:
        return


@pytest.fixture
def big(tmp_path: Path) -> tuple[Mapping, dict[str, Path], ImportOptions]:
    """An import of 12,000 rows, and where it keeps its checkpoint."""
    mapping_file, data = prepare(tmp_path, f"stall_{tmp_path.name.rpartition('_')[2]}", sales(12_000))
    mapping = load_mapping(str(mapping_file))
    options = ImportOptions(tmp_path / "imports", tmp_path / "rejects.ndjson", in_flight=2)
    return mapping, find_files(mapping, data, {}), options


Big = tuple[Mapping, dict[str, Path], ImportOptions]


async def test_a_stopped_import_goes_on_where_it_was(client: Throughline, big: Big) -> None:
    """What was acknowledged is not sent again; both runs together offer every row, and none is counted twice."""
    mapping, files, options = big
    with pytest.raises(KeyboardInterrupt):
        await run_import(client.ingestion, mapping, files, options, Interrupting(5_000))
    assert len(list(options.folder.iterdir())) == 1
    progress = Interrupting()
    report = await run_import(client.ingestion, mapping, files, options, progress)
    (result,) = report.imports
    assert 3_000 <= progress.resumed == result.resumed <= 6_000
    verdicts = result.verdicts
    assert (verdicts.offered, verdicts.recorded + verdicts.duplicate) == (12_000, 12_000)
    assert verdicts.duplicate <= 2_000
    assert list(options.folder.iterdir()) == []


async def test_a_checkpoint_of_another_log_or_of_other_data_is_not_believed(client: Throughline, big: Big) -> None:
    """A checkpoint whose interactions ingestion does not know, or whose file has changed, starts from the beginning."""
    mapping, files, options = big
    with pytest.raises(KeyboardInterrupt):
        await run_import(client.ingestion, mapping, files, options, Interrupting(2_000))
    (checkpoint,) = options.folder.iterdir()
    known = json.loads(checkpoint.read_bytes())
    checkpoint.write_text(json.dumps({**known, "source_interaction_id": "of another log"}), encoding="utf-8")
    progress = Interrupting(4_000)
    with pytest.raises(KeyboardInterrupt):
        await run_import(client.ingestion, mapping, files, options, progress)
    assert progress.resumed == 0
    files["sales"].write_text(files["sales"].read_text(encoding="utf-8") + "x,2020-05-04,1,c\n", encoding="utf-8")
    progress = Interrupting()
    report = await run_import(client.ingestion, mapping, files, options, progress)
    assert progress.resumed == 0
    assert report.imports[0].verdicts.offered == 12_001


async def test_an_import_outlives_ingestion(suite: Suite, client: Throughline, big: Big) -> None:
    """Ingestion is killed and started again in the middle: the import waits and goes on; every row is recorded once."""
    mapping, files, options = big

    class Killing(Interrupting):
        killed = False
        heard = 0

        def moved(self, name: str, done: int, verdicts: Verdicts) -> None:
            if verdicts.offered >= 4_000 and not self.killed:
                self.killed = True
                suite.kill("ingestion")
                suite.restart("ingestion", wait=False)

        def interrupted(self, name: str, refusal: RemoteRefusal) -> None:
            self.heard += 1

    progress = Killing()
    report = await run_import(client.ingestion, mapping, files, options, progress)
    suite.wait_ready()
    assert progress.killed
    assert progress.heard
    verdicts = report.imports[0].verdicts
    assert verdicts.recorded + verdicts.duplicate == verdicts.offered == 12_000
    (tally,) = [each for each in await client.ingestion.tallies() if each.source == mapping.sources[0].source]
    assert tally.recorded == 12_000


def test_an_import_that_ingestion_never_answers_ends(tmp_path: Path) -> None:
    """UNAVAILABLE when patience is over; the command exits with 3."""
    mapping, data = prepare(tmp_path, "stall_away", sales(3))
    arguments = ["import", "--mapping", str(mapping), str(data), "--patience", "0.1"]
    arguments += ["--address", "ingestion=127.0.0.1:1"]
    result = CliRunner().invoke(main, arguments, env={"THROUGHLINE_DATA": str(tmp_path / "none")})
    assert result.exit_code == 3, result.output


def test_shipped_mappings_live_side_by_side() -> None:
    """A channel or source that several of them name is the same in all: one suite can take all of them."""
    channels: dict[str, object] = {}
    sources: dict[str, object] = {}
    for name in ("boston311", "complete_journey", "servicenow_incidents", "sfo_survey_2016", "sfo_survey_2017"):
        mapping = load_mapping(name)
        for channel in mapping.channels:
            assert channels.setdefault(channel.channel, channel.traits) == channel.traits
        for source in mapping.sources:
            assert sources.setdefault(source.source, source) == source


def test_a_mapping_parses_from_bytes() -> None:
    """The digest changes with the content."""
    one = parse_mapping(MAPPING.format(name="a", channel="market").encode(), "a")
    two = parse_mapping(MAPPING.format(name="b", channel="market").encode(), "b")
    assert one.digest != two.digest
