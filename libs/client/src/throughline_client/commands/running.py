"""What every command does the same way: find the services, call them, tell failures, exit with a documented code."""

from __future__ import annotations

import asyncio
import functools
import getpass
import os
import re
import sys
from collections.abc import Callable, Coroutine, Iterable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any, Concatenate, Final, ParamSpec, TypeVar

import click
import grpc

from throughline.ingestion.v1 import interaction_pb2
from throughline_client.client import Throughline
from throughline_client.endpoints import SERVICES, EndpointError, Endpoints
from throughline_client.importer.problems import DataFileError, MappingError
from throughline_client.importer.times import micros
from throughline_client.suite import SuiteError
from throughline_kernel import ALWAYS, SERVICE, Interval, InvalidError
from throughline_rpc import ROLES, Caller, CallerCredentials, RemoteRefusal, TlsError, TokenError, decode_error

P = ParamSpec("P")
T = TypeVar("T")

OK: Final = 0
REFUSED: Final = 1
BAD_INPUT: Final = 2
UNAVAILABLE: Final = 3
DIFFERENCE: Final = 4
SUITE_ENDED: Final = 5
FAULT: Final = 6

_GIVEN_FILE: Final = "throughline_client.given_file"
CALLER: Final = "THROUGHLINE_CALLER"

EXIT_CODES: Final = """\
\b
Exit codes:
  0  done
  1  refused by a service, or something in it was (the message says what and why)
  2  wrong usage, or bad input: a file, a mapping, a row, a value
  3  a service cannot be reached or is not serving
  4  a difference was found (replay, rederive, rebuild)
  5  a part of the suite ended by itself (up)
  6  a release has a fault (k8s doctor)
"""

_AWAY: Final = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED)
_TOLD_WITH_A_DASH: Final = re.compile(r"-[A-Za-z0-9_-]{15,}")


class Failure(click.ClickException):
    """Ends a command with one of the documented exit codes and a message on standard error."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code  # pyright: ignore[reportAttributeAccessIssue] -- a class attribute there

    def show(self, file: IO[Any] | None = None) -> None:
        click.echo(f"throughline: {self.format_message()}", err=True, file=file)


def failure_of(error: Exception) -> Failure | None:
    """The failure that an expected error means, None where nobody expected it."""
    match error:
        case RemoteRefusal():
            return Failure(_tell(error), UNAVAILABLE if error.code in _AWAY else REFUSED)
        case grpc.RpcError():
            return failure_of(decode_error(error))
        case EndpointError():
            return Failure(str(error), UNAVAILABLE)
        case MappingError() | DataFileError() | TlsError() | TokenError():
            return Failure(str(error), BAD_INPUT)
        case SuiteError():
            return Failure(str(error), UNAVAILABLE)
        case _:
            return None


def _tell(refusal: RemoteRefusal) -> str:
    domain = refusal.domain.removeprefix("throughline.")
    lines = [f"{domain + ': ' if domain else ''}{refusal}"]
    lines += [f"  {each.field}: {each.rule}; {each.remedy}" for each in refusal.violations]
    if refusal.error_id and refusal.error_id not in refusal.message:
        lines.append(f"  report error {refusal.error_id}")
    if refusal.code in _AWAY:
        lines.append("  is the suite running? `throughline status` shows what can be reached")
    return "\n".join(lines)


class ErrorsAsExitCodes(click.Group):
    """A group whose commands' expected errors end in a message and a documented exit code."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (click.ClickException, click.exceptions.Exit, click.Abort):
            raise
        except Exception as error:
            failure = failure_of(error)
            if failure is None:
                raise
            raise failure from error


class TakesToken(click.Command):
    """Takes what a service told as an argument, where it begins with a dash, too: one in 64 does."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Puts what is told so behind all options."""
        names = {name for parameter in self.params for name in (*parameter.opts, *parameter.secondary_opts)}
        told = [each for each in args if _TOLD_WITH_A_DASH.fullmatch(each) and each not in names]
        return super().parse_args(ctx, [*(each for each in args if each not in told), *(("--", *told) if told else ())])


