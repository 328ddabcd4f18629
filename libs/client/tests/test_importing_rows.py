"""Rows become interactions as the mapping says; a bad row is reported alone."""

from __future__ import annotations

import gzip
from datetime import UTC, datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from throughline.ingestion.v1 import interaction_pb2
from throughline_client.importer.mapping import parse_mapping
from throughline_client.importer.problems import DataFileError, Reject
from throughline_client.importer.producing import Counts, Production, find_files
from throughline_client.importer.times import TimeProblem, make_reader, micros

HEAD = """\
mapping: shop
zone: Europe/Vienna
currency: EUR
channels:
  store: {name: Store, physical: true, assisted: true}
  web: {name: Web, physical: false, assisted: false}
sources:
  till: {name: Till}
files:
  sales: {names: [sales.csv], blanks: ["?", "n/a"]}
imports:
  sales:
    from: sales
"""
PLAIN = """\
    interaction:
      source: till
      source_interaction_id: {column: id}
      channel: store
      kind: purchase
      occurred_at: {column: at}
"""


class Run:
    """One production of one mapping on one file."""

    def __init__(self, mapping: str, path: Path) -> None:
        parsed = parse_mapping(mapping.encode(), "shop.yaml")
        self.rejects: list[Reject] = []
        with Production(parsed, parsed.imports[0], {"sales": path}, self.rejects.append) as production:
            self.made = [each.interaction for each in production]
            self.counts: Counts = production.counts


def write(tmp_path: Path, text: str | bytes, name: str = "sales.csv") -> Path:
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_columns_constants_templates_maps_and_blanks(tmp_path: Path) -> None:
    """Every kind of expression, and blanks of the file and of one use."""
    mapping = (
        HEAD
        + """\
    where: {column: id, blank: false}
    interaction:
      source: till
      source_interaction_id: {template: "{at:.10}/{id}"}
      channel: {column: where, map: {shop: store, net: web}}
      touchpoint: {column: desk, as: snake_case}
      kind: purchase
      occurred_at: {column: at}
      case_id: {first_of: [{column: ref}, {column: id}]}
      matter: {column: note, blanks: [none], default: unknown}
      outcome: {choose: [{when: {column: paid, equals: "1"}, value: paid}], otherwise: open}
      value: {column: amount}
      subject_type: {column: desk, map: {Staff Desk: staff}, otherwise: client}
      sequence: {column: $row}
      identifiers:
        - {type: email, value: {column: mail}, assurance: verified}
        - {type: phone, value: {column: phone}, unless: {column: phone, matches: "^0+$"}}
      exchanges:
        - {question: party_size, answer: {column: size}, sensitivity: operational}
      attributes:
        desk: {column: desk}
        size: {column: size, type: integer}
        ratio: {column: ratio, type: number}
        paid: {column: paid, type: boolean}
      personal_attributes: [mail]
"""
    )
    path = write(
        tmp_path,
        "id,at,where,desk,ref,note,paid,amount,mail,phone,size,ratio\n"
        "1,2020-01-05 10:00:00,shop,Front Desk,R7,none,1,12.30,a@b.at,0000,4,0.5\n"
        "2,2020-07-05 10:00:00,net,Staff Desk,?,lamp,0,n/a,?,0171,,\n"
        "?,2020-07-05 10:00:00,net,x,?,lamp,0,n/a,?,0171,,\n",
    )
    run = Run(mapping, path)
    first, second = run.made
    assert run.counts == Counts(rows=3, filtered=1, taken=2, interactions=2)
    assert first.source_interaction_id == "2020-01-05/1"
    assert (first.channel, second.channel) == ("store", "web")
    assert (first.touchpoint, second.touchpoint) == ("front_desk", "staff_desk")
    assert (first.case_id, second.case_id) == ("R7", "2")
    assert (first.matter, second.matter) == ("unknown", "lamp")
    assert (first.outcome, second.outcome) == ("paid", "open")
    assert first.value == interaction_pb2.Money(micros=12_300_000, currency="EUR")
    assert not second.HasField("value")
    assert second.subject_type == interaction_pb2.SUBJECT_TYPE_STAFF
    assert (first.sequence, second.sequence) == (1, 2)
    assert [(each.type, each.value) for each in first.identifiers] == [("email", "a@b.at")]
    assert [(each.type, each.value) for each in second.identifiers] == [("phone", "0171")]
    assert first.exchanges[0].answer == "4"
    assert not second.exchanges
    assert orjson.loads(first.attributes) == {"desk": "Front Desk", "size": 4, "ratio": 0.5, "paid": True}
    assert orjson.loads(first.personal_attributes) == {"mail": "a@b.at"}
    assert first.occurred_at == micros(datetime(2020, 1, 5, 9, tzinfo=UTC))
    assert second.occurred_at == micros(datetime(2020, 7, 5, 8, tzinfo=UTC))


