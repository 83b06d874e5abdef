"""The search: both orders against explicit mathematics, interruptions by force, several processes,
and images that must not be touched.
"""

import json
import math
import os
import socket
import time
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from small import QUICK
from torch.func import functional_call

from unnas import data, search, study, tasks, train
from unnas.fast import kernels
from unnas.spaces import darts
from unnas.spaces.darts import Genotype
from unnas.study import Data, SearchSpec


def spec(task="rot", train_images=60, **change):
    recipe = search.SearchRecipe(
        epochs=2, batch_size=10, lr=0.05, alpha_lr=0.01, held_out=0.1, **change.pop("recipe", {})
    )
    images = Data(
        "synthetic-objects", 12, train_images=train_images, test_images=0, labels=task == "cls"
    )
    return replace(SearchSpec("cifar", 4, 3, images, task, "cifar", recipe, seed=0), **change)


def store(folder):
    return study.Store(folder / "records", released=folder / "released")


def double(order=2, **change):
    torch.manual_seed(0)
    task = tasks.rotation()
    supernet = search.Supernet(task, stem="cifar", width=4, depth=3).double()
    recipe = search.SearchRecipe(
        epochs=1, batch_size=2, lr=0.05, weight_decay=0.01, order=order, **change
    )
    batches = [
        (torch.randn(8, 3, 12, 12, dtype=torch.float64), torch.arange(8) % 4) for _ in range(3)
    ]
    return search.Bilevel(supernet, task, recipe, train.accelerator("float32")), batches


@pytest.mark.slow
def test_the_second_order_is_the_gradient_through_an_explicit_step(monkeypatch):
    # the step of DARTS crosses kinks of the loss (ReLU, max pooling) in a network as small as this
    monkeypatch.setattr(search, "_LENGTH", 1e-6)
    bilevel, (first, batch, weight_batch) = double()
    bilevel.weight_step(first)  # so that there is momentum
    names = [
        name
        for name, p in bilevel.supernet.named_parameters()
        if any(p is w for w in bilevel.weights)
    ]
    weights = dict(zip(names, bilevel.weights))
    with kernels.plain():  # the kernels have first derivatives only
        inner = torch.autograd.grad(bilevel.loss(weight_batch), bilevel.weights, create_graph=True)
        group = bilevel.sgd.param_groups[0]
        ahead = {
            name: w - group["lr"] * (0.9 * bilevel.sgd.state[w]["momentum_buffer"] + g + 0.01 * w)
            for (name, w), g in zip(weights.items(), inner)
        }
        outer = bilevel.task.loss(functional_call(bilevel.supernet, ahead, batch[0]), batch[1])
        expected = torch.autograd.grad(outer, bilevel.architecture, retain_graph=True)
        # the same, but blind to how the step depends on the alphas
        fixed = {name: w.detach().requires_grad_() for name, w in ahead.items()}
        blind = torch.autograd.grad(
            bilevel.task.loss(functional_call(bilevel.supernet, fixed, batch[0]), batch[1]),
            bilevel.architecture,
        )
    loss, gradients = bilevel.alpha_gradients(batch, weight_batch)
    assert loss.item() == pytest.approx(outer.item(), rel=1e-10)
    error = torch.cat([(g - e).flatten() for g, e in zip(gradients, expected)]).norm()
    second = torch.cat([(e - b).flatten() for e, b in zip(expected, blind)]).norm()
    assert error < 1e-5 * second and second > 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("which", ["architecture", "weights"])
