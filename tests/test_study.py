"""The study: interruptions by force, dying workers, tasks and spaces of the user's own, and what
bad input gets.
"""

import json
import math
import multiprocessing
import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import partial
from pathlib import Path

import cloudpickle
import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from small import QUICK, specs

from unnas import complexity, data, files, paper, search, spaces, study, tasks, train
from unnas.spaces import darts
from unnas.study import Data, Spec, tables
from unnas.train import Recipe

RELEASED = Path(__file__).parents[1] / "data" / "released"


def store(folder):
    return study.Store(folder / "records", released=folder / "released")


def study_into(folder):
    """Two trainings with a checkpoint after each epoch."""
    train.CHECKPOINT_SECONDS = 0
    recipe = Recipe(epochs=4, batch_size=20, lr=0.05)
    study.collect([replace(spec, recipe=recipe) for spec in specs(2)], store=store(folder))


def records(folder):
    return {path.stem: json.loads(path.read_text()) for path in (folder / "records").glob("*.json")}


@pytest.mark.slow
def test_a_study_killed_at_any_moment_ends_as_if_nothing_had_happened(tmp_path):
    def start(folder):
        process = QUICK.Process(target=study_into, args=(folder,))
        process.start()
        return process

    whole = start(tmp_path / "whole")
    for _ in range(2):  # once in the first run, with a checkpoint; once later
        process, checkpoints = start(tmp_path / "cut"), tmp_path / "cut" / "records" / "checkpoints"
        seen = (
            {path.stat().st_mtime_ns for path in checkpoints.glob("*.pt")}
            if checkpoints.exists()
            else set()
        )
        while (
            not checkpoints.exists()
            or not {path.stat().st_mtime_ns for path in checkpoints.glob("*.pt")} - seen
        ):
            assert process.is_alive()
            time.sleep(0.02)
        process.kill()
        process.join()
        assert len(records(tmp_path / "cut")) < 2
    last = start(tmp_path / "cut")
    last.join()
    whole.join()
    assert last.exitcode == 0 == whole.exitcode
    whole, cut = records(tmp_path / "whole"), records(tmp_path / "cut")
    assert whole.keys() == cut.keys() and len(whole) == 2
    for id in whole:
        assert whole[id]["result"] == cut[id]["result"] and whole[id]["spec"] == cut[id]["spec"]
    left = (tmp_path / "cut" / "records" / "checkpoints").iterdir()
    # what was being written at that moment is cleared an hour later
    assert not [path for path in left if not path.name.startswith(".")]


class Deadly(tasks.rotation):
    """Kills its process: always (`deadly`), or only where the file of its name is not there yet
    (`shaky`).
    """

    def __init__(self, style="cifar", flag=None):
        super().__init__(style)
        self.flag = flag

    def batch(self, images, labels, train, generator):
        if train:
            if self.flag is None:
                os.kill(os.getpid(), signal.SIGKILL)
            if not os.path.exists(self.flag):
                open(self.flag, "w").close()
                os.kill(os.getpid(), signal.SIGKILL)
        return super().batch(images, labels, train, generator)


@pytest.mark.slow
def test_a_dying_worker_is_tried_again_then_reported_and_the_others_go_on(tmp_path, quick_workers):
    flag = str(tmp_path / "flag")
    tasks.register("deadly", Deadly)
    tasks.register("shaky", lambda style="cifar": Deadly(style, flag))
    wanted = [*specs(2), *specs(1, "deadly"), *specs(1, "shaky")]
    with pytest.warns(UserWarning, match="1 of 4 runs failed"):
        table = study.collect(wanted, engine="processes", workers=2, store=store(tmp_path))
    assert list(table.status) == ["done", "done", "failed", "done"] and "attempts" in table.error[2]
    assert len(records(tmp_path)) == 3 and os.path.exists(flag)
    # after its accident the same rotation task gives the same record
    assert table.best[3] == table.best[0]


@pytest.mark.slow
def test_an_error_in_one_run_is_told_and_does_not_stop_the_others(tmp_path):
    class Faulty(tasks.rotation):
        def loss(self, outputs, targets, label_smoothing=0.0):
            raise RuntimeError("a mistake in the loss")

    tasks.register("faulty", Faulty)
    with pytest.warns(UserWarning, match="a mistake in the loss"):
        table = study.collect([*specs(1, "faulty"), *specs(1)], store=store(tmp_path))
    assert list(table.status) == ["failed", "done"] and "a mistake in the loss" in table.error[0]


@dataclass(frozen=True)
class Plain:
    """An architecture of a space of the user's own: so many layers."""

    layers: int

    def to_dict(self):
        return {"layers": self.layers}


def build_plain(architecture, task, *, stem, width, depth, auxiliary=False, drop_path=0.0):
    class Network(torch.nn.Module):
        def __init__(self):
            super().__init__()
            channels = [task.in_channels] + [width] * architecture.layers
            self.body = torch.nn.Sequential(
                *(
                    torch.nn.Sequential(torch.nn.Conv2d(a, b, 3, padding=1), torch.nn.ReLU())
                    for a, b in zip(channels, channels[1:])
                )
            )
            self.head = task.head(width)

        def forward(self, x):
            return self.head(self.body(x), x.shape[-2:])

    return Network()


@pytest.mark.slow
def test_a_space_of_ones_own_runs_in_workers(tmp_path, quick_workers):
    study.register_space(
        "plain",
        spaces.Space(
            lambda n, seed: [Plain(i + 1) for i in range(n)], build_plain, lambda d: Plain(**d)
        ),
    )
    images = Data("synthetic-objects", 16, train_images=60, test_images=30, labels=False)
    wanted = [
        Spec(
            "plain",
            Plain(i),
            "cifar",
            4,
            3,
            images,
            "rot",
            "cifar",
            Recipe(epochs=1, batch_size=20, lr=0.05),
            seed=0,
        )
        for i in (1, 2)
    ]
    table = study.collect(wanted, engine="processes", workers=2, store=store(tmp_path))
    assert list(table.status) == ["done", "done"] and table.parameters[0] < table.parameters[1]


def test_label_free_runs_cannot_see_labels():
    train_data, test_data, _ = study.specs.load(specs(1)[0].data)
    for images in (train_data, test_data):
        with pytest.raises(data.NoLabels):
            _ = images.labels
    grid = study.grid("fig2", "smoke")
    assert all(
        setting.data.labels == (task == "cls") for (_, task), setting in grid.settings.items()
    )


def test_a_fingerprint_of_other_images_is_refused():
    spec = specs(1)[0]
    with pytest.raises(ValueError, match="fingerprint"):
        study.run(replace(spec, data=replace(spec.data, fingerprint="0" * 64)))


@pytest.mark.slow
def test_released_records_can_be_shown_without_the_images(tmp_path, monkeypatch):
    monkeypatch.setenv("UNNAS_DATA", str(tmp_path / "nothing"))
    grid = study.scales.small_grid(
        "imagenet",
        32,
        dict(darts=(4, 3)),
        dict(rot=(None, None)),
        dict(rot=Recipe(1, 4, 0.05)),
        architectures=2,
        seeds=1,
        description="",
    )
    images = data.load("synthetic-objects", num_images=8).images
    for split in ("train", "val"):
        for i, image in enumerate(images):
            folder = tmp_path / "tree" / split / f"n0{i % 2}"
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image.permute(1, 2, 0).numpy()).save(folder / f"{i}.png")
    kept = store(tmp_path)
    specs = study.specs_of(grid, root=tmp_path / "tree", store=kept)
    made = study.collect(specs, root=tmp_path / "tree", store=kept)
    with pytest.raises(FileNotFoundError):
        study.specs_of(grid, store=kept)
    kept.release(specs, "fig2")
    for spec in specs:
        kept.path(spec.id).unlink()
    study.specs.load.cache_clear()
    assert study.specs_of(grid, store=kept) == specs and study.collect(specs, store=kept).equals(
        made
    )
    with pytest.warns(UserWarning, match="2 of 4 runs have records"):
        assert study.specs_of(grid, seeds=2, store=kept) == specs
    # a number that is given is kept to
    asked = study.specs_of(grid, architectures=2, seeds=2, store=kept)
    assert len(asked) == 4
    with pytest.warns(UserWarning, match="(?s)2 of 4 runs failed.*FileNotFoundError"):
        study.collect(asked, store=kept)


def test_a_training_without_test_images_is_refused():
    [spec] = specs(1)
    with pytest.raises(ValueError, match="test_images=0: a training is tested; pass a number"):
        replace(spec, data=replace(spec.data, test_images=0))


def test_images_of_another_folder_or_definition_are_not_taken_for_those_loaded_before(
    tmp_path, monkeypatch
):
    fingerprints = []
    for number in range(2):
        folder = tmp_path / str(number) / "imagefolder"
        folder.mkdir(parents=True)
        for i, image in enumerate(images(12 + number, number)):
            Image.fromarray(image.permute(1, 2, 0).numpy()).save(folder / f"{i}.png")
        monkeypatch.setenv("UNNAS_DATA", str(folder.parent))
        d = Data("imagefolder", 16, labels=False)
        fingerprints.append(study.specs.load(d)[2])
        assert sum(map(len, study.specs.load(d)[:2])) == 12 + number
        assert study.plans._sizes(d, None).train == len(study.specs.load(d)[0])
    for number in range(2):

        def factory(split, **_):
            return data.TensorImages("mine", split, images(12 + number, number))

        data.register("mine", factory)
        d = Data("mine", labels=False)
        fingerprints.append(study.specs.load(d)[2])
        assert len(study.specs.load(d)[0]) == study.plans._sizes(d, None).train == 12 + number
    assert len(set(fingerprints)) == 4


def images(count, seed):
    random = torch.Generator().manual_seed(seed)
    return torch.randint(256, (count, 3, 16, 16), generator=random, dtype=torch.uint8)


def test_identity_covers_all_that_decides_the_result():
    spec = specs(1, "cls")[0]
    others = [
        replace(spec, **change)
        for change in (
            dict(seed=1),
            dict(width=8),
            dict(depth=4),
            dict(task="rot"),
            dict(style="imagenet"),
            dict(stem="imagenet"),
            dict(recipe=replace(spec.recipe, lr=0.1)),
            dict(data=replace(spec.data, train_images=40)),
            dict(architecture=darts.sample(2, seed=0)[1]),
        )
    ]
    assert len({s.id for s in [spec, *others]}) == len(others) + 1


@pytest.mark.parametrize(
    "options, words",
    [
        (dict(scale="huge"), ["scale", "huge", "smoke"]),
        (dict(architectures=0), ["architectures=0", "at least 2"]),
        (dict(architectures=1), ["architectures=1", "at least 2"]),
        (dict(seeds=0), ["seeds=0"]),
        (dict(tasks=["cls", "contrastive"]), ["contrastive", "rot"]),
        (dict(spaces=["resnet"]), ["resnet", "darts"]),
        (dict(scale="laptop", root="/no/such/folder"), ["/no/such/folder"]),
    ],
)
def test_bad_parameters_end_at_once(options, words):
    options = dict(options)
    with pytest.raises((ValueError, FileNotFoundError)) as error:
        study.specs_of(study.grid("fig2", options.pop("scale", "smoke")), **options)
    assert all(word in str(error.value) for word in words), error.value


