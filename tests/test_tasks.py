"""The tasks, against slow versions that treat one image at a time in NumPy and scikit-image."""

import itertools
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from skimage.color import rgb2gray, rgb2lab
from torch import nn

from unnas import data, tasks
from unnas.fast import kernels
from unnas.tasks.tiles import moebius_maps

LABEL_FREE = ["rot", "col", "jig"]
CONTROLS = ["rnd", "shuf"]
STYLE_NAMES = ["cifar", "imagenet"]


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def options_of(name):
    """What a task that sees labels must be told."""
    return {"num_classes": 5} if tasks.labels_of(name) else {}


def random_images(count, size, seed=0):
    return torch.randint(0, 256, (count, 3, size, size), generator=seeded(seed), dtype=torch.uint8)


def hwc(images):
    """One float64 (H, W, 3) array for each image, 0..255."""
    return [image.permute(1, 2, 0).numpy().astype(np.float64) for image in images]


MEAN_STD = {
    "cifar": ([125.3 / 255, 123.0 / 255, 113.9 / 255], [63.0 / 255, 62.1 / 255, 66.7 / 255]),
    "imagenet": ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
}
EIGENVALUES = np.array([0.2175, 0.0188, 0.0045])
EIGENVECTORS = np.array(
    [[-0.5675, 0.7192, 0.4009], [-0.5808, -0.0045, -0.8140], [-0.5836, -0.6948, 0.4203]]
)


def slow_normalize(image, style):
    mean, std = MEAN_STD[style]
    return (image / 255 - mean) / std


def slow_prepare(image, style, flipped=False, offset=None, alpha=None):
    """One image as the released configurations describe it: (H, W, 3), 0..255 -> normalized."""
    size = image.shape[0]
    if flipped:
        image = image[:, ::-1]
    if alpha is not None:
        image = image + 255 * sum(alpha[k] * EIGENVALUES[k] * EIGENVECTORS[:, k] for k in range(3))
    image = slow_normalize(image, style)
    if offset is not None:
        border = size // 8
        padded = np.zeros((size + 2 * border, size + 2 * border, 3))
        padded[border : border + size, border : border + size] = image
        image = padded[offset[0] : offset[0] + size, offset[1] : offset[1] + size]
    return image


def assert_same(tensor, array, tolerance=1e-5):
    np.testing.assert_allclose(
        tensor.double().numpy(), np.moveaxis(array, -1, 0), atol=tolerance, rtol=0
    )


# ---------------------------------------------------------------- preparation


@pytest.mark.parametrize("size", [32, 16])
def test_cifar_training_images_are_flipped_normalized_padded_and_cropped(size):
    images = random_images(40, size)
    inputs, targets = tasks.classification(10).batch(images, torch.arange(40) % 10, True, seeded(3))
    draws = seeded(3)
    flipped = torch.rand(40, generator=draws) < 0.5
    offsets = torch.randint(2 * (size // 8) + 1, (40, 2), generator=draws)
    for i, image in enumerate(hwc(images)):
        assert_same(inputs[i], slow_prepare(image, "cifar", flipped[i], offset=offsets[i].tolist()))
    assert targets.tolist() == [i % 10 for i in range(40)]


def test_imagenet_training_images_are_flipped_lit_and_normalized():
    images = random_images(20, 24)
    inputs, _ = tasks.classification(10, style="imagenet").batch(
        images, torch.zeros(20), True, seeded(4)
    )
    draws = seeded(4)
    flipped = torch.rand(20, generator=draws) < 0.5
    alpha = 0.1 * torch.randn(20, 3, generator=draws).double().numpy()
    for i, image in enumerate(hwc(images)):
        assert_same(inputs[i], slow_prepare(image, "imagenet", flipped[i], alpha=alpha[i]))


@pytest.mark.parametrize("style", STYLE_NAMES)
def test_test_images_are_only_normalized(style):
    images = random_images(5, 16)
    inputs, _ = tasks.classification(10, style=style).batch(images, torch.zeros(5), False, None)
    for i, image in enumerate(hwc(images)):
        assert_same(inputs[i], slow_normalize(image, style))


def test_flip_and_crop_move_pixels_exactly():
    images = random_images(9, 12)
    chosen = torch.arange(9) % 2 == 0
    offsets = torch.randint(0, 8, (9, 2), generator=seeded())
    offsets[0], offsets[1] = torch.tensor([0, 7]), torch.tensor([7, 0])
    flipped, cropped = tasks.flip(images, chosen), tasks.crop(images, offsets, 5)
    for i, image in enumerate(images.numpy()):
        top, left = offsets[i].tolist()
        np.testing.assert_array_equal(flipped[i].numpy(), image[:, :, ::-1] if chosen[i] else image)
        np.testing.assert_array_equal(cropped[i].numpy(), image[:, top : top + 5, left : left + 5])


def test_every_crop_offset_is_drawn_the_last_one_included():
    # a single white pixel in the center shows where each window was cut
    images = torch.zeros(2000, 3, 8, 8, dtype=torch.uint8)
    images[:, :, 4, 4] = 255
    inputs, _ = tasks.classification(2).batch(images, torch.zeros(2000), True, seeded())
    rows = inputs[:, 0].amax(2).argmax(1)
    assert set(rows.tolist()) == {3, 4, 5}


def test_gray_is_the_luminance_of_scikit_image():
    images = random_images(4, 8)
    made_gray = tasks.gray_(images.float() / 255, torch.tensor([True, False, True, False]))
    for i, image in enumerate(hwc(images)):
        expected = np.repeat(rgb2gray(image / 255)[..., None], 3, 2) if i % 2 == 0 else image / 255
        assert_same(made_gray[i], expected, 1e-6)


def test_gray_leaves_the_other_images_alone_to_the_bit():
    images = random_images(4, 8).float() / 255
    made_gray = tasks.gray_(images.clone(), torch.tensor([True, False, True, False]))
    assert torch.equal(made_gray[1::2], images[1::2]) and not torch.equal(
        made_gray[::2], images[::2]
    )


def test_several_windows_are_cut_from_each_image():
    images = random_images(5, 12)
    offsets = torch.randint(0, 8, (5, 3, 2), generator=seeded())
    windows = tasks.crop(images, offsets, 5)
    assert windows.shape == (5, 3, 3, 5, 5) and windows.dtype == torch.uint8
    for i, t in itertools.product(range(5), range(3)):
        top, left = offsets[i, t].tolist()
        assert torch.equal(windows[i, t], images[i, :, top : top + 5, left : left + 5])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["cls", "seg", *LABEL_FREE, *CONTROLS])
def test_the_images_of_the_caller_are_left_alone(name):
    task = tasks.get(name, style="imagenet", **options_of(name))
    images, labels = (
        random_images(6, 18),
        (random_maps(6, 18, 18, classes=5) if name == "seg" else torch.zeros(6)),
    )
    before = images.clone()
    for train in (True, False):
        task.batch(images, labels, train, seeded())
        assert torch.equal(images, before)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["cls", *LABEL_FREE, *CONTROLS])
