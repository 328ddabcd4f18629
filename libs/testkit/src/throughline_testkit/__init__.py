"""What tests of several packages need: real servers, stores of both kinds, polling with a deadline, given/when/then."""

from throughline_testkit.certificates import Authority, Issued, Mounted
from throughline_testkit.decisions import Decision, given
from throughline_testkit.polling import eventually, eventually_sync
from throughline_testkit.postgres import PostgresServer, postgres_settings

__all__ = [
    "Authority",
    "Decision",
    "Issued",
    "Mounted",
    "PostgresServer",
    "eventually",
    "eventually_sync",
    "given",
    "postgres_settings",
]