@pytest.mark.parametrize(
    "options, words",
    [
        (dict(engine="cluster"), ["engine", "cluster", "serial"]),
        (dict(workers=0), ["workers=0", "at least 1"]),
    ],
)
def test_bad_engines_end_at_once(options, words, tmp_path):
    with pytest.raises(ValueError) as error:
        study.collect(specs(1), store=store(tmp_path), **options)
    assert all(word in str(error.value) for word in words)


def test_decoders_keep_up_with_the_network(tmp_path):
    assert study.plans.decoders_needed(specs(1)[0]) == 0  # in memory
    for split in ("train", "test"):
        (tmp_path / split).mkdir()
        for number in range(24):
            noise = np.random.default_rng(number).integers(256, size=(40, 40, 3), dtype=np.uint8)
            Image.fromarray(noise).save(tmp_path / split / f"{number}.jpg")
    files = Data("imagefolder", 16, labels=False)
    (spec,) = (replace(spec, data=files) for spec in specs(1))
    needed = study.plans.decoders_needed(spec, str(tmp_path))
    assert 1 <= needed <= os.cpu_count()
    with pytest.raises(FileNotFoundError):
        study.plans.decoders_needed(spec, str(tmp_path / "nowhere"))


def test_a_task_of_ones_own_may_have_another_unit():
    class Levels(tasks.rotation):
        """A task whose score is no percentage."""

        name = "levels"

        def metric(self):
            metric = super().metric()
            compute = metric.compute
            metric.compute = lambda: 1000 - 20 * compute()
            return metric

    tasks.register("levels", Levels)
    try:
        (spec,) = specs(1, "levels")
        record = study.run(spec)
        assert not 0 <= record["result"]["final"] <= 100
    finally:
        del tasks._TASKS._things["levels"]


@pytest.mark.parametrize(
    "given, used", [("2,3", "232"), ("GPU-a, GPU-b", ["GPU-a", "GPU-b", "GPU-a"]), ("", "010")]
)
def test_workers_keep_to_the_gpus_that_their_job_was_given(given, used, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch, "set_num_threads", lambda threads: None)
    found = []
    for number in range(3):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", given)
        study.engines._start_worker(study.engines._message(print), number)
        found.append(os.environ["CUDA_VISIBLE_DEVICES"])
    assert found == list(used)


@pytest.mark.slow
def test_runs_that_share_a_device_are_measured_together(quick_workers):
    table = study.engines.packing(specs(1)[0], most=2, seconds=0.5)
    assert list(table["runs"]) == [1, 2] and (table["images_per_second"] > 0).all()
    assert (table["memory"] == 0).all() and study.engines.best_packing(table).runs in (1, 2)


@pytest.mark.slow
def test_a_run_that_cannot_be_measured_is_taken_to_fill_a_device(quick_workers):
    broken = replace(specs(1)[0], data=Data("synthetic-objects", 16, 60, 30, fingerprint="0" * 64))
    table = study.engines.packing(broken, most=2, seconds=0.5)
    assert not len(table) and study.engines.best_packing(table) == (1, 1.0)


def test_the_best_packing_is_the_smallest_of_the_fast_ones():
    table = pd.DataFrame(dict(runs=[1, 2, 4, 8], images_per_second=[10.0, 19.0, 30.0, 32.0]))
    assert study.engines.best_packing(table) == (4, 3.0)
    if not torch.cuda.is_available():
        assert study.engines.runs_at_a_time(specs(1)).runs == len(os.sched_getaffinity(0))


def test_a_measurement_that_failed_is_made_again_the_next_time(tmp_path, monkeypatch):
    monkeypatch.setenv("UNNAS_CACHE", str(tmp_path))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "X")
    for answer, runs in ((None, 1), ((100.0, 0.05), 8), (None, 8)):
        answers = partial(lambda answer, work, given: [answer] * len(given), answer)
        monkeypatch.setattr(study.engines, "_side_by_side", answers)
        assert study.engines.runs_at_a_time(specs(3)).runs == runs


def test_runs_at_a_time_are_those_of_the_cores_that_a_process_may_use(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 5, 7}, raising=False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert study.engines.runs_at_a_time([]).runs == 3


def test_a_table_of_no_runs_has_all_columns(tmp_path):
    runs = study.collect([], store=store(tmp_path))
    assert not len(runs)
    assert set(runs) == {*study.engines.COLUMNS, *study.SCORES}


def test_an_unwritable_store_is_refused_before_anything_is_computed(tmp_path):
    (tmp_path / "file").write_text("")
    kept = study.Store(tmp_path / "file" / "records", released=tmp_path)
    assert kept.get(specs(1)[0].id) is None
    with pytest.raises(OSError, match="choose a folder"):
        study.collect(specs(1), store=kept)


def streets(**change):
    images = Data(
        "synthetic-streets", 32, train_images=24, test_images=10, labels="maps", crop="scale-wide"
    )
    recipe = Recipe(epochs=3, batch_size=8, lr=0.05, test_batch_size=1)
    spec = Spec(
        "darts",
        darts.sample(1, seed=0)[0],
        "cifar",
        4,
        3,
        images,
        "seg",
        "imagenet",
        recipe,
        seed=0,
        options=(("channels", 8), ("rates", (1, 2))),
    )
    return replace(spec, **change)


@pytest.mark.slow
def test_segmentation_is_a_run_like_any_other(tmp_path):
    tables = [
        study.collect([streets()], engine=engine, workers=1, store=store(tmp_path / engine))
        for engine in ("serial", "processes")
    ]
    results = [
        study.records_of([streets()], store(tmp_path / engine))[0]["result"]
        for engine in ("serial", "processes")
    ]
    assert tables[0].status[0] == tables[1].status[0] == "done" and results[0] == results[1]
    assert results[0]["loss"][-1] < results[0]["loss"][0] and 0 < results[0]["best"] < 100
    predictions = [study.records.read_map(text) for text in results[0]["predictions"]]
    assert len(predictions) == 4 and all(p.shape == (43, 43) and p.max() < 19 for p in predictions)


@pytest.mark.slow
def test_the_score_of_a_segmentation_is_that_of_its_predictions():
    """The mean IoU over all test scenes, from the predictions alone, by counting pixels."""
    train_data, test_data, _ = study.specs.load(streets().data)
    task = tasks.segmentation(19, 8, (1, 2))
    torch.manual_seed(0)
    network = darts.build(darts.sample(1, seed=0)[0], task, stem="cifar", width=4, depth=3)
    history = train.fit(network, task, train_data, test_data, streets().recipe)
    predicted = torch.stack(study.records.predict(network, task, test_data)).long()
    labels = torch.cat([maps for _, maps in test_data.batches(1)]).long()
    known = labels != 255
    overlaps = [
        (
            int(((predicted == k) & (labels == k)).sum()),
            int((((predicted == k) | (labels == k)) & known).sum()),
        )
        for k in range(19)
    ]
    ious = [inner / union for inner, union in overlaps if union]
    assert history.final == pytest.approx(100 * sum(ious) / len(ious), abs=1e-9)
    road = max((labels == k).sum().item() for k in range(19)) / known.sum().item()
    assert study.records.constant_score(streets()) == pytest.approx(
        100 * road / len(set(labels[known].tolist()))
    )


@pytest.mark.slow
def test_street_scenes_without_maps_serve_pretext_tasks_and_refuse_segmentation():
    free = replace(streets().data, labels=False)
    images, _, _ = study.specs.load(free)
    assert next(images.batches(2))[1] is None
    with pytest.raises(data.NoLabels):
        _ = images.label_maps
    with pytest.raises((ValueError, data.NoLabels)):
        study.run(streets(data=free))
    with pytest.raises(ValueError, match="task='seg'.*label maps"):
        study.run(streets(data=Data("synthetic-objects", 16, 40, 20)))
    with pytest.raises(ValueError, match="synthetic-objects.*no label maps.*cityscapes"):
        study.run(streets(data=Data("synthetic-objects", 16, 40, 20, labels="maps")))
    for task in ("rot", "col", "jig"):
        spec = streets(data=free, task=task, options=(("grid", 2),) if task == "jig" else ())
        assert study.run(replace(spec, recipe=replace(spec.recipe, epochs=1)))["status"] == "done"


@pytest.mark.slow
def test_a_table_has_the_papers_rows_those_searched_here_and_random_ones(tmp_path):
    evaluation = replace(
        study.evaluation("table1", "smoke"),
        data=Data("synthetic-objects", 12, 60, 30),
        recipe=Recipe(epochs=1, batch_size=20, lr=0.05),
    )
    genotypes = dict(
        zip(
            [
                "imagenet_rot",
                ("synthetic-objects", "rot", 0),
                ("synthetic-streets", "rot", 0),
                "random 0",
                "random 1",
            ],
            darts.sample(5, seed=1),
        )
    )
    specs = study.evaluation_specs(replace(evaluation, window=(1e5, 1e6)), genotypes, seeds=2)
    runs = study.collect(
        [spec for group in specs.values() for spec in group], store=store(tmp_path)
    )
    runs["score"] = runs["best"]
    counts = pd.DataFrame(
        [
            dict(
                paper_flops=row.flops / 1e6,
                flops=1.0,
                paper_parameters=row.parameters / 1e6,
                parameters=2.0,
            )
            for row in paper.TABLE1
        ]
    )
    filled = tables.fill_table("table1", counts, evaluation, specs, runs)
    shown, gray = tables.show_table(filled, "top-1 (%)", "M")
    assert (
        len(filled) == 17 + 2 + 2
        and list(filled["mean"].notna())
        == [row.genotype == "imagenet_rot" for row in paper.TABLE1] + [True] * 4
    )
    of = runs.groupby("architecture", sort=False).score.mean()
    assert (
        filled["mean"][18] == of.iloc[2]
        and filled["mean"][19] == pytest.approx(of.iloc[3:].mean())
        and filled["mean"][20] == of.iloc[3:].max()
    )
    # searched on the images of the evaluation, or on others
    assert list(filled.valid[17:]) == [False, True, True, True]
    assert (
        gray["here: top-1 (%)"][17]
        and not gray["here: top-1 (%)"][18]
        and not gray["paper: top-1 (%)"][17]
    )
    invalid = [row.search_dataset == "imagenet" for row in paper.TABLE1]
    assert (
        list(gray["paper: top-1 (%)"][:17]) == invalid
        and shown["paper: top-1 (%)"][5] == "76.3 ± 0.06"
    )


@pytest.mark.slow
def test_slices_are_a_partition_whatever_is_in_the_store_and_bad_ones_are_refused():
    wanted = study.specs_of(study.grid("fig2", "smoke"), seeds=2)
    for parts in (1, 3, 8, 16, len(wanted) + 5):
        slices = [study.engines.slice_of(wanted, f"{part + 1}/{parts}") for part in range(parts)]
        assert sorted(spec.id for part in slices for spec in part) == sorted(
            spec.id for spec in wanted
        )
        assert max(map(len, slices)) - min(map(len, slices)) <= 1
        for kind in {(spec.space, spec.task) for spec in wanted}:  # each slice has the same mix
            counts = [sum((spec.space, spec.task) == kind for spec in part) for part in slices]
            assert max(counts) - min(counts) <= 1
    for wrong in ("0/16", "17/16", "3 of 16", "3/", "/3", 3):
        with pytest.raises(ValueError, match='slice=.*"1/16" to "16/16"'):
            study.engines.slice_of(wanted, wrong)


