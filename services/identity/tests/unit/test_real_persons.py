"""Resolution over real test collections of person records gives the figures computed from them independently."""

from __future__ import annotations

import csv
import gzip
import json
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
from identity_stories import hash_of

from identity.domain.personas import OrderKey, Persona, Presented
from identity.domain.resolution import resolve
from identity.domain.rules import JoinPolicy, Rules, RuleSet, TypeRule

DATA = Path(__file__).parents[4].parent / "shared" / "data" / "identity"
pytestmark = pytest.mark.skipif(
    not (DATA / "ANSWERS.json").exists(), reason="the collections of person records are not on this machine"
)

Record = dict[str, str]
RULES = Rules(RuleSet(1, (TypeRule("*", 1, JoinPolicy.ALWAYS),)))
FEBRL = (
    ("given_name", "surname", "date_of_birth"),
    ("surname", "date_of_birth", "postcode"),
    ("given_name", "date_of_birth", "postcode"),
    ("given_name", "surname", "street_number", "suburb"),
    ("address_1", "street_number", "date_of_birth"),
    ("soc_sec_id",),
)
SPLINK = (("email",), ("first_name", "surname", "dob"), ("surname", "dob"), ("first_name", "dob"))


def read(name: str) -> list[Record]:
    with gzip.open(DATA / f"{name}.csv.gz", "rt", encoding="utf-8", newline="") as file:
        return [{key.strip(): value.strip() for key, value in row.items()} for row in csv.DictReader(file)]


def answers(name: str) -> dict[str, object]:
    return json.loads((DATA / "ANSWERS.json").read_text(encoding="utf-8"))[name]


def clients_of(records: Iterable[Record], rules: Iterable[tuple[str, ...]]) -> list[bytes]:
    """The client of each record, where each rule is an identifier made of several columns."""
    keys = {" + ".join(columns): columns for columns in rules}
    personas: list[Persona] = []
    for number, record in enumerate(records):
        presented = tuple(
            Presented(name, hash_of(name, "|".join(record[each] for each in columns)), False, True)
            for name, columns in keys.items()
            if all(record[each] for each in columns)
        )
        persona_id = number.to_bytes(16, "big")
        personas.append(Persona(persona_id, presented, OrderKey(number, "file", number, persona_id)))
    outcome = resolve(personas, RULES)
    return [outcome.homes[persona.id][0] for persona in personas]


def pairs(counts: Iterable[int]) -> int:
    return sum(count * (count - 1) // 2 for count in counts)


def figures(clients: list[bytes], truth: list[str]) -> tuple[int, int]:
    """Pairs found, and pairs found that are true."""
    return pairs(Counter(clients).values()), pairs(Counter(zip(clients, truth, strict=True)).values())


def febrl_truth(record: Record) -> str:
    return record["rec_id"].split("-")[1]


CASES: list[tuple[str, str, tuple[tuple[str, ...], ...], Callable[[Record], str]]] = [
    *((f"febrl_dataset{number}", f"febrl_dataset{number}.csv", FEBRL, febrl_truth) for number in (1, 2, 3)),
    ("splink_fake_1000", "splink_fake_1000", SPLINK, lambda record: record["cluster"]),
]


@pytest.mark.parametrize(("file", "name", "rules", "truth"), CASES, ids=[case[0] for case in CASES])
def test_deterministic_rules_find_the_pairs_they_should(
    file: str, name: str, rules: tuple[tuple[str, ...], ...], truth: Callable[[Record], str]
) -> None:
    """Each rule alone, and all of them with what follows from one another."""
    records = read(file)
    expected = answers(name)
    entities = [truth(record) for record in records]
    assert len(records) == expected["records"]
    baselines = expected["baselines"]
    assert isinstance(baselines, dict)
    for columns in rules:
        found, true = figures(clients_of(records, [columns]), entities)
        baseline = baselines[" + ".join(columns)]
        assert found == baseline["pairs"], columns
        assert round(true / found, 5) == baseline["precision"], columns
    clients = clients_of(records, rules)
    found, true = figures(clients, entities)
    union = baselines["UNION of rules, transitive closure"]
    assert (found, len(set(clients))) == (union["pairs"], union["entities_found"])
    assert round(true / found, 5) == union["precision"]
    assert round(true / pairs(Counter(entities).values()), 5) == union["recall"]
