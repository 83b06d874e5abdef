"""The training loop: every task, resumption, several processes, and data that come from files."""

import os
import random
import subprocess
import sys
import textwrap
import warnings
from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torchvision.transforms import v2

from unnas import data, search, tasks, train
from unnas.spaces import darts, nasbench101
from unnas.train import Recipe


def objects(count=60, labels=False):
    both = [
        data.load("synthetic-objects", split, image_size=16, num_images=count)
        for split in ("train", "test")
    ]
    return both if labels else [images.unlabeled() for images in both]


def network(task, space="darts", seed=0):
    torch.manual_seed(seed)
    if space == "darts":
        return darts.build(darts.sample(1, seed=3)[0], task, stem="cifar", width=4, depth=3)
    return nasbench101.build(
        nasbench101.sample(1, seed=3)[0], task, stem="cifar", width=8, cells_per_stack=1
    )


def python(script, *arguments, launcher=()):
    """Run `script` in a process of its own; what it printed."""
    done = subprocess.run(
        [
            sys.executable,
            *launcher,
            "-c" if not launcher else script,
            *([script] if not launcher else []),
            *arguments,
        ],
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"},
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_the_learning_rate_is_a_cosine_after_a_linear_warm_up():
    sample = Recipe(epochs=5, batch_size=32, lr=0.0125)
    rates = [train.learning_rate(sample, epoch) for epoch in range(5)]
    assert rates == pytest.approx([0.0125, 0.011306, 0.008181, 0.004319, 0.001194], abs=5e-7)
    evaluation = Recipe(epochs=250, batch_size=1024, lr=0.5, warmup_epochs=5)
    for epoch in np.linspace(0, 250, 60):
        cosine = 0.25 * (1 + np.cos(np.pi * epoch / 250))
        warm = np.interp(epoch, [0, 5], [0.1, 1])
        assert train.learning_rate(evaluation, epoch) == pytest.approx(cosine * warm, rel=1e-12)


@pytest.mark.parametrize(
    "change, reason",
    [
        (dict(epochs=0), "epochs=0: must be a whole number of at least 1"),
        (dict(batch_size=0), "batch_size=0: must be a whole number of at least 1"),
        (dict(test_batch_size=0), "test_batch_size=0: must be a whole number of at least 1"),
        (dict(lr=0), "lr=0: must be a number above 0"),
        (dict(clip=0), "clip=0: must be a number above 0, or None"),
        (dict(warmup_epochs=5), "warmup_epochs=5: must be less than epochs=5"),
        (dict(schedule="linear"), "schedule='linear': unknown; choose one of epoch, step"),
        (dict(precision="fp8"), "precision='fp8': unknown; choose one of auto, float32, bf16"),
        (dict(precise_bn=16), "precise_bn=16: fewer images than one batch of 32"),
    ],
)
def test_a_recipe_out_of_range_is_refused(change, reason):
    with pytest.raises(ValueError, match=reason):
        Recipe(**dict(epochs=5, batch_size=32, lr=0.1) | change)


def test_a_checkpoint_is_whole_and_belongs_to_its_run(tmp_path):
    acc, path = train.accelerator("float32"), tmp_path / "new" / "run.pt"
    for nothing in (None, path):
        assert train.load_checkpoint(nothing, "a", acc, dict) is None
    train.save_checkpoint(path, "a", dict(step=1), acc)
    with pytest.raises(AttributeError):  # a state that cannot be written leaves the last one
        train.save_checkpoint(path, "a", dict(step=lambda: 2), acc)
    assert train.load_checkpoint(path, "a", acc, dict) == dict(identity="a", step=1)
    assert [file.name for file in path.parent.iterdir()] == ["run.pt"]
    with pytest.raises(ValueError, match="belongs to another run .a.; remove it"):
        train.load_checkpoint(path, "b", acc, dict)


@pytest.mark.slow
@pytest.mark.parametrize("space", ["darts", "nasbench101"])
@pytest.mark.parametrize("name", ["cls", "rot", "col", "jig"])
def test_one_loop_trains_every_task(name, space):
    train_data, test_data = objects(labels=name == "cls")
    task = tasks.get(name, **({"num_classes": 10} if name == "cls" else {}))
    history = train.fit(
        network(task, space), task, train_data, test_data, Recipe(epochs=4, batch_size=20, lr=0.02)
    )
    assert (
        history.loss[-1] < history.loss[0]
        and 0 <= history.final <= history.best <= 100
        and not history.diverged
    )


def test_the_learning_rate_changes_every_step_if_asked():
    train_data, test_data = objects()
    task, losses = tasks.rotation(), {}
    for schedule in ("epoch", "step"):
        recipe = Recipe(epochs=1, batch_size=20, lr=0.05, schedule=schedule)
        losses[schedule] = train.fit(network(task), task, train_data, test_data, recipe).loss
    assert losses["epoch"] != losses["step"]


@pytest.mark.slow
def test_auxiliary_head_drop_path_smoothing_and_clipping_reach_the_loss():
    train_data, test_data = [images.resized(32) for images in objects(40)]
    task, seen = tasks.rotation(), []
    for change in (
        {},
        {"auxiliary_weight": 0.4},
        {"drop_path": 0.5},
        {"label_smoothing": 0.1},
        {"clip": 0.01},
        {"weight_decay": 0.1},
    ):
        recipe = Recipe(epochs=2, batch_size=20, lr=0.05, **change)
        torch.manual_seed(0)
        net = darts.build(
            darts.sample(1, seed=3)[0],
            task,
            stem="cifar",
            width=4,
            depth=3,
            auxiliary=recipe.auxiliary_weight > 0,
            drop_path=recipe.drop_path,
        )
        seen.append(train.fit(net, task, train_data, test_data, recipe).loss[1])
    assert len(set(seen)) == len(seen)


def test_evaluation_scores_every_image_once_whatever_the_batch_size():
    _, test_data = objects()
    task = tasks.rotation()
    net = network(task)
    acc = train.accelerator("float32")  # in bf16 a GPU rounds otherwise in another batch
    assert (
        len(
            {
                round(train.evaluate(net, task, test_data, batch_size=size, acc=acc), 6)
                for size in (7, 20, 60)
            }
        )
        == 1
    )


def test_precise_statistics_are_those_of_training_images():
    train_data, test_data = objects()
    task = tasks.rotation()
    with_, without = network(task), network(task)
    for net, images in ((with_, 40), (without, 0)):
        train.fit(
            net,
            task,
            train_data,
            test_data,
            Recipe(epochs=1, batch_size=20, lr=0.05, precise_bn=images),
        )
    assert torch.equal(next(with_.parameters()), next(without.parameters()))
    assert not torch.equal(with_.stem.conv[1].running_var, without.stem.conv[1].running_var)


def test_a_folder_of_images_trains_at_the_size_of_imagenet_whatever_the_number_of_workers(tmp_path):
    rng = np.random.default_rng(0)
    for split, count in (("train", 6), ("val", 2)):
        for wnid in ("n01", "n02"):
            (tmp_path / split / wnid).mkdir(parents=True)
            for i in range(count):
                Image.fromarray(rng.integers(0, 255, (70 + 9 * i, 90, 3), dtype=np.uint8)).save(
                    tmp_path / split / wnid / f"{i}.jpg"
                )
    histories = []
    for workers in (0, 2):
        task = tasks.jigsaw(3, style="imagenet")
        train_data, test_data = (
            data.load("imagenet", split, root=tmp_path, image_size=96, crop=task.crop).unlabeled()
            for split in ("train", "test")
        )
        torch.manual_seed(0)
        net = darts.build(darts.sample(1, seed=3)[0], task, stem="imagenet", width=4, depth=3)
        histories.append(
            train.fit(
                net,
                task,
                train_data,
                test_data,
                Recipe(epochs=1, batch_size=6, lr=0.05),
                decoders=workers,
            )
        )
    assert histories[0].loss == histories[1].loss and histories[0].score == histories[1].score
    assert np.isfinite(histories[0].loss).all()


def test_a_batch_larger_than_the_data_and_a_task_without_its_labels_are_refused():
    train_data, test_data = objects(10)
    with pytest.raises(ValueError, match="batch_size=20.*10 images"):
        train.fit(
            network(tasks.rotation()),
            tasks.rotation(),
            train_data,
            test_data,
            Recipe(epochs=1, batch_size=20, lr=0.05),
        )
    task = tasks.classification(10)
    with pytest.raises(ValueError, match="task='cls'.*pretext"):
        train.fit(
            network(task), task, train_data, test_data, Recipe(epochs=1, batch_size=5, lr=0.05)
        )


def test_a_task_that_knows_images_by_heart_refuses_images_that_are_cropped_anew(tmp_path):
    for i in range(8):
        Image.fromarray(
            np.random.default_rng(i).integers(0, 255, (20, 24, 3), dtype=np.uint8)
        ).save(tmp_path / f"{i}.png")
    folder, task = data.load("imagefolder", root=tmp_path, image_size=16), tasks.random_labels()
    streets = data.load("synthetic-streets", num_images=4, image_size=16, crop="scale")
    for images in (folder, folder.unlabeled(), streets):
        with pytest.raises(ValueError) as error:
            train.check_labels(task, images)
        assert (
            str(error.value)
            == f"task='rnd': an image must be the same in each epoch, and those of {images.name}"
            " are cropped anew; use a data set of images in memory, such as cifar10"
        )
    with pytest.raises(ValueError, match="task='rnd'.*imagefolder.*cropped anew"):
        train.fit(network(task), task, folder, folder, Recipe(epochs=1, batch_size=4, lr=0.05))
    for images in (
        folder.whole(),
        streets.whole(),
        objects(10)[0],
        data.load("noise", num_images=10),
    ):
        train.check_labels(task, images)
    train.check_labels(tasks.rotation(), folder)


def test_circumstances_are_what_a_recipe_leaves_open():
    assert train.circumstances("float32") == dict(precision="float32", processes=1)
    if not torch.cuda.is_available():
        assert train.circumstances() == train.circumstances("float32")
    # one run after the other
    assert (
        train.circumstances("bf16")["precision"] == "bf16"
        and train.circumstances("float32")["precision"] == "float32"
    )


@pytest.mark.slow
def test_bf16_trains():
    """Precision belongs to a process, so this has one of its own."""
    out = python(
        textwrap.dedent(
            """
        import torch
        from unnas import data, tasks, train
        from unnas.spaces import darts
        a, b = (
            data.load("synthetic-objects", split, image_size=16, num_images=40).unlabeled()
            for split in ("train", "test")
        )
        task = tasks.rotation()
        torch.manual_seed(0)
        net = darts.build(darts.sample(1, seed=3)[0], task, stem="cifar", width=4, depth=3)
        kinds = set()
        net.cells[0].newer.pointwise.register_forward_hook(lambda m, i, o: kinds.add(o.dtype))
        recipe = train.Recipe(epochs=2, batch_size=20, lr=0.05, precision="bf16")
        print(train.fit(net, task, a, b, recipe).loss, kinds)"""
        )
    )
    assert "bfloat16" in out and "nan" not in out


@pytest.mark.slow
def test_two_processes_hold_the_same_weights_and_count_each_test_image_once(tmp_path):
    script = tmp_path / "two.py"
    script.write_text(
        textwrap.dedent("""
        import sys, torch
        from unnas import data, tasks, train
        from unnas.spaces import darts

        def network(task):
            torch.manual_seed(0)
            return darts.build(darts.sample(1, seed=3)[0], task, stem="cifar", width=4, depth=3)

        a, b = (
            data.load("synthetic-objects", split, image_size=16, num_images=n).unlabeled()
            for split, n in (("train", 40), ("test", 31))
        )
        task = tasks.rotation()
        net = network(task)
        history = train.fit(net, task, a, b, train.Recipe(epochs=1, batch_size=20, lr=0.05))
        streets = tasks.segmentation(19, 8, (1, 2))
        scenes = data.load("synthetic-streets", "test", image_size=32, num_images=5)
        scenes = scenes.with_maps().whole()
        seg = network(streets)
        acc = train.accelerator()
        both, alone = train.evaluate(seg, streets, scenes, batch_size=2, acc=acc), streets.metric()
        with torch.no_grad():
            for images, maps in scenes.batches(1):
                inputs, targets = streets.batch(images, maps, False, None)
                alone.update(seg(inputs), targets)
        found = dict(
            weights=[p.detach() for p in net.parameters()],
            loss=history.loss,
            score=history.score,
            iou=(both, alone.compute()),
            how=train.circumstances("float32"),
        )
        torch.save(found, f"{sys.argv[1]}/{acc.process_index}.pt")""")
    )
    python(
        str(script),
        str(tmp_path),
        launcher=["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"],
    )
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1))
    assert all(torch.equal(a, b) for a, b in zip(first["weights"], second["weights"]))
    assert first["loss"] == second["loss"] and first["score"] == second["score"]
    assert first["how"] == second["how"] == dict(precision="float32", processes=2)
    # a whole number of 124 answers
    assert first["score"][0] * 31 * 4 / 100 == pytest.approx(
        round(first["score"][0] * 31 * 4 / 100)
    )
    # one matrix over both, of odd many scenes
    assert first["iou"] == second["iou"] and first["iou"][0] == pytest.approx(first["iou"][1])