@pytest.mark.slow
def test_a_plan_counts_and_estimates(tmp_path, capsys):
    kept, done = store(tmp_path), specs(2)
    made = study.collect(done, store=kept)
    bigger = [
        replace(spec, data=replace(spec.data, train_images=400, test_images=100), seed=1)
        for spec in specs(3)
    ]
    wanted = [
        *done,
        *bigger,
        *[replace(spec, data=replace(spec.data, labels=True), task="cls") for spec in bigger[:1]],
        done[0],
    ]
    plan = study.plan(wanted, workers=2, store=kept)
    assert (
        list(plan.task) == ["rot", "rot", "cls"]
        and list(plan.runs) == [2, 3, 1]
        and list(plan.there) == [2, 0, 0]
        and list(plan.to_do) == [0, 3, 1]
    )
    assert plan.core_hours.tolist() == pytest.approx(
        (plan.to_do * plan.seconds / 3600).fillna(0).tolist()
    )
    told = capsys.readouterr().out
    assert (
        told.startswith("Runs: 6; with records: 2; to do: 4, about ") and "with workers=2" in told
    )
    # nothing is stored
    assert len(records(tmp_path)) == 2 and study.collect(done, store=kept).equals(made)


@pytest.mark.clock
def test_a_plan_estimates_how_long_a_run_takes(tmp_path):
    run = replace(specs(1)[0], data=Data("synthetic-objects", 16, 400, 100, labels=False))
    ratios = []
    for _ in range(5):  # another program may disturb one of the two timings
        estimate = study.plan([run], store=store(tmp_path)).seconds[0]
        ratios.append(estimate / study.run(run)["seconds"])
        if 1 / 3 < ratios[-1] < 3:
            return
    pytest.fail(f"estimates are {ratios} of the times taken")


def test_a_plan_counts_the_selection_of_a_search_once(monkeypatch):
    images = Data("synthetic-objects", 16, 40, 0, labels=False)
    recipe = search.SearchRecipe(
        9, 8, 0.05, held_out=0.5, selection="perturbation", tuning_epochs=2
    )
    spec, seen = study.SearchSpec("cifar", 4, 3, images, "rot", "cifar", recipe, 0), []

    def fit(network, task, few, recipe):
        seen.append((recipe.selection, recipe.tuning_epochs))
        return search.SearchHistory(seconds=100.0 * len(few) / 40)

    monkeypatch.setattr(search, "fit", fit)
    monkeypatch.setattr(train, "evaluate", lambda *arguments, **options: time.sleep(0.01))
    once = study.plans.seconds_of(spec) - 9 * 100
    assert set(seen) == {("strongest", 0)}
    assert 224 * 0.01 < once - 28 * 2 * 100 / 2 < 224 * 0.1


def test_networks_of_other_widths_are_of_other_kinds():
    narrow = specs(4)
    mixed = [spec for one in narrow for spec in (one, replace(one, width=16))]
    hours, known = study.gpu_hours(mixed), study.gpu_hours(narrow)
    assert list(hours.runs) == [4, 4] and hours.multiply_adds[1] > 4 * hours.multiply_adds[0]
    assert hours.gpu_hours[0] == known.gpu_hours[0]


CLASSES = "airplane automobile bird cat deer dog frog horse ship truck".split()


def test_a_plan_of_images_that_lie_by_class_warns_of_nothing(tmp_path, monkeypatch):
    for part, count in (("train", 80), ("test", 40)):
        for name in CLASSES:
            folder = tmp_path / "cifar10" / part / name
            folder.mkdir(parents=True)
            for i in range(count):
                Image.new("RGB", (32, 32), (i, 0, 9)).save(folder / f"{i:02}.png")
    monkeypatch.setenv("UNNAS_DATA", str(tmp_path))
    one = replace(specs(1, task="cls")[0], data=Data("cifar10", 8))
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*labels are the same")
        assert study.plan([one], store=store(tmp_path)).seconds[0] > 0


@pytest.mark.slow
def test_a_plan_of_what_is_there_calibrates_nothing(tmp_path, capsys, monkeypatch):
    kept, done = store(tmp_path), specs(1)
    study.collect(done, store=kept)
    monkeypatch.setattr(train, "fit", None)  # whoever trains now fails
    plan = study.plan(done, store=kept)
    assert (
        capsys.readouterr().out == "Runs: 1; with records: 1; to do: 0.\n"
        and plan.to_do[0] == 0 == plan.core_hours[0]
        and pd.isna(plan.seconds[0])
    )
    assert (
        study.plan([], store=kept).empty
        and capsys.readouterr().out == "Runs: 0; with records: 0; to do: 0.\n"
    )


@pytest.mark.slow
def test_a_plan_has_searches_and_segmentation(tmp_path):
    searching = study.searches("smoke", tasks=["rot"])[0]
    plan = study.plan([streets(), searching], store=store(tmp_path))
    assert list(plan.task) == ["seg", "rot"] and (plan.seconds > 0).all()


@pytest.mark.slow
@pytest.mark.parametrize("count", [3, 30, 120])
def test_searches_on_a_small_folder_take_batches_that_it_can_fill(count, tmp_path):
    noise = np.random.default_rng(0).integers(256, size=(count, 16, 16, 3), dtype=np.uint8)
    for number, pixels in enumerate(noise):
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
    usual = study.SEARCHES["laptop"].settings["cifar10", "rot"].recipe
    asked = dict(datasets=["imagefolder"], tasks=["rot"], seeds=1, root=str(tmp_path))
    if count == 3:
        with pytest.raises(ValueError, match="use 108 images or more"):
            study.searches("laptop", **asked)
    elif count == 30:  # 27 to train with, 2 of them held out, and half of the others
        with pytest.warns(UserWarning, match="batches of 12 images instead of 48"):
            (spec,) = study.searches("laptop", **asked)
        assert spec.recipe == replace(usual, batch_size=12)
    else:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            (spec,) = study.searches("laptop", **asked)
        assert spec.recipe == usual


def test_gpu_hours_need_no_images(tmp_path, monkeypatch, capsys):
    monkeypatch.delenv("UNNAS_DATA", raising=False)
    monkeypatch.setenv("UNNAS_HOME", str(tmp_path))
    wanted = study.specs_of(
        study.scales.paper_grid("imagenet"),
        tasks=["cls", "rot"],
        spaces=["nasbench101"],
        look=False,
        architectures=2,
    )
    hours = study.gpu_hours(wanted, flops_per_second=1e13, utilization=0.1)
    forward = 3 * 1_281_167 + 50_000
    task = tasks.get("cls", style="imagenet", num_classes=1000)
    count = [
        complexity.count(study.records.network_of(spec, task), (3, 224, 224))[0]
        for spec in study.specs_of(
            study.scales.paper_grid("imagenet"),
            tasks=["cls"],
            spaces=["nasbench101"],
            look=False,
            architectures=2,
        )
    ]
    assert hours.multiply_adds[0] == pytest.approx(sum(count) / 2)
    # four rotations
    assert hours.multiply_adds[1] == pytest.approx(4 * hours.multiply_adds[0], rel=0.01)
    assert hours.gpu_hours[0] == pytest.approx(
        2 * 2 * hours.multiply_adds[0] * 10 * forward / 1e12 / 3600
    )
    study.plan(wanted, store=store(tmp_path))
    assert "4 of these have no images here" in capsys.readouterr().out
    for wrong in (dict(utilization=0), dict(utilization=1.5), dict(flops_per_second=-1)):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            study.gpu_hours(wanted, **wrong)


@pytest.mark.slow
def test_what_was_measured_replaces_the_estimate_of_gpu_hours():
    wanted = study.specs_of(
        study.grid("fig2", "paper"),
        tasks=["cls", "rot"],
        spaces=["darts"],
        architectures=2,
        seeds=1,
        look=False,
    )
    measured = pd.DataFrame([dict(data="cifar10", space="darts", task="rot", tflops=2.0)])
    guessed, hours = (
        study.gpu_hours(wanted, flops_per_second=1e13, utilization=0.1),
        study.gpu_hours(wanted, flops_per_second=1e13, utilization=0.1, measured=measured),
    )
    assert hours.gpu_hours[0] == guessed.gpu_hours[0] and hours.gpu_hours[1] == pytest.approx(
        guessed.gpu_hours[1] / 2
    )


@pytest.mark.slow
def test_throughput_times_training_on_images_of_the_right_kind():
    wanted = [
        streets(),
        *study.specs_of(
            study.grid("fig2", "smoke"),
            tasks=["cls", "col"],
            spaces=["nasbench101"],
            architectures=2,
        ),
    ]
    speeds = study.throughput(wanted, steps=1)
    assert list(speeds.task) == ["seg", "cls", "col"] and (speeds.images_per_second > 0).all()
    # forward and twice as much backward
    assert speeds.tflops.tolist() == pytest.approx(
        (6e-12 * speeds.multiply_adds * speeds.images_per_second).tolist()
    )
    with pytest.raises(ValueError, match="steps=0"):
        study.throughput(wanted, steps=0)
    with pytest.raises(ValueError, match="SearchSpec.*must be a Spec"):
        study.throughput(study.searches("smoke")[:1])


# ---- records that were released, and grids that are known by them


def released(name):
    return [json.loads(line) for line in (RELEASED / f"{name}.jsonl").read_text().splitlines()]


def test_released_records_are_of_the_specs_that_they_name():
    files = sorted(RELEASED.glob("*.jsonl"))
    assert {"former-fig2", "former-fig3", "former-pilot", "former-search", "former-streets"} <= {
        file.stem for file in files
    }
    known = study.Store(RELEASED.parent / "records", released=RELEASED).released_records()
    for file in files:
        records = released(file.stem)
        assert len({record["id"] for record in records}) == len(records) > 0
        for record in records:
            kind = study.SearchSpec if record["spec"].get("kind") == "search" else Spec
            spec = kind.from_dict(record["spec"])
            assert (
                spec.id == record["id"] in known
                and json.loads(json.dumps(spec.to_dict())) == record["spec"]
            ), record["id"]


@pytest.fixture
def without_images(tmp_path, monkeypatch):
    """A store with the released records, where no images are at hand."""
    monkeypatch.delenv("UNNAS_DATA", raising=False)
    study.specs.load.cache_clear()
    return study.Store(tmp_path / "records", released=RELEASED)


@pytest.mark.parametrize("figure, count", [("fig2", 256), ("fig3", 192)])
def test_a_former_grid_is_the_released_former_records(figure, count, without_images):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        wanted = study.specs_of(study.grid(figure, "former"), store=without_images)
        runs = study.collect(wanted, store=without_images)
    assert len(wanted) == count and {spec.id for spec in wanted} == {
        record["id"] for record in released(f"former-{figure}")
    }
    assert not any(("normalize", True) in spec.options for spec in wanted) and {
        spec.recipe.precision for spec in wanted
    } == {"auto"}
    assert (
        list(runs.id) == [spec.id for spec in wanted]
        and set(runs.status) <= {"done", "diverged"}
        and runs.loss.notna().any()
    )


