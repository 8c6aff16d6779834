"""How the command ends: every error is one line on standard error, and there is no traceback for what can happen."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

import click

from mtlsd.errors import MtlsdError
from mtlsd.text import printable

DONE, REFUSED, WRONG_USAGE = 0, 1, 2
# What a shell says of a command that SIGINT ended.
_INTERRUPTED = 130


def complain(text: object) -> None:
    """Write one line to standard error."""
    click.echo(printable(f"mtlsd: {' '.join(str(text).split())}"), err=True)


class OneLineGroup(click.Group):
    """A group of verbs whose errors are one line each, click's own included."""

    def main(  # type: ignore[override]  # click's overloads tell standalone_mode apart; here it is never left
        self, args: Sequence[str] | None = None, prog_name: str | None = None, **extra: Any
    ) -> NoReturn:
        """Run, and exit with the contract's status.  A reader who has heard enough (EPIPE) is click's: status 1, in silence."""
        extra["standalone_mode"] = False
        status: object
        try:
            status = super().main(args, prog_name, **extra)
        except click.UsageError as error:
            verb = f" {error.ctx.info_name}" if error.ctx is not None and error.ctx.parent is not None else ""
            complain(f"{error.format_message().rstrip('.')}; see mtlsd{verb} --help")
            status = WRONG_USAGE
        except click.Abort:
            status = _INTERRUPTED
        except (MtlsdError, click.ClickException) as error:
            complain(error.format_message() if isinstance(error, click.ClickException) else error)
            status = REFUSED
        except OSError as error:
            complain(f"{error.filename}: {error.strerror}" if error.filename else error.strerror or error)
            status = REFUSED
        sys.exit(status if isinstance(status, int) else DONE)

    def resolve_command(self, ctx: click.Context, args: list[str]) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0] if args else ""
        if self.get_command(ctx, name) is None and not name.startswith("-"):
            close = difflib.get_close_matches(name, self.list_commands(ctx), 1)
            ctx.fail(f"there is no verb {name!r}" + (f", but there is {close[0]}" if close else ""))
        return super().resolve_command(ctx, args)