def test_a_batch_may_be_empty(name):
    """The slice of one of many processes may be."""
    task = tasks.get(name, **options_of(name))
    inputs, targets = task.batch(random_images(0, 16), torch.zeros(0), True, seeded())
    some, _ = task.batch(random_images(2, 16), torch.zeros(2), True, seeded())
    assert inputs.shape == (0, *some.shape[1:]) and len(targets) == 0


# ---------------------------------------------------------------- rotation


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("style", STYLE_NAMES)
def test_rotation_turns_the_same_crop_counter_clockwise(style, train):
    images = random_images(6, 16)
    inputs, targets = tasks.rotation(style).batch(images, None, train, seeded(1))
    prepared = tasks.prepare(images, tasks.STYLES[style], train, seeded(1))
    assert inputs.shape == (24, 3, 16, 16) and targets.dtype == torch.int64
    assert targets.tolist() == [0, 1, 2, 3] * 6
    for i in range(6):
        for k in range(4):
            turned = np.rot90(prepared[i].permute(1, 2, 0).numpy(), k)
            np.testing.assert_array_equal(inputs[4 * i + k].permute(1, 2, 0).numpy(), turned)


# ---------------------------------------------------------------- colorization


def slow_bins(colors):
    """Index of the nearest bin by float64 CIELAB and a search among all bins; colors (N, 3)
    uint8.
    """
    ab = rgb2lab(colors)[:, 1:]
    squared = ((ab[:, None] - tasks.color_bins().numpy()[None]) ** 2).sum(2)
    return squared.argmin(1), np.sort(squared, 1)


def random_colors(count, seed):
    return np.random.default_rng(seed).integers(0, 256, (count, 3), dtype=np.uint8)


def test_lab_matches_scikit_image():
    colors = random_colors(20000, 0)
    ours = tasks.rgb_to_lab(torch.from_numpy(colors)[:, :, None, None])[:, :, 0, 0]
    np.testing.assert_allclose(ours.double().numpy(), rgb2lab(colors), atol=1e-3)
    assert ours.dtype == torch.float32


def test_nearest_bin_matches_a_search_among_all_bins():
    colors = random_colors(20000, 1)
    found = tasks.nearest_bin(tasks.rgb_to_lab(torch.from_numpy(colors)[:, :, None, None])[:, 1:])[
        :, 0, 0
    ].numpy()
    expected, squared = slow_bins(colors)
    differ = found != expected
    assert differ.mean() <= 0.001
    # a tie up to rounding
    assert np.all(np.sqrt(squared[differ, 1]) - np.sqrt(squared[differ, 0]) < 1e-3)


def test_the_most_saturated_colors_have_a_bin_too():
    # the surface of the color cube, where rounding to the grid could leave the 313 bins if the
    # rule were wrong
    side = torch.arange(256, dtype=torch.uint8)
    for channel, level in itertools.product(range(3), (0, 255)):
        faces = [side, side]
        faces.insert(channel, torch.tensor([level], dtype=torch.uint8))
        face = torch.cartesian_prod(*faces)
        found = tasks.nearest_bin(tasks.rgb_to_lab(face[:, :, None, None])[:, 1:])
        assert found.min() >= 0


def test_there_are_313_color_bins_on_a_grid_in_the_published_order():
    bins = tasks.color_bins()
    assert bins.shape == (313, 2) and bins.dtype == torch.int64
    assert (bins % 10 == 0).all()
    assert (
        bins.tolist() == sorted(bins.tolist())
        and len({tuple(point) for point in bins.tolist()}) == 313
    )
    assert bins[0].tolist() == [-90, 50]
    assert [0, 0] in bins.tolist()


@pytest.mark.parametrize("style", STYLE_NAMES)
@pytest.mark.parametrize("train", [True, False])
def test_colorization_shows_the_lightness_and_asks_for_the_bin_of_each_pixel(style, train):
    images = random_images(6, 12)
    inputs, targets = tasks.colorization(style).batch(images, None, train, seeded(2))
    flipped = (torch.rand(6, generator=seeded(2)) < 0.5) & train
    mean, std = (np.mean(values) for values in MEAN_STD[style])
    assert (
        inputs.shape == (6, 1, 12, 12)
        and targets.shape == (6, 12, 12)
        and targets.dtype == torch.int64
    )
    for i, image in enumerate(images.permute(0, 2, 3, 1).numpy()):
        image = image[:, ::-1] if flipped[i] else image
        lab = rgb2lab(image)
        assert_same(inputs[i], (lab[:, :, :1] / 100 - mean) / std, 1e-4)
        assert (
            targets[i].numpy() == slow_bins(image.reshape(-1, 3))[0].reshape(12, 12)
        ).mean() > 0.99


def test_lightness_statistics_are_the_mean_over_the_channels():
    black = torch.zeros(1, 3, 2, 2, dtype=torch.uint8)
    assert tasks.colorization("cifar").batch(black, None, False, None)[
        0
    ].mean().item() == pytest.approx(-0.4735 / 0.2507, abs=1e-3)
    assert tasks.colorization("imagenet").batch(black, None, False, None)[
        0
    ].mean().item() == pytest.approx(-0.449 / 0.226, abs=1e-4)


# ---------------------------------------------------------------- jigsaw


def hamming(rows):
    return (rows[:, None] != rows[None]).sum(2)[np.triu_indices(len(rows), 1)]


def test_small_jigsaw_has_all_permutations_in_lexicographic_order():
    assert [tuple(row) for row in tasks.permutations(2).tolist()] == list(
        itertools.permutations(range(4))
    )


def test_large_jigsaw_has_1000_permutations_as_far_apart_as_can_be():
    rows = tasks.permutations(3).numpy()
    assert rows.shape == (1000, 9) and rows.tolist() == sorted(rows.tolist())
    assert (np.sort(rows, 1) == np.arange(9)).all()
    distances = hamming(rows)
    assert distances.min() == 6
    # the mean is largest when each tile is in each position equally often: 111 or 112 times
    counts = np.array(
        [[(rows[:, position] == tile).sum() for tile in range(9)] for position in range(9)]
    )
    assert set(counts.flatten()) == {111, 112}
    assert distances.mean() == pytest.approx(
        9 - 9 * (8 * 111 * 110 + 112 * 111) / 2 / (1000 * 999 / 2)
    )
    assert round(distances.mean(), 4) == 8.0080


def test_permutations_are_moebius_maps_with_or_without_squaring():
    maps, square = moebius_maps()
    assert len(maps) == 504 and hamming(np.array(sorted(maps))).min() == 7
    after_square = {tuple(known[x] for x in square) for known in maps}
    rows = {tuple(row) for row in tasks.permutations(3).tolist()}
    assert maps <= rows and rows <= maps | after_square