def test_former_searches_and_tables_are_the_released_former_records(without_images):
    wanted = study.searches("former", datasets=["cifar10"], seeds=1, store=without_images)
    assert len(wanted) == 4 and {spec.id for spec in wanted} == {
        record["id"] for record in released("former-search")
    }
    streets = {record["id"]: record for record in released("former-streets")}
    searched = [record for record in streets.values() if record["spec"].get("kind") == "search"]
    tasks_of = [record["spec"]["task"] for record in searched]
    assert {
        spec.id
        for spec in study.searches(
            "former", datasets=["cityscapes"], tasks=tasks_of, store=without_images
        )
    } == {record["id"] for record in searched}
    evaluation = study.evaluation("table2", "former")
    trained = [
        Spec.from_dict(record["spec"])
        for record in streets.values()
        if record["spec"].get("kind") != "search"
    ]
    assert len(trained) == 2 and all(
        (spec.recipe, spec.options, spec.depth, replace(spec.data, fingerprint=""))
        == (evaluation.recipe, evaluation.options, evaluation.depth, evaluation.data)
        for spec in trained
    )


def test_of_several_images_of_the_same_numbers_those_of_the_first_record_are_shown(
    tmp_path, without_images
):
    record, prints = released("former-fig2")[0], [f"{i:064}" for i in range(20)]
    lines = []
    for fingerprint in prints:
        spec = record["spec"] | {"data": record["spec"]["data"] | {"fingerprint": fingerprint}}
        own = record | dict(spec=spec, id=study.specs.canonical_hash(spec))
        lines.append(json.dumps(own) + "\n")
    (tmp_path / "mine.jsonl").write_text("".join(lines))
    kept = study.Store(tmp_path / "records", tmp_path)
    [(data, known)] = study.lists._released_images(kept, False).items()
    assert known.fingerprint == study.lists._fingerprint(data, None, kept) == prints[0]


def test_former_records_are_asked_for_by_name(tmp_path, without_images):
    (tmp_path / "some").mkdir()
    for name in ("former-fig2", "former-fig3"):
        (tmp_path / "some" / f"{name}.jsonl").write_bytes((RELEASED / f"{name}.jsonl").read_bytes())
    kept = study.Store(tmp_path / "records", released=tmp_path / "some")
    assert (
        len(kept.released_records()) == len(kept.released_records(True)) == 448
        and len(kept.released_records(False)) == 0
    )
    for figure in ("fig2", "fig3"):
        with pytest.raises(FileNotFoundError):
            study.specs_of(study.grid(figure, "laptop"), store=kept)
        with pytest.raises(
            FileNotFoundError,
            match="no former records with these numbers of images; choose the scale laptop",
        ):
            study.specs_of(study.lists.shorter(study.grid(figure, "former"), 0.5, 1), store=kept)


def test_recipes_of_the_study_name_their_precision():
    for scales in (*study.GRIDS.values(), *study.EVALUATIONS.values(), study.SEARCHES):
        for scale, of in scales.items():
            recipes = (
                [s.recipe for s in of.settings.values()] if hasattr(of, "settings") else [of.recipe]
            )
            assert {recipe.precision for recipe in recipes} == {
                {"former": "auto", "paper": "bf16"}.get(scale, "float32")
            }, (of.description, scale)


def test_an_option_of_a_task_belongs_to_the_identity_and_its_absence_does_not():
    old = specs(1, "jig")[0]
    new = replace(old, options=study.scales.NORMALIZED)
    assert (
        "options" not in old.to_dict()
        and new.to_dict() == old.to_dict() | {"options": {"normalize": True}}
        and old.id != new.id
    )
    for spec in (old, new):
        assert Spec.from_dict(json.loads(json.dumps(spec.to_dict()))) == spec
    known = released("former-fig2")
    jigsaw = next(record for record in known if record["spec"]["task"] == "jig")
    assert "options" not in jigsaw["spec"] and Spec.from_dict(jigsaw["spec"]).options == ()
    for figure in ("fig2", "fig3"):
        grid, style = study.grid(figure, "laptop"), {"fig2": "cifar", "fig3": "imagenet"}[figure]
        made = [
            tasks.get(task, style=s.style, **dict(s.options))
            for (_, task), s in grid.settings.items()
            if task == "jig"
        ]
        assert [task._colors is task.style for task in made] == [True, True]
        assert {s.style for s in grid.settings.values()} == {style}


# ---- scores, and what records say


def made(
    spec,
    *,
    status="done",
    best=50.0,
    final=49.0,
    loss=(2.3, 1.5),
    constant=10.0,
    untrained=None,
    **provenance,
):
    """A record of `spec` as if it had been trained."""
    result = dict(best=best, final=final, score=[final], loss=list(loss))
    return dict(
        schema=study.records.SCHEMA,
        id=spec.id,
        spec=spec.to_dict(),
        status=status,
        result=result,
        chance=25.0,
        parameters=1000,
        multiply_adds=10_000,
        seconds=1.0,
        constant=constant,
        untrained=untrained,
        provenance=dict(
            unnas="0",
            commit="",
            changed=False,
            torch="2",
            device="x",
            date="2026-01-01T00:00:00+00:00",
        )
        | provenance,
    )


def test_losses_are_scores_with_their_sign_turned(tmp_path):
    kept, (first, second) = store(tmp_path), specs(2)
    broken = replace(first, data=Data("imagefolder", 16, labels=False))
    kept.put(made(first, untrained=dict(naswot=3.5, synflow=None)))
    kept.put(
        made(second, status="diverged", best=None, final=None, loss=[2.3, None], constant=None)
    )
    with pytest.warns(UserWarning, match="1 of 3 runs failed"):
        runs = study.collect([second, broken, first], store=kept)
    assert set(study.SCORES) == {"best", "final", "loss", "sum_loss"} and list(runs.status) == [
        "diverged",
        "failed",
        "done",
    ]
    assert runs.loc[:1, list(study.SCORES)].isna().all(axis=None) and runs.loc[
        :1, ["constant", "naswot"]
    ].isna().all(axis=None)
    done = runs.iloc[2]
    assert (
        (done.best, done.final, done.loss, done.constant, done.naswot) == (50, 49, -1.5, 10, 3.5)
        and done.sum_loss == pytest.approx(-3.8)
        and math.isnan(done.synflow)
    )
    # it was better once, but has no learning curve
    kept.put(made(second, status="diverged", best=31.0, final=None, loss=[2.3, 2.2]))
    runs = study.collect([second], store=kept)
    assert runs.best[0] == 31 and runs[["final", "loss", "sum_loss"]].isna().all(axis=None)


def judged_runs():
    rows = [
        ("cls", 91.0, 90.0, -0.3, -3.0),
        ("rot", 71.0, 70.0, -0.5, -5.0),
        ("rnd", 11.0, 10.0, -1.5, -15.0),
        ("shuf", 41.0, 40.0, -1.2, -12.0),
    ]
    return pd.DataFrame(
        rows, columns=["task", "best", "final", "loss", "sum_loss"], index=[7, 3, 5, 1]
    )


@pytest.mark.parametrize(
    "score, reference, expected",
    [
        ("best", "cls", [91, 71, -1.5, 41]),
        ("final", "cls", [90, 70, -1.5, 40]),
        ("loss", "cls", [91, -0.5, -1.5, -1.2]),
        ("sum_loss", "cls", [91, -5, -15, -12]),
        ("sum_loss", "rot", [-3, 71, -15, -12]),
        ("sum_loss", None, [-3, -5, -15, -12]),
        ("best", None, [91, 71, -1.5, 41]),
    ],
)
def test_what_runs_are_judged_by(score, reference, expected):
    runs = judged_runs()
    assert study.judged(runs, score, reference).to_dict() == dict(zip([7, 3, 5, 1], expected))


def test_runs_of_two_tables_may_be_judged_together():
    runs = judged_runs()
    # the same numbers of rows
    assert list(study.judged(pd.concat([runs, runs.assign(best=runs.best + 1)]), "best")) == [
        91,
        71,
        -1.5,
        41,
        92,
        72,
        -1.5,
        42,
    ]


def test_the_reference_is_judged_by_its_accuracy_unless_told_otherwise():
    assert list(study.judged(judged_runs(), "sum_loss")) == [91, -5, -15, -12]
    with pytest.raises(
        ValueError, match="score='accuracy': unknown; choose one of best, final, loss, sum_loss"
    ):
        study.judged(judged_runs(), "accuracy")


@pytest.mark.slow
def test_records_say_what_a_constant_answer_scores_and_how_they_were_made():
    supervised, pretext = (
        study.run(replace(spec, recipe=replace(spec.recipe, epochs=1)))
        for spec in (specs(1, "cls")[0], specs(1)[0])
    )
    for record in (supervised, pretext):
        assert (
            record["constant"] == study.records.constant_score(Spec.from_dict(record["spec"]))
            and record["constant"] >= record["chance"] - 1e-9
        )
        assert {
            name: record["provenance"][name] for name in study.records.OPEN
        } == train.circumstances("auto") | dict(cuda_graphs=False, compiled=False)
    assert supervised["untrained"].keys() == {"naswot", "synflow"} and all(
        map(math.isfinite, supervised["untrained"].values())
    )
    assert pretext["untrained"] is None and study.run(specs(1, "rnd")[0])["untrained"] is None
    labels = study.specs.load(specs(1, "cls")[0].data)[1].labels
    assert supervised["constant"] == pytest.approx(
        100 * max(labels.bincount()).item() / len(labels)
    )


@pytest.mark.slow
def test_scoring_the_untrained_network_does_not_change_its_training():
    spec = specs(1, "cls")[0]
    train_data, test_data, _ = study.specs.load(spec.data)
    task, record = tasks.get("cls", num_classes=10), study.run(spec)
    torch.manual_seed(train.derive_seed(spec.seed, "weights"))
    network = darts.build(
        spec.architecture, task, stem=spec.stem, width=spec.width, depth=spec.depth
    )
    history = train.fit(network, task, train_data, test_data, spec.recipe, seed=spec.seed)
    assert record["result"]["loss"] == history.loss and record["result"]["score"] == history.score


@pytest.mark.parametrize(
    "ways, words",
    [
        # records made before do not say it
        ([{}, dict(precision="float32", processes=1, cuda_graphs=False)], None),
        ([dict(precision="bf16"), dict(precision="bf16")], None),
        (
            [dict(precision="bf16"), dict(precision="float32")],
            (
                "1 with precision=bf16.*1 with precision=float32|1 with precision=float32.*1 with"
                " precision=bf16"
            ),
        ),
        ([{}, dict(precision="float32", processes=2, cuda_graphs=False)], "processes=2"),
        (
            [dict(precision="bf16", cuda_graphs=True), dict(precision="bf16", cuda_graphs=False)],
            "cuda_graphs=True",
        ),
    ],
)
def test_a_table_of_records_that_were_made_in_different_ways_warns(tmp_path, ways, words):
    kept, wanted = store(tmp_path), specs(2)
    for spec, way in zip(wanted, ways):
        kept.put(made(spec, **way))
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        assert len(study.collect(wanted, store=kept)) == 2
    told = [str(warning.message) for warning in seen]
    if words is None:
        assert told == []
    else:
        with pytest.warns(UserWarning, match=words):
            study.collect(wanted, store=kept)
        assert len(told) == 1 and "not made in the same way" in told[0]


