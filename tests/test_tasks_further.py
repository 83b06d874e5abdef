"""The tasks that the paper does not have, against slow versions in double precision."""

import math
from statistics import NormalDist

import numpy as np
import pytest
import torch
from torch import nn

from unnas import data, study, tasks, train
from unnas.spaces import darts
from unnas.study import report, searched
from unnas.tasks import signals, views

FURTHER = ["con", "mask", "gen"]


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def random_images(count, size, seed=0):
    return torch.randint(0, 256, (count, 3, size, size), generator=seeded(seed), dtype=torch.uint8)


# ---------------------------------------------------------------- contrastive


def slow_nt_xent(z, temperature):
    """One view after the other, as the formula says."""
    z, losses = z.double().numpy(), []
    for i in range(len(z)):
        partner = i + 1 if i % 2 == 0 else i - 1
        cosines = [z[i] @ v / np.linalg.norm(z[i]) / np.linalg.norm(v) for v in z]
        others = [math.exp(s / temperature) for k, s in enumerate(cosines) if k != i]
        losses.append(math.log(sum(others)) - cosines[partner] / temperature)
    return np.mean(losses)


@pytest.mark.parametrize("temperature", [0.07, 0.5, 2.0])
def test_the_contrastive_loss_is_nt_xent(temperature):
    task, z = tasks.contrastive(temperature), 3 * torch.randn(14, 128, generator=seeded())
    expected = slow_nt_xent(z, temperature)
    for factor in (torch.float64, torch.float32):
        found = task.loss(z.to(factor), views.partners(14)).item()
        assert found == pytest.approx(expected, rel=1e-12 if factor == torch.float64 else 1e-5)
    lengths = torch.rand(14, 1, generator=seeded()) + 0.1  # which do not matter
    assert task.loss(lengths * z, views.partners(14)).item() == pytest.approx(expected, rel=1e-5)