def test_bad_rows_are_reported_one_by_one_and_harm_no_other(tmp_path: Path) -> None:
    """Ragged, undecodable, unparsable, unmapped: row, column, rule and remedy; the good rows stand."""
    mapping = (
        HEAD
        + PLAIN.replace("channel: store", "channel: {column: where, map: {shop: store}}")
        + ("      value: {column: amount}\n")
    )
    path = write(
        tmp_path,
        b"id,at,where,amount\n"
        b"1,2020-01-05,shop,1\n"
        b"2,2020-01-05,shop\n"
        b"3,2020-01-05,shop,1,9\n"
        b"4,2020-01-05,sh\xffop,1\n"
        b"5,2020-13-05,shop,1\n"
        b"6,2020-01-05,shop,1o\n"
        b"7,2020-01-05,kiosk,1\n"
        b",2020-01-05,shop,1\n"
        b'9,"2020-01-05\n10:00:00",shop,1\n'
        b"\n"
        b"10,2020-01-05,shop,2\n",
    )
    run = Run(mapping, path)
    assert [each.source_interaction_id for each in run.made] == ["1", "10"]
    told = [(each.row, each.column, each.rule) for each in run.rejects]
    assert told == [
        (2, "", "has 3 fields where the header has 4"),
        (3, "", "has 5 fields where the header has 4"),
        (4, "where", "has bytes that are not utf-8"),
        (5, "at", "is not a time of the form iso"),
        (6, "amount", "is not a number"),
        (7, "where", "has a value that the mapping does not know"),
        (8, "source_interaction_id", "is empty, and every interaction needs it"),
        (9, "at", "is not a time of the form iso"),
    ]
    assert all(each.remedy and each.file == str(path) for each in run.rejects)
    counts = run.counts
    assert counts == Counts(rows=10, rejected=8, taken=2, interactions=2)
    assert counts.rows == counts.rejected + counts.filtered + counts.taken