def slow_jigsaw(image, grid, permutation, offsets):
    """(H, W, 3) prepared image -> tiles in their new positions, each (h, h, 3)."""
    side = image.shape[0] // grid
    size = int(0.76 * side)
    tiles = [None] * grid**2
    for k, (i, j) in enumerate(itertools.product(range(grid), repeat=2)):
        patch = image[i * side : (i + 1) * side, j * side : (j + 1) * side]
        top, left = offsets[k]
        tile = patch[top : top + size, left : left + size]
        tiles[permutation[k]] = (tile - tile.mean()) / tile.std()
    return tiles


@pytest.mark.parametrize("grid, size", [(2, 32), (3, 32), (3, 45), (2, 15)])
@pytest.mark.parametrize(
    "style, normalize", [("cifar", None), ("cifar", True), ("imagenet", None), ("imagenet", False)]
)
@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("how", [nullcontext, kernels.plain])
def test_jigsaw_matches_the_definition(style, normalize, grid, size, train, how):
    images = random_images(12, size)
    with how():
        inputs, targets = tasks.jigsaw(grid, style, normalize).batch(images, None, train, seeded(5))
    colored = style == "imagenet" if normalize is None else normalize
    draws = seeded(5)
    flipped = torch.rand(12, generator=draws) < 0.5 if train else torch.zeros(12, dtype=torch.bool)
    grays = torch.rand(12, generator=draws) < 0.3 if train else torch.zeros(12, dtype=torch.bool)
    alpha = (
        0.1 * torch.randn(12, 3, generator=draws).double().numpy()
        if train and colored and style == "imagenet"
        else np.zeros((12, 3))
    )
    number = {2: 24, 3: 1000}[grid]
    side = size // grid
    small = int(0.76 * side)
    labels = torch.randint(number, (12,), generator=draws)
    offsets = torch.randint(side - small + 1, (12, grid**2, 2), generator=draws).tolist()
    assert torch.equal(targets, labels) and targets.dtype == torch.int64
    assert inputs.shape == (12, grid**2, 3, small, small)
    for i, image in enumerate(hwc(images)):
        image = image[:, ::-1] if flipped[i] else image
        image = np.repeat(rgb2gray(image)[..., None], 3, 2) if grays[i] else image
        if colored:
            image = slow_prepare(image, style, alpha=alpha[i])
        for tile, expected in zip(
            inputs[i],
            slow_jigsaw(image, grid, tasks.permutations(grid)[labels[i]].tolist(), offsets[i]),
        ):
            assert_same(tile, expected, 2e-5)


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("how", [nullcontext, kernels.plain])
@pytest.mark.parametrize("style", STYLE_NAMES)
def test_tiles_are_normalized_as_the_style_says_unless_told_otherwise(style, train, how):
    images = random_images(12, 30)
    with how():
        default, off, on = (
            tasks.get("jig", style=style, **options).batch(images, None, train, seeded(5))[0]
            for options in ({}, {"normalize": False}, {"normalize": True})
        )
    assert torch.equal(default, on if style == "imagenet" else off)
    assert (on - off).abs().max() > 0.01


def test_normalized_tiles_differ_in_their_colors_only():
    """What is standardized as a whole keeps what one channel has less than the others."""
    images = random_images(8, 32)
    (off, targets), (on, same) = (
        tasks.jigsaw(normalize=flag).batch(images, None, False, seeded(5)) for flag in (False, True)
    )
    assert torch.equal(targets, same)
    for channel in range(3):  # of a tile, one is the other times a factor, plus a constant
        pixels = (
            torch.stack([off[:, :, channel].flatten(2), on[:, :, channel].flatten(2)], 2)
            .flatten(0, 1)
            .double()
        )
        assert all(torch.corrcoef(both)[0, 1] > 1 - 1e-9 for both in pixels)


def test_standardized_tiles_are_those_of_numpy():
    # some hardly vary at all
    tiles = (
        torch.rand(5, 10, 3, 12, 12, generator=seeded())
        * torch.logspace(-3, 0, 50).reshape(5, 10, 1, 1, 1)
        + 3
    )
    wide = tiles.double().numpy().reshape(50, -1)
    mean, std = wide.mean(1, keepdims=True), wide.std(1, keepdims=True)
    # a mean of 3 has few digits left for tiles that hardly vary
    expected = (wide - mean.astype(np.float32)) / std
    np.testing.assert_allclose(
        tasks.standardize(tiles).double().numpy().reshape(50, -1), expected, rtol=1e-5
    )
    assert not tasks.standardize(torch.full((2, 1, 3, 4, 4), 0.3)).any()


def test_tile_sizes_of_the_paper():
    for size, grid, expected in [(255, 3, 64), (321, 3, 81), (32, 2, 12)]:
        inputs, _ = tasks.jigsaw(grid).batch(random_images(1, size), None, False, seeded())
        assert inputs.shape[-1] == expected


def test_tile_offsets_reach_both_ends():
    # one white row 4 pixels into every patch of 16: it is tile row 4 - offset, so offsets 0..4 show
    # as rows 0..4
    images = torch.zeros(300, 3, 32, 32, dtype=torch.uint8)
    images[:, :, [4, 20]] = 255
    inputs, _ = tasks.jigsaw(2).batch(images, None, False, seeded())
    assert set(inputs[:, :, 0, :, 0].argmax(2).flatten().tolist()) == {0, 1, 2, 3, 4}


def test_a_flat_image_gives_finite_tiles():
    inputs, _ = tasks.jigsaw().batch(
        torch.full((3, 3, 32, 32), 200, dtype=torch.uint8), None, True, seeded()
    )
    assert torch.isfinite(inputs).all() and inputs.abs().max() < 0.1


def test_gray_jigsaw_images_have_equal_channels_at_the_stated_rate():
    inputs, _ = tasks.jigsaw(2).batch(random_images(1000, 8), None, True, seeded())
    equal = (inputs[:, :, 0] == inputs[:, :, 1]).all(3).all(2).all(1)
    assert 0.25 < equal.float().mean() < 0.35
    tested, _ = tasks.jigsaw(2).batch(random_images(1000, 8), None, False, seeded())
    assert not (tested[:, :, 0] == tested[:, :, 1]).all(3).all(2).all(1).any()


# ---------------------------------------------------------------- randomness and labels


@pytest.mark.parametrize("style", STYLE_NAMES)
@pytest.mark.parametrize("name", ["cls", *LABEL_FREE, *CONTROLS])
def test_the_generator_decides_everything(name, style):
    task = tasks.get(name, style=style, **options_of(name))
    images, labels = random_images(16, 18), torch.arange(16) % 5
    first, again, other = (task.batch(images, labels, True, seeded(seed)) for seed in (7, 7, 8))
    assert torch.equal(first[0], again[0]) and torch.equal(first[1], again[1])
    assert not torch.equal(first[0], other[0])
    torch.manual_seed(0)
    assert torch.equal(task.batch(images, labels, True, seeded(7))[0], first[0])


