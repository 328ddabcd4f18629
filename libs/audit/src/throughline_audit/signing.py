"""`throughline signing`: the keys that checkpoints and evidence packs are signed with."""

from __future__ import annotations

import secrets
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import click

from throughline_client.commands.running import BAD_INPUT, Failure, tell
from throughline_proof import NoteInvalidError, SigningKey, SigningKeys, SigningKeysError, write_signing_keys

_FILE = click.Path(path_type=Path, dir_okay=False)


@click.group()
def signing() -> None:
    """The keys that this installation signs with: one file of them, in THROUGHLINE_SIGNING_KEYS_FILE of every service.

    To rotate: `rotate`, restart the services, and let auditors have the new public key while both keys sign; then
    `retire` and restart. What the old key signed verifies for ever.

    \b
    Examples:
      throughline signing new KEYS_FILE --name shop.example
      throughline signing public KEYS_FILE
    """


@signing.command()
@click.argument("file", type=_FILE)
@click.option("--name", default="", help="The installation's name, without white space or `+`; else one made up.")
def new(file: Path, name: str) -> None:
    """Make a key in a new FILE that only its owner can read.

    \b
    Example:
      throughline signing new KEYS_FILE --name shop.example
    """
    with _failures():
        if file.exists():
            raise SigningKeysError(f"{file} is there already; `throughline signing rotate {file}` adds a key to it")
        key = SigningKey.new(name or f"throughline-{secrets.token_hex(4)}")
        write_signing_keys(file, [key.line])
    click.echo(key.public.vkey)


@signing.command()
@click.argument("file", type=_FILE)
def rotate(file: Path) -> None:
    """Add a new key to FILE: from the services' next start on, it signs beside the others.

    \b
    Example:
      throughline signing rotate KEYS_FILE
    """
    with _failures():
        keys = SigningKeys.of_file(file)
        key = SigningKey.new(keys.installation)
        _write(file, SigningKeys((*keys.active, key), keys.retired))
    click.echo(key.public.vkey)
    tell("restart the services; when auditors have this key, retire the old one")


@signing.command()
@click.argument("file", type=_FILE)
def retire(file: Path) -> None:
    """Let only the newest key of FILE sign; of the others the public part stays, and their secret is gone.

    \b
    Example:
      throughline signing retire KEYS_FILE
    """
    with _failures():
        keys = SigningKeys.of_file(file)
        *old, newest = keys.active
        _write(file, SigningKeys((newest,), (*keys.retired, *(key.public for key in old))))
    for key in old:
        click.echo(f"retired {key.public.vkey}")
    if not old:
        click.echo("there is one key, and it stays: `throughline signing rotate` adds another first")


@signing.command()
@click.argument("file", type=_FILE)
def public(file: Path) -> None:
    """Show the verifier keys of FILE: what auditors need, and nobody needs to hide.

    \b
    Example:
      throughline signing public KEYS_FILE > VERIFIER_KEYS
    """
    with _failures():
        for key in SigningKeys.of_file(file).public:
            click.echo(key.vkey)


def _write(file: Path, keys: SigningKeys) -> None:
    write_signing_keys(file, [*(key.vkey for key in keys.retired), *(key.line for key in keys.active)])


@contextmanager
def _failures() -> Generator[None]:
    try:
        yield
    except (SigningKeysError, NoteInvalidError, OSError) as error:
        raise Failure(str(error), BAD_INPUT) from error