@pytest.mark.slow
def test_full_resolution_is_evaluated_in_bounded_memory(tmp_path):
    """One scene of 1024 x 2048 pixels; measured in a process of its own, for the peak of a process
    never falls.
    """
    for split in ("train", "val"):
        for kind, name in (("leftImg8bit", "leftImg8bit"), ("gtFine", "gtFine_labelTrainIds")):
            (tmp_path / kind / split / "city").mkdir(parents=True)
            size = (2048, 1024)
            image = (
                Image.new("RGB", size, (90, 90, 90))
                if kind == "leftImg8bit"
                else Image.new("L", size, 0)
            )
            image.save(tmp_path / kind / split / "city" / f"city_000000_000000_{name}.png")
    out = python(
        textwrap.dedent("""
        import resource, sys, torch
        from unnas import data, paper, tasks, train
        from unnas.spaces import darts
        torch.set_num_threads(1)
        task = tasks.segmentation(19)
        scenes = data.load("cityscapes", "test", root=sys.argv[1]).with_maps().whole()
        genotype = darts.Genotype.from_dict(paper.GENOTYPES["darts"])
        network = darts.build(genotype, task, stem="imagenet", width=16, depth=12)
        network.to(memory_format=torch.channels_last)
        peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        before = peak()
        score = train.evaluate(network, task, scenes, batch_size=1)
        print(score, peak() - before)"""),
        str(tmp_path),
    )
    score, mebibytes = map(float, out.split())
    assert 0 <= score <= 100 and mebibytes < 1024


