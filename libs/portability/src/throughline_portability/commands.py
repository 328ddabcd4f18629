"""`throughline export`, `throughline restore` and `throughline audit forgotten`."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Self

import click

from throughline_client.commands.running import (
    BAD_INPUT,
    DIFFERENCE,
    REFUSED,
    UNAVAILABLE,
    Failure,
    data_option,
    output_option,
    tell,
)
from throughline_client.commands.showing import gathering, print_json, print_table, when
from throughline_client.endpoints import data_folder
from throughline_client.installation import FORGOTTEN_FILE, KEYS_FILE, Installation, write_partitioning
from throughline_client.suite import SuiteError, hold_folder
from throughline_eventlog import LogGrewError, NewerLogError, Partitioning, SealedLogError, SettingsError
from throughline_kernel import UnavailableError, is_hex_id
from throughline_portability.exporting import export_installation
from throughline_portability.form import ExportError, Manifest, read_manifest
from throughline_portability.leftovers import NotForgottenError, find_leftovers
from throughline_portability.parting import PartitionsError
from throughline_portability.restoring import restore_installation
from throughline_privacy import FORGOTTEN_LIST, ForgottenListError, PrivacySettingsError, open_forgotten_list

FROM_ENVIRONMENT = "The stores are those of the services' own settings (PERSISTENCE_MODULE, POSTGRES_* ...)."


def data_options(command: Callable[..., None]) -> Callable[..., None]:
    """Adds --data and --from-environment."""
    return data_option(click.option("--from-environment", is_flag=True, help=FROM_ENVIRONMENT)(command))


@click.command()
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False))
@click.option("--keys", is_flag=True, help="Also the sealing keys, wrapped as they are kept.")
@data_options
@output_option
def export(folder: Path, *, keys: bool, data: Path | None, from_environment: bool, output: str) -> None:
    """Write everything an installation holds into FOLDER, in an open form (docs/portability.md).

    All five logs, and what is kept beside them; each in one consistent view, so the services may run. The wrapped
    sealing keys only with --keys: without them nobody can ever open a personal value of the export. The installation's
    own keys (hash key, key-encryption key) are never in it: keep them apart.

    \b
    Examples:
      throughline export BACKUP --keys
      throughline export BACKUP --from-environment --output json

    \b
    Exit codes: 0 written; 2 the folder is not empty, or a setting is wrong; 3 a store is away.
    """
    with Bar("exporting") as bar, failures():
        installation = Installation.from_env() if from_environment else existing(data_folder(data))
        manifest = export_installation(installation, folder, keys=keys, told=bar.moved)
    _report(manifest, output, f"exported to {folder}")


@click.command()
@click.argument("folder", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option(
    "--keys-file",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="The installation's own keys (keys.json), copied into the data folder where that has none.",
)
@click.option(
    "--forgotten",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="The list of the forgotten (forgotten.ndjson) as it was last; that beside the keys file where left out.",
)
@click.option("--without-forgotten", is_flag=True, help="There is no list: whoever was forgotten since comes back.")
@data_options
@output_option
def restore(
    folder: Path,
    *,
    keys_file: Path | None,
    forgotten: Path | None,
    without_forgotten: bool,
    data: Path | None,
    from_environment: bool,
    output: str,
) -> None:
    """Put the export in FOLDER into an installation that holds nothing, on either store.

    Every file is checked against the manifest, and every log must fold to the state that it folded to where it came
    from. The same events are at the same positions: every answer, as of any instant, is the one that was given there.

    \b
    Examples:
      throughline restore BACKUP --data NEW --keys-file keys.json
      throughline restore BACKUP --from-environment

    \b
    Exit codes: 0 put back; 2 the export is not whole, or the installation not empty; 3 a store is away.
    """
    with Bar("restoring") as bar, failures():
        if from_environment:
            installation = Installation.from_env()
            _bring_forgotten(installation, forgotten, without=without_forgotten)
            manifest = restore_installation(folder, installation, bar.moved)
        else:
            target = data_folder(data)
            with hold_folder(target):
                _bring_keys(target, keys_file)
                beside = keys_file.with_name(FORGOTTEN_FILE) if keys_file is not None else None
                found = forgotten or (beside if beside is not None and beside.exists() else None)
                _bring_forgotten(Installation.in_folder(target), found, without=without_forgotten)
                if not Installation.in_folder(target).present:
                    write_partitioning(target, Partitioning.parse(read_manifest(folder).partitions, str(folder)))
                manifest = restore_installation(folder, Installation.in_folder(target), bar.moved)
    _report(manifest, output, f"restored from {folder}")


@click.command("forgotten")
@click.argument("client_id")
@click.option(
    "--value",
    "values",
    multiple=True,
    help="A personal value of theirs that is known, e.g. an address: looked for in the clear; may be repeated.",
)
@click.option(
    "--export",
    "exports",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    multiple=True,
    help="An export to search as well; may be repeated.",
)
@data_options
@output_option
def audit_forgotten(
    client_id: str,
    *,
    values: tuple[str, ...],
    exports: tuple[Path, ...],
    data: Path | None,
    from_environment: bool,
    output: str,
) -> None:
    """Search every store and log for what is left of a client who was forgotten.

    Looks for keys, for sealed boxes that can be opened, for rows that lead to the client, and for the values given,
    in the logs, the tables and, of a data folder, in every file. Ids that say no more than that somebody was forgotten
    are counted and may stay. The services may run; wait until all have heard of it (throughline status --wait 60).

    \b
    Examples:
      throughline audit forgotten 5f0c...
      throughline audit forgotten 5f0c... --value anna@shop.eu --value "+49 171 5550842" --export BACKUP

    \b
    Exit codes: 0 nothing is left; 1 not forgotten; 2 wrong usage; 3 a store is away; 4 something is left.
    """
    if not is_hex_id(client_id):
        raise click.UsageError(f"{client_id!r} is no client id; write its 32 hex digits")
    folder = None if from_environment else data_folder(data)
    with failures():
        installation = Installation.from_env() if folder is None else existing(folder)
        try:
            found = find_leftovers(
                installation, bytes.fromhex(client_id), values=values, folder=folder, exports=exports
            )
        except NotForgottenError as error:
            raise Failure(str(error), REFUSED) from error
    left = [each for each in found if each.left]
    if output == "json":
        print_json({"client_id": client_id, "clean": not left, "findings": [asdict(each) for each in found]})
    else:
        print_table(
            ["place", "what", "count", "left"],
            [[each.place, each.what, each.count, "LEFT" if each.left else ""] for each in found if each.count],
            title=f"{'something is left' if left else 'nothing is left'} of client {client_id}",
        )
    if left:
        raise click.exceptions.Exit(DIFFERENCE)


def existing(folder: Path) -> Installation:
    """The installation in a data folder that has one. Raises: ExportError, SettingsError."""
    installation = Installation.in_folder(folder)
    if missing := installation.missing:
        raise ExportError(
            f"{folder}: holds no log of {', '.join(missing)}: name the data folder of a suite, or say "
            "--from-environment"
        )
    return installation


def _bring_keys(target: Path, keys_file: Path | None) -> None:
    """The installation's own keys name every client and open every sealing key: others would make it another one."""
    own = target / KEYS_FILE
    if own.exists():
        return
    if keys_file is None:
        raise ExportError(
            f"{own}: is missing, and without the keys of the installation that was exported nobody would be "
            "recognised: give them with --keys-file"
        )
    draft = own.with_name(f".{KEYS_FILE}.{os.getpid()}")
    draft.touch(mode=0o600)
    shutil.copyfile(keys_file, draft)
    draft.replace(own)