class LogName(click.ParamType[str]):
    """A log's name: a service's, or that of one of its partitions."""

    name = "log"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        service, dash, number = str(value).partition("-")
        if service not in SERVICES or (dash and not number.isdecimal()):
            self.fail(
                f"{value!r} is no log; write one of {', '.join(SERVICES)}, or a partition of ingestion as "
                "`throughline partitions show` names it, e.g. ingestion-101",
                param,
                ctx,
            )
        return str(value)


LOG = LogName()


class Addresses(click.ParamType[tuple[str, str]]):
    """SERVICE=HOST:PORT."""

    name = "service=host:port"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, str]:
        if isinstance(value, tuple):
            return value  # pyright: ignore[reportUnknownVariableType] -- converted already
        service, separator, address = str(value).partition("=")
        if service not in SERVICES:
            self.fail(f"{service!r} is no service; write one of {', '.join(SERVICES)}, then =HOST:PORT", param, ctx)
        if not separator or ":" not in address:
            self.fail(f"{value!r} names no address; write {service}=HOST:PORT", param, ctx)
        return service, address


class IdentifierParam(click.ParamType[interaction_pb2.Identifier]):
    """TYPE=VALUE."""

    name = "type=value"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> interaction_pb2.Identifier:
        if isinstance(value, interaction_pb2.Identifier):
            return value
        kind, separator, text = str(value).partition("=")
        if not separator or not kind or not text:
            self.fail(f"{value!r} is no identifier; write TYPE=VALUE, e.g. email=someone@shop.eu", param, ctx)
        return interaction_pb2.Identifier(type=kind, value=text, assurance=interaction_pb2.ASSURANCE_CLAIMED)


class Instant(click.ParamType[int]):
    """An instant: ISO 8601, or microseconds since epoch as JSON output has them. Microseconds inside.

    A time without an offset is UTC, as tables show it, and a date alone begins at midnight.
    """

    name = "instant"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        text = str(value)
        if text.isdecimal():
            return int(text)
        try:
            at = datetime.fromisoformat(text)
        except ValueError:
            self.fail(
                f"{text!r} is no time; write 2026-05-03T14:00:00+02:00, or 2026-05-03 14:00:00 for UTC", param, ctx
            )
        return micros(at if at.tzinfo else at.replace(tzinfo=UTC))


