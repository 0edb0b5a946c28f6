"""Commands that score archives and decide."""

from __future__ import annotations

import json
import sys
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deepstreaks_dask.cli.app import app
from deepstreaks_dask.cli.completion import choose, complete_family, complete_threshold_set
from deepstreaks_dask.cli.options import (
    AdaptiveWorkerOptions,
    ArchiveArg,
    DecideOption,
    DecisionOptions,
    JsonOption,
    RunOption,
    ThresholdOption,
    ZooOption,
    parse_names,
    parse_thresholds,
)
from deepstreaks_dask.cli.output import (
    STANDARD_OUTPUT,
    open_output,
    output_of_rows,
    print_json,
    print_remark,
    print_table,
    say,
)
from deepstreaks_dask.errors import DeepStreaksError

if TYPE_CHECKING:
    import threading

    import pandas as pd
    import xarray as xr

    from deepstreaks_dask.scoring.decision import Decision
    from deepstreaks_dask.scoring.ensemble import Ensemble
    from deepstreaks_dask.scoring.estimate import Prices
    from deepstreaks_dask.scoring.plan import CampaignPlan, Mode
    from deepstreaks_dask.scoring.triage import Triage

LISTED_CANDIDATES = 20
"""Candidates that are printed at a terminal."""


@dataclass(frozen=True)
class MemberOptions:
    """Which networks score."""

    zoo: ZooOption = None
    families: Annotated[
        str, typer.Option(help="Families, comma-separated.", autocompletion=complete_family)
    ] = "rb,sl,kd"
    families_file: Annotated[
        Path | None, typer.Option(help="TOML file that says which families, in place of these two.")
    ] = None

    def choose(self) -> Ensemble:
        """Return the families, from the file or from the zoo.

        Returns
        -------
        Ensemble
            With the newest version of each member.

        Raises
        ------
        DeepStreaksError
            If a file and a zoo are given, or either has no such families.
        """
        from deepstreaks_dask.scoring.ensemble import Ensemble

        if self.families_file is None:
            return Ensemble.from_zoo(self.zoo, parse_names(self.families))
        if self.zoo is not None:
            raise DeepStreaksError("give --families-file or --zoo: the file names the zoo")
        return Ensemble.from_file(self.families_file)


@dataclass(frozen=True)
class PassOptions:
    """How networks look at cutouts."""

    precision: Annotated[
        str | None,
        typer.Option(
            help="float32, mixed_bfloat16 or mixed_float16; what that does to scores is measured.",
            autocompletion=choose("precision"),
        ),
    ] = None
    force_precision: Annotated[
        bool,
        typer.Option(
            "--force-precision", help="Even if it is slower on the workers, which is measured."
        ),
    ] = False
    batch: Annotated[int, typer.Option(min=1, help="Cutouts in a forward pass.")] = 64
    flips: Annotated[
        bool,
        typer.Option(
            "--flips", help="Mean score of a cutout and its three flips: four times the work."
        ),
    ] = False


@dataclass(frozen=True)
class CampaignWorkerOptions(AdaptiveWorkerOptions):
    """The workers of a campaign, and how long it waits for them."""

    wait_workers: Annotated[
        float | None,
        typer.Option(
            min=0,
            metavar="MIN",
            help="End after so many minutes without a worker. Default: wait, and say so.",
        ),
    ] = None


@dataclass(frozen=True)
class ReportOptions:
    """How much a campaign tells."""

    verbose: Annotated[
        bool,
        typer.Option(
            "--verbose", "-v", help="Print the plan, Dask's dashboard and each worker's rate."
        ),
    ] = False
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="Print no progress, only the result and errors.")
    ] = False
    performance_report: Annotated[
        Path | None,
        typer.Option(help="Write Dask's performance report: a file that ends in .html."),
    ] = None

    def check(self) -> None:
        """Check that the options go together.

        Raises
        ------
        DeepStreaksError
            If much and nothing is to be printed, or the report's name does not end in .html, or its folder is missing.
        """
        if self.verbose and self.quiet:
            raise DeepStreaksError("give --verbose or --quiet, not both")
        if (path := self.performance_report) is None:
            return
        if path.suffix != ".html":
            raise DeepStreaksError(f"--performance-report {path}: name a file that ends in .html")
        if not path.absolute().parent.is_dir():
            raise DeepStreaksError(f"--performance-report {path}: there is no folder {path.parent}")

    def recording(self) -> AbstractContextManager[Any]:
        """Return a context manager in which Dask records what its performance report shows."""
        from dask.distributed import performance_report

        if self.performance_report is None:
            return nullcontext()
        return performance_report(filename=str(self.performance_report))


