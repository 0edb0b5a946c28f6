"""How many objects, tasks, requests and what cost a campaign on very many cutouts comes to.

    python cluster/plan.py                          # ten billion cutouts, as in PLAN.md
    python cluster/plan.py --cutouts 7e6 --archives 1

It computes; it measures nothing. Chunk sizes and columns are the archive's own; compressed size, rate and prices are
options, whose defaults PLAN.md explains.
"""

from dataclasses import dataclass
from math import ceil
from typing import Annotated

import typer

from deepstreaks_dask.archive import schema

SCORE_BYTES = 4
KNOWN_ID_BYTES = 24
"""What an append keeps in memory of each cutout of the archive: hashes of its name and of its pixels, and its row."""

REQUESTS_READ, REQUESTS_WRITTEN = 16, 1
"""Of one task to the store, at most: metadata of the arrays and the run, a digest, the shard; its scores."""


@dataclass(frozen=True)
class Plan:
    """Sizes of a campaign, all archives together unless it says otherwise."""

    cutouts: int
    archives: int
    shard: int
    members: int
    bytes_a_cutout: float

    @property
    def each(self) -> int:
        """Cutouts of one archive."""
        return ceil(self.cutouts / self.archives)

    @property
    def tasks(self) -> int:
        """One a shard, in a full campaign."""
        return self.archives * ceil(self.each / self.shard)

    @property
    def columns(self) -> int:
        """Objects of the columns beside the pixels."""
        return self.archives * len(schema.SCHEMA) * ceil(self.each / schema.COLUMN_CHUNK)

    @property
    def objects(self) -> int:
        """Shards of pixels, chunks of scores, chunks of columns."""
        return 2 * self.tasks + self.columns

    @property
    def shard_bytes(self) -> int:
        """Of a shard in memory, not compressed."""
        return self.shard * schema.CUTOUT_SIZE**2

    @property
    def stored(self) -> float:
        """Bytes of pixels in the store."""
        return self.cutouts * self.bytes_a_cutout

    @property
    def scores(self) -> int:
        """Bytes of scores, before they are compressed."""
        return self.cutouts * self.members * SCORE_BYTES

    @property
    def append_memory(self) -> int:
        """Bytes that an append to one full archive keeps to know what is there."""
        return self.each * KNOWN_ID_BYTES

    @property
    def reads(self) -> int:
        """Requests that ask the store, of all tasks."""
        return self.tasks * REQUESTS_READ

    @property
    def writes(self) -> int:
        """Requests that give the store something, of all tasks."""
        return self.tasks * REQUESTS_WRITTEN

    def hours(self, rate: float) -> float:
        """Of one device that scores `rate` cutouts a second."""
        return self.cutouts / rate / 3600


def main(
    cutouts: Annotated[float, typer.Option()] = 1e10,
    archives: Annotated[int, typer.Option(help="That they are spread over.")] = 100,
    shard: Annotated[int, typer.Option(help="Cutouts a shard.")] = 8192,
    members: Annotated[int, typer.Option()] = 9,
    bytes_a_cutout: Annotated[float, typer.Option(help="Compressed.")] = 15_142,
    rate: Annotated[float, typer.Option(help="Cutouts a second of a GPU.")] = 7_800,
    share: Annotated[float, typer.Option(help="Of full scoring that the mode costs.")] = 1.0,
    gpu_hour: Annotated[float, typer.Option(help="Price of an hour of a GPU.")] = 3.0,
    gb_month: Annotated[float, typer.Option(help="Price of a gigabyte for a month.")] = 0.023,
    read: Annotated[float, typer.Option(help="Price of 1,000 reads.")] = 0.0004,
    write: Annotated[float, typer.Option(help="Price of 1,000 writes.")] = 0.005,
) -> None:
    """Print the plan as a table."""
    plan = Plan(int(cutouts), archives, shard, members, bytes_a_cutout)
    hours = plan.hours(rate) * share
    rows = {
        "cutouts": f"{plan.cutouts:,}",
        "archives": f"{plan.archives:,} of {plan.each:,} cutouts",
        "a shard": f"{plan.shard:,} cutouts, {plan.shard_bytes / 1e6:,.0f} MB in memory",
        "tasks (shards)": f"{plan.tasks:,}, {plan.tasks // plan.archives:,} an archive",
        "objects: pixels": f"{plan.tasks:,}",
        "objects: scores": f"{plan.tasks:,}",
        "objects: columns": f"{plan.columns:,}",
        "objects, all": f"{plan.objects:,}",
        "pixels stored": f"{plan.stored / 1e12:,.0f} TB",
        "scores": f"{plan.scores / 1e9:,.0f} GB, {plan.scores / plan.archives / 1e9:,.1f} GB an archive",
        "memory of an append": f"{plan.append_memory / 1e9:,.1f} GB for what is there",
        "reads, at most": f"{plan.reads:,}",
        "writes": f"{plan.writes:,}",
        "GPU hours": f"{hours:,.0f}",
        "cost: GPUs": f"{hours * gpu_hour:,.0f}",
        "cost: a month of storage": f"{plan.stored / 1e9 * gb_month:,.0f}",
        "cost: requests": f"{plan.reads / 1000 * read + plan.writes / 1000 * write:,.0f}",
    }
    print("| what | how much |\n|---|---|")
    for what, much in rows.items():
        print(f"| {what} | {much} |")


if __name__ == "__main__":
    typer.run(main)