def test_the_contrastive_score_counts_within_groups_of_50_images():
    task, z = tasks.contrastive(), torch.randn(2 * 120, 8, generator=seeded())
    z = z + 1.5 * torch.randn(120, 8, generator=seeded(1)).repeat_interleave(2, 0)
    hits = task.score(z, views.partners(240))
    unit, expected = torch.nn.functional.normalize(z.double(), dim=1).numpy(), []
    for i in range(200):
        group = [k for k in range(100 * (i // 100), 100 * (i // 100) + 100) if k != i]
        expected.append(max(group, key=lambda k: unit[i] @ unit[k]) == i ^ 1)
    assert hits.tolist() == expected and 20 < sum(expected) < 180
    assert task.score(z[:40], views.partners(40)).shape == (40,)  # fewer than a group
    metric = task.metric()
    metric.update(z, views.partners(240))
    assert metric.compute() == pytest.approx(sum(expected) / 2)


def slow_cut(image, box):
    """The part `box` of an image (C, H, W), read bilinearly place by place."""
    (x, y, half_width, half_height), (_, height, width) = box, image.shape
    part = np.empty_like(image)
    for i in range(height):
        for j in range(width):
            across = x + half_width * (2 * (j + 0.5) / width - 1)
            down = y + half_height * (2 * (i + 0.5) / height - 1)
            column = min(max((across + 1) / 2 * width - 0.5, 0), width - 1)
            row = min(max((down + 1) / 2 * height - 0.5, 0), height - 1)
            left, top = min(int(column), width - 2), min(int(row), height - 2)
            a, b = column - left, row - top
            upper = (1 - a) * image[:, top, left] + a * image[:, top, left + 1]
            lower = (1 - a) * image[:, top + 1, left] + a * image[:, top + 1, left + 1]
            part[:, i, j] = (1 - b) * upper + b * lower
    return part


def test_parts_are_read_bilinearly():
    images = torch.rand(6, 3, 7, 9, generator=seeded(), dtype=torch.float64)
    boxes = views.draw_boxes(images, seeded(1)).double()
    found = views.cut(images, boxes).numpy()
    for image, box, part in zip(images.numpy(), boxes.tolist(), found):
        np.testing.assert_allclose(part, slow_cut(image, box), atol=1e-12)


def test_parts_have_the_areas_and_ratios_that_are_said():
    x, y, width, height = views.draw_boxes(torch.zeros(4000, 3, 4, 4), seeded()).double().T
    area, ratio = width.abs() * height, width.abs() / height
    assert 0.19 < area.min() < 0.22 and area.max() <= 1 + 1e-6
    assert abs(ratio.log()).max() < math.log(4 / 3) + 1e-6 and ratio.min() < 0.76
    assert (x.abs() + width.abs()).max() < 1 + 1e-6 and (y.abs() + height).max() < 1 + 1e-6
    assert abs(x.mean()) < 0.02 and abs(y.mean()) < 0.02


def slow_recolor(pixels, brightness, saturation, turn, contrast):
    """Colors (3, P) changed one step after the other."""
    weights = np.array([0.2125, 0.7154, 0.0721])
    gray = weights @ pixels
    pixels = saturation * pixels + (1 - saturation) * gray
    axis, angle = np.ones(3) / math.sqrt(3), 2 * math.pi * turn
    turned = [
        v * math.cos(angle)
        + np.cross(axis, v) * math.sin(angle)
        + axis * (axis @ v) * (1 - math.cos(angle))
        for v in pixels.T
    ]
    pixels = brightness * np.array(turned).T
    mean = (weights @ pixels).mean()
    return np.clip(contrast * pixels + (1 - contrast) * mean, 0, 1)


def test_colors_change_step_by_step():
    images = torch.rand(8, 3, 3, 4, generator=seeded(), dtype=torch.float64)
    b, s, c = 0.6 + 0.8 * torch.rand(3, 8, generator=seeded(1), dtype=torch.float64)
    turn = 0.2 * torch.rand(8, generator=seeded(2), dtype=torch.float64) - 0.1
    s[3] = 0
    found = views.recolor(images, views.color_matrix(b, s, turn), c)
    assert (found[3] - found[3, :1]).abs().max() < 1e-12  # gray
    for k in range(8):
        pixels = images[k].flatten(1).numpy()
        slow = slow_recolor(pixels, *(float(v[k]) for v in (b, s, turn, c)))
        np.testing.assert_allclose(found[k].flatten(1).numpy(), slow, atol=1e-12)


def test_one_in_five_views_is_gray_and_partners_differ():
    views_ = tasks.contrastive().batch(random_images(500, 8), None, True, seeded())[0]
    style = tasks.STYLES["cifar"]
    mean, std = (torch.tensor(v)[:, None, None] for v in (style.mean, style.std))
    pixels = views_ * std + mean
    assert -1e-5 < pixels.min() and pixels.max() < 1 + 1e-5
    gray = ((pixels - pixels[:, :1]).abs().amax((1, 2, 3)) < 1e-5).float()
    assert abs(gray.mean() - 0.2) < 0.04
    assert not (views_[::2] == views_[1::2]).all(3).all(2).all(1).any()


# ---------------------------------------------------------------- masked patches


@pytest.mark.parametrize("size, grid, ratio", [(16, 8, 0.6), (17, 4, 0.75), (9, 8, 0.3)])
def test_as_many_patches_are_hidden_as_is_said(size, grid, ratio):
    task, images = tasks.masked(ratio, grid), random_images(20, size)
    inputs, targets = task.batch(images, None, False, seeded())
    plain = tasks.prepare(images, task.style, False, None)
    hidden = ~targets.isnan()
    assert torch.equal(hidden, hidden[:, :1].expand_as(hidden))
    assert torch.equal(inputs[~hidden], plain[~hidden]) and not inputs[hidden].any()
    assert torch.equal(targets[hidden], plain[hidden])
    patch = torch.arange(size) * grid // size
    for image in hidden[:, 0]:
        shares = [
            image[patch == row][:, patch == column].float().mean().item()
            for row in range(grid)
            for column in range(grid)
        ]
        assert set(shares) == {0.0, 1.0} and sum(shares) == round(ratio * grid**2)
    assert not torch.equal(hidden[0], hidden[1])


def test_hidden_patches_are_anywhere():
    hidden = tasks.draw_patches(torch.zeros(3000, 3, 8, 8), 8, 38, seeded()).float().mean(0)
    assert (hidden - 38 / 64).abs().max() < 0.04


def test_visible_pixels_do_not_count():
    task, images = tasks.masked(), random_images(5, 16)
    _, targets = task.batch(images, None, False, seeded())
    outputs = torch.randn(targets.shape, generator=seeded(1), dtype=torch.float64).requires_grad_()
    loss = task.loss(outputs, targets.double())
    (slope,) = torch.autograd.grad(loss, outputs)
    hidden = ~targets.isnan()
    pairs = zip(outputs[hidden].tolist(), targets[hidden].tolist())
    assert loss.item() == pytest.approx(np.mean([(o - t) ** 2 for o, t in pairs]), rel=1e-6)
    assert slope.isfinite().all() and not slope[~hidden].any() and slope[hidden].all()


def test_the_explained_variance_is_that_of_all_batches():
    task, images = tasks.masked(), random_images(30, 16)
    _, targets = task.batch(images, None, False, seeded())
    outputs, metric = targets.nan_to_num() + 0.7 * torch.randn(targets.shape), task.metric()
    for part in (slice(0, 7), slice(7, 8), slice(8, 30)):
        metric.update(outputs[part], targets[part])
    hidden, error, spread = ~targets.isnan(), 0.0, 0.0
    for k in range(3):
        known, said = targets[:, k][hidden[:, k]].double(), outputs[:, k][hidden[:, k]].double()
        error, spread = (
            error + ((known - said) ** 2).sum(),
            spread + ((known - known.mean()) ** 2).sum(),
        )
    assert metric.compute() == pytest.approx(100 * (1 - error / spread).item())
    assert 100 * task.score(outputs, targets).item() == pytest.approx(metric.compute(), rel=1e-5)
    best = task.metric()
    means = [targets[:, k][hidden[:, k]].double().mean() for k in range(3)]
    best.update(torch.stack(means)[:, None, None].expand(targets.shape), targets)
    assert best.compute() == pytest.approx(0, abs=1e-6) and task.constant([targets]) == 0


# ---------------------------------------------------------------- synthetic signals

MASK = 2**64 - 1


def slow_uniform(hash_, j):
    """Number j, from 0, of an image, by arithmetic with Python's integers."""
    z = (hash_ * 0xD1342543DE82EF95 + (j + 1) * 0x9E3779B97F4A7C15) & MASK
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 & MASK
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB & MASK
    return (((z ^ (z >> 31)) >> 41) + 0.5) / 2**23


def slow_enlarged(coarse, height, width):
    """A 4 x 4 map enlarged linearly, its corners at the corners."""
    to = [np.linspace(0, 3, n) for n in (height, width)]
    rows = np.array([np.interp(to[1], range(4), row) for row in coarse])
    return np.array([np.interp(to[0], range(4), column) for column in rows.T]).T


def slow_maps(hash_, height, width):
    """The eight maps of one image."""
    x, y = np.meshgrid((np.arange(width) + 0.5) / width, (np.arange(height) + 0.5) / height)
    kinds = {kind: [] for kind in signals.KINDS}
    for m in (0, 1):
        u = [slow_uniform(hash_, 36 * m + j) for j in range(36)]
        t = x if u[1] < 0.5 else y
        kinds["sine"].append(np.sin(2 * np.pi * ((0.5 + 1.5 * u[0]) * t + u[2])))
        f, g = (math.copysign(0.5 + 0.75 * abs(4 * v - 2), v - 0.5) for v in u[3:5])
        kinds["wave"].append(np.sin(2 * np.pi * (f * x + g * y + u[5])))
        signs = [math.copysign(1, v - 0.5) for v in u[16:20]]
        bumps = [
            sign * np.exp(-((y - down) ** 2 + (x - across) ** 2) / (2 * 0.1**2))
            for down, across, sign in zip(u[8:12], u[12:16], signs)
        ]
        kinds["dots"].append(sum(bumps))
        coarse = np.array([NormalDist().inv_cdf(v) for v in u[20:]]).reshape(4, 4)
        kinds["noise"].append(slow_enlarged(coarse, height, width))
    return [(v - v.mean()) / v.std() for kind in kinds.values() for v in kind]


def test_signals_are_what_the_formulas_say():
    hashes = torch.tensor([3, 40_000, 2**31 - 5])
    found = signals.maps(hashes, 16, 20)
    slow = np.array([slow_maps(h, 16, 20) for h in hashes.tolist()])
    np.testing.assert_allclose(found.numpy(), slow, atol=2e-4)


def test_an_image_keeps_its_signals_and_shares_them_with_no_other():
    task, images = tasks.synthetic_signals(), random_images(40, 16)
    inputs, targets = task.batch(images, None, True, None)
    order = torch.randperm(40, generator=seeded())
    again = task.batch(images[order], torch.zeros(40), True, seeded(5))
    assert torch.equal(again[0], inputs[order]) and torch.equal(again[1], targets[order])
    assert torch.equal(inputs, tasks.prepare(images, task.style, False, None))
    flat = torch.nn.functional.normalize(targets.flatten(1), dim=1)
    assert (flat @ flat.T).fill_diagonal_(0).abs().max() < 0.5
    assert task.loss(torch.zeros_like(targets), targets).item() == pytest.approx(1, rel=1e-5)


# ---------------------------------------------------------------- all three


@pytest.mark.parametrize("name", FURTHER)
@pytest.mark.parametrize("style", ["cifar", "imagenet"])
def test_batches_repeat_and_need_no_labels(name, style):
    task, images = tasks.get(name, style=style), random_images(6, 16)
    for training in (True, False):
        inputs, targets = task.batch(images, None, training, seeded(3))
        again = task.batch(images, torch.arange(6), training, seeded(3))
        torch.testing.assert_close((inputs, targets), again, rtol=0, atol=0, equal_nan=True)
        assert inputs.shape == ((12 if name == "con" else 6), 3, 16, 16)
        assert inputs.dtype == torch.float32 and inputs.isfinite().all()
        other = task.batch(images, None, training, seeded(4))[0]
        assert torch.equal(other, inputs) == (name == "gen")
    with pytest.raises(ValueError, match="uint8"):
        task.batch(images.float(), None, True, seeded())
    if name != "gen":
        with pytest.raises(ValueError, match="generator=None"):
            task.batch(images, None, True, None)
    assert not task.labels and task.by_name and not task.control


@pytest.mark.parametrize("name, shape", [("con", (6, 128)), ("mask", (6, 3, 9, 7))])
def test_heads(name, shape):
    task = tasks.get(name)
    head = task.head(10)
    assert head(torch.randn(6, 10, 3, 4), (9, 7)).shape == shape
    assert not isinstance(head, tasks.PooledLinear)  # so no auxiliary head of one
    with pytest.raises(ValueError, match="auxiliary=True: .*'" + name):
        darts.build(
            darts.sample(1, seed=0)[0], task, stem="cifar", width=4, depth=3, auxiliary=True
        )


def test_clear_errors():
    for options, wrong in [
        (dict(ratio=0.0), "ratio=0.0"),
        (dict(ratio=1.0), "ratio=1.0"),
        (dict(ratio=0.05, grid=2), "ratio=0.05: hides 0 of 4 patches"),
        (dict(grid=1), "grid=1"),
    ]:
        with pytest.raises(ValueError, match=wrong):
            tasks.masked(**options)
    with pytest.raises(ValueError, match="7x7 pixels: must have at least 8"):
        tasks.masked().batch(random_images(2, 7), None, True, seeded())
    with pytest.raises(ValueError, match="temperature=0"):
        tasks.contrastive(0)


class TinyNet(nn.Module):
    def __init__(self, task):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 16, 3)
        )
        self.head = task.head(16)

    def forward(self, x):
        return self.head(nn.functional.relu(self.body(x)), x.shape[-2:])


@pytest.mark.parametrize(
    "name, images, epochs, constant",
    [("con", 200, 8, math.log(99)), ("mask", 200, 3, None), ("gen", 4, 150, 1.0)],
)
def test_something_is_learnt(name, images, epochs, constant):
    """The loss falls below that of the best answer that never looks at the image."""
    task = tasks.get(name)
    some, other = (
        data.load("synthetic-objects", split, image_size=16, num_images=images).unlabeled()
        for split in ("train", "test")
    )
    if constant is None:  # the variance of what is hidden, about the mean of each channel
        targets = task.batch(some.images, None, True, seeded())[1].transpose(0, 1).flatten(1)
        mean = targets.nanmean(1, keepdim=True)
        constant = (targets - mean).square().nanmean().item()
    torch.manual_seed(0)
    recipe = train.Recipe(epochs, 4 if name == "gen" else 50, 0.3, precision="float32")
    history = train.fit(TinyNet(task), task, some, other, recipe)
    assert history.loss[-1] < 0.93 * constant and not history.diverged
    if name != "gen":  # whose test images nobody can know
        assert history.final > 2 * (task.chance or 2.5)


def test_figures_name_what_a_task_reports():
    shown = report.units(["rot", "seg", "con", "mask", "gen"], "best")
    assert shown == {
        "rot": "accuracy (%)",
        "seg": "mIoU (%)",
        "con": "accuracy (%)",
        "mask": "R² (%)",
        "gen": "- training loss",
    }
    assert set(report.units(["rot", "mask"], "loss").values()) == {"- training loss"}


def test_they_are_run_where_they_are_asked_for():
    for scale in ("smoke", "laptop"):
        grid = study.grid("fig2", scale)
        assert not {*FURTHER} & {*grid.tasks} and ("darts", "gen") in grid.settings
    specs = study.specs_of(study.grid("fig2", "smoke"), tasks=FURTHER, spaces=["darts"])
    recipes = {spec.task: (spec.recipe.epochs, spec.data.train_images) for spec in specs}
    assert recipes == {"con": (4, 400), "mask": (5, 1000), "gen": (40, 40)}
    assert not any(spec.data.labels for spec in specs)


@pytest.mark.parametrize("name", FURTHER)
def test_a_record_may_have_a_negative_score_where_the_task_says_so(name):
    images = study.Data("synthetic-objects", 16, 20, 10, labels=False)
    recipe = train.Recipe(1, 10, 1e-6, precision="float32")
    cell = darts.sample(1, seed=0)[0]
    record = study.run(study.Spec("darts", cell, "cifar", 4, 3, images, name, "cifar", recipe, 0))
    assert record["chance"] == tasks.get(name).chance and record["constant"] == (
        record["chance"] or 0
    )
    record["result"]["best"] = record["result"]["final"] = -3.0
    if name == "con":
        with pytest.raises(ValueError, match="final is -3.0"):
            study.records.check_record(record)
    else:
        study.records.check_record(record)


def test_a_search_without_a_data_set_asks_only_the_first_of_its_scale(tmp_path, capsys):
    """Signals cannot be learned from street scenes, which the scale has as well."""
    given = dict(scale="smoke", figures=str(tmp_path), dataset=None, task="gen", seed=0)
    found = searched.spec_of(report.Page("search", given, given))
    assert (found.data.name, found.task) == ("synthetic-objects", "gen")
    assert "labels not given" in capsys.readouterr().out
    with pytest.raises(ValueError, match="scale='large'"):
        searched.spec_of(report.Page("search", given, given | dict(scale="large")))
    with pytest.raises(ValueError, match="task='gen': an image must be the same"):
        streets = given | dict(dataset="synthetic-streets")
        searched.spec_of(report.Page("search", given, streets))