@dataclass(frozen=True)
class DryRunOptions:
    """An estimate in place of a campaign, and the prices for it."""

    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run", help="Score a sample, store nothing, and print time, hours, bytes, cost."
        ),
    ] = False
    processor_hour: Annotated[
        float | None, typer.Option(min=0, metavar="PRICE", help="Price of a core-hour.")
    ] = None
    gpu_hour: Annotated[
        float | None, typer.Option(min=0, metavar="PRICE", help="Price of a GPU-hour.")
    ] = None
    gb_read: Annotated[
        float | None, typer.Option(min=0, metavar="PRICE", help="Price of 10^9 bytes read.")
    ] = None
    gb_written: Annotated[
        float | None, typer.Option(min=0, metavar="PRICE", help="Price of 10^9 bytes written.")
    ] = None

    def prices(self) -> Prices:
        """Return the prices given.

        Returns
        -------
        Prices
            None where none was given.

        Raises
        ------
        DeepStreaksError
            If prices are given, but no dry run is asked for.
        """
        from deepstreaks_dask.scoring.estimate import Prices

        names = ("processor_hour", "gpu_hour", "gb_read", "gb_written")
        given = {name: getattr(self, name) for name in names}
        if not self.dry_run and any(price is not None for price in given.values()):
            raise DeepStreaksError("prices are for --dry-run: add it")
        return Prices(**given)


@dataclass(frozen=True)
class CampaignMode:
    """The mode of a campaign, with its decision or its triage."""

    mode: Mode
    decision: Decision | None = None
    triage: Triage | None = None


@dataclass(frozen=True)
class ModeOptions:
    """Which cutouts each network looks at."""

    only_decide: DecideOption = False
    triage: Annotated[
        str | None,
        typer.Option(
            help="File of 'deepstreaks triage fit': reject by its first look, within its guarantee."
        ),
    ] = None
    threshold: ThresholdOption = None

    def choose(self) -> CampaignMode:
        """Return the mode of a campaign, and its decision or triage.

        Returns
        -------
        CampaignMode
            As the options say.

        Raises
        ------
        DeepStreaksError
            If the options exclude each other, or the triage cannot be read.
        """
        from deepstreaks_dask.scoring.decision import Decision
        from deepstreaks_dask.scoring.triage import read_triage

        if self.threshold and not self.only_decide:
            raise DeepStreaksError(
                "thresholds matter to 'score' with --decide only: give them to 'deepstreaks decide'"
            )
        if self.only_decide and self.triage is not None:
            raise DeepStreaksError("give --decide or --triage: a triage decides, too")
        if self.triage is not None:
            return CampaignMode("triage", triage=read_triage(self.triage))
        if self.only_decide:
            return CampaignMode("decide", decision=Decision(parse_thresholds(self.threshold)))
        return CampaignMode("all")


@app.command()
def score(
    archive: ArchiveArg,
    members: MemberOptions,
    workers: CampaignWorkerOptions,
    passes: PassOptions,
    mode: ModeOptions,
    reports: ReportOptions,
    dry: DryRunOptions,
    run: RunOption = "default",
    as_json: JsonOption = False,
) -> None:
    """Score what has no scores yet. Killed? Run it again: it goes on where it was.

    SIGTERM ('kill PID') stops it once the shards under way are stored; the exit status is 3 then. While there is no worker
    it waits. Without a terminal it prints a line every 30 seconds.

    Example: deepstreaks score week.zarr --run new-weights --zoo my-zoo
    """
    import threading
    from dataclasses import asdict

    from deepstreaks_dask.archive.dataset import open_archive
    from deepstreaks_dask.scoring.campaign import score as run_campaign
    from deepstreaks_dask.scoring.plan import CampaignOptions, plan_campaign

    campaign, chosen, prices = mode.choose(), members.choose(), dry.prices()
    reports.check()
    open_archive(archive)  # before workers start for nothing
    stop = threading.Event()
    options = CampaignOptions(
        triage=campaign.triage,
        stop=stop,
        wait_workers=workers.wait_workers,
        verbose=reports.verbose,
        **asdict(passes),
    )
    what: dict[str, Any] = {
        "ensemble": chosen,
        "run": run,
        "mode": campaign.mode,
        "decision": campaign.decision,
        "options": options,
    }
    if dry.dry_run:
        _estimate(plan_campaign(archive, **what), workers, prices, as_json=as_json)
        return
    _stop_on_sigterm(stop)
    with workers.connect() as client, reports.recording():
        scores = run_campaign(archive, client=client, progress=not reports.quiet, **what)
    result = _result_of(scores, run, campaign)
    if stop.is_set():
        result["stopped"] = True
    say(as_json, result)
    if result["failures"] or stop.is_set():
        raise typer.Exit(2 if result["failures"] else 3)


def _stop_on_sigterm(stop: threading.Event) -> None:
    """Set an event at the first SIGTERM; the second one ends the process."""
    import signal

    def asked_to_stop(*_: Any) -> None:
        stop.set()
        signal.signal(signal.SIGTERM, signal.SIG_DFL)  # who asks twice does not want to wait

    signal.signal(signal.SIGTERM, asked_to_stop)