def other_start(change):
    """What `fit` is called with, but for one change."""
    task, pictures = tasks.rotation(), data.load("synthetic-objects", image_size=16, num_images=48)
    given = dict(task=task, images=pictures.unlabeled(), recipe=Recipe(3, 16, 0.05), seed=0)
    given["network"] = network(task)
    if change == "network":
        given["network"] = darts.build(darts.sample(2, 3)[1], task, stem="cifar", width=4, depth=3)
    if change == "seed":
        given["seed"] = 1
    if change == "epochs":
        given["recipe"] = Recipe(4, 16, 0.05)
    if change == "rate":
        given["recipe"] = Recipe(3, 16, 0.1)
    if change == "images":
        given["images"] = data.load("synthetic-objects", image_size=16, num_images=47).unlabeled()
    if change == "pools":
        for cell in given["network"].cells:
            for place, edge in enumerate(cell.edges):
                if isinstance(edge, torch.nn.MaxPool2d):
                    pool = torch.nn.AvgPool2d(3, edge.stride, 1, count_include_pad=False)
                    cell.edges[place] = pool
    if change in ("task", "colors"):
        given["task"] = tasks.jigsaw(2, normalize=change == "colors")
        given["network"] = network(given["task"])
    if change == "style":
        given["task"] = tasks.rotation("imagenet")
    if change == "weights":  # of a script that did not seed them: those of the file count
        given["network"].head.linear.bias.data += 1
    if change == "frozen":
        given["network"].head.requires_grad_(False)
    return given