@pytest.mark.parametrize("name", ["cls", *LABEL_FREE, *CONTROLS])
def test_mixed_precision_does_not_reach_the_images(name):
    task = tasks.get(name, style="imagenet", **options_of(name))
    images, labels = random_images(4, 30), torch.zeros(4)
    exact = task.batch(images, labels, True, seeded())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = task.batch(images, labels, True, seeded())
    assert torch.equal(mixed[0], exact[0]) and torch.equal(mixed[1], exact[1])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["cls", *LABEL_FREE, *CONTROLS])
def test_each_image_has_its_own_draws(name):
    task = tasks.get(name, **options_of(name))
    same = random_images(1, 32).expand(32, -1, -1, -1)
    inputs, _ = task.batch(same, torch.zeros(32), True, seeded())
    per_image = inputs.reshape(32, -1)
    # colorization only flips
    assert len(per_image.unique(dim=0)) >= (2 if name == "col" else 15)


@pytest.mark.parametrize("name", LABEL_FREE)
def test_batches_leave_the_images_as_they_were(name):
    images = random_images(4, 32)
    before = images.clone()
    tasks.get(name).batch(images, None, True, seeded())
    assert torch.equal(images, before)


class Untouchable:
    """Raises on any use, so a task that looks at its labels cannot pass."""

    def __getattribute__(self, name):
        raise AssertionError(f"labels were touched: {name}")

    __bool__ = __len__ = __iter__ = __getitem__ = __eq__ = lambda self, *_: pytest.fail(
        "labels were touched"
    )


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("name", [*LABEL_FREE, "rnd"])
def test_label_free_tasks_never_touch_labels(name, train):
    task, images = tasks.get(name), random_images(4, 32)
    assert task.labels is False
    without = task.batch(images, None, train, seeded())
    ignored = task.batch(images, Untouchable(), train, seeded())
    assert torch.equal(without[0], ignored[0]) and torch.equal(without[1], ignored[1])


def test_classification_asks_for_its_labels():
    assert tasks.classification(10).labels is True
    with pytest.raises(ValueError, match="labels"):
        tasks.classification(10).batch(random_images(2, 8), None, True, seeded())


# ---------------------------------------------------------------- heads, loss, score


def count(module):
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize(
    "name, options, parameters, shape",
    [
        ("cls", {"num_classes": 10}, 8 * 10 + 10, (36, 10)),
        ("rot", {}, 8 * 4 + 4, (36, 4)),
        ("col", {}, 8 * 313 + 313, (36, 313, 20, 24)),
        ("jig", {}, 4 * 8 * 24 + 24, (9, 24)),
        ("jig", {"grid": 3}, 9 * 8 * 1000 + 1000, (4, 1000)),
        (
            "seg",
            {"num_classes": 19, "channels": 16, "rates": (2, 3)},
            8 * 16 + 2 * 9 * 8 * 16 + 8 * 16 + 4 * 16 * 16 + 5 * 2 * 16 + 16 * 19 + 19,
            (36, 19, 20, 24),
        ),
    ],
)
def test_heads(name, options, parameters, shape):
    head = tasks.get(name, **options).head(8)
    assert count(head) == parameters
    assert head(torch.rand(36, 8, 5, 6), (20, 24)).shape == shape


def test_pooled_head_is_an_average_and_a_matrix():
    head = tasks.rotation().head(6)
    features = torch.rand(3, 6, 4, 5)
    by_hand = features.mean((2, 3)) @ head.linear.weight.T + head.linear.bias
    torch.testing.assert_close(head(features, (16, 20)), by_hand)


def test_jigsaw_head_concatenates_tile_after_tile():
    head = tasks.jigsaw(2).head(6)
    features = torch.rand(2 * 4, 6, 3, 3)
    for i, logits in enumerate(head(features, (12, 12))):
        joined = torch.cat([features[4 * i + k].mean((1, 2)) for k in range(4)])
        torch.testing.assert_close(logits, head.linear.weight @ joined + head.linear.bias)


def test_colorization_head_aligns_the_corners():
    head = tasks.colorization().head(6)
    features = torch.rand(2, 6, 3, 4)
    logits = head(features, (5, 7))
    by_hand = (
        torch.einsum("kc,nchw->nkhw", head.classifier.weight[:, :, 0, 0], features)
        + head.classifier.bias[:, None, None]
    )
    # from n to 2n - 1 places, every other one is a given value
    torch.testing.assert_close(logits[:, :, ::2, ::2], by_hand)
    torch.testing.assert_close(
        logits[:, :, 1::2, ::2], (by_hand[:, :, 1:] + by_hand[:, :, :-1]) / 2
    )


def test_segmentation_head_keeps_the_size_of_the_map_in_every_branch():
    head = tasks.segmentation(19).head(4).eval()
    assert all(branch(torch.rand(1, 4, 5, 9)).shape == (1, 256, 5, 9) for branch in head.branches)
    assert [branch[0].dilation for branch in head.branches] == [(1, 1), (6, 6), (12, 12), (18, 18)]


# ---------------------------------------------------------------- segmentation


def random_maps(count, height, width, seed=0, classes=19):
    """Train ids, about a tenth of them void."""
    maps = torch.randint(
        0, classes, (count, height, width), generator=seeded(seed), dtype=torch.uint8
    )
    return torch.where(torch.rand(maps.shape, generator=seeded(seed + 1)) < 0.1, 255, maps).to(
        torch.uint8
    )


def test_segmentation_flips_image_and_map_together():
    images, maps = random_images(40, 24), random_maps(40, 24, 24)
    inputs, targets = tasks.segmentation(19).batch(images, maps, True, seeded(3))
    draws = seeded(3)
    flipped = torch.rand(40, generator=draws) < 0.5
    alpha = 0.1 * torch.randn(40, 3, generator=draws).double().numpy()
    assert targets.dtype == torch.int64 and targets.shape == (40, 24, 24) and 5 < flipped.sum() < 35
    for i, image in enumerate(hwc(images)):
        assert_same(inputs[i], slow_prepare(image, "imagenet", flipped[i], alpha=alpha[i]))
        expected = maps[i].numpy()[:, ::-1] if flipped[i] else maps[i].numpy()
        assert np.array_equal(targets[i], expected)


def test_the_style_says_how_segmentation_is_lit_and_normalized():
    images, maps = random_images(8, 16), random_maps(8, 16, 16)
    inputs, targets = tasks.segmentation(19, style="cifar").batch(images, maps, True, seeded(3))
    flipped = torch.rand(8, generator=seeded(3)) < 0.5
    for i, image in enumerate(hwc(images)):
        assert_same(inputs[i], slow_prepare(image, "cifar", flipped[i]))
    assert inputs.shape == (8, 3, 16, 16)  # not padded: the map could not follow


