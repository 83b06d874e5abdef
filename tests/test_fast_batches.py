"""The kernels that prepare batches, against slow versions in NumPy and against plain twins."""

import itertools
import time
from statistics import median

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from skimage.color import rgb2gray, rgb2lab

from unnas import tasks, train
from unnas.fast import batches, kernels
from unnas.tasks import color

LABEL_FREE = ["rot", "col", "jig"]
STYLE_NAMES = ["cifar", "imagenet"]


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def random_images(count, size, seed=0):
    return torch.randint(0, 256, (count, 3, size, size), generator=seeded(seed), dtype=torch.uint8)


def some(count, seed=0):
    return torch.rand(count, generator=seeded(seed)) < 0.5


# ---------------------------------------------------------------- slow versions


def slow_window(image, flipped, start, size):
    """The window of (3, H, W) at `start`, with -1 where it leaves the image."""
    image = image[:, :, ::-1] if flipped else image
    window = np.full((3, *size), -1)
    for y, x in itertools.product(*map(range, size)):
        row, column = start[0] + y, start[1] + x
        if 0 <= row < image.shape[1] and 0 <= column < image.shape[2]:
            window[:, y, x] = image[:, row, column]
    return window


@pytest.mark.parametrize("turns", [1, 4])
@pytest.mark.parametrize("number", [1, 6])
@pytest.mark.parametrize("size", [(9, 9), (5, 5)])
def test_levels_are_looked_up_where_the_window_lies(turns, number, size):
    images, flipped = random_images(6, 9), some(6)
    starts = torch.randint(-4, 7, (6, 2), generator=seeded(1))
    tables = torch.randn(number, 3, 256, generator=seeded(2))
    inputs = batches.look_up(images, tables, flipped, starts, size, turns)
    assert inputs.shape == (6 * turns, 3, *size) and inputs.dtype == torch.float32
    assert inputs.is_contiguous(memory_format=torch.channels_last)
    for n in range(6):
        window = slow_window(images[n].numpy(), flipped[n], starts[n].tolist(), size)
        table = tables[n % number].numpy()
        expected = np.stack(
            [np.where(window[c] < 0, 0, table[c][window[c].clip(0)]) for c in range(3)]
        )
        for turn in range(turns):
            np.testing.assert_array_equal(
                inputs[turns * n + turn].numpy(), np.rot90(expected, turn, (1, 2))
            )


def test_images_need_not_be_square():
    images = torch.randint(0, 256, (2, 3, 5, 8), generator=seeded(), dtype=torch.uint8)
    levels = torch.arange(256.0).expand(1, 3, 256)
    starts = torch.zeros(2, 2, dtype=torch.int64)
    inputs = batches.look_up(images, levels, torch.tensor([False, True]), starts, (5, 8))
    assert torch.equal(inputs[0], images[0].float())
    assert torch.equal(inputs[1], images[1].flip(2).float())


def test_lightness_is_that_of_scikit_image_and_bins_are_the_nearest():
    images, flipped = random_images(4, 21), some(4)
    lightness, bins = batches.lightness_and_bins(images, flipped, *color.tables(), 0.4, 0.25)
    assert lightness.shape == (4, 1, 21, 21) and lightness.dtype == torch.float32
    assert bins.shape == (4, 21, 21) and bins.dtype == torch.int64
    for n, image in enumerate(images.permute(0, 2, 3, 1).numpy()):
        lab = rgb2lab(image[:, ::-1] if flipped[n] else image)
        np.testing.assert_allclose(
            lightness[n, 0].double().numpy(), (lab[:, :, 0] / 100 - 0.4) / 0.25, atol=1e-4
        )
        distances = ((lab[:, :, None, 1:] - color.color_bins().numpy()) ** 2).sum(3)
        found = np.take_along_axis(distances, bins[n].numpy()[:, :, None], 2)[:, :, 0]
        assert np.all(np.sqrt(found) - np.sqrt(distances.min(2)) < 1e-3)


@pytest.mark.parametrize("lit", [True, False])
def test_tiles_are_cut_changed_and_standardized(lit):
    images, flipped, grays = random_images(5, 12), some(5), some(5, 1)
    starts = torch.randint(0, 8, (5, 4, 2), generator=seeded(1))
    order = torch.rand(5, 4, generator=seeded(2)).argsort(1)
    shift = 0.1 * torch.randn(5, 3, generator=seeded(3)) if lit else None
    mean, std = (0.5, 0.4, 0.3), (0.2, 0.3, 0.25)
    tiles = batches.standardized_tiles(images, flipped, grays, starts, order, 4, shift, mean, std)
    assert tiles.shape == (5, 4, 3, 4, 4) and tiles.dtype == torch.float32
    for n, image in enumerate(images.permute(0, 2, 3, 1).double().numpy() / 255):
        image = image[:, ::-1] if flipped[n] else image
        image = np.repeat(rgb2gray(image)[..., None], 3, 2) if grays[n] else image
        image = (image + (shift[n].double().numpy() if lit else 0) - mean) / std
        for k in range(4):
            top, left = starts[n, order[n, k]].tolist()
            tile = image[top : top + 4, left : left + 4]
            np.testing.assert_allclose(
                tiles[n, k].permute(1, 2, 0).double().numpy(),
                (tile - tile.mean()) / tile.std(),
                atol=2e-5,
            )