def start(path, change=None):
    given = other_start(change)
    return train.fit(
        given["network"],
        given["task"],
        given["images"],
        given["images"],
        given["recipe"],
        seed=given["seed"],
        checkpoint=path,
    )


def test_a_finished_run_goes_on_from_its_end_and_no_other_run_does(tmp_path):
    first = start(tmp_path / "run.pt")
    again = start(tmp_path / "run.pt")
    assert (first.loss, first.score) == (again.loss, again.score) and len(again.loss) == 3
    others = ["network", "seed", "epochs", "rate", "images", "pools", "task"]
    assert start(tmp_path / "run.pt", "weights").loss == first.loss
    for change in (*others, "style", "frozen"):
        with pytest.raises(ValueError, match=r"checkpoint=.*belongs to another run"):
            start(tmp_path / "run.pt", change)
    start(tmp_path / "jigsaw.pt", "task")
    with pytest.raises(ValueError, match=r"checkpoint=.*belongs to another run"):
        start(tmp_path / "jigsaw.pt", "colors")


@pytest.mark.parametrize("place", [0, 1])
def test_labels_without_an_output_are_refused_before_the_first_epoch(place):
    parts = [
        data.TensorImages(
            "mine",
            split,
            torch.zeros(40, 3, 16, 16, dtype=torch.uint8),
            torch.arange(40) % (3 if number == place else 2),
            tuple("abc"),
        )
        for number, split in enumerate(("train", "test"))
    ]
    task = tasks.classification(2)
    with pytest.raises(ValueError, match=f"has 2 classes, from 0, and mine .{parts[place].split}"):
        train.fit(network(task, "darts"), task, *parts, train.Recipe(1, 20, 0.05))


