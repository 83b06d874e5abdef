"""The script that computes the protocol: what it counts and packs, what it leaves out, and that it
goes on where it was stopped.
"""

import json
import os
import runpy
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from tools import compute, repeat
from unnas import protocol, study
from unnas.spaces import darts
from unnas.train import Recipe

ROOT = Path(__file__).parents[1]


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A project's folder with the frozen protocol, without records and images."""
    (tmp_path / "home" / "data").mkdir(parents=True)
    shutil.copy(ROOT / "data" / "protocol.json", tmp_path / "home" / "data")
    monkeypatch.setenv("UNNAS_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("UNNAS_DATA", raising=False)
    return tmp_path / "home"


@pytest.fixture(scope="module")
def frozen():
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("UNNAS_HOME", str(ROOT))
        return protocol.frozen()


def made(spec, hours=0.0):
    """A record of `spec` as if it had been computed that many hours ago."""
    when = datetime.now(UTC) - timedelta(hours=hours)
    return dict(
        schema=study.records.SCHEMA,
        id=spec.id,
        spec=spec.to_dict(),
        status="done",
        result=dict(final=20.0, best=21.0, score=[20.0], loss=[1.0]),
        chance=10.0,
        parameters=1,
        multiply_adds=1,
        seconds=1.0,
        constant=10.0,
        untrained=None,
        provenance=dict(date=when.isoformat(timespec="seconds")),
    )


def packed(store, number):
    path = store.released / f"protocol-{number}.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else None


def call(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["python -m tools.compute", *map(str, arguments)])
    compute.main()


@pytest.mark.slow
def test_status_counts_and_packs_in_order_and_computes_nothing(home, frozen, monkeypatch, capsys):
    monkeypatch.setattr(protocol, "frozen", lambda: frozen)  # which takes seconds
    first, second = (tier.specs for tier in frozen[:2])
    store = study.Store()
    assert (
        store.folder == home / "data" / "records" and store.released == home / "data" / "released"
    )
    for spec in (first[0], first[5]):
        store.put(made(spec, hours=30))
    store.release([first[5], first[0]], "protocol-1")  # as in an order of before
    for spec in (first[0], first[5]):
        store.path(spec.id).unlink()
    for spec, hours in ((first[3], 0.1), (first[1], 2)):  # made since then, the later one first
        store.put(made(spec, hours))
    store.put(made(second[7], 0.5))
    call(monkeypatch, "--status")
    lines = capsys.readouterr().out.splitlines()
    counts = {
        int(line.split()[0]): [int(word) for word in line.split() if word.isdigit()][1:4]
        for line in lines
    }
    assert counts == {
        1: [4, 1600, 1],
        2: [1, 400, 1],
        **{
            number: [0, total, 0]
            for number, total in ((3, 400), (4, 400), (5, 400), (6, counts[6][1]), (7, 87), (8, 31))
        },
    }
    assert lines[0].endswith("CIFAR-10: supervised, rotation, jigsaw, random labels")
    assert [record["id"] for record in packed(store, 1)] == [first[i].id for i in (0, 1, 3, 5)]
    assert packed(store, 2) == [
        made(second[7], 0.5) | {"provenance": store.get(second[7].id)["provenance"]}
    ]
    # none for tiers without records
    assert sorted(path.name for path in store.released.iterdir()) == [
        "protocol-1.jsonl",
        "protocol-2.jsonl",
    ]
    assert not (store.folder / "checkpoints").exists() or not list(
        (store.folder / "checkpoints").iterdir()
    )
    before = {path: path.read_bytes() for path in store.released.iterdir()}
    call(monkeypatch, "--status", "--tiers", 2)
    assert capsys.readouterr().out.splitlines() == [lines[1]] and before == {
        path: path.read_bytes() for path in store.released.iterdir()
    }


@pytest.mark.slow
def test_without_images_each_tier_is_left_out_with_a_reason(home, tmp_path):
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "tools.compute",
            "--workers",
            "1",
            "--released",
            str(tmp_path / "elsewhere"),
        ],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0 and done.stderr == "" and not (tmp_path / "elsewhere").exists()
    names = {
        1: "cifar10",
        2: "imagenette",
        3: "cifar10",
        4: "imagenette",
        5: "cifar10",
        6: "cifar10",
        7: "cifar10",
        8: "cityscapes",
    }
    lines = done.stdout.splitlines()
    assert (
        len(lines) == 24
        and lines[:8] == lines[-8:]
        and [line.split()[0] for line in lines[:8]] == [*"12345678"]
    )
    for (number, name), line in zip(names.items(), lines[8:16]):
        assert (
            line.startswith(f"Tier {number} is left out: root=None: {name} needs a folder; ")
            and "UNNAS_DATA" in line
        )


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments, words",
    [
        (["--workers", "0"], "workers=0: must be a whole number of at least 1"),
        (["--tiers", "1", "99"], "--tiers=99: unknown; choose one of 1, 2, 3, 4, 5, 6, 7, 8"),
    ],
)
def test_bad_arguments_end_at_once_with_one_sentence(home, monkeypatch, capsys, arguments, words):
    handler = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(sys, "argv", ["compute", *arguments])
    try:
        with pytest.raises(SystemExit, match=f"^{words}$"):
            runpy.run_path(str(ROOT / "tools" / "compute.py"), run_name="__main__")
    finally:
        signal.signal(signal.SIGTERM, handler)
    assert capsys.readouterr().out == ""