@pytest.mark.parametrize(
    "height, width, grown",
    [(32, 64, (33, 65)), (32, 33, (33, 33)), (17, 20, (17, 21)), (17, 33, (17, 33))],
)
def test_whole_images_get_an_odd_size_for_testing(height, width, grown):
    images = torch.randint(0, 256, (2, 3, height, width), generator=seeded(), dtype=torch.uint8)
    maps = random_maps(2, height, width)
    inputs, targets = tasks.segmentation(19).batch(images, maps, False, None)
    assert inputs.shape[2:] == targets.shape[1:] == grown and targets.dtype == torch.int64
    assert torch.equal(targets[:, :height, :width], maps.long())
    for i, image in enumerate(hwc(images)):
        assert_same(inputs[i, :, :height, :width], slow_normalize(image, "imagenet"))
    margin = torch.ones(grown, dtype=torch.bool)
    margin[:height, :width] = False
    assert (inputs[:, :, margin] == 0).all() and (targets[:, margin] == 255).all()
    assert tasks.segmentation(19).batch(images, maps, True, seeded())[0].shape == images.shape


def test_a_cityscapes_image_becomes_1025_by_2049():
    images, maps = (
        torch.zeros(1, 3, 1024, 2048, dtype=torch.uint8),
        torch.zeros(1, 1024, 2048, dtype=torch.uint8),
    )
    inputs, targets = tasks.segmentation(19).batch(images, maps, False, None)
    assert inputs.shape == (1, 3, 1025, 2049) and targets.shape == (1, 1025, 2049)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_segmentation_loss_leaves_void_out(smoothing):
    outputs = torch.randn(2, 5, 6, 7, generator=seeded(), dtype=torch.float64)
    targets = random_maps(2, 6, 7, classes=5).long()
    logs = outputs.log_softmax(1).numpy()
    losses = [
        -(1 - smoothing) * logs[n, targets[n, y, x], y, x] - smoothing * logs[n, :, y, x].mean()
        for n, y, x in itertools.product(range(2), range(6), range(7))
        if targets[n, y, x] != 255
    ]
    assert 0 < len(losses) < 84
    assert tasks.segmentation(5).loss(outputs, targets, smoothing).item() == pytest.approx(
        np.mean(losses), rel=1e-12
    )


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_a_batch_of_void_has_no_loss_and_no_gradient(smoothing):
    outputs = torch.randn(1, 5, 4, 4, generator=seeded(), requires_grad=True)
    loss = tasks.segmentation(5).loss(outputs, torch.full((1, 4, 4), 255), smoothing)
    loss.backward()
    assert loss.item() == 0 and (outputs.grad == 0).all()


def test_segmentation_scores_pixels_that_are_not_void():
    outputs = F.one_hot(torch.tensor([[[0, 1], [2, 2]]]), 3).permute(0, 3, 1, 2).double()
    assert tasks.segmentation(3).score(outputs, torch.tensor([[[0, 255], [2, 1]]])).tolist() == [
        True,
        True,
        False,
    ]


def slow_mean_iou(predictions, labels, num_classes):
    """Pixel by pixel, class by class, in float64; the classes that occur in a prediction or a
    label.
    """
    pairs = [
        (p, t)
        for p, t in zip(predictions.flatten().tolist(), labels.flatten().tolist())
        if t != 255
    ]
    values = []
    for c in range(num_classes):
        intersection, union = sum(p == t == c for p, t in pairs), sum(c in (p, t) for p, t in pairs)
        if union:
            values.append(np.float64(intersection) / union)
    return 100 * np.mean(values)


@pytest.mark.parametrize("present", [19, 7])
def test_mean_iou_against_brute_force(present):
    task, outputs, labels = tasks.segmentation(19), [], []
    for number in range(3):  # batches of unequal size and difficulty
        targets = random_maps(number + 1, 8, 11, seed=number, classes=present).long()
        guess = torch.where(
            torch.rand(targets.shape, generator=seeded(number)) < 0.3 * number,
            targets,
            (targets + 1) % present,
        )
        outputs.append(
            F.one_hot(guess.where(guess < 19, 0), 19).permute(0, 3, 1, 2)
            + 0.1 * torch.rand(len(guess), 19, 8, 11, generator=seeded(9))
        )
        labels.append(targets)
    metric = task.metric()
    for batch, targets in zip(outputs, labels):
        metric.update(batch, targets)
    predictions = torch.cat([batch.argmax(1) for batch in outputs])
    expected = slow_mean_iou(predictions, torch.cat(labels), 19)
    assert metric.compute() == pytest.approx(expected, rel=1e-12)
    of_batches = [
        slow_mean_iou(batch.argmax(1), targets, 19) for batch, targets in zip(outputs, labels)
    ]
    assert abs(np.mean(of_batches) - expected) > 0.1
    assert int(tasks.intersection_over_union(metric.state).isfinite().sum()) == present
    assert (
        metric.state.sum() == (torch.cat(labels) != 255).sum() and metric.state.dtype == torch.int64
    )


def test_a_perfect_and_a_constant_segmentation():
    targets = random_maps(2, 20, 20, classes=6).long()
    metric = tasks.segmentation(19).metric()
    metric.update(
        F.one_hot(targets.where(targets != 255, 0), 19).permute(0, 3, 1, 2).float(), targets
    )
    assert metric.compute() == 100
    guess = tasks.segmentation(19).metric()
    guess.update(F.one_hot(torch.full_like(targets, 4), 19).permute(0, 3, 1, 2).float(), targets)
    assert guess.compute() == pytest.approx(
        100 * ((targets == 4).sum() / (targets != 255).sum()).item() / 6, rel=1e-6
    )


@pytest.mark.parametrize(
    "name, shape", [("cls", (12, 7)), ("col", (12, 313, 3, 4)), ("seg", (12, 7, 3, 4))]
)
def test_states_of_processes_add_up(name, shape):
    task = tasks.get(name, **({} if name == "col" else {"num_classes": 7}))
    outputs = torch.randn(shape, generator=seeded())
    targets = torch.randint(0, 7, (12, *shape[2:]), generator=seeded(1))
    if name == "seg":
        targets[0] = 255
    whole, parts = task.metric(), [task.metric() for _ in range(3)]
    whole.update(outputs, targets)
    # the last has nothing
    for metric, rows in zip(parts, (slice(0, 5), slice(5, 12), slice(12, 12))):
        metric.update(outputs[rows], targets[rows])
    parts[0].state = sum(metric.state for metric in parts)
    assert parts[0].compute() == whole.compute() and not np.isnan(whole.compute())


@pytest.mark.parametrize("name", ["cls", *LABEL_FREE])
def test_the_metric_of_most_tasks_is_the_mean_of_their_score(name):
    task = tasks.get(name, **({"num_classes": 3} if name == "cls" else {}))
    targets = torch.randint(0, 3, (50,), generator=seeded())
    outputs = torch.randn(50, task.num_outputs, generator=seeded(1)) + 2 * F.one_hot(
        targets, task.num_outputs
    )
    metric = task.metric()
    for rows in torch.arange(50).split(20):
        metric.update(outputs[rows], targets[rows])
    assert metric.compute() == 100 * int(task.score(outputs, targets).sum()) / 50
    assert np.isnan(task.metric().compute()) and np.isnan(tasks.segmentation(3).metric().compute())