# ---------------------------------------------------------------- fresh memory


@pytest.mark.parametrize("dtype", [torch.float32, torch.int64])
def test_fresh_tensors_are_like_those_of_pytorch(dtype):
    made = batches.empty(3, 4, 5, dtype=dtype, device=torch.device("cpu"))
    assert made.shape == (3, 4, 5) and made.dtype == dtype and made.is_contiguous()
    made.fill_(7)
    assert made.sum() == 7 * 60 and batches.empty(0, 2, device=torch.device("cpu")).shape == (0, 2)
    assert batches.empty(2, 3, device=torch.device("meta")).device.type == "meta"


# ---------------------------------------------------------------- plain twins


@pytest.fixture
def threads():
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def named(name, style):
    return tasks.get(name, style=style, **({"num_classes": 5} if name == "cls" else {}))


@pytest.mark.parametrize("size", [16, 32, 33, 45, 224])
@pytest.mark.parametrize("style", STYLE_NAMES)
@pytest.mark.parametrize("name", ["cls", *LABEL_FREE])
def test_kernels_compute_what_the_plain_steps_do(name, style, size, threads):
    task, labels = named(name, style), torch.arange(5)
    noise, draws = random_images(5, size, seed=size), seeded()
    smooth = F.interpolate(random_images(5, 4).float(), size, mode="bicubic").clamp(0, 255).byte()
    flat = torch.tensor([0, 255, 128, 1, 254], dtype=torch.uint8)[:, None, None, None].expand(
        5, 3, size, size
    )
    for images, train_it, count in itertools.product((noise, smooth, flat), (True, False), (1, 2)):
        threads(count)
        inputs, targets = task.batch(images, labels, train_it, draws.manual_seed(size))
        state = draws.get_state()
        with kernels.plain():
            expected, answers = task.batch(images, labels, train_it, draws.manual_seed(size))
        assert torch.equal(draws.get_state(), state)  # as many draws
        assert inputs.dtype == expected.dtype == torch.float32 and inputs.shape == expected.shape
        assert torch.equal(targets, answers) and targets.dtype == answers.dtype
        if name == "jig":  # a mean may be rounded the other way
            torch.testing.assert_close(inputs, expected, rtol=1e-6, atol=2e-6)
        else:
            assert torch.equal(inputs, expected)


@pytest.mark.slow
def test_kernels_find_the_plain_lightness_and_bin_of_a_million_colors():
    colors = torch.randint(256, (1, 3, 1024, 1024), generator=seeded(), dtype=torch.uint8)
    task = tasks.colorization()
    inputs, targets = task.batch(colors, None, False, None)
    with kernels.plain():
        expected, answers = task.batch(colors, None, False, None)
    assert torch.equal(inputs, expected) and torch.equal(targets, answers)


def test_kernels_read_images_of_any_layout():
    planes = random_images(6, 16)
    for images in (
        planes.contiguous(memory_format=torch.channels_last),
        torch.cat([planes, planes])[::2],
        planes.flip(0).flip(0),
    ):
        for name in LABEL_FREE:
            task = tasks.get(name)
            assert torch.equal(
                task.batch(images, None, True, seeded())[0],
                task.batch(images.contiguous(), None, True, seeded())[0],
            )


@pytest.mark.parametrize("style", STYLE_NAMES)
@pytest.mark.parametrize("name", ["cls", *LABEL_FREE])
def test_inputs_come_with_channels_last_and_are_not_copied(name, style):
    seen = []

    class Seen(tasks.Task):
        def batch(self, *arguments):
            seen.append(named(name, style).batch(*arguments)[0])
            return seen[-1], None

    inputs, _ = train.make_batch(Seen(), random_images(4, 24), torch.zeros(4), True, seeded())
    assert inputs.data_ptr() == seen[0].data_ptr()
    pixels = inputs.flatten(0, 1) if name == "jig" else inputs
    assert pixels.data_ptr() == inputs.data_ptr() and pixels.is_contiguous(
        memory_format=torch.channels_last
    )


@pytest.mark.clock
@pytest.mark.parametrize("name", LABEL_FREE)
def test_kernels_are_not_slower_than_the_plain_steps(name, threads):
    threads(1)
    task, images = tasks.get(name), random_images(64, 32)

    def seconds():
        start = time.process_time()
        train.make_batch(task, images, None, True, seeded())
        return time.process_time() - start

    def ratio():
        with kernels.plain():
            plain = seconds()
        return plain / seconds()

    ratio()
    assert median(ratio() for _ in range(9)) > 1