def specs(count):
    images = study.Data("synthetic-objects", 16, train_images=40, test_images=20, labels=False)
    return [
        study.Spec(
            "darts",
            architecture,
            "cifar",
            4,
            3,
            images,
            "rot",
            "cifar",
            Recipe(epochs=1, batch_size=20, lr=0.05, precision="float32"),
            seed=0,
        )
        for architecture in darts.sample(count, seed=0)
    ]


@pytest.mark.slow
def test_interrupted_computing_goes_on_where_it_stopped(tmp_path, monkeypatch, quick_workers):
    monkeypatch.setattr(compute, "failed", set())
    first, second = specs(2)
    # of images that are not here
    broken = replace(first, data=study.Data("imagefolder", 16, labels=False))
    tier = protocol.Tier(9, "Tiny", (second, broken, first))
    store = study.Store(tmp_path / "records", released=tmp_path / "released")
    store.put(made(first, hours=5))  # before it was interrupted
    with pytest.warns(UserWarning, match="1 of 2 runs failed"):
        compute.compute(tier, store, workers=1)
    records = packed(store, 9)
    assert (
        [record["id"] for record in records] == [second.id, first.id]
        and records[1] == store.get(first.id)
        and records[1]["result"]["best"] == 21
    )
    assert (
        records[0]["status"] == "done"
        and records[0]["provenance"]["precision"] == "float32"
        and records[0]["constant"] >= 25
    )
    assert compute.failed == {broken.id}
    table = compute.table([tier], store)
    assert table.split()[:4] == ["9", "2", "of", "3"] and table.endswith("1 in the last hour  Tiny")
    stamp = (tmp_path / "records" / f"{second.id}.json").stat().st_mtime_ns
    # nothing is left, and what failed is not tried again by this process
    compute.compute(tier, store, workers=1)
    assert (tmp_path / "records" / f"{second.id}.json").stat().st_mtime_ns == stamp and packed(
        store, 9
    ) == records


def test_why_a_tier_cannot_be_computed(home):
    first = specs(1)[0]
    assert compute.absent(protocol.Tier(9, "Tiny", (first,))) == ""
    other = replace(first, data=replace(first.data, fingerprint="0" * 64))
    assert "these images are not those that the spec was made for" in compute.absent(
        protocol.Tier(9, "Tiny", (first, other))
    )
    gone = replace(first, data=study.Data("imagenette", 20))
    assert "imagenette needs a folder" in compute.absent(protocol.Tier(9, "Tiny", (first, gone)))


