"""`throughline completion`: a script for the shell."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

VARIABLE = "_THROUGHLINE_COMPLETE"


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(ctx: click.Context, *, shell: str) -> None:
    """Print the completion script of a shell.

    \b
    Examples:
      throughline completion bash >> ~/.bashrc
      throughline completion zsh > ~/.zfunc/_throughline
      throughline completion fish > ~/.config/fish/completions/throughline.fish
    """
    script = get_completion_class(shell)
    if script is None:
        raise click.UsageError(f"{shell} is not known to click")
    click.echo(script(ctx.find_root().command, {}, "throughline", VARIABLE).source())
