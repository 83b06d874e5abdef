"""Kills a small study at random moments, again and again: `python -m tools.faults`.

Drivers, workers and whole groups of processes get `kill -9`, anywhere and aimed at the moments in
which files are written. What was killed is started again until all records are there. Then they are
compared with those of a study that nobody disturbed: how many are lost, doubled or different.
"""

import argparse
import contextlib
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import torch

from unnas import search, study, train
from unnas.files import check_at_least
from unnas.spaces import darts

if __name__ in ("__main__", "__mp_main__"):  # here and in the workers
    train.CHECKPOINT_SECONDS, search.CHECKPOINT_STEPS = 0, 1
    torch.set_num_threads(1)

WORKERS = 2


def specs() -> list:
    """Three trainings and a search, of about a second each."""
    images = study.Data("synthetic-objects", 16, train_images=60, test_images=30, labels=False)
    how, recipe = ("rot", "cifar"), train.Recipe(epochs=3, batch_size=20, lr=0.05)
    trainings = [
        study.Spec("darts", cell, "cifar", 4, 3, images, *how, recipe, seed=0)
        for cell in darts.sample(3, seed=0)
    ]
    recipe = search.SearchRecipe(epochs=1, batch_size=10, lr=0.05, held_out=0.2)
    images = replace(images, train_images=40, test_images=0)
    return [*trainings, study.SearchSpec("cifar", 4, 3, images, *how, recipe, seed=0)]


class Watched(study.Store):
    """A store that notes which records it is given although it has them."""

    def put(self, record):
        """Write `record`, and a note where there is one."""
        if self.path(record["id"]).exists():
            (self.folder / f"{record['id']}.doubled").touch()
        super().put(record)


def store(folder: Path) -> Watched:
    """The store of a study in `folder`."""
    return Watched(folder / "records", released=folder / "released")


def start(folder: Path, engine: str) -> int:
    """Begins a study in a process and a group of its own; the number of that process."""
    if pid := os.fork():
        return pid
    try:
        os.setsid()
        with contextlib.suppress(BaseException):
            sys.stdout = sys.stderr = open(folder / "log", "a")  # noqa: SIM115
            os.dup2(sys.stderr.fileno(), 2)
            workers = None if engine == "serial" else WORKERS
            study.collect(specs(), engine=engine, workers=workers, store=store(folder))
    finally:
        os._exit(0)


def workers_of(driver: int) -> list[int]:
    """The worker processes of a driver."""
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, ValueError):
            parent = int((place / "stat").read_text().rpartition(")")[2].split()[1])
            if parent == driver and b"spawn_main" in (place / "cmdline").read_bytes():
                found.append(int(place.name))
    return found


def ended(pid: int) -> bool:
    """Whether a child of this process has ended; after this it is nobody's number."""
    return os.waitpid(pid, os.WNOHANG)[0] == pid


def files(folder: Path) -> list:
    """The names of all that is being written, or is there."""
    return sorted((folder / "records").rglob("*"))


def wait_for_moment(driver: int, folder: Path, draw: random.Random, seconds: float) -> str:
    """Waits for a random moment, or for one just after some file has come or gone; which kind it
    was, or an empty string where the study has ended before.
    """
    kind, before = draw.choice(["random", "aimed"]), files(folder)
    end = time.monotonic() + (draw.uniform(0, seconds) if kind == "random" else 4 * seconds)
    while time.monotonic() < end:
        if ended(driver):
            return ""
        if kind == "aimed" and files(folder) != before and draw.random() < 0.2:
            time.sleep(draw.uniform(0, 0.003))
            break
        time.sleep(0.0005)
    return kind


def kill(driver: int, engine: str, draw: random.Random) -> str:
    """Kills the driver, its whole group, or one of its workers; which it was."""
    workers = workers_of(driver) if engine != "serial" else []
    victim = draw.choice(["driver", "group"] + ["worker", "worker"] * bool(workers))
    with contextlib.suppress(ProcessLookupError):
        if victim == "worker":
            os.kill(draw.choice(workers), signal.SIGKILL)
        elif victim == "group":
            os.killpg(driver, signal.SIGKILL)
        else:
            os.kill(driver, signal.SIGKILL)
    if victim != "worker":
        os.waitpid(driver, 0)
    return victim