def test_segmentation_needs_maps_of_its_images():
    task, images = tasks.segmentation(19), random_images(2, 16)
    with pytest.raises(
        ValueError,
        match=(
            r"maps=None: segmentation needs label maps of shape \(2, 16, 16\); pass batches of a"
            r" view with_maps"
        ),
    ):
        task.batch(images, None, True, seeded())
    for shape in ((2, 16, 15), (1, 16, 16), (2,)):
        with pytest.raises(ValueError, match="maps of shape .*segmentation needs label maps"):
            task.batch(images, torch.zeros(shape, dtype=torch.uint8), True, seeded())
    with pytest.raises(ValueError, match="uint8"):
        task.batch(images.float(), random_maps(2, 16, 16), True, seeded())
    with pytest.raises(ValueError, match="generator=None"):
        task.batch(images, random_maps(2, 16, 16), True, None)
    assert task.labels == "maps" and task.crop in data.SHORT_SIDE


def test_segmentation_learns_street_scenes(tmp_path):
    train, test = (
        data.load(
            "synthetic-streets",
            split,
            num_images=count,
            image_size=24,
            crop="scale",
            cache=tmp_path,
        ).with_maps()
        for split, count in (("train", 96), ("test", 24))
    )
    task = tasks.segmentation(train.num_classes, channels=8, rates=(2,))
    torch.manual_seed(0)
    network, draws = TinyNet(task), seeded()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.2, momentum=0.9)
    for epoch in range(4):
        for images, maps in train.batches(16, seed=epoch):
            inputs, targets = task.batch(images, maps, True, draws)
            optimizer.zero_grad()
            task.loss(network(inputs), targets).backward()
            optimizer.step()
    network.eval()
    metric, constant = task.metric(), task.metric()
    with torch.no_grad():
        for images, maps in test.whole().batches(8):
            inputs, targets = task.batch(images, maps, False, None)
            outputs = network(inputs)
            metric.update(outputs, targets)
            constant.update(F.one_hot(torch.zeros_like(targets), 19).permute(0, 3, 1, 2), targets)
    assert outputs.shape == (8, 19, 39, 39)  # whole scenes of 38 pixels
    assert metric.compute() > 1.5 * constant.compute()


# ---------------------------------------------------------------- controls


def slow_splitmix64(index):
    """The number at `index`, 1 and up, of SplitMix64 with seed 0."""
    z = index * 0x9E3779B97F4A7C15 % 2**64
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 % 2**64
    z = (z ^ z >> 27) * 0x94D049BB133111EB % 2**64
    return z ^ z >> 31


def slow_hash(image):
    """A sum of the levels times odd numbers; its halves are mixed, multiplied, and 31 bits are
    left.
    """
    total = (
        sum(level * (slow_splitmix64(k) | 1) for k, level in enumerate(image.flatten().tolist(), 1))
        % 2**64
    )
    signed = total - 2**64 if total >= 2**63 else total
    mixed = (signed ^ signed >> 32) * 0x9E3779B97F4A7C15 % 2**64
    return mixed >> 33


def chi_squared(counts, expected):
    return (((counts - expected) ** 2) / expected).sum().item()


def test_the_published_numbers_of_splitmix64():
    expected = [
        0xE220A8397B1DCDAF,
        0x6E789E6AA1B965F4,
        0x06C45D188009454F,
        0xF88BB8A8724C81EC,
        0x1B39896A51A8749B,
    ]
    assert (
        tasks.splitmix64(5).tolist() == expected
        and tasks.splitmix64(2, start=3).tolist() == expected[3:]
    )
    assert tasks.splitmix64(5).dtype == np.uint64 and len(tasks.splitmix64(0)) == 0


@pytest.mark.parametrize("start", [0, 1, 2**20])
def test_splitmix64_is_that_of_whole_numbers(start):
    assert tasks.splitmix64(500, start).tolist() == [
        slow_splitmix64(start + k) for k in range(1, 501)
    ]


def test_hashes_are_those_of_whole_numbers():
    images = torch.cat(
        [
            random_images(20, 9),
            torch.zeros(1, 3, 9, 9, dtype=torch.uint8),
            torch.full((1, 3, 9, 9), 255, dtype=torch.uint8),
        ]
    )
    hashes = tasks.pixel_hash(images)
    assert hashes.tolist() == [slow_hash(image) for image in images] and hashes.dtype == torch.int64
    assert len(set(hashes.tolist())) == 22 and 0 <= hashes.min() and hashes.max() < 2**31


def test_the_hash_of_an_image_does_not_depend_on_its_batch():
    images, order = random_images(30, 12), torch.randperm(30, generator=seeded())
    hashes = tasks.pixel_hash(images)
    assert torch.equal(tasks.pixel_hash(images[order]), hashes[order]) and torch.equal(
        tasks.pixel_hash(images[7:8]), hashes[7:8]
    )
    assert torch.equal(
        tasks.pixel_hash(images.contiguous(memory_format=torch.channels_last)), hashes
    )
    assert torch.equal(torch.cat([tasks.pixel_hash(part) for part in images.split(7)]), hashes)
    assert torch.equal(tasks.pixel_hash(images[4:5].expand(3, -1, -1, -1)), hashes[4].expand(3))


def test_each_pixel_of_an_image_decides_its_class():
    """Images that hardly differ are as different as any."""
    image = random_images(1, 8)
    near = image.repeat(192, 1, 1, 1)
    near.view(192, 192).diagonal().bitwise_xor_(1)  # each in another pixel, by one level
    flat = torch.arange(256, dtype=torch.uint8)[:, None, None, None].expand(256, 3, 8, 8)
    for images in (near, flat):
        hashes = tasks.pixel_hash(images)
        assert len(set(hashes.tolist())) == len(images)
        # 9 degrees of freedom
        assert chi_squared((hashes % 10).bincount(minlength=10), len(images) / 10) < 30
    assert not (tasks.pixel_hash(near) == tasks.pixel_hash(image)).any()


def test_random_labels_stay_those_of_the_image():
    task, images = tasks.random_labels(), random_images(40, 16)
    _, classes = task.batch(images, None, False, None)
    for epoch in range(3):  # another generator flips and crops the inputs in another way
        inputs, targets = task.batch(images, None, True, seeded(epoch))
        assert torch.equal(targets, classes) and torch.equal(
            inputs, tasks.prepare(images, task.style, True, seeded(epoch))
        )
    order = torch.randperm(40, generator=seeded())
    assert torch.equal(task.batch(images[order], None, True, seeded())[1], classes[order])
    assert (
        classes.tolist() == [slow_hash(image) % 10 for image in images]
        and classes.dtype == torch.int64
    )
    assert torch.equal(task.batch(images, torch.zeros(40), True, seeded())[1], classes)
    assert torch.equal(
        tasks.random_labels(style="imagenet").batch(images, None, True, seeded())[1], classes
    )
    assert set(tasks.random_labels(3).batch(images, None, True, seeded())[1].tolist()) == {0, 1, 2}