def test_a_truncated_gzip_gives_its_readable_rows_and_says_so(tmp_path: Path) -> None:
    """What could be unzipped is used; the lost end is reported."""
    rows = "".join(f"{number},2020-01-05\n" for number in range(20_000))
    whole = gzip.compress(f"id,at\n{rows}".encode(), mtime=0)
    path = write(tmp_path, whole[: len(whole) // 2], "sales.csv.gz")
    run = Run(HEAD + PLAIN, path)
    assert 0 < len(run.made) < 20_000
    assert [each.source_interaction_id for each in run.made] == [str(number) for number in range(len(run.made))]
    assert "ends early" in run.rejects[-1].rule
    assert run.rejects[-1].row == len(run.made) + 1


def test_a_grouped_import_of_a_truncated_file_sends_no_group_that_may_lack_rows(tmp_path: Path) -> None:
    """A basket cut short would be recorded with a wrong amount: it waits for the whole file."""
    rows = "".join(f"{number // 4},2020-01-05,1.5\n" for number in range(20_000))
    whole = gzip.compress(f"basket,at,amount\n{rows}".encode(), mtime=0)
    path = write(tmp_path, whole[: len(whole) // 2], "sales.csv.gz")
    held = Run(HEAD + GROUPED, path)
    assert held.made == []
    assert held.counts.withheld > 1
    sorted_ = Run(HEAD + GROUPED.replace("by: [basket]", "by: [basket]\n      rows: contiguous"), path)
    assert {each.value.micros for each in sorted_.made} == {6_000_000}
    assert sorted_.counts.withheld == 1


GROUPED = """\
    group:
      by: [basket]
      figures:
        sales: {sum: amount}
        lines: {count: rows}
        at: {min: at, as: time}
    interaction:
      source: till
      source_interaction_id: {column: basket}
      channel: store
      kind: purchase
      occurred_at: {column: at}
      value: {column: sales}
      attributes: {lines: {column: lines, type: integer}}
"""


def test_groups_add_up_exactly(tmp_path: Path) -> None:
    """0.1 + 0.2 is 0.3, rows of a group may stand apart, and the first time counts."""
    path = write(
        tmp_path,
        "basket,at,amount\nb,2020-01-05 12:00:00,0.1\na,2020-01-05 12:00:00,5\nb,2020-01-05 11:00:00,0.2\n"
        "c,2020-01-05 12:00:00,0.33999999999999997\n",
    )
    run = Run(HEAD + GROUPED, path)
    assert [(each.source_interaction_id, each.value.micros) for each in run.made] == [
        ("b", 300_000),
        ("a", 5_000_000),
        ("c", 340_000),
    ]
    assert run.made[0].occurred_at == micros(datetime(2020, 1, 5, 10, tzinfo=UTC))
    assert orjson.loads(run.made[0].attributes) == {"lines": 2}


def test_a_group_with_a_bad_row_is_withheld_whole(tmp_path: Path) -> None:
    """The row is reported; the group is not sent short; other groups are not touched."""
    path = write(tmp_path, "basket,at,amount\nb,2020-01-05,1\nb,2020-01-05,x\na,2020-01-05,5\n")
    run = Run(HEAD + GROUPED, path)
    assert [each.source_interaction_id for each in run.made] == ["a"]
    assert run.counts.withheld == 1
    assert [(each.row, each.column) for each in run.rejects] == [(2, "amount")]


def test_identical_rows_stay_distinct_whatever_stands_between_them(tmp_path: Path) -> None:
    """The n-th of several identical rows has the same id in any order of the others."""
    mapping = (
        HEAD + "    repeat_of: [id, at]\n" + PLAIN.replace("{column: id}", '{template: "{id}:{at:.10}:{$repeat}"}')
    )
    rows = ["1,2020-01-05", "2,2020-01-05", "1,2020-01-05", "1,2020-01-06"]
    one = Run(mapping, write(tmp_path, "id,at\n" + "\n".join(rows) + "\n"))
    other = Run(mapping, write(tmp_path, "id,at\n" + "\n".join(reversed(rows)) + "\n"))
    ids = {each.source_interaction_id for each in one.made}
    assert len(ids) == 4
    assert ids == {each.source_interaction_id for each in other.made}


def test_several_answers_of_one_row_stand_side_by_side(tmp_path: Path) -> None:
    """NPS and satisfaction per aspect, with weight; blank answers are no answers."""
    mapping = (
        HEAD.replace('blanks: ["?", "n/a"]', 'column_blanks: {q1: ["0", "6"], nps: ["11"]}')
        + PLAIN
        + """\
      feedback:
        - {kind: nps, score: {column: nps}, weight: {column: w}, solicited: true}
        - for_each: {q1: food, q2: signs}
          kind: csat
          score: {column: $each}
          aspect: $each
          topic: $label
        - {kind: verbatim, verbatim: {column: said}}
"""
    )
    path = write(tmp_path, "id,at,nps,q1,q2,w,said\n1,2020-01-05,11,6,3,0.5,\n2,2020-01-05,9,4,,1.25,nice\n")
    run = Run(mapping, path)
    first, second = run.made
    assert [(each.kind, each.score, each.aspect, each.topic) for each in first.feedback] == [
        (interaction_pb2.FEEDBACK_KIND_CSAT, 3, "q2", "signs")
    ]
    assert [(each.kind, each.HasField("score")) for each in second.feedback] == [
        (interaction_pb2.FEEDBACK_KIND_NPS, True),
        (interaction_pb2.FEEDBACK_KIND_CSAT, True),
        (interaction_pb2.FEEDBACK_KIND_VERBATIM, False),
    ]
    assert second.feedback[0].weight_micros == 1_250_000
    assert second.feedback[2].verbatim == "nice"


def test_csv_ndjson_and_parquet_of_one_table_give_the_same_interactions(tmp_path: Path) -> None:
    """The format of the file is not content."""
    at = datetime(2020, 7, 5, 10, 30)  # noqa: DTZ001 -- local, as in the files
    table = pa.table({"id": [1, 2], "at": pa.array([at, at], pa.timestamp("ns")), "amount": [1.5, 2.0]})
    pq.write_table(table, tmp_path / "sales.parquet")
    csv = write(tmp_path, "id,at,amount\n1,2020-07-05 10:30:00,1.5\n2,2020-07-05T10:30,2.0\n")
    ndjson = write(
        tmp_path,
        gzip.compress(
            b'{"id":1,"at":"2020-07-05 10:30:00","amount":1.5}\n\n{"amount":2,"at":"2020-07-05 10:30","id":"2"}\n'
        ),
        "sales.ndjson.gz",
    )
    mapping = HEAD + PLAIN + "      value: {column: amount}\n"
    runs = [Run(mapping, path).made for path in (csv, ndjson, tmp_path / "sales.parquet")]
    assert runs[0] == runs[1] == runs[2]
    assert runs[0][0].value.micros == 1_500_000


def test_ndjson_tells_bad_lines_and_reaches_into_objects(tmp_path: Path) -> None:
    """A line that is no JSON object is a row like any other that is bad."""
    path = write(tmp_path, b'{"id":"1","t":{"at":"2020-01-05"}}\n{"id":\n[1]\n{"id":"\xff"}\n', "sales.ndjson")
    run = Run(HEAD + PLAIN.replace("{column: at}", "{column: t.at}"), path)
    assert [each.source_interaction_id for each in run.made] == ["1"]
    assert [each.row for each in run.rejects] == [2, 3, 4]
    assert run.counts == Counts(rows=4, rejected=3, taken=1, interactions=1)


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("sales.csv", b"", "is empty"),
        ("sales.csv", b"id,\xff\n", "has a header that is not utf-8"),
        ("sales.csv.gz", gzip.compress(b"id,at\n", mtime=0)[:12], "its gzip is truncated"),
        ("sales.parquet", b"PAR1 nonsense", "is not Parquet"),
        ("sales.txt", b"id,at\n", "tells no format"),
        ("sales.csv", b"id,at,id\n1,2,3\n", "more than once"),
    ],
)
def test_a_file_that_cannot_be_read_at_all_says_why(tmp_path: Path, name: str, content: bytes, told: str) -> None:
    """File, rule, remedy."""
    with pytest.raises(DataFileError, match=told):
        Run(HEAD + PLAIN, write(tmp_path, content, name))


def test_a_byte_order_mark_a_tab_and_a_comma_as_decimal_mark(tmp_path: Path) -> None:
    """Files as spreadsheets write them."""
    mapping = HEAD + PLAIN + '      value: {column: amount, decimal_mark: ",", thousands: "."}\n'
    run = Run(mapping, write(tmp_path, b"\xef\xbb\xbfid\tat\tamount\r\n1\t2020-01-05\t1.234,56\r\n", "sales.tsv"))
    assert run.made[0].value.micros == 1_234_560_000


def test_files_are_found_in_a_folder_by_name_or_as_given(tmp_path: Path) -> None:
    """A folder is searched for the names; one file stands for the only one that is read; a wrong name is told."""
    mapping = parse_mapping((HEAD + PLAIN).encode(), "shop.yaml")
    path = write(tmp_path, "id,at\n")
    other = write(tmp_path, "id,at\n", "other.csv")
    assert find_files(mapping, tmp_path, {}) == {"sales": path}
    assert find_files(mapping, other, {}) == {"sales": other}
    assert find_files(mapping, tmp_path, {"sales": other}) == {"sales": other}
    with pytest.raises(DataFileError, match="did you mean 'sales'"):
        find_files(mapping, None, {"sale": other})


@pytest.mark.parametrize(
    ("pattern", "text", "expected"),
    [
        ("%d/%m/%Y %H:%M", "29/2/2016 01:16", "2016-02-29T01:16:00+00:00"),
        ("%m/%d/%Y %I:%M:%S %p", "12/31/1999 12:00:00 AM", "1999-12-31T00:00:00+00:00"),
        ("%m/%d/%Y %I:%M:%S %p", "12/31/1999 12:05:00 PM", "1999-12-31T12:05:00+00:00"),
        ("%d %b %Y", "5 Mar 2020", "2020-03-05T00:00:00+00:00"),
        ("%Y-%m-%dT%H:%M:%S%z", "2020-03-05T01:00:00+01:00", "2020-03-05T00:00:00+00:00"),
        ("epoch_s", "1583366400.25", "2020-03-05T00:00:00.250000+00:00"),
        ("epoch_ms", "1583366400001", "2020-03-05T00:00:00.001000+00:00"),
        ("iso", "2020-03-05T00:00:00Z", "2020-03-05T00:00:00+00:00"),
    ],
)
def test_times_are_read_in_many_forms(pattern: str, text: str, expected: str) -> None:
    """As strptime names them, and as epochs."""
    read = make_reader([pattern], ZoneInfo("UTC"), None, "earlier", "shift")
    assert read(text) == micros(datetime.fromisoformat(expected))


@pytest.mark.parametrize("text", ["31/2/2016 01:16", "1/1/2016 24:00", "", "1/1/2016 01:16 x", "a/1/2016 01:16"])
def test_a_time_that_is_none_is_refused(text: str) -> None:
    """No date is guessed."""
    with pytest.raises(TimeProblem, match="is not a time of the form"):
        make_reader(["%d/%m/%Y %H:%M"], ZoneInfo("UTC"), None, "earlier", "shift")(text)


def test_clocks_that_go_back_and_forward() -> None:
    """The hour shown twice is the earlier one unless said otherwise; the hour skipped is moved on by the gap."""
    zone = ZoneInfo("America/New_York")
    earlier = make_reader(["iso"], zone, None, "earlier", "shift")
    later = make_reader(["iso"], zone, None, "later", "shift")
    careful = make_reader(["iso"], zone, None, "refuse", "refuse")
    twice, skipped = "2011-11-06 01:30:00", "2011-03-13 02:30:00"
    assert earlier(twice) == micros(datetime(2011, 11, 6, 5, 30, tzinfo=UTC))
    assert later(twice) == micros(datetime(2011, 11, 6, 6, 30, tzinfo=UTC))
    assert earlier(skipped) == later(skipped) == micros(datetime(2011, 3, 13, 7, 30, tzinfo=UTC))
    with pytest.raises(TimeProblem, match="showed twice"):
        careful(twice)
    with pytest.raises(TimeProblem, match="skipped"):
        careful(skipped)
    assert careful("2011-11-06 03:30:00") == micros(datetime(2011, 11, 6, 8, 30, tzinfo=UTC))


@given(
    st.datetimes(min_value=datetime(1990, 1, 1), max_value=datetime(2037, 1, 1)),  # noqa: DTZ001 -- local by design
    st.sampled_from(["Europe/Vienna", "America/New_York", "Asia/Kathmandu", "Australia/Lord_Howe", "UTC"]),
)
def test_local_times_agree_with_the_zone_database(local: datetime, name: str) -> None:
    """Reading text is what attaching the zone is."""
    read = make_reader(["iso"], ZoneInfo(name), None, "earlier", "shift")
    assert read(local.isoformat(sep=" ")) == micros(local.replace(tzinfo=ZoneInfo(name)))