@pytest.mark.slow
def test_what_is_packed_are_the_trainings_of_found_cells_too(home, frozen):
    tier, genotype, store = frozen[6], darts.sample(1, seed=5)[0], study.Store()
    search, other = tier.specs[0], tier.specs[-1]
    assert (
        isinstance(search, study.SearchSpec)
        and isinstance(other, study.Spec)
        and compute.wanted(tier, store) == list(tier.specs)
    )
    store.put(made(search) | {"result": dict(final=None, best=None, genotype=genotype.to_dict())})
    more = compute.wanted(tier, store)[len(tier.specs) :]
    assert [(spec.architecture, spec.seed) for spec in more] == [
        (genotype, 0),
        (genotype, 1),
        (genotype, 2),
    ]
    store.put(made(more[1])), store.put(made(other))
    assert compute.pack(tier, store) == 3 and [record["id"] for record in packed(store, 7)] == [
        search.id,
        other.id,
        more[1].id,
    ]


def test_a_record_is_packed_once_in_the_first_tier_that_lists_it(home):
    shared, first_only, later_only = specs(3)
    first = protocol.Tier(1, "First", (first_only, shared))
    later = protocol.Tier(2, "Later", (shared, later_only))
    store = study.Store()
    for spec in (shared, later_only):
        store.put(made(spec))
    assert compute.pack(later, store) == 2  # the first tier has released nothing yet
    store.path(shared.id).unlink()  # so that only the released file has it
    assert compute.pack(first, store) == 1 and compute.pack(later, store) == 1
    assert [record["id"] for record in packed(store, 1)] == [shared.id]
    assert [record["id"] for record in packed(store, 2)] == [later_only.id]
    assert compute.table([later], store).split()[:4] == ["2", "2", "of", "2"]


def put_colorization(store, tier, count, agree):
    """Records of the first `count` DARTS architectures, whose seeds agree, or do not."""
    own = [spec for spec in tier.specs if spec.space == "darts"]
    random, level = np.random.default_rng(0), {}
    for spec in own:
        place = level.setdefault(spec.architecture, len(level))
        value = float(place if agree else 100 * random.random())
        result = dict(best=value, final=value, score=[value], loss=[value])
        if place < count:
            store.put(made(spec) | dict(result=result))
    return [spec for spec in own if level[spec.architecture] >= 30]


def test_what_the_rule_on_colorization_stops_is_left_out(tmp_path, frozen):
    tier, few, noisy, sure = (
        frozen[2],
        *(
            study.Store(tmp_path / name, released=tmp_path / "none")
            for name in ("few", "no", "yes")
        ),
    )
    put_colorization(few, tier, 29, agree=False)
    put_colorization(sure, tier, 30, agree=True)
    rest = put_colorization(noisy, tier, 30, agree=False)
    assert len(rest) == 140 and protocol.stopped(tier, noisy) == rest
    assert protocol.stopped(tier, few) == [] == protocol.stopped(tier, sure)
    assert protocol.stopped(frozen[0], noisy) == []
    wanted = {spec.id for spec in compute.wanted(tier, noisy)}
    assert wanted == {spec.id for spec in tier.specs} - {spec.id for spec in rest}


def test_records_that_are_computed_again_are_compared_as_their_task_is_judged(tmp_path, frozen):
    store, again = (
        study.Store(tmp_path / name, released=tmp_path / "none") for name in ("first", "second")
    )
    specs = frozen[0].specs[:4]  # supervised, rotation, jigsaw, random labels
    origin = dict(date="2026-01-01", device="B, AVX2", commit="abc")
    for spec in specs:
        store.put(made(spec))
        again.put(made(spec) | dict(provenance=origin))
    result = dict(final=20.0, best=21.0, score=[20.0], loss=[1.25])
    origin = origin | dict(device="A, AVX2")
    again.put(made(specs[3]) | dict(result=result, provenance=origin))
    table = repeat.compared(specs, store, again)
    assert table.equal.tolist() == [True, True, True, False]
    assert table.score.tolist() == [21.0, 21.0, 21.0, -1.0] and table.again.tolist()[3] == -1.25
    assert table.device.tolist() == ["B, AVX2"] * 3 + ["A, AVX2"]
    assert list(table) == repeat.COLUMNS and table.id.tolist() == [spec.id for spec in specs]
    assert repeat.compared(specs[:1], store, study.Store(tmp_path / "no", tmp_path / "none")).empty
