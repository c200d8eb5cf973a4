"""`qtool completion`."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

SHELLS = ("bash", "zsh", "fish")


@click.command()
@click.argument("shell", type=click.Choice(SHELLS))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> int:
    """Print the completion script of a shell: bash, zsh or fish.

    \b
    bash: qtool completion bash > ~/.local/share/bash-completion/completions/qtool
    zsh:  qtool completion zsh > ~/.zfunc/_qtool     (with fpath+=~/.zfunc before compinit in ~/.zshrc)
    fish: qtool completion fish > ~/.config/fish/completions/qtool.fish

    Or for this session only, in bash and zsh: eval "$(qtool completion bash)".
    """
    made = get_completion_class(shell)
    if made is None:
        raise click.UsageError(f"click can't complete in {shell}")
    click.echo(made(ctx.find_root().command, {}, "qtool", "_QTOOL_COMPLETE").source())
    return 0