def _estimate(
    plan: CampaignPlan, workers: CampaignWorkerOptions, prices: Prices, *, as_json: bool
) -> None:
    """Print what a campaign would take."""
    from deepstreaks_dask.scoring.estimate import estimate_campaign

    with workers.connect() as client:
        estimate = estimate_campaign(plan, client, prices, limit=workers.wait_workers)
    if as_json:
        print_json(estimate.to_dict())
    else:
        print(estimate)


def _result_of(scores: xr.Dataset, run: str, campaign: CampaignMode) -> dict[str, Any]:
    """Return what a campaign has done, as it is printed."""
    from deepstreaks_dask.archive.attributes import provenance_of

    provenance = provenance_of(scores)
    looked = scores["scores"].notnull().compute()
    _, *inner = looked.dims
    done = looked.all(inner) if campaign.mode == "all" else looked.any(inner)
    guarantee = campaign.triage
    if guarantee is not None:
        done = done | scores["rejected"]
    result = {
        "run": run,
        "scored": int(done.sum()),
        "cutouts": done.size,
        "looks": int(looked.sum()),
        "failures": provenance["failures"],
    }
    if guarantee is not None:
        result["rejected"] = int(scores["rejected"].sum())
        result["drifted"] = provenance["drifted"]
        result["guarantee"] = guarantee.guarantee
        result["seen"] = guarantee.seen
    if "precision_effect" in provenance:
        result["precision_effect"] = provenance["precision_effect"]
    return result


@app.command()
def decide(
    archive: ArchiveArg,
    decision: DecisionOptions,
    thresholds: Annotated[
        str | None,
        typer.Option(
            "--thresholds",
            help="TOML file of thresholds, as the explore dashboard saves it.",
            autocompletion=complete_threshold_set,
        ),
    ] = None,
    where: Annotated[
        str | None,
        typer.Option(help="Filter, like 'rb > 0.9 and rb_spread < 0.2 and kind == \"nea\"'."),
    ] = None,
    output: Annotated[
        str | None,
        typer.Option(
            "--output",
            "-o",
            help="Write the candidates: a path or URL that ends in .csv, .parquet, .ecsv, .vot, or for "
            "the Minor Planet Center .psv or .xml (ADES); - is standard output, CSV.",
        ),
    ] = None,
    ades: Annotated[
        str | None,
        typer.Option(
            help="TOML file, path or URL, with submitter = 'J. Doe' and whatever else ADES is to say."
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """List plausible candidates under any thresholds; nothing is scored again.

    At a terminal a table of the first ones; into a pipe all of them as CSV.

    Example: deepstreaks decide week.zarr -t kd=0.9 -t rb_vgg6=0.6 -o candidates.csv
    """
    from deepstreaks_dask.export.candidates import Submission, candidate_table, export_candidates
    from deepstreaks_dask.review.catalogue import Catalogue
    from deepstreaks_dask.scoring.decision import Decision
    from deepstreaks_dask.scoring.threshold_sets import read_thresholds

    output = output_of_rows(output, as_json=as_json)
    with open_output(output, ".csv", as_json=as_json) as path:
        scores = decision.open(archive)
        named = read_thresholds(thresholds) if thresholds else Decision.of_run(scores)
        chosen = replace(named, thresholds={**named.thresholds, **decision.thresholds})
        decided = chosen.apply(scores)
        if where:
            passing = Catalogue(decided, chosen).where(where)
            decided = decided.assign(plausible=decided["plausible"] & passing)
        frame = candidate_table(decided)
        submission = Submission.read(ades) if ades else None
        done = (
            export_candidates(frame, path, submission=submission, decision=chosen) if path else None
        )
    if as_json:
        said: dict[str, Any] = {
            "plausible": len(frame),
            "undecided": int(decided["undecided"].sum()),
        }
        if done:
            said |= {"written": done.written, "left_out": done.left_out}
        print_json({**said, "candidates": json.loads(frame.to_json(orient="records"))})
        return
    if output != STANDARD_OUTPUT and sys.stdout.isatty():
        _print_candidates(frame, [str(name) for name in decided["model"].values])
    cutouts = decided.sizes["cutout"]
    print_remark(f"{len(frame):,} plausible of {cutouts:,} cutouts", output=output)
    if done and output != STANDARD_OUTPUT:
        left_out = ", ".join(f"{count:,} left out: {why}" for why, count in done.left_out.items())
        print(f"{done.written:,} written to {output}" + (f" ({left_out})" if left_out else ""))


def _print_candidates(frame: pd.DataFrame, models: list[str]) -> None:
    """Print the first candidates, ids and scores before all else."""
    columns = ["id", "night", "jd", "filter", "ra", "dec", "length", "mag", *models]
    rows = [
        [f"{value:.4f}" if isinstance(value, float) else str(value) for value in row]
        for row in frame[columns].head(LISTED_CANDIDATES).itertuples(index=False)
    ]
    importance = ["id", *models, "mag", "length", "night", "filter"]
    print_table(columns, rows, title="Plausible candidates", importance=importance)
