"""Schemas in PostgreSQL, and roles, made ahead by somebody who may make them, for roles that may not."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import quote

import psycopg
from psycopg import sql

from throughline_eventlog import Partitioning, SettingsError, StoreSettings
from throughline_kernel import UnavailableError
from throughline_privacy import PostgresKeyStore

SEALING: Final = ("ingestion", "identity", "feedback")
"""The services that seal personal values, and share the store of their keys."""
BESIDE: Final = ("proofs", "access", "access_proofs")
"""What a service keeps beside its log, each in a schema of its own."""
_SECONDS: Final = 10


@dataclass(frozen=True, slots=True)
class Admin:
    """A role that may make schemas in the database."""

    user: str
    password: str = field(repr=False)


def prepare_schemas(
    stores: Sequence[StoreSettings],
    admin: Admin,
    key_store_schema: str,
    *,
    partitioning: Partitioning,
    make_roles: bool = False,
) -> Mapping[str, tuple[str, ...]]:
    """Makes each service's schema and those beside it, of each of its partitions, which its role alone may use, and the
    key store with its tables, which the roles of those that seal may read and write. What is there stays.

    With `make_roles` the services' roles are made too, where they are absent: each may sign in, with the password of
    its store's settings and only once everything is there for it, and nothing else. Tables that somebody else made in
    a service's schema become its role's then.

    Answers which roles may use each schema. Raises: SettingsError for stores that are not in one database, or a role
    that two services or the admin would share; UnavailableError where PostgreSQL does not answer or refuses.
    """
    database = _database(stores)
    roles = {store.service: store.environment["POSTGRES_USER"] for store in stores}
    if make_roles:
        _check_roles(stores, admin)
    made: dict[str, tuple[str, ...]] = {}
    try:
        with closing(_connect(database, admin)) as connection:
            for store in stores:
                role = roles[store.service]
                if make_roles:
                    _make_role(connection, role)
                for number in partitioning.numbers(store.service):
                    schemas = _schemas_of(connection, store.of_partition(number), make_roles)
                    made |= dict.fromkeys(schemas, (role,))
            sealing = sorted({role for service, role in roles.items() if service in SEALING})
            if sealing:
                _make(connection, key_store_schema)
                # Tables made by one of the roles would be closed to the others.
                PostgresKeyStore(_url(database, admin), key_store_schema).close()
                _grant(connection, "USAGE ON SCHEMA", key_store_schema, sealing)
                _grant(connection, "SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA", key_store_schema, sealing)
                made[key_store_schema] = tuple(sealing)
            for store in stores if make_roles else ():
                _let_in(connection, roles[store.service], store.environment["POSTGRES_PASSWORD"])
    except psycopg.Error as error:
        cause = str(error).partition("\n")[0]
        raise UnavailableError("LOG_UNAVAILABLE", f"schemas cannot be made as {admin.user}: {cause}") from error
    return made


def _schemas_of(connection: psycopg.Connection[Any], store: StoreSettings, hand_over: bool) -> Iterator[str]:
    """Makes a service's schemas, each for its role, and gives their names."""
    role = store.environment["POSTGRES_USER"]
    for each in (store, *map(store.beside, BESIDE)):
        schema = each.environment["POSTGRES_SCHEMA"]
        _make(connection, schema)
        _grant(connection, "USAGE, CREATE ON SCHEMA", schema, [role])
        if hand_over:
            _hand_over(connection, schema, role)
        yield schema


def _database(stores: Sequence[StoreSettings]) -> Mapping[str, str]:
    places = {
        tuple(store.environment.get(name, "") for name in ("POSTGRES_HOST", "POSTGRES_PORT", "POSTGRES_DBNAME"))
        for store in stores
    }
    if len(places) != 1 or "" in next(iter(places))[::2]:
        raise SettingsError("schemas are made in one PostgreSQL database: set POSTGRES_HOST, _PORT and _DBNAME for all")
    return stores[0].environment


def _connect(database: Mapping[str, str], admin: Admin) -> psycopg.Connection[Any]:
    return psycopg.connect(_url(database, admin), connect_timeout=_SECONDS, autocommit=True)


def _url(database: Mapping[str, str], admin: Admin) -> str:
    signed_in = f"{quote(admin.user, safe='')}:{quote(admin.password, safe='')}"
    place = f"{database['POSTGRES_HOST']}:{database.get('POSTGRES_PORT') or 5432}"
    return f"postgresql://{signed_in}@{place}/{quote(database['POSTGRES_DBNAME'], safe='')}"


def _check_roles(stores: Sequence[StoreSettings], admin: Admin) -> None:
    seen = {admin.user: "the admin"}
    for store in stores:
        role = store.environment["POSTGRES_USER"]
        if role in seen:
            raise SettingsError(
                f"{store.service} and {seen[role]} would be the same role, {role}: give each service its own in "
                f"{store.service.upper()}_POSTGRES_USER"
            )
        if not store.environment.get("POSTGRES_PASSWORD"):
            raise SettingsError(f"{store.service.upper()}_POSTGRES_PASSWORD is not set: the role {role} needs one")
        seen[role] = store.service


def _make_role(connection: psycopg.Connection[Any], role: str) -> None:
    if connection.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", (role,)).fetchone() is None:
        connection.execute(sql.SQL("CREATE ROLE {} NOLOGIN").format(sql.Identifier(role)))


def _hand_over(connection: psycopg.Connection[Any], schema: str, role: str) -> None:
    """Makes the role the owner of the schema's tables: their sequences and indexes follow."""
    others = connection.execute(
        "SELECT relname FROM pg_class WHERE relnamespace = %s::regnamespace AND relkind IN ('r', 'p') "
        "AND relowner <> %s::regrole",
        (sql.Identifier(schema).as_string(connection), sql.Identifier(role).as_string(connection)),
    ).fetchall()
    for (table,) in others:
        connection.execute(
            sql.SQL("ALTER TABLE {} OWNER TO {}").format(sql.Identifier(schema, table), sql.Identifier(role))
        )


def _let_in(connection: psycopg.Connection[Any], role: str, password: str) -> None:
    # Hashed here: the server's log may hold statements.
    hashed = connection.pgconn.encrypt_password(password.encode(), role.encode(), b"scram-sha-256").decode()
    connection.execute(sql.SQL("ALTER ROLE {} LOGIN PASSWORD {}").format(sql.Identifier(role), sql.Literal(hashed)))


def _make(connection: psycopg.Connection[Any], schema: str) -> None:
    connection.execute(sql.SQL("CREATE SCHEMA IF NOT EXISTS {}").format(sql.Identifier(schema)))


def _grant(connection: psycopg.Connection[Any], what: Any, schema: str, roles: Sequence[str]) -> None:
    connection.execute(
        sql.SQL("GRANT {} {} TO {}").format(
            sql.SQL(what), sql.Identifier(schema), sql.SQL(", ").join(map(sql.Identifier, roles))
        )
    )