def disturbed(
    folder: Path, engine: str, kills: int, draw: random.Random, seconds: float
) -> Counter:
    """Runs one study to its end, with at most that many kills; how often what was killed."""
    done, driver = Counter(), None
    while not all(map(store(folder).own, [spec.id for spec in specs()])):
        driver = driver or start(folder, engine)
        if sum(done.values()) >= kills:
            os.waitpid(driver, 0)
            driver = None
        elif moment := wait_for_moment(driver, folder, draw, seconds):
            victim = kill(driver, engine, draw)
            done[f"{victim}, {moment}"] += 1
            driver = driver if victim == "worker" else None
        else:
            driver = None
    if driver:
        os.waitpid(driver, 0)
    return done


def same(record: dict) -> dict:
    """What must be equal, to the bit, however often a run was cut short."""
    return {name: value for name, value in record.items() if name not in ("seconds", "provenance")}


def judged(folder: Path, expected: dict[str, dict]) -> Counter:
    """How many records of a study are lost, doubled or different, and how much has been left."""
    kept, records = store(folder), {}
    study.records.clear_left_overs(kept)  # as the next `collect` does
    for path in kept.folder.glob("*.json"):
        records[path.stem] = json.loads(path.read_text())
    left = [path for path in (kept.folder / "checkpoints").glob("*") if path.is_file()]
    return Counter(
        records=len(records),
        lost=len(expected.keys() - records.keys()),
        doubled=len(records.keys() - expected.keys()) + len([*kept.folder.glob("*.doubled")]),
        different=sum(same(record) != expected.get(id) for id, record in records.items()),
        damaged=len([*kept.folder.rglob("*.bad"), *kept.folder.rglob("*.damaged")]),
        left=len(left),
    )


def campaign(kills: int, engines: list[str], seed: int) -> dict[str, Counter]:
    """For each engine, what was killed, and what has become of the records."""
    found, draw = {}, random.Random(seed)
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        (whole := folder / "whole").mkdir()
        for spec in (specs()[0], specs()[-1]):
            study.run(spec)  # what is compiled and loaded here, no process has to do again
        began = time.monotonic()
        os.waitpid(start(whole, "serial"), 0)
        seconds = time.monotonic() - began
        expected = {spec.id: same(store(whole).own(spec.id)) for spec in specs()}
        for engine in engines:
            total, done = Counter(), 0
            while done < kills:
                (cut := folder / f"{engine}{total['studies']}").mkdir()
                # processes have to be started, and to import PyTorch
                longest = seconds if engine == "serial" else seconds + 10
                killed = disturbed(cut, engine, min(8, kills - done), draw, longest)
                done += sum(killed.values())
                total += killed + judged(cut, expected) + Counter(studies=1)
                for name in ("lost", "doubled", "different", "damaged", "left"):
                    total[name] += 0  # what is not there is said
            found[engine] = total
    return found


def main() -> None:
    """Parses the command line, runs the campaign, and prints what came of it."""
    parser = argparse.ArgumentParser(prog="python -m tools.faults", description=__doc__)
    parser.add_argument("--kills", type=int, default=100, help="of each engine (default: 100)")
    parser.add_argument("--engines", nargs="+", default=["serial", "processes"])
    parser.add_argument("--seed", type=int, default=0, help="of the moments and the victims")
    options = parser.parse_args()
    check_at_least("--kills", options.kills, 1)
    for engine in options.engines:
        study.check_engine(engine, None)
    bad = 0
    for engine, counts in campaign(options.kills, options.engines, options.seed).items():
        print(f"{engine}: " + ", ".join(f"{count} {name}" for name, count in counts.items()))
        bad += sum(counts[name] for name in ("lost", "doubled", "different", "damaged", "left"))
    sys.exit(bool(bad))


if __name__ == "__main__":
    try:
        main()
    except ValueError as error:
        sys.exit(str(error))