def test_a_test_split_without_labels_is_refused_before_the_first_epoch():
    images = data.load("synthetic-objects", "train", image_size=16, num_images=40)
    task = tasks.classification(10)
    with pytest.raises(ValueError, match="needs labels, and these data have none"):
        train.fit(
            network(task, "darts"), task, images, images.unlabeled(), train.Recipe(1, 20, 0.05)
        )


def test_a_checkpoint_is_a_file_below_the_home_folder_if_asked(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "me"))
    monkeypatch.chdir(tmp_path)
    images = data.load("synthetic-objects", num_images=40, image_size=8).unlabeled()
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 8 * 8, 4))
    given = network, tasks.rotation(), images, images, Recipe(1, 20, 0.05)
    train.fit(*given, checkpoint="~/runs/a.pt")
    assert (tmp_path / "me/runs/a.pt").is_file() and not (tmp_path / "~").exists()
    (tmp_path / "kept").mkdir()
    with pytest.raises(ValueError, match="is a folder; name a file in it"):
        train.fit(*given, checkpoint=tmp_path / "kept")
    assert [path.name for path in tmp_path.iterdir()] == ["me", "kept"]


@pytest.mark.parametrize(
    "made, words",
    [
        (None, "inputs and targets, two tensors"),
        (torch.zeros(2, 3, 8, 8), "inputs and targets, two tensors"),
        ((torch.zeros(2, 3, 8, 8), [0, 1]), "inputs and targets, two tensors"),
        ((torch.zeros(2, 3, 8, 8, dtype=torch.uint8), torch.zeros(2)), "needs floating point"),
    ],
)
def test_a_task_that_makes_no_batch_is_told_before_training(made, words):
    class Odd(tasks.rotation):
        name = "odd"

        def batch(self, images, labels, train, generator):
            return made

    images = data.load("synthetic-objects", num_images=20, image_size=8).unlabeled()
    with pytest.raises(ValueError, match=f"task='odd': batch.*{words}"):
        train.check_data(Odd(), images, Recipe(1, 10, 0.05))


def _mean(task, outputs, targets, label_smoothing=0.0):
    return torch.nn.functional.cross_entropy(outputs, targets)


@pytest.mark.parametrize(
    "loss, score, words",
    [
        (
            lambda *given: _mean(*given).detach(),
            None,
            "one number to differentiate.*tensor \\(\\) without a gradient",
        ),
        (
            lambda *given: _mean(*given).item(),
            None,
            "one number to differentiate, and returns 1[.]",
        ),
        (
            lambda task, o, t, s: o.sum(1),
            None,
            "one number.*tensor \\(8,\\) for outputs \\(8, 4\\)",
        ),
        (
            lambda task, o, t: o.sum(),
            None,
            "loss.. is called with outputs .*label smoothing, and fails",
        ),
        (
            _mean,
            lambda task, o, t: 0.5,
            "score.. is called with outputs .*targets \\(8,\\), and fails",
        ),
        (_mean, lambda task, o, t: o == t, "score.. is called with .*must match the size"),
    ],
)
def test_a_task_that_makes_no_loss_or_score_is_told_before_training(loss, score, words):
    own = dict(name="odd", loss=loss, score=score or tasks.rotation.score)
    task = type("Odd", (tasks.rotation,), own)()
    images = data.load("synthetic-objects", num_images=20, image_size=8).unlabeled()
    with pytest.raises(ValueError, match=f"task='odd': .*{words}"):
        train.fit(network(task), task, images, images, Recipe(1, 10, 0.05))
    supernet = search.Supernet(task, stem="cifar", width=4, depth=3)
    with pytest.raises(ValueError, match=f"task='odd': .*{words}"):
        search.check(supernet, task, images, search.SearchRecipe(1, 5, 0.05))


