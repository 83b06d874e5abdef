"""Computes the runs of the frozen protocol: `python -m tools.compute`.

Tier after tier, at the lowest priority, two runs at a time of one thread each. Kill it and start it
again: it goes on where it stopped. Finished records are packed into the released ones as they come,
a file for each tier, so that they can be committed.
"""

import argparse
import os
import signal
import sys
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from unnas import protocol, study
from unnas.files import check_name

CHUNK = 24  # runs between two packings


def wanted(tier: protocol.Tier, store: study.Store) -> list:
    """The specs of a tier, with the trainings of what its searches have found so far, each once,
    and without those that the protocol's rule on colorization stops.
    """
    specs = [*tier.specs, *protocol.of_searched(tier, store)]
    left = {spec.id for spec in protocol.stopped(tier, store)}
    return list({spec.id: spec for spec in specs if spec.id not in left}.values())


def packed_before(tier: protocol.Tier, store: study.Store) -> set[str]:
    """The identities of the records in the released files of earlier tiers."""
    earlier = (replace(tier, number=number) for number in range(1, tier.number))
    return {id for other in earlier for id in store.released_as(other.file)}


def pack(tier: protocol.Tier, store: study.Store) -> int:
    """Writes the records of a tier that there are into its released file, in order and without
    those that an earlier tier has released; returns how many it wrote.
    """
    before = packed_before(tier, store)
    specs = [spec for spec in wanted(tier, store) if spec.id not in before and store.get(spec.id)]
    if specs:
        store.release(specs, tier.file)
    return len(specs)


def table(tiers: Sequence[protocol.Tier], store: study.Store) -> str:
    """How many runs of each tier have records, and how many were made in the last hour."""
    lines, hour = [], datetime.now(UTC) - timedelta(hours=1)
    for tier in tiers:
        specs = wanted(tier, store)
        dates = [
            datetime.fromisoformat(record["provenance"]["date"])
            for record in study.records_of(specs, store)
            if record
        ]
        lines.append(
            f"{tier.number}  {len(dates):5} of {len(specs):5} "
            f" {sum(date > hour for date in dates):4} in the last hour  {tier.title}"
        )
    return "\n".join(lines)


def absent(tier: protocol.Tier) -> str:
    """Why a tier cannot be computed here, or an empty string."""
    for d in dict.fromkeys(spec.data for spec in tier.specs):
        try:
            study.specs.load(d)
        except (FileNotFoundError, study.specs.OtherImages) as error:
            return str(error)
    return ""


def compute(tier: protocol.Tier, store: study.Store, workers: int) -> None:
    """Computes what is missing of a tier, and packs it every few runs."""
    while True:
        missing = [
            spec
            for spec in wanted(tier, store)
            if store.get(spec.id) is None and spec.id not in failed
        ]
        if not missing:
            return
        try:
            runs = study.collect(missing[:CHUNK], engine="processes", workers=workers, store=store)
            failed.update(runs["id"][runs["status"] == "failed"])
        finally:
            pack(tier, store)


failed: set[str] = set()  # of this process; the next one tries them again


def main() -> None:
    """Parses the command line, and does what it says."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.compute",
        description=__doc__.partition("\n")[2],
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--tiers", type=int, nargs="*", help="only these tiers")
    parser.add_argument("--workers", type=int, default=2, help="runs at a time")
    parser.add_argument(
        "--released",
        type=Path,
        help="folder of the released records, which are read and added to (default: data/released)",
    )
    parser.add_argument(
        "--status",
        action="store_true",
        help="pack what there is and say how far the computation is, and compute nothing",
    )
    options = parser.parse_args()
    study.check_engine("processes", options.workers)
    tiers = protocol.frozen()
    numbers = [tier.number for tier in tiers]
    for number in options.tiers or ():
        check_name("--tiers", number, numbers)
    chosen = [tier for tier in tiers if not options.tiers or tier.number in options.tiers]
    store = study.Store(released=options.released)
    for tier in chosen:
        pack(tier, store)
    print(table(chosen, store), flush=True)
    if options.status:
        return
    os.nice(19)
    os.environ.update(OMP_NUM_THREADS="1")  # of the workers, before they import anything
    for tier in chosen:
        if reason := absent(tier):
            print(f"Tier {tier.number} is left out: {reason}", flush=True)
            continue
        print(f"Tier {tier.number}: {tier.title}", flush=True)
        compute(tier, store, options.workers)
    print(table(chosen, store))
    if failed:
        sys.exit(
            f"{len(failed)} runs failed; run the same command again, and only these are computed"
        )


if __name__ == "__main__":
    signal.signal(
        signal.SIGTERM, lambda *_: sys.exit("Stopped. Run the same command again to go on.")
    )
    try:
        main()
    except KeyboardInterrupt:
        sys.exit("\nInterrupted. Run the same command again to go on.")
    except ValueError as error:
        sys.exit(str(error))