def _bring_forgotten(installation: Installation, file: Path | None, *, without: bool) -> None:
    """Adds a list of the forgotten to that of the installation, which keeps it from here on."""
    place = installation.forgotten_list
    if file is not None:
        if not place:
            raise ExportError(
                f"{FORGOTTEN_LIST} is not set: say where the installation keeps the list of the forgotten"
            )
        brought, own = open_forgotten_list(str(file)), open_forgotten_list(place)
        own.add_clients(brought.clients())
        own.add_keys(brought.keys())
    elif not without and not (place and open_forgotten_list(place).kept()):
        raise ExportError(
            "no list of the forgotten is given, and whoever was forgotten after the export would come back: name it "
            "with --forgotten, or say --without-forgotten where nobody was"
        )


class Bar:
    """How far it is, on standard error."""

    def __init__(self, doing: str) -> None:
        self._doing = doing
        self._progress, self._task = gathering(doing)

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def moved(self, service: str, events: int) -> None:
        """Tells of what is being done, and of events with which it is done."""
        self._progress.update(self._task, description=f"{self._doing} {service}", advance=events)


@contextmanager
def failures() -> Generator[None]:
    """Expected errors as messages and exit codes."""
    try:
        yield
    except (
        ExportError,
        ForgottenListError,
        PartitionsError,
        SettingsError,
        PrivacySettingsError,
        SuiteError,
        NewerLogError,
    ) as error:
        raise Failure(str(error), BAD_INPUT) from error
    except (LogGrewError, SealedLogError) as error:
        raise Failure(str(error), REFUSED) from error
    except UnavailableError as error:
        raise Failure(str(error), UNAVAILABLE) from error


def _report(manifest: Manifest, output: str, title: str) -> None:
    if output == "json":
        told = asdict(manifest)
        del told["files"]
        print_json(told)
        return
    print_table(
        ["log", "events", "position", "last event", "state", "root", "checkpoints"],
        [
            [
                name,
                f"{store.events:,}",
                f"{store.position:,}",
                when(store.recorded_at),
                store.digest[:16],
                store.root[:16],
                manifest.proofs[name].checkpoints,
            ]
            for name, store in manifest.stores.items()
        ]
        + [
            [
                f"{name}_access",
                f"{log.events:,}",
                f"{log.position:,}",
                when(log.recorded_at),
                "",
                log.root[:16],
                manifest.proofs[f"{name}_access"].checkpoints,
            ]
            for name, log in manifest.access.items()
        ],
        title=title,
    )
    tell(f"sealing keys: {'in it, wrapped' if manifest.keys else 'not in it (--keys): its personal values stay shut'}")