class Duration(click.ParamType[int]):
    """A duration: 30d, 12h, 90min, 45s. Microseconds inside."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        number = str(value).rstrip("abcdefghijklmnopqrstuvwxyz")
        seconds = _SECONDS.get(str(value).removeprefix(number))
        if seconds is None or not number.isdecimal():
            self.fail(f"{value!r} is no duration; write e.g. 30d, 12h, 90min or 45s", param, ctx)
        return int(number) * seconds * 1_000_000


_SECONDS: Final = {"d": 86_400, "h": 3_600, "min": 60, "s": 1}


def connection_options(command: Callable[P, T]) -> Callable[P, T]:
    """Adds --data and --address."""
    command = click.option(
        "--address",
        "addresses",
        type=Addresses(),
        multiple=True,
        help="Where a service is; stronger than THROUGHLINE_<SERVICE>_ADDRESS and the data folder.",
    )(command)
    return data_option(command)


def caller_options(command: Callable[P, T]) -> Callable[..., T]:
    """Adds --role and --purpose, which with THROUGHLINE_CALLER (the user's name where it is not set) make a Caller, and
    --token-file for `find_endpoints`.
    """

    @click.option(
        "--token-file",
        type=click.Path(path_type=Path, dir_okay=False),
        expose_value=False,
        callback=_keep_token_file,
        help="File with the bearer token that proves who calls, read again when it changes (THROUGHLINE_TOKEN_FILE).",
    )
    @click.option(
        "--role",
        "as_role",
        envvar="THROUGHLINE_ROLE",
        type=click.Choice(ROLES),
        help="As what to ask, of what you may be; left out: as all of it. THROUGHLINE_ROLE sets it for all.",
    )
    @click.option(
        "--purpose",
        "reading_for",
        envvar="THROUGHLINE_PURPOSE",
        default=SERVICE,
        show_default=True,
        help="What is read for; clients' consents to it are heeded. THROUGHLINE_PURPOSE sets it for all.",
    )
    @functools.wraps(command)
    def run(as_role: str | None, reading_for: str, *args: P.args, **kwargs: P.kwargs) -> T:
        kwargs["caller"] = Caller(os.environ.get(CALLER, "").strip() or _user(), as_role or "", reading_for)
        return command(*args, **kwargs)

    return run


def _keep_token_file(ctx: click.Context, _param: click.Parameter, value: Path | None) -> None:
    ctx.meta[_GIVEN_FILE] = value


def find_endpoints(addresses: Iterable[tuple[str, str]] = (), data: Path | None = None) -> Endpoints:
    """Where the services are, and what they are called with, as the command's options and the environment say."""
    token_file: Path | None = click.get_current_context().meta.get(_GIVEN_FILE)
    credentials = replace(CallerCredentials.from_env(), token_file=token_file) if token_file else None
    return Endpoints.find(dict(addresses), data, credentials=credentials)


def _user() -> str:
    try:
        return getpass.getuser()
    except (ImportError, KeyError, OSError):  # a container's user has no name
        return ""


def data_option(command: Callable[P, T]) -> Callable[P, T]:
    """Adds --data."""
    return click.option(
        "--data",
        type=click.Path(path_type=Path, file_okay=False),
        help="Data folder of `throughline up` (THROUGHLINE_DATA; else .throughline).",
    )(command)


def output_option(command: Callable[P, T]) -> Callable[P, T]:
    """Adds --output."""
    return click.option(
        "-o",
        "--output",
        type=click.Choice(["table", "json"]),
        default="table",
        show_default=True,
        help="For people, or for programs (times are microseconds since epoch).",
    )(command)


def as_of_option(command: Callable[P, T]) -> Callable[P, T]:
    """Adds --as-of: microseconds, 0 where it is left out."""
    return click.option(
        "--as-of", type=Instant(), default=0, help="As it was known then: ISO 8601, UTC where it has no offset."
    )(command)


def between_option(command: Callable[P, T]) -> Callable[P, T]:
    """Adds --between: an Interval, ALWAYS where it is left out."""
    return click.option(
        "--between",
        type=(Instant(), Instant()),
        default=ALWAYS,
        callback=_interval,
        help="Only what happened from the first instant on and before the second.",
    )(command)


def _interval(ctx: click.Context, param: click.Parameter, value: tuple[int, int]) -> Interval:
    try:
        return Interval.between(*value)
    except InvalidError as refused:
        raise click.BadParameter("the second instant must be later than the first", ctx, param) from refused


def connected(
    command: Callable[Concatenate[Throughline, P], Coroutine[Any, Any, T]],
) -> Callable[..., T]:
    """Turns a coroutine that takes a client into a command with --data, --address, --role and --purpose."""

    @connection_options
    @caller_options
    @functools.wraps(command)
    def run(
        data: Path | None, addresses: tuple[tuple[str, str], ...], caller: Caller, *args: P.args, **kwargs: P.kwargs
    ) -> T:
        async def main() -> T:
            async with Throughline(endpoints=find_endpoints(addresses, data), caller=caller) as client:
                return await command(client, *args, **kwargs)

        return asyncio.run(main())

    return run


def one_of(client_id: str, identifiers: tuple[interaction_pb2.Identifier, ...]) -> None:
    """Refuses a command line that names nobody, or somebody twice. Raises: click.UsageError."""
    if bool(client_id) == bool(identifiers):
        raise click.UsageError("name the client either by CLIENT_ID or by --identifier TYPE=VALUE")


async def whom(
    client: Throughline, client_id: str, identifiers: tuple[interaction_pb2.Identifier, ...], as_of: int = 0
) -> str:
    """The id given, else that of the client whom the identifiers mean at an instant (microseconds, 0: now).

    Raises: click.UsageError as `one_of`, RemoteRefusal where they mean nobody.
    """
    one_of(client_id, identifiers)
    return client_id or (await client.identity.resolve(identifiers=identifiers, as_of=as_of)).client_id


def tell(message: str) -> None:
    """Says something to the person at the terminal, beside the output."""
    click.echo(message, err=True)


def is_terminal() -> bool:
    """Whether a person is looking at what goes to standard error."""
    return sys.stderr.isatty()