@pytest.mark.parametrize("partial_channels", [1, 2])
def test_gradients_against_finite_differences(which, partial_channels):
    """Along a random direction of all alphas, and of all weights."""
    torch.manual_seed(1)
    task, width = tasks.rotation(), 4 * partial_channels
    supernet = search.Supernet(
        task, stem="cifar", width=width, depth=3, partial_channels=partial_channels
    )
    recipe = search.SearchRecipe(epochs=1, batch_size=2, lr=0.1)
    bilevel = search.Bilevel(supernet.double(), task, recipe, train.accelerator("float32"))
    batch = torch.randn(8, 3, 12, 12, dtype=torch.float64), torch.arange(8) % 4
    parameters = getattr(bilevel, which)
    gradients = bilevel.gradients(bilevel.loss(batch), parameters)
    directions, losses = [torch.randn_like(p) for p in parameters], []
    # a small step, because the loss has kinks: ReLU, and the maximum of pooling
    for shift in (1e-8, -2e-8):
        with torch.no_grad():
            for p, d in zip(parameters, directions):
                p += shift * d
        losses.append(bilevel.loss(batch).item())
    slope = sum((g * d).sum() for g, d in zip(gradients, directions)).item()
    assert (losses[0] - losses[1]) / 2e-8 == pytest.approx(slope, rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("order", [1, 2])
def test_that_a_step_of_one_leaves_the_other_alone(order):
    def copies(parameters):
        return [p.detach().clone() for p in parameters]

    def same(a, b):
        return all(map(torch.equal, a, b))

    bilevel, (batch, weight_batch, _) = double(order, clip=1e-3)
    alphas, weights = copies(bilevel.architecture), copies(bilevel.weights)
    bilevel.weight_step(weight_batch)
    assert same(alphas, bilevel.architecture) and not same(weights, bilevel.weights)
    # the clip bounds the gradient of the weights
    assert torch.cat([w.grad.flatten() for w in bilevel.weights]).norm() <= 1.001e-3
    weights = copies(bilevel.weights)
    bilevel.alpha_step(batch, weight_batch)
    assert not same(alphas, bilevel.architecture) and same(weights, bilevel.weights)


@pytest.mark.slow
@pytest.mark.parametrize("order, partial_channels", [(1, 1), (2, 1), (1, 2)])
def test_steps_of_the_fast_search_are_those_of_the_plain_one(order, partial_channels):
    found = []
    for mode in (kernels.plain, nullcontext):
        torch.manual_seed(0)
        supernet = search.Supernet(
            tasks.jigsaw(), stem="cifar", width=4, depth=3, partial_channels=partial_channels
        ).double()
        recipe = search.SearchRecipe(
            epochs=1, batch_size=2, lr=0.05, alpha_lr=0.01, weight_decay=0.01, order=order
        )
        bilevel = search.Bilevel(supernet, tasks.jigsaw(), recipe, train.accelerator("float32"))
        before = supernet.tables()
        with mode():
            for _ in range(4 if order == 1 else 3):
                batch, weight_batch = (
                    (torch.randn(2, 4, 3, 6, 6, dtype=torch.float64), torch.randint(24, (2,)))
                    for _ in range(2)
                )
                bilevel.alpha_step(batch, weight_batch)
                bilevel.weight_step(weight_batch)
        assert supernet.tables() != before
        found.append(supernet.state_dict())
    torch.testing.assert_close(found[1], found[0], rtol=1e-6, atol=1e-8)


@pytest.mark.slow
def test_the_weights_are_back_to_the_bit_after_a_look_ahead():
    bilevel, (first, batch, weight_batch) = double()
    before = [w.detach().clone() for w in bilevel.weights]
    bilevel.alpha_gradients(batch, weight_batch)
    assert all(map(torch.equal, before, bilevel.weights))


@pytest.mark.slow
def test_adam_and_sgd_move_as_their_formulas_say():
    bilevel, (first, batch, weight_batch) = double(order=1, clip=0.1)
    alphas, weights = (
        [p.detach().clone() for p in group] for group in (bilevel.architecture, bilevel.weights)
    )
    gradients = torch.autograd.grad(bilevel.loss(batch), bilevel.architecture)
    bilevel.alpha_step(batch, weight_batch)
    for alpha, start, g in zip(bilevel.architecture, alphas, gradients):
        # weight decay; the first step of Adam is lr * g / (|g| + eps) whatever the betas
        g = g + 1e-3 * start
        assert torch.allclose(alpha, start - 3e-4 * g / (g.abs() + 1e-8), rtol=0, atol=1e-9)
    gradients = torch.autograd.grad(bilevel.loss(weight_batch), bilevel.weights)
    norm = torch.cat([g.flatten() for g in gradients]).norm()
    bilevel.weight_step(weight_batch)
    assert norm > 0.1
    for weight, start, g in zip(bilevel.weights, weights, gradients):
        # clipped, then decayed
        assert torch.allclose(
            weight, start - 0.05 * (0.1 * g / norm + 0.01 * start), rtol=0, atol=1e-6
        )


@pytest.mark.slow
@pytest.mark.parametrize("task", ["cls", "rot", "col", "jig", "seg"])
def test_every_task_searches(task):
    change = (
        dict(
            data=Data("synthetic-streets", 32, 60, 0, "maps", "scale"),
            style="imagenet",
            options=(("channels", 8), ("rates", (2,))),
        )
        if task == "seg"
        else {}
    )
    result = study.run(spec(task, **change))["result"]
    assert (
        len(result["loss"]) == len(result["alpha_loss"]) == len(result["score"]) == 2
        and len(result["tables"]) == 3
    )
    assert result["tables"][0] != result["tables"][2] and all(
        0 <= score <= 100 for score in result["score"]
    )


@pytest.mark.slow
def test_alphas_wait_for_their_epoch():
    result = study.run(spec(recipe=dict(alpha_start=1.0)))["result"]
    assert result["tables"][0] == result["tables"][1] != result["tables"][2]
    assert result["alpha_loss"][0] is None and result["alpha_loss"][1] > 0
    midway = study.run(spec(recipe=dict(alpha_start=1.5)))["result"]
    assert midway["tables"][1] != midway["tables"][2] != result["tables"][2]


@pytest.mark.slow
def test_only_training_images_are_touched_and_no_labels():
    touched = []

    def guarded(split, **options):
        touched.append(split)
        if split != "train":
            raise AssertionError("the test split was opened")
        images = data.load("synthetic-objects", split, image_size=12, num_images=60)

        class Guarded(type(images)):
            @property
            def labels(self):
                raise AssertionError("a label was read")

            def _read(self, plan, *rest):
                for pixels, labels in super()._read(plan, *rest):
                    assert labels is None, "labels were handed out"
                    yield pixels, labels

        images.__class__ = Guarded
        return images

    data.register("guarded", guarded)
    study.specs.load.cache_clear()
    record = study.run(spec(data=Data("guarded", 12, test_images=0, labels=False)))
    assert record["status"] == "done" and touched == ["train"]


@pytest.mark.parametrize("count, held_out", [(40, 0.0), (41, 0.1), (97, 0.37)])
def test_the_three_parts_share_no_image(count, held_out):
    images = data.load("synthetic-objects", image_size=12, num_images=count)
    for seed in (0, 1):
        parts = search.parts(images, held_out, seed)
        indices = [set(part.indices.tolist()) for part in parts]
        assert sum(map(len, indices)) == len(set.union(*indices)) == count
        assert len(parts[2]) == int(held_out * count) and 0 <= len(parts[1]) - len(parts[0]) <= 1
    assert (
        search.parts(images, 0.1, 0)[0].indices.tolist()
        != search.parts(images, 0.1, 1)[0].indices.tolist()
    )


def search_into(folder):
    """A search with checkpoints in the midst of its epochs."""
    search.CHECKPOINT_STEPS = 2  # not a divisor of the 3 steps of an epoch
    one = spec(train_images=76)
    one = replace(one, recipe=replace(one.recipe, epochs=3, alpha_start=0.5))
    study.collect([one], store=store(folder))


@pytest.mark.slow
def test_a_search_killed_at_any_moment_ends_in_the_same_architecture(tmp_path):
    def start(folder):
        process = QUICK.Process(target=search_into, args=(folder,))
        process.start()
        return process

    whole = start(tmp_path / "whole")
    checkpoints, seen = tmp_path / "cut" / "records" / "checkpoints", set()
    for _ in range(2):
        process = start(tmp_path / "cut")
        while not checkpoints.exists() or not (
            new := {path.stat().st_mtime_ns for path in checkpoints.glob("*.pt")} - seen
        ):
            assert process.is_alive(), "it ended before it was killed"
            time.sleep(0.02)
        process.kill()
        process.join()
        seen |= new
        assert not list((tmp_path / "cut" / "records").glob("*.json"))
    last = start(tmp_path / "cut")
    last.join()
    whole.join()
    assert last.exitcode == 0 == whole.exitcode
    (whole,), (cut,) = (
        [json.loads(path.read_text()) for path in (tmp_path / name / "records").glob("*.json")]
        for name in ("whole", "cut")
    )
    assert (
        whole["result"] == cut["result"]
        and whole["result"]["steps"] == 9
        and whole["id"] == cut["id"]
    )
    # a folder of what it was writing when it was killed goes when it is old
    assert not list(checkpoints.glob("[!.]*"))


@pytest.mark.slow
def test_a_checkpoint_of_another_search_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(search, "CHECKPOINT_STEPS", 1)
    study.run(spec(), checkpoint=tmp_path / "search.pt")
    with pytest.raises(ValueError, match="search.pt.*another run.*remove"):
        study.run(spec(seed=1), checkpoint=tmp_path / "search.pt")


@pytest.mark.slow
def test_the_same_record_whatever_the_engine(tmp_path, quick_workers):
    specs = [spec(), spec(partial_channels=2)]
    tables = [
        study.collect(specs, engine=engine, workers=2, store=store(tmp_path / engine))
        for engine in ("serial", "processes")
    ]
    assert tables[0].drop(columns="seconds").equals(tables[1].drop(columns="seconds")) and list(
        tables[0].status
    ) == ["done", "done"]
    both = [study.records_of(specs, store(tmp_path / engine)) for engine in ("serial", "processes")]
    assert [record["result"] for record in both[0]] == [record["result"] for record in both[1]]
    assert (
        "beta_normal" in both[0][1]["result"]["tables"][0]
        and "beta_normal" not in both[0][0]["result"]["tables"][0]
    )


def skipping(count):
    """An architecture whose normal cell has so many skip connections."""
    ops = ["skip_connect" if slot < count else "sep_conv_3x3" for slot in range(8)]
    normal = [(op, slot % 2) for slot, op in enumerate(ops)]
    reduce = [("max_pool_3x3", slot % 2) for slot in range(8)]
    return Genotype(normal, (2, 3, 4, 5), reduce, (2, 3, 4, 5))


def test_warnings_of_collapse():
    assert search.collapse_warnings([skipping(n) for n in (5, 2, 3)]) == []
    (warning,) = search.collapse_warnings([skipping(n) for n in (4, 3, 4, 6)])
    assert "6 of 8" in warning and "normal" in warning and "since epoch 2" in warning


def test_that_edges_count_where_they_are_weighed():
    flat = {f"alpha_{kind}": [[0.0] * 8] * 14 for kind in ("normal", "reduce")}
    steep = dict(beta_normal=[float(i) for i in range(14)], beta_reduce=[0.0] * 14)
    found = search.discretize(flat | steep)
    assert [source for _, source in found.normal] == [1, 0, 2, 1, 3, 2, 4, 3]
    assert [source for _, source in found.reduce] == [0, 1] * 4
    parts = search.edge_softmax(torch.randn(14)).split([2, 3, 4, 5])
    assert all(part.sum().item() == pytest.approx(1) for part in parts)


def test_the_architecture_is_that_of_the_exact_alphas():
    """Also where six digits cannot tell two choices apart, in the history as in the supernet."""
    torch.manual_seed(0)
    supernet = search.Supernet(tasks.rotation(), stem="cifar", width=4, depth=3)
    with torch.no_grad():
        for table in supernet.alphas().values():
            table.zero_()
            table[:, 6] = 2e-7  # dil_conv_3x3; rounded, all are equal
    exact, rounded = supernet.genotype(), search.discretize(supernet.tables())
    assert {op for op, _ in exact.normal} == {"dil_conv_3x3"}
    assert {op for op, _ in rounded.normal} == {"max_pool_3x3"}
    history = search.SearchHistory(tables=[supernet.tables()], cells=[exact.to_dict()])
    assert history.genotypes == [exact]


def test_a_history_without_cells_has_those_of_its_tables():
    tables = search.Supernet(tasks.rotation(), stem="cifar", width=4, depth=3).tables()
    cell = darts.sample(1, seed=0)[0]
    history = search.SearchHistory(tables=[tables] * 3, cells=[cell.to_dict()])
    assert history.genotypes == [search.discretize(tables)] * 2 + [cell]


def test_the_weights_of_operations():
    assert search.entropy(torch.zeros(14, 8)) == pytest.approx(math.log(8))
    assert search.entropy(1e3 * torch.eye(8)[torch.arange(14) % 8]) < 1e-12


@pytest.mark.parametrize(
    "change",
    [dict(epochs=0), dict(order=3), dict(alpha_start=2), dict(held_out=1), dict(alpha_lr=0)],
)
def test_that_a_recipe_that_cannot_be_is_refused(change):
    ((name, value),) = change.items()
    with pytest.raises(ValueError, match=f"{name}={value}"):
        search.SearchRecipe(**(dict(epochs=2, batch_size=20, lr=0.1) | change))


@pytest.mark.slow
def test_collapse_is_told_in_the_record(monkeypatch):
    monkeypatch.setattr(search, "TOO_MANY_SKIPS", 0)
    assert ["normal" in text for text in study.run(spec())["result"]["warnings"]] == [True, False]


def searched_together(rank, port):
    """What the process of that rank, of two, has after a search of each order."""
    here = dict(MASTER_ADDR="127.0.0.1", MASTER_PORT=port, WORLD_SIZE=2, LOCAL_WORLD_SIZE=2)
    here |= dict(RANK=rank, LOCAL_RANK=rank, OMP_NUM_THREADS=1, ACCELERATE_USE_CPU="true")
    os.environ |= {name: str(value) for name, value in here.items()}  # as torchrun does
    images = data.load("synthetic-objects", image_size=12, num_images=50).unlabeled()
    task, losses, found = tasks.rotation(), [], []
    plain = search.Bilevel.alpha_gradients

    def noted(self, *batches):
        loss, gradients = plain(self, *batches)
        losses.append(loss.item())
        return loss, gradients

    search.Bilevel.alpha_gradients = noted
    for order in (1, 2):
        torch.manual_seed(0)
        supernet = search.Supernet(task, stem="cifar", width=4, depth=3)
        recipe = search.SearchRecipe(
            epochs=2, batch_size=10, lr=0.05, alpha_lr=0.01, held_out=0.1, order=order
        )
        history = search.fit(supernet, task, images, recipe)
        assert train.accelerator().process_index == rank
        both = dict(
            alphas=[p.tolist() for p in supernet.architecture()],
            weights=[p.tolist() for p in supernet.weights()],
            buffers=[p.tolist() for p in supernet.buffers()],
            loss=history.loss,
            alpha_loss=history.alpha_loss,
            score=history.score,
        )
        found.append((both, losses.copy()))
        losses.clear()
    return found


@pytest.mark.slow
def test_two_processes_keep_the_same_alphas():
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with ProcessPoolExecutor(2, mp_context=QUICK) as pool:
        ranks = [pool.submit(searched_together, rank, port) for rank in (0, 1)]
        found = [rank.result(timeout=300) for rank in ranks]
    for (first, own), (second, others) in zip(*found):
        for kind in first:
            assert first[kind] == second[kind], kind
        # each had images of its own, so equality needed the averaging
        assert own != others
        assert np.mean(own + others) == pytest.approx(np.mean(first["alpha_loss"]))


@pytest.mark.slow
def test_files_search_like_anything_else_whatever_the_number_of_decoders(tmp_path, quick_workers):
    rng = np.random.default_rng(0)
    (tmp_path / "images").mkdir()
    for i in range(18):
        Image.fromarray(rng.integers(0, 255, (30 + i, 40, 3), dtype=np.uint8)).save(
            tmp_path / "images" / f"{i}.jpg"
        )
    one = spec(style="imagenet", data=Data("imagefolder", 16, test_images=0, labels=False))
    one = replace(one, recipe=replace(one.recipe, epochs=1, batch_size=4))
    kept = [store(tmp_path / str(decoders)) for decoders in (0, 2)]
    study.collect([one], root=str(tmp_path / "images"), store=kept[0])
    table = study.collect(
        [one],
        root=str(tmp_path / "images"),
        store=kept[1],
        decoders=2,
        engine="processes",
        workers=1,
    )
    assert table.status[0] == "done", table.error[0]
    assert (
        study.records_of([one], kept[0])[0]["result"]
        == study.records_of([one], kept[1])[0]["result"]
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    "change, words",
    [
        (dict(width=5), ["width=5", "even"]),
        (dict(depth=2), ["depth=2", "at least 3"]),
        (dict(stem="resnet"), ["stem", "resnet", "cifar"]),
        (dict(stem="imagenet"), ["image_size=12", "divides them by 32", "cifar stem"]),
        (dict(partial_channels=4), ["partial_channels=4", "width (now 4)", "multiple"]),
        (dict(train_images=20), ["batch_size=10", "only 9", "use 24 images or more, or a recipe"]),
        (dict(train_images=2), ["batch_size=10", "only 1; use 24 images or more"]),
        (
            dict(task="seg", data=Data("synthetic-objects", 12, train_images=60, test_images=0)),
            ["task='seg'", "label maps", "cityscapes"],
        ),
        (
            dict(
                task="cls",
                data=Data("synthetic-objects", 12, train_images=60, test_images=0, labels=False),
            ),
            ["label"],
        ),
    ],
)
def test_bad_input_is_refused_before_the_first_step(change, words, monkeypatch):
    monkeypatch.setattr(search.Bilevel, "weight_step", lambda *_: pytest.fail("it took a step"))
    with pytest.raises((ValueError, data.NoLabels)) as error:
        study.run(spec(**change))
    assert all(word in str(error.value) for word in words), error.value


def test_a_finished_search_goes_on_from_its_end_and_no_other_search_does(tmp_path):
    task, path = tasks.rotation(), tmp_path / "search.pt"
    images = data.load("synthetic-objects", num_images=60, image_size=16).unlabeled()
    recipe = search.SearchRecipe(2, 8, 0.05, held_out=0.1)

    def start(recipe=recipe, width=4, weights=0, **options):
        torch.manual_seed(weights)
        supernet = search.Supernet(task, stem="cifar", width=width, depth=3)
        return search.fit(supernet, task, images, recipe, checkpoint=path, **options), supernet

    first, found = start()
    again, same = start(weights=1)
    assert first.tables == again.tables and again.steps == first.steps
    assert torch.load(path, weights_only=True)["history"]["steps"] == first.steps
    assert found.genotype() == same.genotype()
    changes = [dict(seed=7), dict(width=8), dict(recipe=replace(recipe, epochs=3))]
    changes += [dict(recipe=replace(recipe, **{name: 1.0})) for name in ("lr", "alpha_lr")]
    for change in changes:
        with pytest.raises(ValueError, match=r"checkpoint=.*belongs to another run"):
            start(**change)


class _Dropped(tasks.rotation):
    name = "dropped"

    def head(self, channels):
        return DroppedHead(channels, 4)


class DroppedHead(tasks.PooledLinear):
    def forward(self, features, size):
        return super().forward(torch.nn.functional.dropout(features, 0.5, self.training), size)


def test_a_search_with_dropout_goes_on_as_if_it_had_not_been_interrupted(tmp_path, monkeypatch):
    images = data.load("synthetic-objects", num_images=60, image_size=8).unlabeled()
    recipe = search.SearchRecipe(2, 8, 0.05, held_out=0.1, precision="float32")

    def made():
        torch.manual_seed(0)
        return search.Supernet(_Dropped(), stem="cifar", width=4, depth=3)

    whole = search.fit(made(), _Dropped(), images, recipe)
    path, steps = tmp_path / "search.pt", [0]

    take = search._take_step

    def cut(*given):
        steps[0] += 1
        if steps[0] == 3:
            raise KeyboardInterrupt
        return take(*given)

    monkeypatch.setattr(search, "CHECKPOINT_STEPS", 1)
    monkeypatch.setattr(search, "_take_step", cut)
    with pytest.raises(KeyboardInterrupt):
        search.fit(made(), _Dropped(), images, recipe, checkpoint=path)
    monkeypatch.setattr(search, "_take_step", take)
    torch.manual_seed(5)
    torch.rand(7)
    resumed = search.fit(made(), _Dropped(), images, recipe, checkpoint=path)
    assert resumed.loss == whole.loss and resumed.cells == whole.cells