def test_random_labels_are_uniform_and_tell_nothing_about_true_ones():
    """Images whose color is that of their class: whoever sees the class knows nothing of the
    target.
    """
    labels = torch.arange(5000) % 10
    images = (25 * labels[:, None, None, None] + random_images(5000, 8) % 8).to(torch.uint8)
    _, targets = tasks.random_labels().batch(images, None, False, None)
    table = torch.zeros(10, 10, dtype=torch.int64).index_put_(
        (labels, targets), torch.ones(5000, dtype=torch.int64), accumulate=True
    )
    assert chi_squared(table.sum(0), 500) < 30  # 9 degrees of freedom
    assert chi_squared(table, 50) < 99 + 4 * (2 * 99) ** 0.5
    best = table.max(1).values.sum() / 5000  # of all rules from class to target
    assert best < 0.16 and tasks.random_labels().chance == 10


def test_shuffled_pixels_moves_all_pixels_of_all_images_in_one_way():
    task = tasks.shuffled_pixels(5)
    # each level once, so that it tells the place
    levels = torch.arange(256, dtype=torch.uint8).reshape(16, 16).expand(1, 3, 16, 16)
    shuffled, _ = task.batch(levels, torch.zeros(1), False, None)
    plain, _ = tasks.classification(5).batch(levels, torch.zeros(1), False, None)
    # where each pixel comes from
    order = (shuffled[0, 0].flatten()[:, None] == plain[0, 0].flatten()).long().argmax(1)
    assert sorted(order.tolist()) == list(range(256)) and (order == torch.arange(256)).sum() < 8
    images, labels = random_images(12, 16), torch.arange(12) % 5
    for train, epoch in itertools.product((True, False), range(3)):
        inputs, targets = task.batch(images, labels, train, seeded(epoch))
        # augmented, and shuffled last
        plain, answers = tasks.classification(5).batch(images, labels, train, seeded(epoch))
        assert torch.equal(inputs.flatten(2), plain.flatten(2)[:, :, order]) and torch.equal(
            targets, answers
        )
        assert (
            torch.equal(inputs.flatten(2).sort(2).values, plain.flatten(2).sort(2).values)
            and inputs.shape == plain.shape
        )
    assert torch.equal(tasks.pixel_order(16, 16), order)


@pytest.mark.parametrize("height, width", [(16, 16), (20, 20), (7, 12)])
def test_the_order_of_pixels_is_that_of_random_numbers(height, width):
    numbers = [slow_splitmix64(2**20 + k) for k in range(1, height * width + 1)]
    order = tasks.pixel_order(height, width)
    assert (
        order.tolist() == sorted(range(height * width), key=numbers.__getitem__)
        and order.dtype == torch.int64
    )
    rows, columns = np.divmod(order.numpy().reshape(height, width), width)
    distances = np.hypot(np.diff(rows, axis=1), np.diff(columns, axis=1))
    # neighbors came from anywhere
    assert np.mean(distances < 1.5) < 0.1 and distances.mean() > 0.4 * np.hypot(height, width) / 1.5


def test_shuffled_pixels_needs_its_labels():
    assert tasks.shuffled_pixels(10).labels is True and tasks.shuffled_pixels(7).num_outputs == 7
    with pytest.raises(
        ValueError, match="labels=None: shuffled_pixels needs labels; pass a dataset that has them"
    ):
        tasks.shuffled_pixels(10).batch(random_images(2, 8), None, True, seeded())
    with pytest.raises(ValueError, match="labels=None: classification needs labels"):
        tasks.classification(10).batch(random_images(2, 8), None, True, seeded())
    for task in (tasks.shuffled_pixels, tasks.random_labels):
        with pytest.raises(ValueError, match="num_classes=1: must be a whole number of at least 2"):
            task(1)


def test_what_the_study_needs_to_know():
    known = {
        "cls": True,
        "rot": False,
        "col": False,
        "jig": False,
        "seg": "maps",
        "rnd": False,
        "shuf": True,
    }
    assert {name: tasks.labels_of(name) for name in known} == known and tasks.names()[:7] == list(
        known
    )
    classes = {name: tasks.class_of(name) for name in known}
    assert [name for name in known if classes[name].control] == CONTROLS
    assert [name for name in known if classes[name].judged_by_loss] == ["rnd"]
    assert [name for name in known if classes[name].fixed_images] == ["rnd"]
    assert [name for name in known if classes[name].reductions == 1] == ["seg"]
    assert [classes[name].trained_as for name in CONTROLS] == ["cls", "cls"]
    assert tasks.Task.trained_as == "rot" and tasks.class_of("rot") is tasks.rotation
    assert all(tasks.get(name, **options_of(name)).name == name for name in known)


# ---------------------------------------------------------------- loss and score of the others


def test_loss_and_score_by_hand():
    task = tasks.classification(4)
    outputs = torch.tensor([[0.0, 0.0, 0.0, 0.0], [9.0, 1.0, 2.0, 3.0]]).double()
    targets = torch.tensor([2, 3])
    log_p = [-np.log(4), 3 - np.log(np.exp([9, 1, 2, 3]).sum())]
    assert task.loss(outputs, targets).item() == pytest.approx(-np.mean(log_p))
    logs = outputs.log_softmax(1).numpy()
    smoothed = [0.9 * -logs[i, t] + 0.1 * -logs[i].mean() for i, t in enumerate([2, 3])]
    assert task.loss(outputs, targets, label_smoothing=0.1).item() == pytest.approx(
        np.mean(smoothed)
    )
    assert task.score(outputs, torch.tensor([2, 0])).tolist() == [False, True]


@pytest.mark.parametrize(
    "task", [tasks.colorization(), tasks.segmentation(19)], ids=lambda task: task.name
)
def test_the_loss_of_pixels_and_its_gradient_do_not_depend_on_the_layout(task):
    targets = torch.randint(task.num_outputs, (3, 5, 7), generator=seeded())
    if task.labels == "maps":
        targets[0, :2] = tasks.VOID
    logits, found = (
        torch.randn(3, task.num_outputs, 5, 7, generator=seeded(), dtype=torch.float64),
        [],
    )
    for layout in (torch.contiguous_format, torch.channels_last):
        leaf = logits.contiguous(memory_format=layout).requires_grad_()
        loss = task.loss(leaf, targets, 0.1)
        found.append((loss, *torch.autograd.grad(loss, leaf)))
    torch.testing.assert_close(found[0], found[1])
    assert found[1][1].is_contiguous(memory_format=torch.channels_last)


def test_colorization_scores_every_pixel():
    task = tasks.colorization()
    targets = torch.tensor([[[5, 300], [0, 7]]])
    outputs = 10 * F.one_hot(targets, 313).permute(0, 3, 1, 2).double()
    outputs[0, 8, 0, 1] = 20
    assert task.score(outputs, targets).tolist() == [True, False, True, True]
    right, wrong = np.log(1 + 312 * np.exp(-10)), np.log(np.exp(10) + np.exp(20) + 311) - 10
    assert task.loss(outputs, targets).item() == pytest.approx((3 * right + wrong) / 4)