def test_looking_at_outputs_changes_nothing():
    task = tasks.rotation()
    images = data.load("synthetic-objects", num_images=20, image_size=8).unlabeled()
    net = network(task)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    state = torch.random.get_rng_state()
    train.check_outputs(net.eval(), task, *train.check_batch(task, images))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())
    assert all(part.grad is None for part in net.parameters())


def test_gray_images_have_no_colors_to_learn():
    drawn = data.load("synthetic-objects", num_images=20, image_size=16)
    gray = drawn.images.float().mean(1, keepdim=True).byte().expand(-1, 3, -1, -1)
    images, task = data.TensorImages("gray", "train", gray), tasks.get("col")
    with pytest.warns(UserWarning, match="task='col': all of 16 images .* are gray, so there are"):
        train.check_batch(task, images)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        train.check_batch(task, drawn.unlabeled())
        train.check_batch(tasks.get("rot"), images)


def test_a_task_of_ones_own_that_has_changed_is_another_run(tmp_path):
    images = data.load("synthetic-objects", num_images=20, image_size=8).unlabeled()

    def made(factor, **held):
        class Mine(tasks.rotation):
            name = "mine"

            def loss(self, outputs, targets, label_smoothing=0.0):
                return factor * super().loss(outputs, targets)

        own = Mine()
        vars(own).update(held)
        return own

    def run(task):
        return train.fit(
            network(task), task, images, images, Recipe(1, 10, 0.05), checkpoint=tmp_path / "a.pt"
        )

    first = run(made(1, weights={"a": 1.0}))
    assert run(made(1, weights={"a": 1.0})).loss == first.loss
    for other in (made(2, weights={"a": 1.0}), made(1, weights={"a": 5.0})):
        with pytest.raises(ValueError, match="belongs to another run"):
            run(other)


def test_statistics_of_all_kinds_of_batch_normalization_are_refined():
    net = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2))
    free = torch.nn.BatchNorm1d(2, track_running_stats=False)
    batches = [torch.randn(50, 3) + k for k in range(4)]
    train.precise_batch_norm(torch.nn.Sequential(net, free), batches)
    with torch.no_grad():
        expected = torch.stack([net[0](batch).mean(0) for batch in batches]).mean(0)
    torch.testing.assert_close(net[1].running_mean, expected)


class _Acted(nn.Module):
    """A network of a person's own, which `holds` something that decides what it predicts."""

    def __init__(self, **holds):
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 4, 3), nn.Linear(4, 4)
        self.register_buffer("mask", torch.ones(4), persistent=False)
        for name, value in holds.items():
            setattr(self, name, value)

    def forward(self, x):
        return self.head(self.conv(x).mean((2, 3)) * self.mask)


class _Changing(tasks.rotation):
    """Rotation that draws from global generators, counts, and passes images through `change`."""

    def __init__(self, change=None):
        super().__init__()
        self.change = change

    def batch(self, images, labels, train, generator):
        inputs, targets = super().batch(images, labels, train, generator)
        if self.change == "draws":
            inputs = inputs * (random.random() + float(np.random.rand()))
        if self.change == "counts":
            self.seen = getattr(self, "seen", 0) + 1
        return inputs, targets


class _Plain:
    """Images of a person's own class, without a fingerprint."""

    def __init__(self, images, brighter):
        self.images, self.brighter = images, brighter

    def __len__(self):
        return len(self.images)

    def batches(self, size):
        for images, labels in self.images.batches(size):
            yield images + self.brighter, labels


