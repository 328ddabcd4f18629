"""`throughline keys`: the key-encryption key, and how it is rotated without touching a log."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path

import click

from throughline_client.commands.running import BAD_INPUT, UNAVAILABLE, Failure, data_option, output_option, tell
from throughline_client.commands.showing import counting, print_facts, print_json, print_table
from throughline_client.endpoints import data_folder
from throughline_kernel import UnavailableError
from throughline_privacy import (
    KEY_STORE,
    KEYS_FILE,
    BoxInvalidError,
    KekUnknownError,
    PrivacySettings,
    PrivacySettingsError,
    drop_retired_keys,
    open_key_store,
    open_vault,
    renew_keys,
)

FROM_ENVIRONMENT = "Keys and key store are those of the services' own settings (THROUGHLINE_KEY_STORE ...)."


def _key_options(command: Callable[..., None]) -> Callable[..., None]:
    return data_option(click.option("--from-environment", is_flag=True, help=FROM_ENVIRONMENT)(command))


@click.group()
def keys() -> None:
    """Look after the key that wraps everybody's sealing keys (docs/forgetting.md).

    \b
    Examples:
      throughline keys status
      throughline keys rotate
      throughline keys drop
    """


@keys.command()
@_key_options
@output_option
def status(*, data: Path | None, from_environment: bool, output: str) -> None:
    """Tell how many sealing keys are wrapped under which key-encryption key.

    \b
    Example:
      throughline keys status --output json
    """
    with _failures():
        settings = _settings(data, from_environment=from_environment)
        wrapped = _wrapped(settings)
    given = {settings.key_encryption_key.id: "current", **{each.id: "retired" for each in settings.retired}}
    rows = [(kek, given.get(kek, "unknown"), wrapped.get(kek, 0)) for kek in dict.fromkeys([*given, *sorted(wrapped)])]
    if output == "json":
        print_json([{"key_encryption_key": kek, "state": state, "keys": count} for kek, state, count in rows])
        return
    print_table(["key-encryption key", "state", "sealing keys"], [list(row) for row in rows])


@keys.command()
@_key_options
@output_option
def rotate(*, data: Path | None, from_environment: bool, output: str) -> None:
    """Wrap every sealing key under another key-encryption key. No log is touched, and the services may run.

    On a data folder a new key is made and becomes the current one of keys.json, the former stays there as retired for
    exports made before; running services read it by themselves. With --from-environment the current key of the
    settings takes over from all others: give it to every service first, as retired. Can be stopped and run again.

    \b
    Examples:
      throughline keys rotate
      throughline keys rotate --from-environment
    """
    with _failures():
        if not from_environment:
            _settings(data, from_environment=False)
            renew_keys(_keys_file(data))
        settings = _settings(data, from_environment=from_environment)
        vault = open_vault(settings)
        try:
            with counting() as bar:
                task = bar.add_task("wrapping", total=sum(_wrapped(settings).values()))
                rewrapped = vault.rotate(settings.key_encryption_key, lambda more: bar.advance(task, more))
        finally:
            vault.close()
    if output == "json":
        print_json({"key_encryption_key": settings.key_encryption_key.id, "rewrapped": rewrapped})
        return
    print_facts({"key-encryption key": settings.key_encryption_key.id, "sealing keys wrapped anew": rewrapped})


@keys.command()
@data_option
@output_option
def drop(*, data: Path | None, output: str) -> None:
    """Take retired key-encryption keys that wrap nothing any more out of keys.json, for good.

    An export made before the rotation holds keys that only a retired one opens: drop it when those are gone.

    \b
    Example:
      throughline keys drop
    """
    with _failures():
        settings = _settings(data, from_environment=False)
        wrapped = _wrapped(settings)
        unused = [each.id for each in settings.retired if not wrapped.get(each.id)]
        dropped = drop_retired_keys(_keys_file(data), unused)
    if output == "json":
        print_json({"dropped": unused})
        return
    print_facts({"dropped": unused or "none"})
    if len(settings.retired) > dropped:
        tell("a retired key still wraps sealing keys: throughline keys rotate")


def _keys_file(data: Path | None) -> Path:
    return data_folder(data) / "keys.json"


def _settings(data: Path | None, *, from_environment: bool) -> PrivacySettings:
    if from_environment:
        return PrivacySettings.from_env()
    store = data_folder(data) / "keys.db"
    if not store.exists():
        raise PrivacySettingsError(f"{store}: is not there; name the data folder of a suite, or say --from-environment")
    return PrivacySettings.from_env({KEYS_FILE: str(_keys_file(data)), KEY_STORE: str(store)})


def _wrapped(settings: PrivacySettings) -> dict[str, int]:
    store = open_key_store(settings)
    try:
        return store.keks()
    finally:
        store.close()


@contextmanager
def _failures() -> Generator[None]:
    """Expected errors as messages and exit codes."""
    try:
        yield
    except (PrivacySettingsError, KekUnknownError, BoxInvalidError) as error:
        raise Failure(str(error), BAD_INPUT) from error
    except UnavailableError as error:
        raise Failure(str(error), UNAVAILABLE) from error
