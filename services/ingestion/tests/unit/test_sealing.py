"""Who presents themselves, and what becomes of their values."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from ingestion_offers import NOW, PURCHASE, sent

from ingestion.adapters.content import ContentMac
from ingestion.adapters.personas import Personas
from ingestion.adapters.reading import ContractReader
from ingestion.adapters.sealing import VaultSeal
from ingestion.application.ports import ToSeal
from ingestion.domain.interaction import Identifier, Interaction
from throughline.ingestion.v1 import interaction_pb2
from throughline_privacy import IdentifierHasher, KeyEncryptionKey, SqliteKeyStore, Vault

CARD = Identifier("loyalty_card", "4711", 2)


PERSONAS = Personas(IdentifierHasher(b"h" * 32))
READER = ContractReader(ContentMac(b"k" * 32), PERSONAS)


@pytest.fixture
def seal(tmp_path: Path) -> Iterator[VaultSeal]:
    """A seal on a real key store."""
    vault = Vault(SqliteKeyStore(tmp_path / "keys.db"), KeyEncryptionKey(b"e" * 32))
    yield VaultSeal(vault, PERSONAS)
    vault.close()


def of(interaction: Interaction, number: str = "i", *, whole: bool = False) -> ToSeal:
    """Something to seal."""
    said = READER.offer(sent(interaction._replace(source_interaction_id=number)), NOW).said
    assert said is not None
    return ToSeal(said, whole)


def identifiers_of(one: ToSeal) -> list[interaction_pb2.IdentifierHash]:
    """What the facts say of the identifiers."""
    return list(interaction_pb2.InteractionFacts.FromString(one.said.facts).identifiers)


def test_the_same_identifiers_are_the_same_persona_in_any_order_and_writing(seal: VaultSeal) -> None:
    """A persona is the set of identifiers presented together."""
    email, shouted = Identifier("email", "ann@shop.org", 1), Identifier("email", " ANN@shop.org", 1)
    given = [
        of(PURCHASE._replace(identifiers=(CARD, email)), "1"),
        of(PURCHASE._replace(identifiers=(shouted, CARD, CARD)), "2"),
        of(PURCHASE._replace(identifiers=(CARD,)), "3"),
    ]
    one, other, less = seal.seal(given)
    assert one.persona_id == other.persona_id != less.persona_id
    hashes = identifiers_of(given[0])
    assert hashes == identifiers_of(given[1])
    assert [(each.type, each.assurance) for each in hashes] == [("email", 1), ("loyalty_card", 2)]


def test_those_who_say_nothing_about_themselves_are_not_one_persona(seal: VaultSeal) -> None:
    """`unknown` beside `unknown` are two people, until a session says otherwise."""
    unknown = PURCHASE._replace(identifiers=(Identifier("email", "unknown", 1), Identifier("phone", "0000000", 1)))
    one, other = seal.seal([of(unknown, "1"), of(unknown, "2")])
    assert one.persona_id != other.persona_id
    first, second, elsewhere = seal.seal(
        [
            of(unknown._replace(session_id="s"), "1"),
            of(unknown._replace(session_id="s"), "2"),
            of(unknown._replace(session_id="s", source="site"), "3"),
        ]
    )
    assert first.persona_id == second.persona_id != elsewhere.persona_id
    assert len(identifiers_of(of(unknown, "1"))) == 2


def test_what_is_sealed_is_opened_again_and_forgotten_for_good(seal: VaultSeal) -> None:
    """Law 9."""
    (presence,) = seal.seal([of(PURCHASE)])
    assert presence.sealed is not None
    assert presence.sealed.key_id == presence.persona_id
    (opened,) = seal.open([presence.sealed])
    assert opened is not None
    assert interaction_pb2.PersonalValues.FromString(opened).identifiers[0].value == "4711"
    assert seal.forget([presence.persona_id]) == 1
    assert seal.open([presence.sealed]) == [None]


def test_whoever_comes_back_after_being_forgotten_begins_anew(seal: VaultSeal) -> None:
    """Under another persona each time; nothing of what was can be opened by it."""
    known: list[bytes] = []
    for _ in range(3):
        one, other, stranger = seal.seal(
            [of(PURCHASE, "1"), of(PURCHASE, "2"), of(PURCHASE._replace(identifiers=()), "3")]
        )
        assert one.persona_id == other.persona_id
        assert stranger.sealed is None
        assert one.persona_id not in known
        known.append(one.persona_id)
        seal.forget([one.persona_id])


def test_the_whole_of_an_interaction_is_sealed_where_it_must_wait(seal: VaultSeal) -> None:
    """Also where nothing in it is personal."""
    (presence,) = seal.seal([of(PURCHASE._replace(identifiers=()), whole=True)])
    assert presence.sealed is not None
    (opened,) = seal.open([presence.sealed])
    assert opened is not None
    assert interaction_pb2.Interaction.FromString(opened).source_interaction_id == "i"


def test_whoever_remembers_values_elsewhere_is_told_to_forget(tmp_path: Path) -> None:
    """Once the keys are destroyed."""
    told: list[bool] = []
    vault = Vault(SqliteKeyStore(tmp_path / "keys.db"), KeyEncryptionKey(b"e" * 32))
    seal = VaultSeal(vault, PERSONAS, forget_elsewhere=lambda: told.append(vault.is_destroyed(presence.persona_id)))
    (presence,) = seal.seal([of(PURCHASE)])
    seal.forget([presence.persona_id])
    vault.close()
    assert told == [True]