@pytest.mark.parametrize(
    "one, other",
    [
        (dict(act=torch.relu), dict(act=torch.tanh)),
        (dict(act=lambda x: x), dict(act=lambda x: x * x)),
        (dict(act=partial(torch.mul, other=1)), dict(act=partial(torch.mul, other=2))),
        (dict(_scale=1.0), dict(_scale=0.1)),
        (dict(options={"k": 1}), dict(options={"k": 2})),
        (dict(mask=torch.ones(4)), dict(mask=torch.eye(4)[0])),
        (dict(images=0), dict(images=1)),
        *(
            (dict(change=one), dict(change=other))
            for one, other in (
                (v2.GaussianBlur(3, (1.0, 1.0)), v2.GaussianBlur(3, (5.0, 5.0))),
                (v2.Compose([v2.Grayscale()]), v2.Compose([v2.RandomErasing()])),
                (torch.abs, torch.neg),
                (_Changing(1), _Changing(2)),
            )
        ),
    ],
    ids=lambda holds: next(iter(holds)),
)
def test_whatever_own_parts_hold_tells_runs_apart(one, other):
    images = data.load("synthetic-objects", num_images=20, image_size=16).unlabeled()

    def identity(change=None, **holds):
        given = [_Plain(images, holds.pop("images", 0)), images]
        network, task = _Acted(**holds), _Changing(change)
        return train.default_identity(network, task, given, Recipe(1, 10, 0.1), 0)

    assert identity(**one) == identity(**one) != identity(**other)


def test_draws_from_global_generators_are_those_of_the_seed_and_go_on(tmp_path, monkeypatch):
    monkeypatch.setattr(train, "CHECKPOINT_SECONDS", 0)
    images = data.load("synthetic-objects", num_images=20, image_size=16).unlabeled()

    def stop(epochs, history):
        raise KeyboardInterrupt

    def fit(path=None, on_epoch=None):
        torch.manual_seed(0)
        recipe, parts = Recipe(2, 10, 0.05), (_Acted(), _Changing("draws"))
        options = dict(checkpoint=path, on_epoch=on_epoch)
        return train.fit(*parts, images, images, recipe, **options).loss

    whole = fit()
    with pytest.raises(KeyboardInterrupt):
        fit(tmp_path / "run.pt", stop)
    with train.seeded(5):
        drawn = random.random(), np.random.rand()
    assert fit(tmp_path / "run.pt") == fit() == whole
    with train.seeded(5):
        assert drawn == (random.random(), np.random.rand())


class _Remembering(_Acted):
    """A network that names its layers again, and keeps what passes leave."""

    def __init__(self):
        super().__init__()
        self.listed, self.grid, self._cache = [self.head], None, {}

    def forward(self, x):
        if self.grid is None:
            self.grid = torch.arange(x.shape[-1])
        self._cache[len(x)], self.size = 1, x.shape[-2:]
        self.features = super().forward(x).detach()
        return super().forward(x)


@pytest.mark.parametrize("kind", [_Acted, _Remembering])
def test_a_network_of_ones_own_goes_on_from_its_own_file(kind, tmp_path):
    images = data.load("synthetic-objects", num_images=20, image_size=16).unlabeled()
    network, path = kind(), tmp_path / "c"
    other = (network, _Changing(None), images, images, Recipe(2, 10, 0.05))

    def stop(epoch, history):
        raise KeyboardInterrupt

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(KeyboardInterrupt):
            train.fit(*other, checkpoint=path, on_epoch=stop)
        history = train.fit(*other, checkpoint=path)
        assert train.fit(*other, checkpoint=path).loss == history.loss
        # whatever its weights are at the start
        again = train.fit(kind(), *other[1:], checkpoint=path)
    assert len(history.loss) == 2 and again.loss == history.loss


def test_what_a_checkpoint_does_not_keep_is_told(tmp_path):
    images = data.load("synthetic-objects", num_images=20, image_size=16).unlabeled()
    for change, path in (("counts", None), (None, tmp_path / "a"), ("counts", tmp_path / "b")):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            parts = _Acted(), _Changing(change), images, images
            train.fit(*parts, Recipe(1, 10, 0.05), checkpoint=path)
        told = [str(warning.message) for warning in caught if "checkpoint" in str(warning.message)]
        assert bool(told) == bool(change and path)
    assert told[0].startswith("task.seen: changes in training, and a checkpoint does not keep it")