def test_a_constant_answer_where_all_is_void_is_not_a_number():
    assert np.isnan(tasks.segmentation(19).constant([torch.full((1, 4, 4), tasks.VOID)]))


def test_chance():
    assert [tasks.get(name).chance for name in LABEL_FREE] == [25, None, 100 / 24]
    assert tasks.classification(10).chance == 10 and tasks.jigsaw(3).chance == 0.1
    assert tasks.segmentation(19).chance is None


def test_what_the_data_layer_needs_to_know():
    assert {name: tasks.get(name).crop for name in LABEL_FREE} == {
        "rot": "inception",
        "col": "inception",
        "jig": "random",
    }
    assert {name: tasks.get(name).in_channels for name in LABEL_FREE} == {
        "rot": 3,
        "col": 1,
        "jig": 3,
    }
    assert tasks.jigsaw(style="imagenet").grid == 3 and tasks.jigsaw(style="cifar").grid == 2


# ---------------------------------------------------------------- a task of one's own, and errors


def define_dark():
    class Dark(tasks.Task):
        """Was the image darkened?"""

        name = "dark"
        num_outputs = 2

        def batch(self, images, labels, train, generator):
            dark = tasks.draw(torch.rand, len(images), generator=generator, like=images) < 0.5
            images = torch.where(dark[:, None, None, None], images // 4, images)
            return tasks.prepare(images, self.style, train, generator), dark.long()

    return Dark


class TinyNet(nn.Module):
    def __init__(self, task):
        super().__init__()
        self.conv = nn.Conv2d(task.in_channels, 8, 3, padding=1)
        self.head = task.head(8)

    def forward(self, x):
        size = x.shape[-2:]
        return self.head(F.relu(self.conv(x.flatten(0, 1) if x.ndim == 5 else x)), size)


def train_briefly(task, steps, size=16):
    torch.manual_seed(0)
    network, draws, losses = TinyNet(task), seeded(), []
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)
    for step in range(steps):
        inputs, targets = task.batch(random_images(32, size, step), None, True, draws)
        loss = task.loss(network(inputs), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    inputs, targets = task.batch(random_images(200, size, 999), None, False, seeded())
    with torch.no_grad():
        return losses, 100 * task.score(network(inputs), targets).float().mean().item()


def test_a_fourth_task_is_one_class():
    tasks.register("dark", define_dark())
    task = tasks.get("dark", style="imagenet")
    assert (
        task.chance == 50 and tasks.names()[-1] == "dark" and task.style == tasks.STYLES["imagenet"]
    )
    losses, accuracy = train_briefly(task, 60)
    assert accuracy > 95


@pytest.mark.parametrize("name", LABEL_FREE)
def test_the_three_pretext_tasks_go_through_a_network(name):
    losses, accuracy = train_briefly(tasks.get(name), 3)
    assert np.isfinite(losses).all() and 0 <= accuracy <= 100


def test_running_a_cell_twice_replaces_the_task():
    first, second = define_dark(), define_dark()
    tasks.register("dark", first)
    tasks.register("dark", first)
    tasks.register("dark", second)
    assert type(tasks.get("dark")) is second


def test_a_name_means_one_task():
    with pytest.raises(ValueError, match="rot.*already"):
        tasks.register("rot", define_dark())
    assert isinstance(tasks.get("rot"), tasks.rotation)


def test_labels_of_tasks_of_ones_own():
    tasks.register("dark", define_dark())
    # a factory that is no class says nothing about labels
    tasks.register("few", partial(tasks.rotation))
    tasks.register("many", type("Many", (tasks.classification,), {"name": "many"}))
    assert [tasks.labels_of(name) for name in ("dark", "few", "many")] == [False, False, True]
    assert [tasks.class_of(name).crop for name in ("dark", "few")] == ["inception"] * 2
    for ask in (tasks.labels_of, tasks.class_of, tasks.factory_of, tasks.get):
        with pytest.raises(ValueError, match="task='lite': unknown; choose one of cls, .*many"):
            ask("lite")


def test_a_supervised_task_of_ones_own_is_made_with_the_number_of_classes():
    class Upside(tasks.classification):
        name = "upside"
        crop = "random"
        reductions = 1

        def batch(self, images, labels, train, generator):
            return super().batch(images.flip(2), labels, train, generator)

    tasks.register("upside", Upside)
    own = tasks.class_of("upside")
    assert own is Upside and (own.labels, own.crop, own.reductions) == (True, "random", 1)
    images, labels = random_images(3, 8), torch.tensor([4, 0, 2])
    inputs, targets = tasks.get("upside", **options_of("upside")).batch(images, labels, False, None)
    plain, _ = tasks.classification(5).batch(images, labels, False, None)
    assert torch.equal(inputs, plain.flip(2)) and torch.equal(targets, labels)


def test_clear_errors():
    with pytest.raises(ValueError, match="rott.*cls, rot, col, jig, seg"):
        tasks.get("rott")
    with pytest.raises(ValueError, match="style.*cifar, imagenet"):
        tasks.rotation("mnist")
    with pytest.raises(ValueError, match="grid=4"):
        tasks.jigsaw(4)
    with pytest.raises(ValueError, match="num_classes=1"):
        tasks.classification(1)
    with pytest.raises(ValueError, match="generator=None"):
        tasks.rotation().batch(random_images(2, 8), None, True, None)
    for name in LABEL_FREE:
        with pytest.raises(ValueError, match="uint8"):
            tasks.get(name).batch(torch.rand(2, 3, 8, 8), None, True, seeded())
    for name in ["rot", "jig"]:
        with pytest.raises(ValueError, match="8x10.*square"):
            tasks.get(name).batch(random_images(2, 10)[:, :, :8], None, True, seeded())
    with pytest.raises(ValueError, match="5x5.*at least 6"):
        tasks.jigsaw(3).batch(random_images(1, 5), None, True, seeded())


def test_what_is_registered_has_a_name_and_can_be_called():
    for name in (None, "", 3):
        with pytest.raises(ValueError, match=f"name={name!r}: must be a text"):
            tasks.register(name, tasks.rotation)

    @dataclass
    class Factory:
        def __call__(self, style="cifar"):
            return tasks.rotation(style)

    with pytest.raises(ValueError, match="factory=.*: cannot be hashed; make it a dataclass.froz"):
        tasks.register("mine", Factory())
    with pytest.raises(ValueError, match="factory='text': cannot be called"):
        tasks.register("mine", "text")

    def local():
        return partial(tasks.rotation, "imagenet")

    tasks.register("partly", local())
    tasks.register("partly", local())  # the same cell once more
    with pytest.raises(ValueError, match="already registered"):
        tasks.register("partly", partial(tasks.rotation, "cifar"))
