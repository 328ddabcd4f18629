"""What an identifier is once its accidents of writing are gone, and what of it can be told without its value."""

from __future__ import annotations

import re
import unicodedata
from enum import IntEnum
from typing import Final

PHONE_TYPES: Final = frozenset({"phone", "mobile", "telephone", "whatsapp", "sms"})


class Shape(IntEnum):
    """What of an identifier can be told without its value; the numbers are those of
    `ingestion.v1.IdentifierShape`.
    """

    NORMAL = 1
    BLANK = 2
    REPEATED = 3
    PLACEHOLDER = 4
    TEST = 5


def normalise(type: str, value: str) -> str:  # noqa: A002 -- the word of the contract
    """The one form of an identifier: two ways of writing the same thing come out equal, and come out the same
    again.

    `email`: Unicode NFKC, folded case, no white space. Phone types: the digits, with `+` before them where
    the number began with `+` or `00`. All others: NFKC, folded case, runs of white space as one space, none
    at the ends. Control and invisible format characters go.
    """
    if type in PHONE_TYPES:
        return _phone(value)
    if value.isascii():
        folded = value.lower()
        if not folded.isprintable():
            folded = _printable(folded)
    else:
        folded = _printable(_folded(value))
    if type != "email":
        return " ".join(folded.split())
    # What stood on both sides of a space may compose only now.
    joined = "".join(folded.split())
    return joined if joined.isascii() else _folded(joined)


def shape(type: str, normalised: str) -> Shape:  # noqa: A002 -- the word of the contract
    """Tells a usable identifier from what systems write where they have none.

    Repeated: zeros of any number, a punctuation mark of any number, a letter three times or more, another
    digit six times or more (household `111` is a household).
    """
    if not normalised or normalised.isspace():
        return Shape.BLANK
    if type in PHONE_TYPES:
        return _phone_shape(normalised)
    if _is_repeated(normalised):
        return Shape.REPEATED
    # A handle may begin with the sign: only an address has something on both sides of it.
    if "@" in (normalised if type == "email" else normalised.removeprefix("@")):
        return _address_shape(normalised)
    if len(normalised) <= _LONGEST_PLACEHOLDER and _is_placeholder(normalised.removeprefix("@")):
        return Shape.PLACEHOLDER
    return Shape.NORMAL


def _folded(value: str) -> str:
    # Folding can undo the composition, hence twice: the result is stable for every code point of Unicode.
    once = unicodedata.normalize("NFKC", value)
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", once).casefold())


def _printable(text: str) -> str:
    kept = "".join(
        " " if char.isspace() else char
        for char in text
        if char.isspace() or unicodedata.category(char) not in _INVISIBLE
    )
    # What stood on both sides of a removed character may compose only now.
    return kept if kept.isascii() else _folded(kept)


def _phone(value: str) -> str:
    text = value if value.isascii() else unicodedata.normalize("NFKC", value)
    if "(0)" in text and "+" in text:
        text = text.replace("(0)", "", 1)  # +44 (0)20 ... is +44 20 ...
    digits = "".join(char if char.isascii() else str(unicodedata.decimal(char)) for char in text if char.isdecimal())
    plus = text.lstrip(_BEFORE_PLUS).startswith("+")
    if not plus and digits.startswith("00") and digits.strip("0"):
        plus, digits = True, digits[2:]
    return f"+{digits}" if plus and digits else digits


def _phone_shape(normalised: str) -> Shape:
    digits = normalised.removeprefix("+")
    if not digits:
        return Shape.BLANK
    if not digits.strip("0") or (len(digits) >= _REPEATED_DIGITS and len(set(digits)) == 1):
        return Shape.REPEATED
    if len(digits) <= 2 or digits in _PLACEHOLDER_PHONES:
        return Shape.PLACEHOLDER
    if _TEST_PHONE.match(normalised):
        return Shape.TEST
    # A country code before one digit over and over: +1 999 999 9999.
    if len(digits) >= 9 and len(set(digits[3:])) == 1:
        return Shape.REPEATED
    return Shape.NORMAL


def _is_repeated(normalised: str) -> bool:
    first = normalised[0]
    if normalised.strip(first):
        # Zeros with something between them: 000-00-0000, 0.0.
        return first == "0" and normalised.isascii() and not any(c.isalpha() or c in "123456789" for c in normalised)
    if first == "0" or not first.isalnum():
        return True
    return len(normalised) >= (_REPEATED_LETTERS if first.isalpha() else _REPEATED_DIGITS)


