"""A mapping that cannot be used says where, why and what to do."""

from __future__ import annotations

from pathlib import Path

import pytest

from throughline_client.importer.mapping import load_mapping, parse_mapping, shipped_mappings
from throughline_client.importer.problems import MappingError
from throughline_client.importer.producing import Production

BASE = """\
mapping: shop
zone: UTC
channels:
  store: {name: Store, physical: true, assisted: true}
sources:
  till: {name: Till, channels: [store]}
files:
  sales: [sales.csv]
imports:
  sales:
    from: sales
    interaction:
      source: till
      source_interaction_id: {column: id}
      channel: store
      kind: purchase
      occurred_at: {column: at}
"""


def error_of(text: str) -> MappingError:
    with pytest.raises(MappingError) as caught:
        parse_mapping(text.encode(), "shop.yaml")
    return caught.value


def test_the_base_mapping_is_good() -> None:
    """What the other tests break stands."""
    assert parse_mapping(BASE.encode(), "shop.yaml").name == "shop"


@pytest.mark.parametrize(
    ("broken", "place", "key", "told"),
    [
        (BASE.replace("zone:", "zoen:"), "shop.yaml:2", "zoen", "did you mean 'zone'?"),
        (BASE.replace("zone: UTC", "zone: Mars/Base"), "shop.yaml:2", "zone", "is not a time zone"),
        (
            BASE.replace("physical: true", "physical: perhaps"),
            "shop.yaml:4",
            "channels.store.physical",
            "true or false",
        ),
        (BASE.replace("channels: [store]", "channels: [stroe]"), "shop.yaml:6", "sources.till.channels", "'store'"),
        (BASE.replace("from: sales", "from: sale"), "shop.yaml:11", "imports.sales.from", "did you mean 'sales'?"),
        (BASE.replace("source: till", "source: tills"), "shop.yaml:13", "imports.sales.interaction.source", "'till'"),
        (
            BASE.replace("      kind: purchase\n", ""),
            "shop.yaml:13",
            "imports.sales.interaction",
            "lacks the key 'kind'",
        ),
        (
            BASE.replace("{column: at}", '{column: at, formats: ["%Q"]}'),
            "shop.yaml:17",
            "imports.sales.interaction.occurred_at.formats",
            "%Q is not read",
        ),
        (
            BASE.replace("{column: id}", "{column: id, template: x}"),
            "shop.yaml:14",
            "imports.sales.interaction.source_interaction_id",
            "keep one of column and template",
        ),
        (BASE + "  sales: {}\n", "shop.yaml:18", "imports.sales", "is given twice"),
        (BASE.replace("mapping: shop", "mapping: [shop"), "shop.yaml:2", "", "is not YAML"),
        ("", "shop.yaml", "", "is empty"),
        (BASE + "      value: {column: amount}\n", "shop.yaml:18", "imports.sales.interaction.value", "ISO 4217"),
        (
            BASE + "      feedback:\n        - {kind: npx, score: {column: s}}\n",
            "shop.yaml:19",
            "imports.sales.interaction.feedback.kind",
            "nps",
        ),
        (
            BASE + "      handling_time: {column: secs}\n",
            "shop.yaml:18",
            "imports.sales.interaction.handling_time",
            "add `unit:`",
        ),
    ],
)
def test_each_mistake_names_its_line_its_key_and_a_remedy(broken: str, place: str, key: str, told: str) -> None:
    """Line and key of the mistake, the rule it breaks and what to write."""
    error = error_of(broken)
    assert error.place == place
    assert error.key.replace("[0]", "") == key
    assert told in str(error)
    assert error.remedy


def test_a_mapping_that_is_not_utf8_is_told(tmp_path: Path) -> None:
    """The byte where decoding failed."""
    path = tmp_path / "m.yaml"
    path.write_bytes(b"mapping: caf\xe9")
    with pytest.raises(MappingError, match="not UTF-8 at byte 12"):
        load_mapping(str(path))


def test_an_unknown_name_lists_what_ships() -> None:
    """A typo in a shipped mapping's name finds the name."""
    with pytest.raises(MappingError, match="boston311"):
        load_mapping("boston31")


def test_every_shipped_mapping_parses() -> None:
    """All mappings in the package are good, and say what they are for."""
    shipped = shipped_mappings()
    assert set(shipped) == {
        "boston311",
        "complete_journey",
        "servicenow_incidents",
        "sfo_survey_2016",
        "sfo_survey_2017",
    }
    assert all(shipped.values())


def test_an_absent_column_names_the_nearest_ones(tmp_path: Path) -> None:
    """Before anything is sent: file, line, key, and the columns that come closest."""
    data = tmp_path / "sales.csv"
    data.write_text("ident,at_time,amount\n1,2020-01-01,3\n")
    mapping = parse_mapping(BASE.replace("{column: at}", "{column: att_time}").encode(), "shop.yaml")
    with pytest.raises(MappingError) as caught:
        Production(mapping, mapping.imports[0], {"sales": data}, lambda _: None)
    assert caught.value.place == "shop.yaml:14"
    assert "names 'id', which is not in the data" in str(caught.value)
    mapping = parse_mapping(
        BASE.replace("{column: at}", "{column: att_time}").replace("column: id", "column: ident").encode(), "shop.yaml"
    )
    with pytest.raises(MappingError, match="did you mean 'at_time'"):
        Production(mapping, mapping.imports[0], {"sales": data}, lambda _: None)


def test_a_name_in_a_template_and_in_a_lookup_is_checked(tmp_path: Path) -> None:
    """References inside texts are references too."""
    (tmp_path / "sales.csv").write_text("id,at\n1,2020-01-01\n")
    (tmp_path / "shops.csv").write_text("shop,city\n1,Graz\n")
    lookup = BASE.replace("files:\n", "files:\n  shops: [shops.csv]\n").replace(
        "    interaction:\n", "    lookups:\n      shop: {in: shops, key: shop, by: {column: id}}\n    interaction:\n"
    )
    files = {"sales": tmp_path / "sales.csv", "shops": tmp_path / "shops.csv"}
    good = parse_mapping((lookup + "      location_id: {column: shop.city}\n").encode(), "shop.yaml")
    with Production(good, good.imports[0], files, lambda _: None) as production:
        made = list(production)
    assert made[0].interaction.location_id == "Graz"
    bad = parse_mapping((lookup + '      location_id: {template: "{shop.town}"}\n').encode(), "shop.yaml")
    with pytest.raises(MappingError, match=r"shop\.town"):
        Production(bad, bad.imports[0], files, lambda _: None)
