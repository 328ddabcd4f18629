"""The `throughline` command. Its sub-commands are entry points, so that other packages can add theirs."""

from __future__ import annotations

from functools import cached_property
from importlib.metadata import EntryPoint, entry_points, version
from typing import Any

import click

from throughline_client.commands.running import EXIT_CODES, ErrorsAsExitCodes

GROUP = "throughline.commands"


class Commands(ErrorsAsExitCodes):
    """Finds its commands under an entry point group; each is loaded when it is asked for."""

    def __init__(self, *args: Any, found_under: str = GROUP, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._found_under = found_under

    @cached_property
    def _found(self) -> dict[str, EntryPoint]:
        return {entry.name: entry for entry in entry_points(group=self._found_under)}

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted({*super().list_commands(ctx), *self._found})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        entry = self._found.get(cmd_name)
        if entry is None:
            return super().get_command(ctx, cmd_name)
        command: Any = entry.load()
        if not isinstance(command, click.Command):
            raise click.ClickException(f"{entry.value} ({cmd_name}) is no command; reinstall {entry.dist}")
        return command


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]}, epilog=EXIT_CODES)
@click.version_option(version("throughline-client"), prog_name="throughline")
def main() -> None:
    """One client, every channel, one history.

    \b
    Start a suite on this machine, import something, look at it:
      throughline up
      throughline import --mapping complete_journey FOLDER
      throughline status
      throughline resume --identifier loyalty_card=2322 --channel store

    Commands find the services by --address, by THROUGHLINE_<SERVICE>_ADDRESS, or by the data folder of a running
    `throughline up` (--data, THROUGHLINE_DATA, else .throughline).
    """