def _is_placeholder(normalised: str) -> bool:
    return normalised in _PLACEHOLDERS or normalised.strip(_AROUND).translate(_WITHOUT_MARKS) in _PLACEHOLDERS


def _address_shape(normalised: str) -> Shape:
    local, _, domain = normalised.rpartition("@")
    if local.startswith(_TEST_BEGINNINGS) and _TEST_LOCAL.match(local):
        return Shape.TEST
    if domain.endswith(_TEST_ENDS) and _TEST_DOMAIN.search(domain):
        return Shape.TEST
    if local.replace(".", "").replace("_", "").replace("-", "") in _PLACEHOLDER_LOCALS or not local or not domain:
        return Shape.PLACEHOLDER
    if local == domain.partition(".")[0] and (_is_repeated(local) or _is_placeholder(local) or len(set(local)) == 1):
        return Shape.PLACEHOLDER
    return Shape.NORMAL


_INVISIBLE: Final = frozenset({"Cc", "Cf"})
_BEFORE_PLUS: Final = "(tel:TELwhatsappWHATSAPPsmsSMS \t\u200e\u200f\u202a\u202c"
_REPEATED_DIGITS: Final = 6
_REPEATED_LETTERS: Final = 3
_LONGEST_PLACEHOLDER: Final = 24
_AROUND: Final = "<>()[]{}\"'`*.,;:!?#_ "
_WITHOUT_MARKS: Final = {ord(char): None for char in " ./_-'\\"}

# What forms, exports and people write where there is no value: English, then the languages the suite is most
# used in.
_PLACEHOLDER_WORDS: Final = """
    null none nil nan na n/a undefined undef void empty blank missing unset default dummy fake tbd tba
    -1 -99 -999 -9999 anonymous anon anonym anonymised anonymized unknown unk unspecified
    unavailable unassigned unidentified
    notavailable notapplicable notprovided notgiven notknown notset noname
    noemail nomail nophone nonumber novalue noid guest
    test testing tester testuser asdf asdfasdf qwerty abc123 xx xxx
    unbekannt keine keiner kein keineangabe ohne gast anonymer
    inconnu inconnue aucun aucune sansobjet anonyme nonrenseigné nonrenseigne invité
    desconocido desconocida ninguno ninguna anónimo anonimo anónima sindatos invitado
    desconhecido desconhecida nenhum nenhuma anônimo semdados convidado
    sconosciuto sconosciuta nessuno nessuna ospite
    onbekend geen anoniem gastgebruiker
    okänd ingen anonymt saknas ukendt ukjent tuntematon
    nieznany nieznana brak anonimowy neznámý neznámá žádný ismeretlen névtelen necunoscut
    неизвестно неизвестный неизвестен нет анонимный аноним невідомо невідомий анонім
    bilinmiyor yok misafir άγνωστο άγνωστος ανώνυμος
    不明 未知 不详 不詳 匿名 無し なし 无 無 없음 알수없음 익명
    مجهول غيرمعروف لايوجد אנונימי אנונימית לאידוע अज्ञात
"""
_PLACEHOLDERS: Final = frozenset(_PLACEHOLDER_WORDS.split())
_PLACEHOLDER_LOCALS: Final = frozenset(word for word in _PLACEHOLDERS if len(word) > 3 and word.isalpha())
_PLACEHOLDER_PHONES: Final = frozenset({"123456", "1234567", "12345678", "123456789", "1234567890", "11234567890"})

_TEST_LOCAL: Final = re.compile(r"(?:test|testing|tester|testuser|test[._-]?user|example)\d*(?:\+.*)?\Z")
# Looked at before the expressions, which few addresses ever reach.
_TEST_BEGINNINGS: Final = ("test", "example")
_TEST_ENDS: Final = (
    "test",
    "test.com",
    "example",
    "example.com",
    "example.org",
    "example.net",
    "example.edu",
    "invalid",
    "localhost",
)
# RFC 2606 and RFC 6761 reserve these; nobody lives there.
_TEST_DOMAIN: Final = re.compile(r"(?:^|\.)(?:example\.(?:com|org|net|edu)|test\.com|test|example|invalid|localhost)\Z")
# Kept for fiction by the North American plan (555-01xx) and by Ofcom.
_TEST_PHONE: Final = re.compile(
    r"(?:\+?1(?:\d{3})?|\d{3}|)55501\d\d\Z|\+447700900\d{3}\Z|\+44207946\d{4}\Z|\+441632960\d{3}\Z"
)