def test_released_files_appear_whole_or_not_at_all(tmp_path):
    kept, wanted = store(tmp_path), specs(2)
    for spec in wanted:
        kept.put(made(spec))
    path = kept.release(wanted[:1], "fig9")
    before = path.read_bytes()
    with full_disk(len(before) // 2):
        with pytest.raises(OSError):
            kept.release(wanted, "fig9")
        with pytest.raises(OSError):
            kept.release(wanted, "fig10")
    assert (
        path.read_bytes() == before
        and [file.name for file in kept.released.glob("*.jsonl")] == ["fig9.jsonl"]
        and set(kept.released_records()) == {wanted[0].id}
    )
    assert [
        json.loads(line)["id"]
        for line in kept.release(wanted[::-1], "fig9").read_text().splitlines()
    ] == [spec.id for spec in wanted[::-1]]
    assert set(kept.released_records()) == {spec.id for spec in wanted}


# ---- tasks that a grid does not know


def test_a_release_that_is_killed_leaves_the_file_that_was_there(tmp_path, monkeypatch):
    records = released("former-fig2")[:2]
    text = "".join(json.dumps(record) + "\n" for record in records) + "broken\n"
    (tmp_path / "fig9.jsonl").write_text(text)
    kept = study.Store(tmp_path / "records", tmp_path)
    wanted = [Spec.from_dict(record["spec"]) for record in records]
    with pytest.warns(UserWarning, match="1 damaged"):
        assert set(kept.released_records()) == {spec.id for spec in wanted}

    def killed(path):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(files, "_sync", killed)
        kept.release(wanted, "fig9")
    assert (tmp_path / "fig9.jsonl").read_text() == text
    kept.release(wanted, "fig9")
    assert (tmp_path / "fig9.jsonl").read_text() == text.removesuffix("broken\n")
    assert (tmp_path / "fig9.jsonl.damaged").read_text() == text


def test_a_task_takes_the_recipe_of_the_one_that_it_names():
    for name, like in (("quick", "cls"), ("usual", "rot"), ("colored", "col"), ("odd", "nobody")):
        tasks.register(name, type(name, (tasks.rotation,), dict(name=name, trained_as=like)))
    tasks.register("bare", lambda style="cifar": tasks.rotation(style))
    grid, searches = study.grid("fig2", "laptop"), study.SEARCHES["laptop"]
    for name, like in (
        ("quick", "cls"),
        ("usual", "rot"),
        ("colored", "col"),
        ("odd", "rot"),
        ("bare", "rot"),
        ("shuf", "cls"),
    ):
        for space in ("darts", "nasbench101"):
            spec, model = (
                study.specs_of(
                    grid, architectures=2, seeds=1, tasks=[task], spaces=[space], look=False
                )[0]
                for task in (name, like)
            )
            labels = name == "shuf"
            assert (spec.task, spec.recipe, spec.width, spec.data) == (
                name,
                model.recipe,
                model.width,
                replace(model.data, labels=labels),
            )
        searched = study.searches(
            "laptop", datasets=["cifar10"], tasks=[name], seeds=1, look=False
        )[0]
        assert (
            searched.recipe == searches.settings["cifar10", like].recipe
            and searched.data.labels is labels
        )
    # the grid knows this one
    assert study.specs_of(grid, architectures=2, tasks=["rnd"], look=False)[0].recipe.epochs == 60
    jigsaw = type("pieces", (tasks.jigsaw,), dict(name="pieces", trained_as="jig"))
    tasks.register("pieces", jigsaw)
    # options are those of the task itself
    assert study.specs_of(grid, architectures=2, tasks=["pieces"], look=False)[0].options == ()


def test_controls_are_run_where_they_are_asked_for():
    tasks.register("null", type("null", (tasks.rotation,), dict(name="null", control=True)))
    grid = study.grid("fig2", "laptop")
    assert grid.tasks == ["cls", "rot", "col", "jig"] and ("darts", "rnd") in grid.settings
    assert {spec.task for spec in study.specs_of(grid, architectures=2, look=False)} == {
        "cls",
        "rot",
        "col",
        "jig",
    }
    asked = study.specs_of(
        grid, architectures=2, seeds=1, tasks=["cls", "rnd", "shuf", "null"], look=False
    )
    assert [spec.task for spec in asked[:4]] == ["cls", "rnd", "shuf", "null"] and [
        spec.data.labels for spec in asked[:4]
    ] == [True, False, True, False]


@pytest.mark.slow
def test_a_supervised_task_of_ones_own_is_told_the_number_of_classes(tmp_path):
    class Mirrored(tasks.classification):
        """Classes of mirrored images."""

        name, trained_as = "mirrored", "cls"

        def __init__(self, num_classes=3, style="cifar"):
            super().__init__(num_classes, style)

        def batch(self, images, labels, train, generator):
            return super().batch(images.flip(3), labels, train, generator)

    tasks.register("mirrored", Mirrored)
    grid = study.lists.shorter(study.grid("fig2", "smoke"), images=0.05, epochs=0.2)
    wanted = study.specs_of(
        grid, architectures=2, tasks=["mirrored", "shuf"], spaces=["nasbench101"]
    )
    assert {
        (spec.task, spec.data.labels, spec.recipe.epochs, spec.recipe.batch_size) for spec in wanted
    } == {("mirrored", True, 1, 50), ("shuf", True, 1, 50)}
    runs = study.collect(wanted, store=store(tmp_path))
    # ten classes in the images
    assert (
        list(runs.status) == ["done"] * 4
        and set(runs.chance) == {10.0}
        and runs.naswot.notna().all()
    )
    assert (
        study.gpu_hours(wanted[:1], flops_per_second=1e13, utilization=0.1).gpu_hours[0] > 0
        and len(study.throughput(wanted[:1], steps=1)) == 1
    )


def test_runs_whose_loss_is_not_finite_have_records_that_say_so():
    (spec,) = specs(1)
    wild = Recipe(epochs=3, batch_size=20, lr=1e12, weight_decay=1e6)
    record = study.run(replace(spec, recipe=wild))
    assert record["status"] == "diverged" and record["result"]["loss"][-1] is None
    images = replace(spec.data, train_images=50, test_images=0)
    recipe = search.SearchRecipe(
        epochs=3, batch_size=10, lr=1e12, alpha_lr=0.01, held_out=0.1, weight_decay=1e9, clip=1e12
    )
    found = study.run(study.SearchSpec("cifar", 4, 3, images, "rot", "cifar", recipe, seed=0))
    assert found["status"] == "diverged" and found["result"]["genotype"] is None
    assert found["result"]["loss"][-1] is None


# ---- faults


FAULTS = {
    "empty": lambda whole: b"",
    "truncated": lambda whole: whole[: len(whole) // 2],
    "flipped": lambda whole: whole[:1000] + bytes([whole[1000] ^ 1]) + whole[1001:],
    "flipped in the middle": lambda whole: (
        whole[: len(whole) // 2]
        + bytes([whole[len(whole) // 2] ^ 64])
        + whole[len(whole) // 2 + 1 :]
    ),
    "of zeros": lambda whole: bytes(len(whole)),
    "a text": lambda whole: b"version https://git-lfs.github.com/spec/v1\n",
}


@pytest.fixture
def interrupted(monkeypatch):
    """`interrupted(path, identity)` trains one of two epochs, and leaves a checkpoint there;
    `finished` goes on from it.
    """
    monkeypatch.setattr(train, "CHECKPOINT_SECONDS", 0)
    (spec,) = specs(1)

    def start(path, on_epoch=None):
        images, held_out, _ = study.specs.load(spec.data)
        task = study.records.task_of(spec, images)
        network, options = study.records.network_of(spec, task), dict(identity=spec.id)
        options |= dict(checkpoint=path, on_epoch=on_epoch)
        return train.fit(network, task, images, held_out, spec.recipe, **options)

    def cut(path):
        def stop(epochs, history):
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            start(path, stop)
        return path.read_bytes()

    return cut, start


def test_a_damaged_checkpoint_is_set_aside_and_its_run_starts_anew(tmp_path, interrupted):
    cut, start = interrupted
    path, expected = tmp_path / "run.pt", start(None)
    whole = cut(path)
    assert len(start(path).loss) == 2
    for number, (name, damage) in enumerate(FAULTS.items(), 1):
        path.write_bytes(damaged := damage(whole))
        aside = "run.pt.damaged" + str(number) * (number > 1)
        with pytest.warns(UserWarning, match=f"run.pt.*damaged.*set aside as {aside},"):
            history = start(path)
        assert history.loss == expected.loss and history.score == expected.score, name
        assert (tmp_path / aside).read_bytes() == damaged


def test_a_file_that_is_no_checkpoint_is_refused_unless_it_has_the_name_of_the_run(
    tmp_path, interrupted
):
    _, start = interrupted
    for foreign in (dict(weights=torch.ones(3)), torch.nn.Linear(2, 2)):
        torch.save(foreign, path := tmp_path / "run.pt")
        before = path.read_bytes()
        with pytest.raises(ValueError, match="run.pt': is no checkpoint of a training; name anoth"):
            start(path)
        assert path.read_bytes() == before and [*tmp_path.iterdir()] == [path]
    own = path.rename(tmp_path / f"{specs(1)[0].id}.pt")
    with pytest.warns(UserWarning, match="damaged .*no checkpoint of a run.*set aside"):
        start(own)


def test_a_checkpoint_that_does_not_fit_is_set_aside_and_its_run_starts_anew(tmp_path, interrupted):
    cut, start = interrupted
    path, expected = tmp_path / "run.pt", start(None)
    cut(path)
    whole = torch.load(path, weights_only=True)
    last = list(whole["network"])[-1]
    longer = whole["network"] | {last: torch.ones(1 + len(whole["network"][last]))}
    for number, (change, reason) in enumerate(
        (
            (dict(network=longer), "size mismatch"),
            (dict(network=whole["network"] | dict(other=torch.ones(2))), "Unexpected key"),
            (dict(optimizer=dict(state={}, param_groups=[])), "parameter group"),
            (dict(history=whole["history"] | dict(hours=1)), "hours"),
        ),
        1,
    ):
        torch.save(whole | change, path)
        given = path.read_bytes()
        with pytest.warns(
            UserWarning, match=f"run.pt': does not fit this run .*{reason}.*aside as"
        ):
            history = start(path)
        assert history.loss == expected.loss and history.score == expected.score, reason
        aside = tmp_path / ("run.pt.damaged" + str(number) * (number > 1))
        assert aside.read_bytes() == given


@pytest.mark.slow
def test_a_search_whose_checkpoint_does_not_fit_starts_anew(tmp_path):
    images = replace(specs(1)[0].data, train_images=20, test_images=0)
    recipe = search.SearchRecipe(epochs=1, batch_size=5, lr=0.05)
    spec = study.SearchSpec("cifar", 2, 3, images, "rot", "cifar", recipe, seed=0)
    expected, path = study.run(spec, checkpoint=tmp_path / "run.pt"), tmp_path / "run.pt"
    state = torch.load(path, weights_only=True)
    del state["sums"]  # so that all else has been put in its place when this is missed
    torch.save(state, path)
    with pytest.warns(UserWarning, match="run.pt': does not fit this run .'sums'"):
        assert study.run(spec, checkpoint=path)["result"] == expected["result"]


def test_the_checkpoint_of_another_run_is_refused_unless_it_has_the_name_of_this_one(
    tmp_path, interrupted
):
    cut, start = interrupted
    path = tmp_path / "run.pt"
    torch.save(dict(identity="0" * 64), path)
    with pytest.raises(ValueError, match="run.pt.*belongs to another run"):
        start(path)
    own = path.rename(tmp_path / f"{specs(1)[0].id}.pt")
    with pytest.warns(UserWarning, match="contents of another"):
        start(own)


@contextmanager
def full_disk(size):
    """No file may grow longer than `size`."""
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limit[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)


def test_a_checkpoint_that_cannot_be_saved_costs_no_training(tmp_path, interrupted):
    cut, start = interrupted
    whole = cut(tmp_path / "run.pt")
    expected = start(None)
    for path in (tmp_path / "run.pt", tmp_path / "new" / "run.pt"):
        with full_disk(5000), pytest.warns(UserWarning, match=f"cannot be saved.*{path.parent}"):
            history = start(path)
        assert history.loss == expected.loss
        assert [file for file in path.parent.iterdir() if file.name.startswith(".")] == []
    assert (tmp_path / "run.pt").read_bytes() == whole


def test_a_record_that_cannot_be_saved_is_told_and_the_study_goes_on(tmp_path):
    kept, wanted = store(tmp_path), [replace(s, recipe=Recipe(1, 20, 0.05)) for s in specs(2)]
    with full_disk(1500), pytest.warns(UserWarning) as seen:
        table = study.collect(wanted, store=kept)
    told = [str(warning.message) for warning in seen if "store=" in str(warning.message)]
    assert list(table.status) == ["done"] * 2 and table.best.notna().all()
    assert len(told) == 2 and all(str(kept.folder) in text for text in told)
    assert "make room there now" in told[0] and "2 records could not be saved" in told[1]
    assert not [*kept.folder.glob("*.json")] and not [*kept.folder.glob(".*")]


SPOILED_LINES = {
    "torn": lambda line: line[: len(line) // 2],
    "merge": lambda line: "<<<<<<< HEAD",
    "lfs": lambda line: "version https://git-lfs.github.com/spec/v1",
    "another run's": lambda line: line.replace('"seed": 0', '"seed": 7'),
    "a list": lambda line: "[1]",
    "deep": lambda line: "[" * 100_000,
    "no text": lambda line: "\udcff\udcfe",
}


@pytest.mark.parametrize("fault", SPOILED_LINES)
def test_a_damaged_line_is_skipped_and_named_and_the_others_serve(tmp_path, fault):
    kept, wanted = store(tmp_path), specs(3)
    for spec in wanted:
        kept.put(made(spec))
    lines = kept.release(wanted, "fig9").read_text().splitlines()
    for spec in wanted:
        kept.path(spec.id).unlink()
    lines[1] = SPOILED_LINES[fault](lines[1])
    text = "\ufeff" + "\r\n".join([*lines, "   ", ""])
    file = kept.released / "fig9.jsonl"
    file.write_bytes(text.encode(errors="surrogateescape"))
    (kept.released / "folder.jsonl").mkdir()
    (kept.released / "gone.jsonl").symlink_to("nowhere")
    os.mkfifo(kept.released / "pipe.jsonl")
    with pytest.warns(UserWarning) as seen:
        assert kept.get(wanted[1].id) is None
    (told,) = [str(warning.message) for warning in seen]
    assert "4 damaged lines or files" in told and f"{file}, line 2: " in told
    with warnings.catch_warnings():  # told once
        warnings.simplefilter("error")
        assert kept.get(wanted[0].id) and kept.get(wanted[2].id)
    # released again, what was damaged is kept
    kept.put(made(wanted[1]))
    kept.release(wanted, "fig9")
    assert (kept.released / "fig9.jsonl.damaged").read_bytes() == text.encode(
        errors="surrogateescape"
    )
    assert set(kept.released_records()) == {spec.id for spec in wanted}


def changed(record, **result):
    return record | dict(result=record["result"] | result)


def spoiled(record):
    """Records that are none, by what is wrong."""
    spec = record["spec"]
    yield from (
        changed(record, **{name: value})
        for name in ("best", "final")
        for value in (math.nan, math.inf, "99", [1], 250.0, -1, True, {})
    )
    yield from (changed(record, score=[value]) for value in (math.nan, "5", 250, [1]))
    yield from (changed(record, loss=value) for value in ([math.inf], ["1"], 3, "abc"))
    for name in ("schema", "id", "spec", "status", "result", "parameters", "seconds", "chance"):
        yield {key: value for key, value in record.items() if key != name}
    for name in ("parameters", "multiply_adds"):
        yield from (record | {name: value} for value in (None, -1, "5", math.nan, [1]))
    yield from (record | dict(schema=value) for value in (0, 2, "1", True, None, 1.0))
    yield from (record | dict(id=value) for value in ("x", None, "0" * 64))
    yield from (record | dict(spec=value) for value in (None, [], spec | dict(seed=9), {}))
    yield from (record | dict(status=value) for value in ("failed", None, 1))
    yield from (record | dict(provenance=value) for value in (None, {}, {"date": 5}))
    yield from (record | dict(seconds=value) for value in (math.nan, "1", None))
    yield from (record | dict(constant=value) for value in (math.nan, 101, "1"))
    yield from (record | dict(untrained=value) for value in ([1], dict(naswot="x")))
    yield from ([], None, 5, "record", {})


def test_records_of_the_store_and_released_ones_pass_the_same_check(tmp_path):
    kept, (spec,) = store(tmp_path), specs(1)
    record, count = made(spec), 0
    kept.released.mkdir()
    for count, wrong in enumerate(spoiled(record), 1):
        with pytest.raises((ValueError, TypeError)):
            kept.put(wrong)
        kept.path(spec.id).parent.mkdir(exist_ok=True)
        kept.path(spec.id).write_text(json.dumps(wrong))
        with pytest.warns(UserWarning, match="set aside"):
            assert kept.get(spec.id) is None, wrong
        file = kept.released / f"{count}.jsonl"
        file.write_text(json.dumps(wrong))
        with pytest.warns(UserWarning, match=f"{count}.jsonl, line 1"):
            assert kept.get(spec.id) is None, wrong
        file.unlink()
    assert count > 60
    kept.put(record)
    assert kept.get(spec.id) == json.loads(json.dumps(record))


def test_all_released_records_pass_the_check():
    for file in RELEASED.glob("*.jsonl"):
        for record in released(file.stem):
            study.records.check_record(record, record["id"])


def test_only_identities_name_files(tmp_path):
    kept = store(tmp_path)
    (tmp_path / "evil.json").write_text("{}")
    for id in ("../evil", "../../evil", "", "x", "/etc/passwd", None, "A" * 64, "0" * 64 + "\n"):
        for look in (kept.get, kept.path, kept.checkpoint, kept.own):
            with pytest.raises(ValueError, match="id=.*64 hex digits"):
                look(id)
    assert (tmp_path / "evil.json").read_text() == "{}"


def test_a_store_stays_where_it_is_when_the_working_folder_changes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    kept = study.Store("records", released="released")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    kept.put(made(specs(1)[0]))
    assert kept.get(specs(1)[0].id) and len([*(tmp_path / "records").glob("*.json")]) == 1
    monkeypatch.setenv("HOME", str(tmp_path))
    assert study.Store("~/records").own(specs(1)[0].id)


@contextmanager
def somebody_else():
    """Who may write everywhere is a user who may not."""
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(user)


def test_a_store_that_cannot_be_written_can_be_read(tmp_path):
    kept, (spec, other) = store(tmp_path), specs(2)
    kept.put(made(spec))
    kept.path(other.id).write_text("{")
    folder = Path(tempfile.mkdtemp())  # that others can read, as those of a test cannot be
    shutil.copytree(kept.folder, folder / "records")
    folder.chmod(0o755)
    (folder / "records").chmod(0o555)
    try:
        with somebody_else():
            there = study.Store(folder / "records", released=folder)
            assert there.get(spec.id)["id"] == spec.id
            with pytest.warns(UserWarning, match=f"{other.id}.json: not a record.*skipped"):
                assert there.get(other.id) is None
            assert study.Store(folder / "nowhere", released=folder).get(spec.id) is None
            with pytest.raises(OSError, match="cannot write there"):
                study.collect([other], store=there)
        assert not (folder / "nowhere").exists()
    finally:
        (folder / "records").chmod(0o755)
        shutil.rmtree(folder)


def test_simultaneous_readers_of_a_damaged_record_all_find_none(tmp_path):
    kept, (spec,) = store(tmp_path), specs(1)
    kept.put(made(spec))
    with ThreadPoolExecutor(8) as threads, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for _ in range(30):
            kept.path(spec.id).write_text("{")
            found = list(threads.map(kept.get, [spec.id] * 8))
            assert found == [None] * 8


def test_what_dead_processes_left_is_cleared_away_and_nothing_else(tmp_path):
    kept, (spec, other) = store(tmp_path), specs(2)
    kept.put(made(spec))
    checkpoints, old = kept.folder / "checkpoints", time.time() - 4000
    for folder, name in (
        (kept.folder / ".abcdefgh", f"{spec.id}.json"),
        (kept.folder / ".fresh___", f"{spec.id}.json"),
        (kept.folder / ".someones", "notes.txt"),
        (checkpoints / ".abcdefgh", f"{other.id}.pt"),
        (kept.released / ".abcdefgh", "fig9.jsonl"),
    ):
        folder.mkdir(parents=True)
        (folder / name).write_text("half")
        if folder.name != ".fresh___":
            os.utime(folder / name, (old, old)), os.utime(folder, (old, old))
    for name in (f"{spec.id}.pt", f"{spec.id}.pt.damaged", f"{other.id}.pt"):
        (checkpoints / name).write_text("a checkpoint")
    study.records.clear_left_overs(store(tmp_path))
    left = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert left == {
        f"records/{spec.id}.json",
        f"records/.fresh___/{spec.id}.json",
        "records/.someones/notes.txt",
        f"records/checkpoints/{other.id}.pt",
    }


def test_many_released_files_are_looked_up_as_fast_as_few(tmp_path):
    kept, wanted = store(tmp_path), specs(60)

    def seconds(files):
        for old in kept.released.glob("*"):
            old.unlink()
        for number in range(files):
            kept.release(wanted, f"file{number}")
        shutil.move(kept.folder, tmp_path / "away")
        kept.get(wanted[0].id)
        times = []
        for _ in range(3):
            start = time.process_time()
            assert all(kept.get(spec.id) for spec in wanted)
            times.append(time.process_time() - start)
        shutil.move(tmp_path / "away", kept.folder)
        return min(times)

    for spec in wanted:
        kept.put(made(spec))
    assert seconds(12) < 10 * seconds(8)


def test_equal_specs_have_one_identity():
    (spec,) = specs(1)
    equal = [
        replace(spec, width=np.int64(4)),
        replace(spec, seed=np.uint8(0)),
        replace(spec, depth=3.0),
        replace(spec, seed=torch.tensor(0)),
        replace(spec, recipe=replace(spec.recipe, weight_decay=0)),
        replace(spec, recipe=replace(spec.recipe, weight_decay=-0.0)),
        replace(spec, recipe=replace(spec.recipe, lr=np.float64(0.05), epochs=np.int32(2))),
        replace(spec, recipe=replace(spec.recipe, drop_path=Fraction(0))),
        replace(spec, data=replace(spec.data, image_size=np.int16(16), labels=np.False_)),
        replace(spec, options=()),
    ]
    for other in equal:
        assert other == spec and other.id == spec.id and json.dumps(other.to_dict())
        assert Spec.from_dict(json.loads(json.dumps(other.to_dict()))) == spec
    images, recipe = replace(spec.data, test_images=0), search.SearchRecipe(2, 10, 0.05)
    found = study.SearchSpec("cifar", 4, 3, images, "rot", "cifar", recipe, seed=0)
    whole = replace(found, recipe=replace(recipe, alpha_start=0, clip=5, alpha_betas=(0.5, 0.999)))
    assert replace(found, partial_channels=np.int64(1)).id == whole.id == found.id
    for options in ((("grid", np.int64(2)),), [("grid", 2)], dict(grid=2)):
        assert replace(spec, options=options).id == replace(spec, options=(("grid", 2),)).id


@pytest.mark.parametrize("value", [0.5, "4", None, math.nan, math.inf, [4], 1j])
def test_what_is_no_whole_number_is_no_seed_and_no_width(value):
    for name in ("seed", "width", "depth"):
        with pytest.raises(ValueError, match=f"{name}="):
            replace(specs(1)[0], **{name: value})


@pytest.mark.slow
def test_the_commit_is_that_of_this_package_or_none(tmp_path):
    """Installed inside somebody's own repository, and with a git that fails, hangs or is none."""
    code = """
        import os, sys, subprocess, time
        from datetime import UTC, datetime
        from pathlib import Path
        from unnas.study import records
        theirs, path = Path(sys.argv[1]), os.environ["PATH"]
        git = ["git", "-c", "user.name=n", "-c", "user.email=e", "-C", str(theirs)]
        def say(*words):
            subprocess.run([*git, *words], check=True)
        say("init", "-q"), say("add", ".gitignore"), say("commit", "-qm", "theirs")
        found = [records._commit()]
        for script in (None, "echo 123456789abc; exit 1", "echo 123456789abc; exec sleep 60"):
            if script:
                (theirs / "bin" / "git").write_text(f"#!/bin/sh\\n{script}\\n")
                (theirs / "bin" / "git").chmod(0o755)
            os.environ["PATH"] = str(theirs / "bin") + os.pathsep + "/nowhere" * (not script)
            os.environ["PATH"] += path * bool(script)
            found.append(records._commit())
        assert found == [dict(commit="", changed=False)] * 4, found
        os.environ["PATH"] = path
        say("add", "-f", "unnas"), say("commit", "-qm", "a copy that is theirs")
        assert len(records._commit()["commit"]) == 12 and not records._commit()["changed"]
        was, records._IMPORTED = records._commit()["commit"], datetime.now(UTC)
        time.sleep(1.1)  # git knows seconds
        (theirs / "unnas" / "registry.py").open("a").write("#")
        assert records._commit() == dict(commit=was, changed=True)
        say("commit", "-qam", "what was not imported")  # the code that runs is that of before
        assert records._commit() == dict(commit=was, changed=True)"""
    theirs = tmp_path / "theirs"
    (theirs / "bin").mkdir(parents=True)
    shutil.copytree(
        Path(study.__file__).parents[1],
        theirs / "unnas",
        ignore=shutil.ignore_patterns("__pycache__"),
    )
    (theirs / ".gitignore").write_text("unnas\n")
    subprocess.run(
        [sys.executable, "-B", "-c", textwrap.dedent(code), str(theirs)],
        env=os.environ | {"PYTHONPATH": str(theirs)},
        cwd=tmp_path,
        check=True,
    )


def test_the_processor_has_a_name_and_an_instruction_set():
    name, _, instructions = study.records._processor().rpartition(", ")
    assert instructions == torch.backends.cpu.get_cpu_capability()
    assert name not in ("", "x86_64") or not Path("/proc/cpuinfo").exists()


# ---- workers


def start_study(folder, body, *words):
    """A script that has `specs`, `study` and `store`; its process."""
    script = folder / "script.py"
    head = """
        import os, signal, sys
        from pathlib import Path
        sys.path.insert(0, sys.argv[1])
        from small import specs
        from unnas import study, tasks
        store = study.Store(Path(sys.argv[2]) / "records", released=Path(sys.argv[2]) / "released")
    """
    script.write_text(textwrap.dedent(head) + textwrap.dedent(body))
    return subprocess.Popen(
        [sys.executable, str(script), str(Path(__file__).parent), str(folder), *words],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    "body, words",
    [
        (
            """
            study.engines.ATTEMPTS = 1
            study.collect(specs(2), engine="processes", workers=1, store=store)
            """,
            ["__main__"],
        ),
        pytest.param(
            """
            if __name__ == "__mp_main__":
                os.kill(os.getpid(), signal.SIGKILL)
            if __name__ == "__main__":
                study.collect(specs(2), engine="processes", workers=1, store=store)
            """,
            ["SIGKILL", "memory"],
            marks=pytest.mark.long,
        ),
        (
            """
            if __name__ == "__main__":
                import types
                sys.modules["elsewhere"] = module = types.ModuleType("elsewhere")
                module.Mine = type("Mine", (tasks.rotation,), dict(__module__="elsewhere"))
                tasks.register("mine", module.Mine)
                study.collect(specs(2, "mine"), engine="processes", workers=1, store=store)
            """,
            ["No module named 'elsewhere'"],
        ),
    ],
    ids=["no main guard", "killed", "cannot import"],
)
def test_workers_that_cannot_begin_end_the_study_with_the_reason(tmp_path, body, words):
    process = start_study(tmp_path, body)
    _, error = process.communicate(timeout=300)
    assert process.returncode == 1
    last = error.strip().splitlines()[-1]
    assert "engine='processes'" in last and all(word in last for word in words), last


def living(pids):
    """Those of some processes that have not ended."""
    found = [Path(f"/proc/{pid}/stat") for pid in pids]
    return [path for path in found if path.exists() and " Z " not in path.read_text()]


@pytest.mark.slow
def test_workers_end_with_their_driver(tmp_path):
    body = """
        import time
        class Slow(tasks.rotation):
            def batch(self, *given):
                (Path(sys.argv[2]) / f"worker{os.getpid()}").touch()
                time.sleep(60)
        tasks.register("slow", Slow)
        if __name__ == "__main__":
            study.collect(specs(2, "slow"), engine="processes", workers=2, store=store)
        """
    process = start_study(tmp_path, body)
    while len(workers := [path.name[6:] for path in tmp_path.glob("worker*")]) < 2:
        assert process.poll() is None
        time.sleep(0.1)
    assert len(living(workers)) == 2
    process.kill()
    process.communicate()
    end = time.monotonic() + 60
    while living(workers):
        assert time.monotonic() < end
        time.sleep(0.1)


@pytest.mark.slow
def test_a_worker_killed_while_it_waits_or_answers_costs_no_other(tmp_path, quick_workers):
    work = study.engines._Run(None, tmp_path, 0, False)
    workers, wanted = study.engines._Workers(study.engines._message(work), 1), specs(2)
    record, _ = workers.compute(cloudpickle.dumps(wanted[0]))
    (worker,) = workers.living
    worker.process.kill()
    worker.process.join()
    start = time.monotonic()
    with pytest.raises(RuntimeError, match="a worker died.*SIGKILL"):
        workers.compute(cloudpickle.dumps(wanted[1]))
    assert time.monotonic() - start < 30 and not workers.living
    other, _ = workers.compute(cloudpickle.dumps(wanted[1]))
    assert (record["id"], other["id"]) == tuple(spec.id for spec in wanted)
    # half of an answer
    (worker,) = workers.living
    ours, theirs = multiprocessing.Pipe()
    os.write(theirs.fileno(), b"\0\0\1\0half")
    theirs.close()
    worker.pipe.close()
    worker.pipe = ours
    worker.process.kill()
    with pytest.raises(RuntimeError, match="a worker died"):
        worker.answer()
    workers.stop(kill=True)


@pytest.mark.slow
def test_a_run_that_another_process_computes_is_left_to_it(tmp_path):
    kept, wanted = store(tmp_path), specs(2)
    claim = study.engines._claim_of(kept, wanted[0].id)
    body = """
        if __name__ == "__main__":
            import fcntl
            claim = study.engines._claim_of(store, specs(1)[0].id)
            claim.parent.mkdir(parents=True)
            with claim.open("a") as file:
                fcntl.lockf(file, fcntl.LOCK_EX)
                print("claimed", flush=True)
                signal.pause()
        """
    other = start_study(tmp_path, body)
    try:
        assert other.stdout.readline() == "claimed\n"
        work = study.engines._Run(None, kept.folder, 0, False)
        found = list(study.engines.serial(wanted, work, None, lambda running: None))
        assert [outcome[2] for outcome in found] == [study.engines._ELSEWHERE, ""]
        kept.put(found[1][1])
        theirs = made(wanted[0], best=77.0)  # it comes while we wait
        threading.Timer(1.5, kept.put, [theirs]).start()
        assert study.collect(wanted, store=kept).best[0] == 77.0
        kept.path(wanted[0].id).unlink()
    finally:
        other.kill()
        other.communicate()
    # who held the claim is dead
    assert study.collect(wanted, store=kept).best[0] != 77.0 and not claim.exists()
    kept.put(theirs)  # it comes after the runs were listed
    (outcome,) = study.engines.serial(wanted[:1], work, None, lambda running: None)
    assert outcome[1]["result"]["best"] == 77.0


class Counted(tasks.rotation):
    """Writes a letter into a file when a training begins."""

    def __init__(self, folder, style="cifar"):
        super().__init__(style)
        self.folder, self.seen = folder, False

    def batch(self, images, labels, train, generator):
        if train and not self.seen:
            self.seen = True
            with open(self.folder / "trainings", "a") as file:
                file.write("x")
        return super().batch(images, labels, train, generator)


def counted_study(folder):
    tasks.register("counted", partial(Counted, folder))
    study.collect(specs(4, "counted"), store=store(folder))


@pytest.mark.slow
def test_studies_that_share_a_store_share_the_work(tmp_path):
    studies = [QUICK.Process(target=counted_study, args=(tmp_path,)) for _ in range(2)]
    for process in studies:
        process.start()
    for process in studies:
        process.join()
        assert process.exitcode == 0
    assert len(records(tmp_path)) == 4
    assert (tmp_path / "trainings").read_text() == "x" * 4


@pytest.mark.slow
def test_no_kill_at_any_moment_loses_doubles_or_changes_a_record():
    """Small; the long one is the same command with more kills."""
    words = ["-m", "tools.faults", "--kills", "5", "--engines", "serial"]
    found = subprocess.run(
        [sys.executable, *words],
        cwd=Path(__file__).parents[1],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert found.returncode == 0, found.stdout + found.stderr
    for words in ("0 lost", "0 doubled", "0 different", "0 damaged", "0 left"):
        assert words in found.stdout


def test_pictures_that_have_changed_are_another_data_set_in_the_same_process(tmp_path):
    noise = np.random.default_rng(0).integers(256, size=(130, 16, 16, 3), dtype=np.uint8)

    def listed():
        return study.searches(
            "laptop", datasets=["imagefolder"], tasks=["rot"], seeds=1, root=str(tmp_path)
        )[0].id

    found = []
    for turned in (noise, 255 - noise, noise):
        for number, pixels in enumerate(turned):
            Image.fromarray(pixels).save(tmp_path / f"{number}.png")
        found.append(listed())
    Image.fromarray(noise[0]).save(tmp_path / "more.png")
    assert found[0] == found[2] and len({*found, listed()}) == 3


def test_a_record_that_cannot_be_read_stays_where_it_is(tmp_path, monkeypatch):
    (spec,), kept = specs(1), store(tmp_path)
    path = kept.path(spec.id)
    path.parent.mkdir(parents=True)
    with socket.socket(socket.AF_UNIX) as end:  # opening one fails, as on a broken disk
        monkeypatch.chdir(path.parent)  # because the address of a socket is short
        end.bind(path.name)
        with pytest.raises(OSError, match="cannot be read.*may be as good as ever"):
            kept.get(spec.id)
    assert [file.name for file in path.parent.iterdir()] == [path.name]


class _Looks(tasks.rotation):
    name = "looks"
    seen = []

    def batch(self, images, labels, train, generator):
        self.seen.append(labels)
        return super().batch(images, labels, train, generator)


def _own(monkeypatch, name, **made):
    """A rotation task with other parts, registered for as long as the test lasts."""
    kind = type(name, (tasks.rotation,), dict(name=name) | made)
    monkeypatch.setattr(tasks._TASKS, "_things", dict(tasks._TASKS._things))
    tasks.register(name, kind)


def test_a_task_without_labels_sees_none_even_where_the_images_have_some(monkeypatch):
    monkeypatch.setattr(tasks._TASKS, "_things", dict(tasks._TASKS._things))
    tasks.register("looks", _Looks)
    [spec] = specs(1, task="looks")
    study.run(replace(spec, data=replace(spec.data, labels=True)))
    assert _Looks.seen and all(labels is None for labels in _Looks.seen)


def test_a_record_of_images_that_have_changed_is_not_an_answer(tmp_path):
    drawn = [3]

    def made(split, **_):
        pixels = np.random.default_rng(drawn[0]).integers(256, size=(40, 3, 16, 16), dtype=np.uint8)
        return data.TensorImages("drawn", split, torch.from_numpy(pixels))

    data.register("drawn", made)
    [spec] = specs(1)
    spec, kept = replace(spec, data=Data("drawn", 16, labels=False)), store(tmp_path)
    assert study.collect([spec], store=kept).status[0] == "done"
    drawn[0] = 4
    study.specs.load.cache_clear()
    with pytest.raises(
        ValueError, match="data='drawn': has changed since the record .*fingerprint="
    ):
        study.collect([spec], store=kept)
    now = replace(spec, data=replace(spec.data, fingerprint=study.specs.load(spec.data)[2]))
    assert study.collect([now], store=kept).status[0] == "done" and len(records(tmp_path)) == 2


def test_a_score_that_is_nan_in_one_epoch_loses_no_record(monkeypatch, tmp_path):
    values = iter([math.nan, 30.0, math.nan, 40.0])

    class Gathered:
        state = torch.zeros(1)

        def update(self, outputs, targets):
            pass

        def compute(self):
            return torch.tensor(next(values, 1.0))

    own = dict(metric=lambda task: Gathered(), constant=lambda task, targets: math.nan)
    _own(monkeypatch, "odd metric", **own)
    next(values)  # as the look at the outputs takes one
    [spec] = specs(1, task="odd metric")
    record = study.run(spec)
    assert record["result"]["score"] == [None, 40.0] and record["result"]["best"] == 40
    assert record["constant"] is None


@pytest.mark.parametrize(
    "made, words",
    [
        (dict(metric=lambda task: 3), "odd.*AttributeError"),
        (dict(constant=lambda task, targets: {}), "constant must give one number .*TypeError"),
        (dict(chance="a quarter"), "chance must give one number"),
    ],
)
def test_parts_of_a_task_that_give_no_number_are_told_before_the_training(made, words, monkeypatch):
    _own(monkeypatch, "odd", **made)
    [spec] = specs(1, task="odd")
    train_data, task = study.specs.load(spec.data)[0], tasks.get("odd")
    with pytest.raises((ValueError, AttributeError), match=words):
        train.fit(study.records.network_of(spec, task), task, train_data, train_data, spec.recipe)


def test_what_is_no_score_is_refused_and_one_that_fails_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(study.SCORES, "_things", dict(study.SCORES._things))
    with pytest.raises(ValueError, match="score"):
        study.register_score("s", lambda record: 1)
    with pytest.raises(ValueError, match="accuracy='nope': unknown"):
        study.register_score("s", study.Score(lambda record: 1, "u", accuracy="nope"))
    study.register_score("s", study.Score(lambda record: record["nope"], "u"))
    with pytest.raises(ValueError, match="score='s': fails on the record .*KeyError: 'nope'"):
        study.collect(specs(1), store=store(tmp_path))
    assert len(records(tmp_path)) == 1


@pytest.mark.parametrize("value", [lambda x: x, math.nan, {"a": 1}])
def test_options_that_cannot_be_written_down_are_named(value):
    with pytest.raises(ValueError, match="options: f=.* cannot be written down in a spec"):
        specs(1, options=dict(f=value))


@pytest.mark.parametrize("options", [dict(gird=2), dict(num_classes=3)])
def test_options_that_a_task_has_not_are_told_before_the_run(options):
    [spec] = specs(1, task="jig", options=options)
    with pytest.raises(
        ValueError, match="options=.* are none of task 'jig' .*; pass its own: grid"
    ):
        study.run(spec)
    with pytest.raises(ValueError, match="options=.* has a name twice; name it once"):
        specs(1, task="jig", options=[("grid", 2), ("grid", 3)])
    with pytest.raises(ValueError, match="grid='2': must be 2"):
        tasks.get("jig", grid="2")


@pytest.mark.parametrize("seeds", [{1, 0}, np.array([0, 1]), range(2), iter([0, 1])])
def test_seeds_are_a_list_of_any_kind(seeds):
    wanted = study.searches("smoke", tasks=["rot"], seeds=seeds, look=False)
    assert sorted({spec.seed for spec in wanted}) == [0, 1]


def test_specs_of_another_version_are_told_what_is_wrong():
    [spec] = specs(1)
    known = spec.to_dict()
    for change, words in (
        (dict(later=1), "spec: has later, which this version does not know"),
        (dict(recipe=known["recipe"] | dict(zz=1)), "recipe: has zz, which this"),
        (dict(data={}), "data: lacks name"),
        (dict(data=3), "data=3: must be a dictionary"),
    ):
        with pytest.raises(ValueError, match=words):
            Spec.from_dict(known | change)
    with pytest.raises(ValueError, match="spec: lacks width"):
        Spec.from_dict({name: value for name, value in known.items() if name != "width"})


def test_a_space_must_give_as_many_different_architectures_as_are_asked_for(monkeypatch):
    monkeypatch.setattr(spaces.SPACES, "_things", dict(spaces.SPACES._things))
    (one,) = darts.sample(1, 0)
    for name, sample in (("few", lambda n, seed: []), ("dup", lambda n, seed: [one] * n)):
        spaces.register(name, replace(spaces.SPACES["darts"], title=name, sample=sample))
        with pytest.raises(ValueError, match=f"space='{name}': sample.3, .*must give 3 different"):
            study.lists._architectures(name, 3, None, 0)


def test_more_runs_than_anybody_lists_are_refused():
    with pytest.raises(ValueError, match="these would be 32,000,000,000 runs"):
        study.specs_of(study.grid("fig2", "smoke"), architectures=2, seeds=2 * 10**9, look=False)


def test_a_released_run_of_two_results_is_told(tmp_path):
    kept = store(tmp_path)
    study.collect(specs(1), store=kept)
    [record] = [json.loads(path.read_text()) for path in kept.folder.glob("*.json")]
    other = record | dict(result=record["result"] | dict(best=99.0))
    again = record | dict(seconds=1e6)  # made twice, with the same result
    lines = {"a": [record, again], "b": [other], "c": [record, other]}
    for name, chosen in lines.items():
        text = "".join(json.dumps(line) + "\n" for line in chosen)
        (tmp_path / f"{name}.jsonl").write_text(text)
    for names, words in (
        (["a", "b"], "1 runs have two results.*a.jsonl and b"),
        (["c"], "line 2: an"),
    ):
        with pytest.warns(UserWarning, match=words):
            found = study.records._records_in([tmp_path / f"{name}.jsonl" for name in names])
        assert found[record["id"]] == record


def test_the_class_of_a_task_is_that_of_what_a_function_makes(monkeypatch):
    monkeypatch.setattr(tasks._TASKS, "_things", dict(tasks._TASKS._things))
    tasks.register(
        "sup", lambda num_classes, style="cifar": tasks.classification(num_classes, style)
    )
    tasks.register("twos", partial(tasks.jigsaw, grid=2))
    tasks.register("none", lambda style: 3)
    assert tasks.labels_of("sup") is True and tasks.class_of("twos") is tasks.jigsaw
    assert tasks.class_of("none") is tasks.Task


@pytest.mark.parametrize("between", [False, True])
def test_a_run_whose_pictures_change_has_no_record(tmp_path, monkeypatch, between):
    def paint(seed):
        noise = np.random.default_rng(seed).integers(256, size=(40, 16, 16, 3), dtype=np.uint8)
        for number, pixels in enumerate(noise):
            Image.fromarray(pixels).save(tmp_path / f"{number}.png")

    def meanwhile(*arguments, **options):
        paint(1)
        return fit(*arguments, **options)

    paint(0)
    fit, root = train.fit, str(tmp_path)
    spec = replace(specs(1)[0], data=Data("imagefolder", 16, labels=False))
    study.specs.load(spec.data, root)
    os.utime(tmp_path / "0.png", (1e9, 1e9))  # the same picture
    if between:
        paint(1)
    else:
        monkeypatch.setattr(train, "fit", meanwhile)
    with pytest.raises(study.specs.OtherImages, match="have changed since they were read: .*; run"):
        study.run(spec, root=root)
    assert study.run(spec, root=root)["status"] == "done"
