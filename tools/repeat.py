"""Computes records of a tier of the protocol again: `python -m tools.repeat`.

On the processor that made a record, it comes out equal to the bit. On another kind, the last bits
of sums differ, and training makes large what began small: this measures how large.
"""

import argparse
import os
import shutil
from pathlib import Path

import pandas as pd

from tools.compute import absent
from unnas import protocol, study
from unnas.files import check_at_least, check_name, home, written_whole

COLUMNS = ["id", "space", "task", "seed", "score", "again", "equal", "device", "date", "commit"]


def file() -> Path:
    """The table of what has been computed again."""
    return home() / "data" / "released" / "repeated.csv"


def compared(specs: list, store: study.Store, again: study.Store) -> pd.DataFrame:
    """What `specs` came to in the two stores, a row for each that both have. `score` and `again`
    are those by which the task is judged: accuracy in %, or for random labels the loss of the last
    epoch, negated. `equal` says whether losses and scores of all epochs agree to the bit; device,
    date and commit are of the second record.
    """
    both = [spec for spec in specs if store.get(spec.id) and again.get(spec.id)]
    if not both:
        return pd.DataFrame(columns=COLUMNS)
    first, second = (study.collect(both, store=place) for place in (store, again))
    made = [again.get(spec.id) for spec in both]
    return first.assign(
        score=study.judged(first, "best"),
        again=study.judged(second, "best"),
        equal=[store.get(record["id"])["result"] == record["result"] for record in made],
        **{
            name: [record["provenance"][name] for record in made]
            for name in ("device", "date", "commit")
        },
    )[COLUMNS]


def main() -> None:
    """Parses the command line, computes, and prints what agrees."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.repeat", description=__doc__.partition("\n")[2]
    )
    parser.add_argument("--tier", type=int, default=1, help="its number (default: 1)")
    parser.add_argument("--skip", type=int, default=0, help="how many trainings to leave out first")
    parser.add_argument("--runs", type=int, default=8, help="how many then (default: 8)")
    parser.add_argument("--workers", type=int, default=2, help="runs at a time")
    parser.add_argument("--keep", action="store_true", help=f"add them to {file().name}")
    options = parser.parse_args()
    check_at_least("--runs", options.runs, 1)
    check_at_least("--skip", options.skip, 0)
    study.check_engine("processes", options.workers)
    tiers, store = {str(tier.number): tier for tier in protocol.frozen()}, study.Store()
    check_name("--tier", str(options.tier), tiers)
    tier = tiers[str(options.tier)]
    if reason := absent(tier):
        raise ValueError(reason)
    trainings = [spec for spec in tier.specs if isinstance(spec, study.Spec)]
    known = [spec for spec in trainings if store.get(spec.id)]
    specs = known[options.skip : options.skip + options.runs]
    if not specs:
        raise ValueError(
            f"tier {tier.number}: has {len(known)} trainings with records in {store.released}, and"
            f" {options.skip} are skipped; compute some first, or skip fewer"
        )
    os.environ.update(OMP_NUM_THREADS="1")  # of the workers, before they import anything
    folder = store.folder / "repeated"
    again = study.Store(folder, released=folder / "released")
    study.collect(specs, engine="processes", workers=options.workers, store=again)
    table = compared(specs, store, again)
    print(table.drop(columns=["id", "device", "commit"]).to_string(index=False))
    print(f"{table['equal'].sum()} of {len(table)} are equal to the bit.")
    if failed := len(specs) - len(table):
        raise ValueError(
            f"{failed} runs failed; run the same command again, and only these are computed"
        )
    if options.keep:
        before = [pd.read_csv(file())] if file().exists() else []
        kept = pd.concat([*before, table]).drop_duplicates(["id", "device"], keep="last")
        with written_whole(file()) as path:
            kept.to_csv(path, index=False)
    shutil.rmtree(folder)  # so that the next time all are computed once more


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        raise SystemExit("\nInterrupted. Run the same command again to go on.") from None
    except ValueError as error:
        raise SystemExit(str(error)) from None
