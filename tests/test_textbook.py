"""The textbook implementations and the tasks, two ways to compute the same thing, on equal
draws.
"""

import numpy as np
import pytest
import torch

from unnas import data, tasks, textbook

STYLES = ["cifar", "imagenet"]
SIZES = {"cifar": 32, "imagenet": 75}


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def photos(style, count=12):
    """Noise and smooth colors, uint8 (N, 3, H, W), and the same as arrays (H, W, 3)."""
    random, size = np.random.default_rng(0), SIZES[style]
    noise = random.integers(0, 256, (count // 2, size, size, 3), dtype=np.uint8)
    ramp = np.linspace(0, 1, size)
    ends = random.uniform(0, 255, (2, count - count // 2, 1, 1, 3))
    smooth = ends[0] * ramp[:, None, None] + ends[1] * (1 - ramp)[:, None]
    arrays = np.concatenate([noise, smooth.clip(0, 255).astype(np.uint8)])
    return torch.from_numpy(arrays).permute(0, 3, 1, 2).contiguous(), arrays


def draws_of_prepare(style, count, generator):
    """What `tasks.prepare` draws, as the arguments of `textbook.rotation`, one dictionary an
    image.
    """
    border = int(SIZES[style] * tasks.STYLES[style].padding)
    draws = {"flipped": torch.rand(count, generator=generator) < 0.5}
    if style == "imagenet":
        draws["alpha"] = 0.1 * torch.randn(count, 3, generator=generator)
    else:
        draws["offset"] = torch.randint(2 * border + 1, (count, 2), generator=generator)
    return [{name: values[i].numpy() for name, values in draws.items()} for i in range(count)]


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("train", [True, False])
def test_rotation(style, train):
    images, arrays = photos(style)
    inputs, targets = tasks.rotation(style).batch(images, None, train, seeded(1))
    draws = draws_of_prepare(style, len(arrays), seeded(1)) if train else [{}] * len(arrays)
    for i, array in enumerate(arrays):
        plain, answers = textbook.rotation(array, tasks.STYLES[style], **draws[i])
        assert plain.dtype == np.float32
        np.testing.assert_allclose(inputs[4 * i : 4 * i + 4].numpy(), plain, rtol=0, atol=1e-5)
        np.testing.assert_array_equal(targets[4 * i : 4 * i + 4].numpy(), answers)


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("train", [True, False])
def test_colorization(style, train):
    images, arrays = photos(style)
    inputs, targets = tasks.colorization(style).batch(images, None, train, seeded(2))
    flipped = (torch.rand(len(arrays), generator=seeded(2)) < 0.5) & train
    plain, bins = (
        np.stack(part)
        for part in zip(
            *[
                textbook.colorization(array, tasks.STYLES[style], bool(flip))
                for array, flip in zip(arrays, flipped)
            ]
        )
    )
    assert plain.dtype == np.float32
    np.testing.assert_allclose(inputs.numpy(), plain, rtol=0, atol=1e-4)
    assert (targets.numpy() != bins).mean() < 0.001  # colors half way between two bins


@pytest.mark.slow
@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("train", [True, False])
def test_jigsaw(style, train):
    images, arrays = photos(style)
    count, settings = len(arrays), tasks.STYLES[style]
    inputs, targets = tasks.jigsaw(style=style).batch(images, None, train, seeded(3))
    generator, draws = seeded(3), {}
    if train:
        draws["flipped"] = torch.rand(count, generator=generator) < 0.5
        draws["gray"] = torch.rand(count, generator=generator) < 0.3
        if style == "imagenet":
            draws["alpha"] = 0.1 * torch.randn(count, 3, generator=generator)
    side = SIZES[style] // settings.grid
    draws["target"] = torch.randint({2: 24, 3: 1000}[settings.grid], (count,), generator=generator)
    draws["offsets"] = torch.randint(
        side - int(0.76 * side) + 1, (count, settings.grid**2, 2), generator=generator
    )
    for i, array in enumerate(arrays):
        plain, answer = textbook.jigsaw(
            array, settings, **{name: values[i].numpy() for name, values in draws.items()}
        )
        assert plain.dtype == np.float32 and answer == targets[i]
        np.testing.assert_allclose(inputs[i].numpy(), plain, rtol=0, atol=1e-5)


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("name", textbook.FUNCTIONS)
def test_batches_are_shaped_alike_and_follow_the_seed(name, style):
    images, arrays = photos(style)
    expected, answers = tasks.get(name, style=style).batch(images, None, True, seeded())
    inputs, targets = textbook.batch(name, list(arrays), style, seed=0)
    assert inputs.shape == expected.shape and inputs.dtype == expected.dtype == torch.float32
    assert targets.shape == answers.shape and targets.dtype == answers.dtype == torch.int64
    again, other = (textbook.batch(name, list(arrays), style, seed)[0] for seed in (0, 1))
    assert torch.equal(again, inputs) and not torch.equal(other, inputs)


def test_draws_cover_the_range_of_the_tasks():
    cifar, imagenet = tasks.STYLES["cifar"], tasks.STYLES["imagenet"]
    random = np.random.default_rng(0)
    rotations = [textbook.draw("rot", 32, cifar, random) for _ in range(500)]
    jigsaws = [textbook.draw("jig", 224, imagenet, random) for _ in range(500)]
    assert {int(draw["offset"][0]) for draw in rotations} == set(range(9))
    assert {int(offset) for draw in jigsaws for offset in draw["offsets"].flatten()} == set(
        range(19)
    )
    assert 0.4 < np.mean([draw["flipped"] for draw in rotations]) < 0.6
    assert 0.2 < np.mean([draw["gray"] for draw in jigsaws]) < 0.4
    assert 0.09 < np.std([draw["alpha"] for draw in jigsaws]) < 0.11
    assert textbook.draw("col", 224, imagenet, random).keys() == {"flipped"}


@pytest.mark.parametrize("crop", ["inception", "random"])
def test_crops_are_those_of_the_data_layer(crop):
    """On a smooth picture, where the filters of two resizing libraries agree; both take the same
    box.
    """
    ramp = np.linspace(0, 255, 100)
    picture = np.stack(
        [
            np.tile(ramp, (75, 1)),
            np.tile(np.linspace(0, 255, 75)[:, None], (1, 100)),
            np.full((75, 100), 90),
        ],
        2,
    )
    for seed in range(5):
        (ours,) = data.crop_together(
            [data.Image.fromarray(picture.astype(np.uint8))], 48, crop, np.random.default_rng(seed)
        )
        plain = textbook.random_crop(
            picture.astype(np.uint8), 48, crop, np.random.default_rng(seed)
        )
        assert plain.shape == (48, 48, 3) and plain.dtype == np.uint8
        # the box comes from the same function; a window is drawn on another grid
        if crop == "inception":
            assert abs(np.asarray(ours).astype(int) - plain).mean() < 1


def test_large_images_are_cropped_first():
    arrays = [
        np.random.default_rng(i).integers(0, 256, (60, 80 + i, 3), dtype=np.uint8) for i in range(2)
    ]
    inputs, targets = textbook.batch("col", arrays, "imagenet", seed=0, image_size=40)
    assert inputs.shape == (2, 1, 40, 40) and targets.shape == (2, 40, 40)
