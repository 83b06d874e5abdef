import errno
import hashlib
import multiprocessing
import os
import pickle
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import time
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
import torchvision
from PIL import Image, ImageFile

from unnas import data, files, study, tasks, train, use
from unnas.data import images as image_files
from unnas.data import synthetic


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("UNNAS_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("UNNAS_DATA", raising=False)


def photo(width=20, height=16, seed=0):
    return Image.fromarray(
        np.random.default_rng(seed).integers(0, 256, (height, width, 3)).astype(np.uint8)
    )


def tree(root, classes=("apple", "pear"), splits=("train", "test"), count=6, size=(20, 16)):
    for split in splits:
        for kind in classes:
            folder = root / split / kind
            folder.mkdir(parents=True)
            for number in range(count):
                photo(*size, seed=number).save(folder / f"{number}.png")
    return root


def batches(dataset, *args, **options):
    return list(dataset.batches(*args, **options))


# ---- any file becomes RGB


def pixel(path):
    return data.read_image(path).getpixel((0, 0))


def test_gray_bilevel_and_palette(tmp_path):
    Image.new("L", (4, 4), 77).save(tmp_path / "l.png")
    Image.new("1", (4, 4), 1).save(tmp_path / "1.png")
    Image.new("RGB", (4, 4), (10, 200, 30)).quantize(4).save(tmp_path / "p.gif")
    assert pixel(tmp_path / "l.png") == (77, 77, 77)
    assert pixel(tmp_path / "1.png") == (255, 255, 255)
    assert np.abs(np.subtract(pixel(tmp_path / "p.gif"), (10, 200, 30))).max() <= 4


def test_transparency_lies_on_white(tmp_path):
    Image.new("RGBA", (4, 4), (200, 0, 0, 0)).save(tmp_path / "clear.png")
    half = Image.new("RGBA", (4, 4), (200, 0, 0, 128))
    half.putpixel((3, 3), (200, 0, 0, 255))
    half.save(tmp_path / "half.png")
    Image.new("LA", (4, 4), (0, 0)).save(tmp_path / "gray.png")
    palette = Image.new("P", (4, 4), 0)
    palette.putpalette([9, 9, 9] * 256)
    palette.save(tmp_path / "palette.png", transparency=0)
    assert (
        pixel(tmp_path / "clear.png")
        == pixel(tmp_path / "gray.png")
        == pixel(tmp_path / "palette.png")
        == (255, 255, 255)
    )
    assert np.abs(np.subtract(pixel(tmp_path / "half.png"), (227, 127, 127))).max() <= 1


def test_sixteen_bits_are_scaled_not_clipped(tmp_path):
    values = np.array([[0, 257, 32768, 65535]], np.uint16)
    for name in ("a.png", "a.tif"):
        Image.fromarray(values).save(tmp_path / name)
        assert np.asarray(data.read_image(tmp_path / name))[0, :, 0].tolist() == [0, 1, 128, 255]


def test_cmyk_jpeg(tmp_path):
    Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(tmp_path / "red.jpg", quality=95)
    red, green, blue = pixel(tmp_path / "red.jpg")
    assert red > 200 and green < 60 and blue < 60


@pytest.mark.parametrize(
    "orientation, corner", [(1, (0, 0)), (3, (1, 1)), (6, (1, 0)), (8, (0, 1)), (2, (1, 0))]
)
def test_exif_orientation(tmp_path, orientation, corner):
    image = Image.new("RGB", (32, 16), "black")
    image.paste("white", (0, 0, 8, 8))  # the top left corner of the stored pixels
    exif = Image.Exif()
    exif[0x0112] = orientation
    image.save(tmp_path / "a.jpg", exif=exif, quality=95)
    upright = data.read_image(tmp_path / "a.jpg")
    assert upright.size == ((16, 32) if orientation in (6, 8) else (32, 16))
    right, bottom = corner
    x, y = right * (upright.width - 1), bottom * (upright.height - 1)
    assert (
        upright.getpixel((x, y))[0] > 200
        and upright.getpixel((upright.width - 1 - x, upright.height - 1 - y))[0] < 60
    )


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK", "I;16"])
@pytest.mark.parametrize("turn", [6, 8])
def test_a_turned_tiff_is_upright_packed_or_not(tmp_path, mode, turn):
    image = photo(20, 30).convert(mode if mode != "I;16" else "L")
    if mode == "I;16":
        image = Image.fromarray(np.asarray(image).astype(np.uint16) * 257)
    exif, read = Image.Exif(), []
    exif[0x0112] = turn
    for compression in (None, "tiff_lzw"):
        path = tmp_path / f"{compression}.tif"
        image.save(path, exif=exif, compression=compression)
        read.append(np.asarray(data.read_image(path)))
        assert image_files.size_of(path) == image.size[::-1]
    assert read[0].shape == (20, 30, 3) and np.array_equal(*read)


def test_an_orientation_that_there_is_not_turns_nothing(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 77
    photo(20, 30).save(tmp_path / "a.jpg", exif=exif)
    assert image_files.size_of(tmp_path / "a.jpg") == data.read_image(tmp_path / "a.jpg").size


# ---- more than 8 bits, and fourth bands


RAMP = ((np.arange(40)[:, None] + np.arange(40)) * 3 % 256).astype(np.uint8)
COLOR = np.repeat(RAMP[..., None], 3, 2)


def png16(values):
    """A PNG of 16 bits a band, `(H, W, bands)`, which Pillow cannot write for color."""

    def chunk(kind, content):
        body = kind + content
        return struct.pack(">I", len(content)) + body + struct.pack(">I", zlib.crc32(body))

    height, width, bands = values.shape
    color = {1: 0, 2: 4, 3: 2, 4: 6}[bands]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    header = struct.pack(">IIBBBBB", width, height, 16, color, 0, 0, 0)
    parts = [(b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


def tif(path, values, **options):
    tifffile.imwrite(path, values, **options)
    return path


def with_band(values, band):
    return np.dstack([values, np.broadcast_to(band, values.shape[:2]).astype(values.dtype)])


def is_ramp(path, **options):
    """Whether a file is decoded to the ramp, but for its brightness and contrast."""
    levels = np.asarray(data.read_image(path, **options)).astype(float)
    likeness = np.corrcoef(levels[..., 0].ravel(), RAMP.ravel())[0, 1]
    return len(np.unique(levels)) >= 70 and likeness > 0.999 and abs(levels.mean() - 117) < 20


@pytest.mark.parametrize(
    "values",
    [
        (RAMP / 255).astype(np.float32),
        (RAMP / 255 * 0.3).astype(np.float32),
        (RAMP / 127.5 - 1).astype(np.float32),
        RAMP.astype(np.float32) * 257,
        RAMP.astype(np.int32) * 16 - 1000,
        RAMP.astype(np.int16) - 50,
        RAMP.astype(np.uint32) * 100_000,
        RAMP.astype(np.uint32) * 16_000_000,
        RAMP.astype(np.uint16),
        RAMP.astype(np.uint16) * 16,
        RAMP.astype(np.uint16) * 4 + 29_000,
        RAMP.astype(np.uint16) * 257,
    ],
    ids=lambda values: f"{values.dtype} {values.min():g} to {values.max():g}",
)
def test_deep_gray_pictures_are_neither_black_nor_bleached(tmp_path, values):
    assert is_ramp(tif(tmp_path / "a.tif", values))


@pytest.mark.parametrize("most, kind", [(65535, np.uint16), (4080, np.uint16), (1, np.float32)])
def test_deep_pictures_whose_white_is_zero_are_no_negatives(tmp_path, most, kind):
    values = (most - RAMP / 255 * most).astype(kind)
    assert is_ramp(tif(tmp_path / "a.tif", values, photometric="miniswhite"))


def test_a_picture_of_one_huge_value_is_gray(tmp_path):
    path = tif(tmp_path / "a.tif", np.full((8, 8), 1e30, np.float32))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert data.read_image(path).getpixel((0, 0))[0] in (127, 128)


@pytest.mark.parametrize("factor", [1, 4, 16, 257])
def test_color_of_16_bits_a_band_keeps_its_levels(tmp_path, factor):
    deep = COLOR.astype(np.uint16) * factor
    for bands in (deep[..., :1], deep[..., [0, 0]], deep, deep[..., [0, 1, 2, 2]]):
        if bands.shape[2] in (2, 4):
            bands = with_band(bands[..., :-1], 65535)
        (tmp_path / "a.png").write_bytes(png16(bands))
        assert is_ramp(tmp_path / "a.png"), bands.shape
    for compression in (None, "zlib"):
        for order in "<>":
            options = dict(photometric="rgb", compression=compression, byteorder=order)
            assert is_ramp(tif(tmp_path / "a.tif", deep, **options))
    opaque = with_band(deep, 65535)
    assert is_ramp(tif(tmp_path / "a.tif", opaque, photometric="rgb", extrasamples=["UNASSALPHA"]))


def test_all_of_16_bits_keeps_the_bits_that_it_had(tmp_path):
    values = np.random.default_rng(0).integers(0, 65536, (9, 7, 3)).astype(np.uint16)
    (tmp_path / "color.png").write_bytes(png16(values))
    assert np.array_equal(data.read_image(tmp_path / "color.png"), values >> 8)
    Image.fromarray(values[..., 0]).save(tmp_path / "gray.png")
    gray = np.asarray(data.read_image(tmp_path / "gray.png"))[..., 0]
    assert np.array_equal(gray, (values[..., 0] / 257).round())


def test_missing_pixels_do_not_count_in_the_range(tmp_path):
    values = (RAMP * 7.0).astype(np.float32)
    values[0] = np.nan
    values[1, :20] = np.inf
    assert len(np.unique(data.read_image(tif(tmp_path / "nan.tif", values)))) > 70
    values[:2] = -9999
    missing = [(42113, "s", 0, "-9999", True)]
    path = tif(tmp_path / "a.tif", values, extratags=missing)
    assert len(np.unique(data.read_image(path))) > 70


def test_bands_of_16_bits_that_lie_apart_are_refused(tmp_path):
    values = np.zeros((3, 40, 40), np.uint16)
    path = tif(tmp_path / "a.tif", values, photometric="rgb", planarconfig="separate")
    with pytest.raises(ValueError, match="16 bits that lie one after the other; store them"):
        data.read_image(path)


def test_a_fourth_band_that_is_no_transparency_is_left_out(tmp_path):
    near_infrared = np.random.default_rng(0).integers(20, 200, RAMP.shape)
    for band in (60, near_infrared):
        Image.fromarray(with_band(COLOR, band)).save(tmp_path / "a.png")
        assert np.array_equal(data.read_image(tmp_path / "a.png"), COLOR)
    any_band = np.random.default_rng(0).integers(0, 256, RAMP.shape)
    options = dict(photometric="rgb", extrasamples=["UNSPECIFIED"])
    path = tif(tmp_path / "a.tif", with_band(COLOR, any_band), **options)
    assert np.array_equal(data.read_image(path), COLOR)


def test_a_fourth_band_that_is_transparency_counts(tmp_path):
    fading = with_band(COLOR, np.linspace(0, 255, 40))
    Image.fromarray(fading).save(tmp_path / "a.png")
    share = fading[..., 3:] / 255
    expected = COLOR * share + 255 * (1 - share)
    assert np.abs(np.asarray(data.read_image(tmp_path / "a.png")) - expected).max() <= 1


def test_a_folder_of_deep_pictures_has_one_range_for_both_splits_and_says_so(tmp_path):
    for split, top in (("train", 3000), ("test", 1500)):
        (tmp_path / "d" / split).mkdir(parents=True)
        for number in range(3):
            values = (RAMP / 234 * top).astype(np.uint16)
            Image.fromarray(values).save(tmp_path / "d" / split / f"{number}.png")
    for split, top in (("train", 255), ("test", 128)):
        with pytest.warns(UserWarning, match=r"scaled to 8 .* 0 to 3000 \(16 bits\)"):
            images = data.load("imagefolder", split, root=tmp_path / "d", image_size=40)
        assert abs(int(next(images.whole().batches(3))[0].max()) - top) <= 1
    before = images.fingerprint
    Image.fromarray(np.full((40, 40), 20_000, np.uint16)).save(tmp_path / "d" / "train" / "9.png")
    with pytest.warns(UserWarning, match="0 to 20000"):
        changed = data.load("imagefolder", "test", root=tmp_path / "d", image_size=40)
    assert changed.fingerprint != before  # its files are the same, but not what is shown


def test_a_range_is_not_kept_where_the_system_gave_no_file(tmp_path, monkeypatch):
    def busy(*_):
        raise OSError(errno.EMFILE, "Too many open files")

    Image.fromarray(RAMP.astype(np.uint16) * 4).save(tmp_path / "a.png")
    folders = [(tmp_path, image_files.list_images(tmp_path))]
    with monkeypatch.context() as moment:
        moment.setattr(Image, "open", busy)
        assert image_files.deep_ranges(folders) == {}
    assert image_files.deep_ranges(folders) == {"16 bits": (0, 936)}


def test_pictures_of_8_bits_have_no_range(tmp_path):
    assert data.load("imagefolder", root=tree(tmp_path / "d"), image_size=16).ranges == {}


@pytest.mark.parametrize("color", ["black", "white", (90, 92, 91)])
def test_images_of_nearly_one_color_are_said(tmp_path, color):
    for number in range(4):
        Image.new("RGB", (16, 16), color).save(tmp_path / f"{number}.png")
    with pytest.warns(UserWarning, match="3 of 3 images .* nearly of one color"):
        data.load("imagefolder", root=tmp_path, image_size=16)


def test_labels_that_are_nearly_all_the_same_are_said(tmp_path):
    root = tree(tmp_path / "d", count=1)
    for number in range(1, 150):
        os.link(root / "train/apple/0.png", root / f"train/apple/{number}.png")
    images = data.load("imagenet", root=root, image_size=16)
    with pytest.warns(UserWarning, match="99.3% of the labels are the same"):
        train.check_labels(tasks.classification(len(images.classes)), images)


# ---- folders


def test_a_wild_folder_loads(tmp_path):
    root = tmp_path / "wild"
    (root / "a" / "deep" / "deeper").mkdir(parents=True)
    (root / "b").mkdir()
    (root / ".hidden").mkdir()
    photo().save(root / "a" / "one.JPG", format="JPEG")
    photo(3, 90).convert("L").save(root / "a" / "deep" / "two.png")
    photo(500, 4).convert("CMYK").save(root / "a" / "deep" / "deeper" / "three.jpeg")
    photo(1, 1).convert("RGBA").save(root / "b" / "four.webp")
    photo().save(root / "b" / "five.bmp")
    photo().save(root / ".hidden" / "no.png")
    (root / "b" / "._five.bmp").write_bytes(b"a resource fork")
    (root / "readme.txt").write_text("not an image")
    train, test = (
        data.load("imagefolder", split, root=root, image_size=24) for split in ("train", "test")
    )
    assert len(train) == 4 and len(test) == 1 and train.classes == test.classes == ("a", "b")
    assert not set(train.paths) & set(test.paths)
    for crop in ("inception", "random"):
        dataset = data.load("imagefolder", root=root, image_size=24, crop=crop)
        for seed in (None, 0):
            [(images, labels)] = batches(dataset, 8, seed=seed)
            assert (
                images.shape == (4, 3, 24, 24)
                and images.dtype == torch.uint8
                and labels.dtype == torch.int64
            )


def test_loose_images_have_no_labels(tmp_path):
    for number in range(5):
        photo(seed=number).save(tmp_path / f"{number}.png")
    dataset = data.load("imagefolder", root=tmp_path, image_size=16)
    with pytest.raises(data.NoLabels):
        _ = dataset.labels
    assert batches(dataset, 4)[0][1] is None
    with pytest.raises(data.NoLabels, match="class folder"):
        _ = data.load("imagenet22k", root=tmp_path).labels


def test_broken_files_are_listed_and_skipped_up_to_a_limit(tmp_path):
    root = tree(tmp_path / "d", count=20, splits=("train", "test"), size=(64, 64))
    whole = (root / "train" / "apple" / "3.png").read_bytes()
    (root / "train" / "apple" / "3.png").write_bytes(whole[: len(whole) // 2])
    photo(64, 64).save(root / "train" / "pear" / "cut.jpg")
    whole = (root / "train" / "pear" / "cut.jpg").read_bytes()
    (root / "train" / "pear" / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (root / "train" / "pear" / "zero.png").write_bytes(b"")
    for _ in range(2):  # found the first time, remembered the second
        with pytest.warns(UserWarning, match="apple/3.png"):
            dataset = data.load("imagefolder", root=root, image_size=16)
        assert (
            sorted(dataset.skipped) == ["apple/3.png", "pear/cut.jpg", "pear/zero.png"]
            and len(dataset) == 39
        )
    batches(dataset, 39)
    for number in range(8):
        (root / "train" / "pear" / f"bad{number}.png").write_bytes(b"no")
    with pytest.raises(ValueError, match="11 of 50 images cannot be read") as error:
        data.load("imagefolder", root=root)
    assert " object at 0x" not in str(error.value)


def test_no_usable_image(tmp_path):
    with pytest.raises(ValueError, match="no usable image"):
        data.load("imagefolder", root=tmp_path)
    (tmp_path / "a.png").write_bytes(b"no")
    with pytest.raises(ValueError, match="no usable image.*a.png"):
        data.load("imagefolder", root=tmp_path)


def test_splits_of_a_folder(tmp_path):
    root = tree(tmp_path / "d", splits=("train", "val"))
    (root / "val" / "quince").mkdir()
    photo().save(root / "val" / "quince" / "0.png")
    train, test = data.load("imagenet", root=root), data.load("imagenet", "val", root=root)
    assert (len(train), len(test), test.split, train.image_size) == (12, 13, "test", 224)
    assert train.classes == test.classes == ("apple", "pear", "quince") and test.labels[-1] == 2
    only = tree(tmp_path / "e", splits=("train",), count=10)
    train, test = (
        data.load("imagenet22k", root=only, seed=3),
        data.load("imagenet22k", "test", root=only, seed=3),
    )
    assert len(test) == 2 and len(train) == 18 and not set(train.paths) & set(test.paths)
    assert test.paths != data.load("imagenet22k", "test", root=only, seed=4).paths


def test_workers_do_not_change_batches(tmp_path):
    root = tree(tmp_path / "d", count=6, size=(40, 30))
    dataset = data.load("imagefolder", root=root, image_size=16)
    here, there = batches(dataset, 5, seed=7), batches(dataset, 5, seed=7, decoders=2)
    assert len(here) == len(there) == 3
    for a, b in zip(here, there):
        assert torch.equal(a[0], b[0]) and torch.equal(a[1], b[1])
    other = batches(dataset, 5, seed=8)
    assert not all(torch.equal(a[0], b[0]) for a, b in zip(here, other))


def same_batches(some, others):
    return len(some) == len(others) and all(
        torch.equal(a, b) for one, other in zip(some, others) for a, b in zip(one, other)
    )


def test_a_killed_decoder_costs_time_and_not_a_bit(tmp_path):
    root = tree(tmp_path / "d", count=9, size=(40, 30))
    dataset = data.load("imagefolder", root=root, image_size=16)
    here, there = batches(dataset, 2, seed=7), []
    assert len(here) == 9
    with pytest.warns(UserWarning, match="decoders=2: a decoding process died.*SIGKILL") as said:
        for batch in dataset.batches(2, seed=7, decoders=2):
            there.append(batch)
            if len(there) == 1:  # while they are at work
                for child in multiprocessing.active_children():
                    child.kill()
            if len(there) == 6:  # while they wait
                time.sleep(0.2)
                multiprocessing.active_children()[0].kill()
    assert same_batches(here, there) and 3 <= len(said) <= 4
    assert not multiprocessing.active_children()


def test_images_over_which_decoders_die_end_the_run_in_one_sentence(tmp_path, monkeypatch):
    root = tree(tmp_path / "d", count=9, size=(40, 30))
    dataset = data.load("imagefolder", root=root, image_size=16)
    here, died = os.getpid(), tmp_path / "died"

    def pictures(self, position):
        if position == 5 and os.getpid() != here and len(deaths := died.read_text()) < most:
            died.write_text(deaths + ".")
            os.kill(os.getpid(), signal.SIGKILL)
        return decoded(self, position)

    decoded = type(dataset)._pictures
    monkeypatch.setattr(type(dataset), "_pictures", pictures)
    died.write_text("")
    most = 2
    with pytest.warns(UserWarning, match="another decodes its images"):
        assert same_batches(batches(dataset, 2), batches(dataset, 2, decoders=3))
    assert died.read_text() == ".."
    most = 9
    with (
        pytest.warns(UserWarning),
        pytest.raises(
            RuntimeError, match="decoders=3: 3 .* SIGKILL, .* pass fewer .* less memory$"
        ),
    ):
        batches(dataset, 2, decoders=3)
    assert died.read_text() == "....." and not multiprocessing.active_children()


def test_an_error_in_a_decoder_is_that_error(tmp_path):
    dataset = data.load("imagefolder", root=tree(tmp_path / "d"), image_size=16)
    os.remove(dataset.paths[3])
    with pytest.raises(FileNotFoundError) as error:
        batches(dataset, 2, decoders=2)
    assert (
        dataset.paths[3] in str(error.value) and "in a decoding process" in error.value.__notes__[0]
    )
    assert not multiprocessing.active_children()
    with pytest.raises(ValueError, match="decoders=-1: must be a whole number of at least 0"):
        dataset.batches(2, decoders=-1)


def alive(pid):
    """Whether a process is there and no mere entry of the dead, which some systems keep."""
    state = Path(f"/proc/{pid}/stat")
    return state.exists() and state.read_text().rpartition(")")[2].split()[0] not in "ZX"


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="processes are looked up in /proc")
def test_decoders_end_with_who_asked_them(tmp_path):
    dataset = data.load("imagefolder", root=tree(tmp_path / "d"), image_size=16)
    if not (driver := os.fork()):
        kept = dataset.batches(2, decoders=2)
        next(kept)
        children = [str(child.pid) for child in multiprocessing.active_children()]
        with files.written_whole(tmp_path / "pids") as new:
            new.write_text(" ".join(children))
        time.sleep(60)
        os._exit(0)
    while not (tmp_path / "pids").exists():
        time.sleep(0.01)
    os.kill(driver, signal.SIGKILL)
    os.waitpid(driver, 0)
    decoders = [int(pid) for pid in (tmp_path / "pids").read_text().split()]
    end = time.monotonic() + 60
    while any(alive(pid) for pid in decoders):
        assert time.monotonic() < end
        time.sleep(0.05)
    assert len(decoders) == 2


def test_loading_leaves_the_global_generator_alone(tmp_path):
    dataset = data.load("imagefolder", root=tree(tmp_path / "d"), image_size=16)
    before = torch.random.get_rng_state().clone()
    batches(dataset, 4, seed=0)
    data.load("synthetic-objects", num_images=10, image_size=16).halves(0)
    assert torch.equal(before, torch.random.get_rng_state())


def test_crops_show_the_image(tmp_path):
    # a horizontal ramp: the value tells the column, so each crop says which box it came from
    ramp = np.broadcast_to(
        np.linspace(0, 255, 512, dtype=np.float32)[None, :, None], (256, 512, 3)
    ).astype(np.uint8)
    for name in ("a", "b", "c"):
        Image.fromarray(ramp).save(tmp_path / f"{name}.png")
    for crop, size, edges in (
        ("inception", 224, (144 / 2, 367 / 2)),
        ("random", 255, (128.5 / 2, 382.5 / 2)),
    ):
        dataset = data.load("imagefolder", root=tmp_path, image_size=size, crop=crop)
        image = batches(dataset, 2)[0][0][0, 0].float().mean(0)
        assert abs(image[0] - edges[0]) < 1.5 and abs(image[-1] - edges[1]) < 1.5
        starts = {int(batches(dataset, 2, seed=seed)[0][0][0, 0, 0, 0]) for seed in range(10)}
        assert len(starts) > 5


def test_shrink_folder(tmp_path):
    root = tree(tmp_path / "d", size=(90, 60), count=3)
    assert data.shrink_folder(root, tmp_path / "small", short_side=30) == 12
    assert Image.open(tmp_path / "small" / "train" / "apple" / "0.png.jpg").size == (45, 30)
    assert len(data.load("imagenet", root=tmp_path / "small", image_size=16)) == 6


# ---- layouts of folders


def laid_out(root, *patterns, count=5):
    """Files by patterns with {i}, a number, and {c}, cat or dog; what is no image has a line of
    text.
    """
    for seed, pattern in enumerate(patterns):
        for path in {pattern.format(c=c, i=i) for c in ("cat", "dog") for i in range(count)}:
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            if image_files.is_image(path):
                photo(12, 12, seed=zlib.crc32(f"{seed} {path}".encode())).save(root / path)
            else:
                (root / path).write_text("no image")
    return root


def folders_of(images, root):
    """The folders of the images, without the last where that is a class."""
    folders = {Path(path).relative_to(root).parent.as_posix() for path in images.paths}
    return {folder.removesuffix("/cat").removesuffix("/dog") for folder in folders}


SORTED = {  # by the folders for training and for testing: other files of the layout
    ("train", "test"): ["labels.csv"],
    ("train", "val"): ["test/{i}.jpg"],
    ("train", "valid"): ["README.roboflow.txt"],
    ("train", "validation"): [],
    ("train", "dev"): [],
    ("Train", "Test"): ["Meta/{i}.png"],
    ("TRAIN", "TEST"): [],
    ("training", "testing"): [],
    ("train2017", "val2017"): [],
    ("tr", "te"): [],
    ("training_set", "test_set"): [],
    ("Training Data", "Testing Data"): [],
    ("TrainImages", "TestImages"): [],
    ("pets_trainset", "pets_testset"): [],
    ("train/train", "test/test"): ["pred/pred/{i}.jpg"],
    ("seg_train/seg_train", "seg_test/seg_test"): ["seg_pred/seg_pred/{i}.jpg"],
    ("train/images", "val/images"): ["train/labels/{i}.txt"],
    ("ILSVRC2012_img_train", "ILSVRC2012_img_val"): [],
    ("ILSVRC/Data/CLS-LOC/train", "ILSVRC/Data/CLS-LOC/val"): [
        "ILSVRC/Annotations/CLS-LOC/val/{i}.xml",
        "ILSVRC/Data/CLS-LOC/test/{i}.JPEG",
    ],
    ("imagenette2-160/train", "imagenette2-160/val"): ["imagenette2-160/noisy_imagenette.csv"],
    ("chest/train", "chest/test"): ["chest/chest/train/{c}/{i}.jpg", "__MACOSX/chest/._{i}.jpg"],
    ("a/b/c/train", "a/b/c/test"): [],
}


@pytest.mark.parametrize("name", ["imagefolder", "imagenet", "imagenette"])
@pytest.mark.parametrize("train, test", SORTED)
@pytest.mark.filterwarnings("ignore:.*left out")
def test_splits_with_classes_are_found_by_any_usual_name(tmp_path, train, test, name):
    others = SORTED[train, test]
    laid_out(tmp_path, f"{train}/{{c}}/{{i}}.jpg", f"{test}/{{c}}/{{i}}.jpg", *others)
    for split, folder in (("train", train), ("test", test)):
        images = data.load(name, split, root=tmp_path, image_size=16)
        assert (len(images), images.classes) == (10, ("cat", "dog"))
        assert folders_of(images, tmp_path) == {folder}
        assert images.labels.tolist() == [0] * 5 + [1] * 5


@pytest.mark.parametrize(
    "train, test, others",
    [
        ("train/images", "valid/images", ["train/labels/{i}.txt", "valid/labels/{i}.txt"]),
        ("train/images", "test/images", ["train/masks/{i}.png", "test/masks/{i}.png"]),
        ("train/input", "test/input", ["train/target/{i}.png", "test/target/{i}.png"]),
        ("imagesTr", "imagesTs", ["labelsTr/{i}.png"]),
        ("imgs", "imgs", ["gt_masks/{i}.png"]),
        ("image_2", "image_2", ["semantic/{i}.png", "instance/{i}.png", "semantic_rgb/{i}.png"]),
        ("RGB", "RGB", ["Depth/{i}.png"]),
        ("images/train2017", "images/val2017", ["labels/train2017/{i}.txt"]),
        ("train/train", "test1/test1", []),
        ("train", "test", ["extra/{i}.jpg"]),
        ("VOC2012/JPEGImages", "VOC2012/JPEGImages", ["VOC2012/SegmentationClass/{i}.png"]),
        ("images", "images", ["annotations/trimaps/{i}.png"]),
        ("photos", "photos", []),
    ],
)
@pytest.mark.filterwarnings("ignore:.*left out")
def test_splits_without_classes_are_found(tmp_path, train, test, others):
    laid_out(tmp_path, f"{train}/{{i}}.jpg", f"{test}/t{{i}}.jpg", *others)
    for split, folder in (("train", train), ("test", test)):
        images = data.load("imagefolder", split, root=tmp_path, image_size=16)
        assert folders_of(images, tmp_path) == {folder} and images._classes is None
        official = data.load("imagenet", split, root=tmp_path)
        assert official.unlabeled().paths == images.paths
        for asked in ("labels", "classes"):
            with pytest.raises(
                data.NoLabels, match="outside of a class folder, and two classes ar"
            ):
                getattr(official, asked)


@pytest.mark.parametrize(
    "base", ["", "train/", "images/", "food-101/images/", "a/b/", "val/", "256_ObjectCategories/"]
)
@pytest.mark.filterwarnings("ignore:.*sound like splits", "ignore:.*left out")
def test_a_tenth_is_held_out_where_there_is_one_split(tmp_path, base):
    laid_out(tmp_path, f"{base}{{c}}/{{i}}.jpg", "readme.txt")
    parts = [data.load("imagenet", split, root=tmp_path) for split in ("train", "test")]
    assert [len(part) for part in parts] == [9, 1] and parts[0].classes == ("cat", "dog")


@pytest.mark.parametrize(
    "patterns, words",
    [
        (["val/{c}/{i}.jpg", "test/{c}/{i}.jpg"], "has test, val, but no split for training"),
        (["{c}/{i}.jpg", "test/{c}/{i}.jpg"], "has cat, dog, test, but no split for training"),
        (["train2014/{i}.jpg", "train2017/{i}.jpg"], "train2014, train2017 may each be the split"),
        (["trainA/{i}.jpg", "trainB/{i}.jpg", "testA/{i}.jpg"], "trainA, trainB may each be"),
        (["{c}_train/{i}.jpg", "{c}_test/{i}.jpg"], "cat_train, dog_train may each be the split"),
    ],
)
def test_splits_that_cannot_be_told_are_refused(tmp_path, patterns, words):
    with pytest.raises(ValueError, match=words):
        data.load("imagefolder", root=laid_out(tmp_path, *patterns))


@pytest.mark.parametrize(
    "patterns, named",
    [
        (["{c}/train/{i}.jpg", "{c}/test/{i}.jpg"], "test, train"),
        (["bus/{i}.jpg", "car/{i}.jpg", "train/{i}.jpg"], "train"),
        (["val/{c}/{i}.jpg"], "val"),
        (["fold0/{c}/{i}.jpg", "fold1/{c}/{i}.jpg"], "fold0, fold1"),
    ],
)
def test_folders_that_sound_like_splits_are_said(tmp_path, patterns, named):
    with pytest.warns(UserWarning, match=f"{named}: folders that sound like splits, and are not"):
        data.load("imagefolder", root=laid_out(tmp_path, *patterns), image_size=16)


def test_short_names_are_classes_where_there_are_others(tmp_path):
    laid_out(tmp_path, "tr/{i}.jpg", "te/{i}.jpg", "de/{i}.jpg")
    assert data.load("imagefolder", root=tmp_path, image_size=16).classes == ("de", "te", "tr")


def test_classes_that_differ_in_capitals_are_said(tmp_path):
    laid_out(tmp_path, "Cat/a{i}.jpg", "{c}/{i}.jpg")
    with pytest.warns(UserWarning, match="several classes are called cat, but for capitals"):
        data.load("imagefolder", root=tmp_path, image_size=16)


def test_loose_images_of_one_split_take_the_classes_from_both(tmp_path):
    laid_out(tmp_path, "train/{c}/{i}.jpg", "test/{i}.jpg")
    for split in ("train", "test"):
        with pytest.warns(UserWarning, match="test has images outside of class folders, so there"):
            images = data.load("imagefolder", split, root=tmp_path, image_size=16)
        with pytest.raises(data.NoLabels):
            _ = images.labels
    # a search never tests, so it needs no more than this
    assert data.load("imagenet", root=tmp_path).classes == ("cat", "dog")
    with pytest.raises(data.NoLabels, match="test has images outside of a class folder"):
        _ = data.load("imagenet", "test", root=tmp_path).labels


def test_one_class_is_none(tmp_path):
    laid_out(tmp_path, "train/cat/{i}.jpg", "test/cat/{i}.jpg")
    assert data.load("imagefolder", root=tmp_path, image_size=16)._classes is None
    with pytest.raises(data.NoLabels, match="one folder with images outside of a class folder"):
        _ = data.load("imagenet", root=tmp_path).labels


def test_a_class_of_one_split_is_said(tmp_path):
    laid_out(tmp_path, "train/Cat/{i}.jpg", "train/dog/{i}.jpg", "test/{c}/{i}.jpg")
    with pytest.warns(UserWarning, match="classes of one split only: Cat, cat"):
        data.load("imagenet", "test", root=tmp_path)


def warned(action):
    """What is said in warnings."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        action()
    return [str(each.message) for each in said]


def test_what_is_left_out_is_counted_by_kind_in_one_line(tmp_path):
    others = [
        "phone/{i}.HEIC",
        "train/cat/{i}.cr2",
        "train/.x{i}.jpg",
        "val/{c}/{i}.jpg",
        "{i}.png",
    ]
    laid_out(tmp_path, "train/{c}/{i}.jpg", "test/{c}/{i}.jpg", *others, "train/LICENSE")
    (tmp_path / "train/cat/bad.jpg").write_bytes(b"no")
    [line] = warned(lambda: data.load("imagefolder", root=tmp_path, image_size=16))
    for part in (
        "1 unreadable of 11 images: cat/bad.jpg",
        "5 .cr2",
        "5 .heic",
        "5 hidden",
        "15 images elsewhere (loose, val)",
        "1 without a suffix",
        "other formats count once they are PNG or JPEG",
    ):
        assert part in line
    assert warned(lambda: data.load("imagefolder", root=tree(tmp_path / "d"), image_size=16)) == []


def test_messages_have_ten_names_at_most(tmp_path):
    for number in range(30):
        (tmp_path / f"{number}.jpg").write_bytes(b"no")
    with pytest.raises(ValueError, match="no usable image") as refused:
        data.load("imagefolder", root=tmp_path)
    assert str(refused.value).count("UnidentifiedImageError") == 10
    assert "and 20 more" in str(refused.value)


# ---- one bad entry


def damaged(folder, kind):
    """Put an entry into a folder that is no image; a socket that has to be kept, or None."""
    if kind == "broken link":
        (folder / "bad.jpg").symlink_to("/nowhere/bad.jpg")
    elif kind == "link to itself":
        (folder / "bad.jpg").symlink_to(folder / "bad.jpg")
    elif kind == "pipe":
        os.mkfifo(folder / "bad.png")
    elif kind == "folder":
        (folder / "bad.png").mkdir()
    elif kind == "circle":
        (folder / "bad").symlink_to(folder)
    elif kind == "socket":
        server, here = socket.socket(socket.AF_UNIX), Path.cwd()
        os.chdir(folder)  # its path must be short
        server.bind("bad.jpg")
        os.chdir(here)
        return server


@pytest.mark.skipif(os.name == "nt", reason="has no such entries")
@pytest.mark.parametrize(
    "kind, said",
    [
        ("broken link", "1 unreadable of 11 images: bad.jpg .FileNotFoundError"),
        ("link to itself", "1 unreadable of 11 images: bad.jpg .OSError"),
        ("pipe", "1 unreadable of 11 images: bad.png .no file, but a pipe"),
        ("socket", "1 unreadable of 11 images: bad.jpg .no file, but a pipe, a socket"),
        ("circle", "1 links in a circle"),
        ("folder", None),
    ],
)
def test_one_bad_entry_is_left_out_and_counted(tmp_path, kind, said):
    for number in range(10):
        photo(seed=number).save(tmp_path / f"{number}.jpg")
    kept = damaged(tmp_path, kind)
    lines = warned(lambda: data.load("imagefolder", root=tmp_path, image_size=16).fingerprint)
    assert (len(lines) == 1 and re.search(said, lines[0])) if said else lines == []
    assert len(data.load("imagefolder", root=tmp_path, image_size=16)) == 9
    assert data.shrink_folder(tmp_path, tmp_path / ".small") == 10
    if kept:
        kept.close()


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read all")
def test_a_folder_that_may_not_be_read_is_left_out_and_counted(tmp_path):
    laid_out(tmp_path, "{i}.jpg")
    (tmp_path / "lost+found").mkdir(mode=0)
    [line] = warned(lambda: data.load("imagefolder", root=tmp_path, image_size=16))
    assert "1 folders that cannot be opened" in line


@pytest.mark.skipif(sys.platform != "linux", reason="names of files are text elsewhere")
def test_names_in_other_encodings(tmp_path):
    laid_out(tmp_path, "{i}.jpg")
    for name, content in (
        (b"caf\xe9.jpg", (tmp_path / "0.jpg").read_bytes()),
        (b"\xff.png", b"no"),
    ):
        with open(os.fsencode(tmp_path) + b"/" + name, "wb") as file:
            file.write(content)
    [line] = warned(lambda: data.load("imagefolder", root=tmp_path, image_size=16))
    assert "1 unreadable" in line and line.encode()  # it can be printed


def test_a_verdict_holds_under_its_conditions_only(tmp_path, monkeypatch):
    monkeypatch.setattr(image_files, "SETTLED", -(10**15))
    root = laid_out(tmp_path / "d", "{i}.jpg")
    photo(90, 80).save(root / "large.jpg")
    count = {None: 5, 1000: 4}
    for limit in (1000, None, 1000, None):  # a file is fine, or is not, under its limit
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            assert len(data.load("imagefolder", root=root, image_size=16)) == count[limit]
    whole = (root / "large.jpg").read_bytes()
    (root / "large.jpg").write_bytes(whole[: len(whole) * 2 // 3])
    for tolerant in (False, True, False):
        monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", tolerant)
        said = warned(lambda: data.load("imagefolder", root=root, image_size=16))
        assert bool(said) != tolerant


def test_images_are_found_from_another_working_folder(tmp_path, monkeypatch):
    tree(tmp_path / "here" / "d")
    monkeypatch.chdir(tmp_path / "here")
    images = data.load("imagefolder", root="d", image_size=16)
    monkeypatch.chdir(tmp_path)
    assert len(batches(images, 12)) == 1


def test_a_tilde_is_the_home_folder_in_every_path(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("UNNAS_DATA", "~/data")
    monkeypatch.setenv("UNNAS_CACHE", "~/cache")
    monkeypatch.chdir(tree(tmp_path / "data" / "imagefolder"))
    assert len(data.load("imagefolder", image_size=16)) == 12
    assert len(data.load("imagefolder", root="~/data/imagefolder", cache="~/other")) == 12
    assert data.shrink_folder("~/data/imagefolder", "$HOME/small") == 24
    assert files.path_of("${HOME}/data") == tmp_path / "data"
    (tmp_path / "$HOME").mkdir()
    assert files.path_of(f"{tmp_path}/$HOME/new") == tmp_path / "$HOME" / "new"
    (tmp_path / "$HOME").rmdir()
    data.load("synthetic-objects", num_images=4, image_size=8)
    assert sorted(os.listdir()) == ["test", "train"] and (tmp_path / "small").is_dir()
    assert list((tmp_path / "cache").glob("synthetic-objects*"))


# ---- test crops lie at whole pixels


@pytest.mark.parametrize("crop", list(data.SHORT_SIDE))
def test_center_offsets_are_the_larger_half_of_the_room_in_whole_pixels(crop):
    for size in (8, 16, 20, 31, 48, 96, 224, 321):
        short = max(size, round(size * data.SHORT_SIDE[crop]))
        for narrow in range(5, 500, 3):
            for wide in (narrow, narrow + 1, narrow + 17, 4 * narrow // 3, 2 * narrow):
                # in integers: no rounding can take a pixel away
                room = [short - size, wide * short // narrow - size]
                left, top, right, bottom = image_files.window_box(
                    wide, narrow, size, data.SHORT_SIDE[crop]
                )
                expected = [-(-part // 2) for part in room]
                assert np.allclose(
                    [top * short / narrow, left * short / narrow], expected, rtol=0, atol=1e-6
                ), (wide, narrow, size)
                assert image_files.window_box(narrow, wide, size, data.SHORT_SIDE[crop]) == (
                    top,
                    left,
                    bottom,
                    right,
                )


def test_random_offsets_reach_both_ends_of_the_room():
    for wide, narrow, size, enlarged in (
        (50, 32, 20, 32 / 20),
        (41, 23, 8, 512 / 321),
        (92, 92, 8, 512 / 321),
        (23, 23, 22, 23 / 22),
    ):
        short, random = max(size, round(size * enlarged)), image_files.generator(0)
        boxes = (
            np.array(
                [image_files.window_box(wide, narrow, size, enlarged, random) for _ in range(2000)]
            )
            * short
            / narrow
        )
        assert np.allclose(boxes, boxes.round(), rtol=0, atol=1e-6)
        for side, offsets in ((wide, boxes[:, 0]), (narrow, boxes[:, 1])):
            assert set(offsets.round().astype(int).tolist()) == set(
                range(side * short // narrow - size + 1)
            )


@pytest.mark.parametrize("crop", list(data.SHORT_SIDE))
@pytest.mark.parametrize("size", [20, 33])
def test_a_test_crop_is_cut_from_the_resized_image_to_the_bit(tmp_path, crop, size):
    short = round(size * data.SHORT_SIDE[crop])
    # the last is halved
    shapes = [
        (short, short),
        (short + 4, short),
        (short + 5, short),
        (short, short + 8),
        (2 * short + 14, 2 * short),
    ]
    for number, shape in enumerate(shapes):
        photo(*shape, seed=number).save(tmp_path / f"{number}.png")
    [(images, _)] = batches(
        data.FolderImages(
            "imagefolder",
            "test",
            tmp_path,
            [(f"{number}.png", "") for number in range(5)],
            image_size=size,
            crop=crop,
        ),
        5,
    )
    for number, (width, height) in enumerate(shapes):
        if number == 4:
            width, height = width // 2, height // 2
        left, top = -(-(width - size) // 2), -(-(height - size) // 2)
        resized = photo(*shapes[number], seed=number).resize(
            (width, height), Image.Resampling.BILINEAR
        )
        assert np.array_equal(
            images[number].permute(1, 2, 0),
            np.asarray(resized.crop((left, top, left + size, top + size))),
        )


# ---- contents of files


def rewrite(path, image):
    """Another image in the same file: of the same size, and, as far as a program can say so, at the
    same time.
    """
    before = path.stat()
    with open(path, "r+b") as file:
        image.save(
            file,
            {".tif": "tiff"}.get(path.suffix, path.suffix[1:]),
            **({"compress_level": 0} if path.suffix == ".png" else {}),
        )
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    after = path.stat()
    assert (after.st_size, after.st_mtime_ns, after.st_ino) == (
        before.st_size,
        before.st_mtime_ns,
        before.st_ino,
    )


@pytest.fixture(params=["what was read is remembered", "nothing is remembered yet"])
def settled(request, monkeypatch):
    """Whether files count as long unchanged."""
    monkeypatch.setattr(
        image_files, "SETTLED", -(10**15) if request.param.startswith("what") else 10**15
    )


def plain_folder(root, suffix, shift=0):
    for kind in ("apple", "pear"):
        (root / kind).mkdir(parents=True)
        for number in range(3):
            photo(seed=number + shift).save(root / kind / f"{number}{suffix}")
    return root


def fingerprint_of(root):
    return data.load("imagefolder", root=root, image_size=16).fingerprint


@pytest.mark.parametrize("suffix", [".bmp", ".tif", ".ppm"])
def test_contents_decide_the_fingerprint_of_a_folder(tmp_path, suffix, settled):
    root, other = (
        plain_folder(tmp_path / "a", suffix),
        plain_folder(tmp_path / "b", suffix, shift=1),
    )
    sizes = [
        [(path, os.path.getsize(folder / path)) for path, _ in image_files.list_images(folder)]
        for folder in (root, other)
    ]
    assert (
        sizes[0] == sizes[1]
        and len(sizes[0]) == 6
        and fingerprint_of(root) != fingerprint_of(other)
    )
    before = fingerprint_of(root)
    assert before == fingerprint_of(root)
    for kind in ("apple", "pear"):  # one of them is held out for testing
        kept = (root / kind / f"1{suffix}").read_bytes()
        rewrite(root / kind / f"1{suffix}", photo(seed=9))
    after = fingerprint_of(root)
    assert after != before == fingerprint_of(plain_folder(tmp_path / "c", suffix))
    for kind in ("apple", "pear"):
        (root / kind / f"1{suffix}").write_bytes(kept)
    assert fingerprint_of(root) == before


def test_names_do_not_count_in_the_fingerprint_of_a_folder_but_the_order_does(tmp_path, settled):
    root = plain_folder(tmp_path / "a", ".bmp")
    before = fingerprint_of(root)
    for old, new in (("0", "berlin"), ("1", "london"), ("2", "paris")):
        os.rename(root / "apple" / f"{old}.bmp", root / "apple" / f"{new}.bmp")
    assert fingerprint_of(root) == before
    os.rename(root, tmp_path / "elsewhere")
    assert fingerprint_of(tmp_path / "elsewhere") == before
    for kind in ("apple", "pear"):
        folder = tmp_path / "elsewhere" / kind
        first, *_, last = sorted(folder.iterdir())
        os.rename(first, folder / "z.bmp"), os.rename(last, first)
    assert fingerprint_of(tmp_path / "elsewhere") != before


def readings(folder, **options):
    """What `contents` finds, and the contents that it has read for that."""
    seen = []

    def check(file):
        seen.append(file.read())
        return "ValueError: rotten" if seen[-1].startswith(b"rotten") else None

    return *image_files.contents(
        folder, image_files.list_images(folder), check=check, **options
    ), sorted(seen)


def written(folder, **files):
    folder.mkdir(exist_ok=True)
    for name, content in files.items():
        (folder / f"{name}.png").write_bytes(content)
    return folder


def digests(**files):
    return [(f"{name}.png", hashlib.sha256(content).hexdigest()) for name, content in files.items()]


def test_an_unchanged_file_is_read_once(tmp_path, monkeypatch):
    monkeypatch.setattr(image_files, "SETTLED", -(10**15))
    folder, files = tmp_path / "d", dict(a=b"1", b=b"2", c=b"3")
    assert readings(written(folder, **files)) == (digests(**files), {}, [b"1", b"2", b"3"])
    assert readings(folder) == (digests(**files), {}, [])
    files["b"] = b"4"
    written(folder, b=b"4")
    assert readings(folder) == (digests(**files), {}, [b"4"])
    os.utime(folder / "c.png", (1, 1))  # touched: its contents are looked at again
    assert readings(folder) == (digests(**files), {}, [b"3"])
    (folder / "a.png").unlink()
    del files["a"]
    files["d"] = b"5"
    written(folder, d=b"5")
    assert readings(folder) == (digests(**files), {}, [b"5"])
    assert readings(folder) == (digests(**files), {}, [])
    assert readings(folder, cache=tmp_path / "other")[2] == sorted(files.values())


def test_a_file_that_has_just_changed_is_read_again(tmp_path, monkeypatch):
    monkeypatch.setattr(image_files, "SETTLED", 10**15)
    folder = written(tmp_path / "d", a=b"1", b=b"2")
    # this time can be set; that of the change of the entry cannot
    os.utime(folder / "a.png", (1, 1))
    for _ in range(2):
        assert readings(folder) == (digests(a=b"1", b=b"2"), {}, [b"1", b"2"])


def test_hashes_that_end_with_zeros_survive_the_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(image_files, "SETTLED", -(10**15))
    content = next(
        text for number in range(10**5) if hashlib.sha256(text := b"%d" % number).digest()[-1] == 0
    )
    # some keys end with zeros, too
    folder = written(tmp_path / "d", a=content, **{f"b{number}": b"x" for number in range(400)})
    first, again = readings(folder), readings(folder)
    assert (
        len(first[2]) == 401
        and first[0][0] == ("a.png", hashlib.sha256(content).hexdigest())
        and again == (first[0], {}, [])
    )


def test_a_file_with_a_fault_is_reported_each_time_until_it_is_mended(tmp_path, monkeypatch):
    monkeypatch.setattr(image_files, "SETTLED", -(10**15))
    folder = written(tmp_path / "d", a=b"1", b=b"rotten", c=b"3")
    for read in ([b"1", b"3", b"rotten"], [b"rotten"]):
        assert readings(folder) == (digests(a=b"1", c=b"3"), {"b.png": "ValueError: rotten"}, read)
    written(folder, b=b"2")
    assert (
        readings(folder) == (digests(a=b"1", b=b"2", c=b"3"), {}, [b"2"])
        and readings(folder)[2] == []
    )


def test_a_file_that_cannot_be_read_is_reported_and_tried_again(tmp_path, monkeypatch):
    monkeypatch.setattr(image_files, "SETTLED", -(10**15))
    folder = written(tmp_path / "d", a=b"1", b=b"2")
    files = image_files.list_images(folder)
    os.rename(folder / "b.png", folder / "away")
    for _ in range(2):
        found, wrong = image_files.contents(folder, files, check=None)
        assert (
            found == digests(a=b"1")
            and list(wrong) == ["b.png"]
            and wrong["b.png"].startswith("FileNotFoundError: ")
        )
    os.rename(folder / "away", folder / "b.png")
    assert image_files.contents(folder, files, check=None) == (digests(a=b"1", b=b"2"), {})


def test_what_was_read_without_a_check_is_checked_where_that_is_asked(tmp_path, monkeypatch):
    monkeypatch.setattr(image_files, "SETTLED", -(10**15))
    folder = written(tmp_path / "d", a=b"no picture")
    assert image_files.contents(folder, image_files.list_images(folder), check=None)[1] == {}
    assert list(image_files.contents(folder, image_files.list_images(folder))[1]) == ["a.png"]


def damages(whole):
    yield from (b"", b"no archive", whole[::-1], whole + b"more")
    for length in range(1, len(whole), 13):
        yield whole[:length]  # cut off
        yield whole[:length] + bytes(len(whole) - length)  # blocks that were never written
    directory = whole.index(b"PK\1\2")
    # a bit has turned, in the contents or in what says where they are
    for place in (*range(0, directory, 23), *range(directory, directory + 54)):
        yield whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :]


def test_a_damaged_cache_of_contents_does_no_harm(tmp_path, monkeypatch):
    monkeypatch.setattr(image_files, "SETTLED", -(10**15))
    folder, expected = written(tmp_path / "d", a=b"1", b=b"2"), (digests(a=b"1", b=b"2"), {})
    files = image_files.list_images(folder)

    def look():
        return image_files.contents(folder, files, tmp_path / "cache", check=lambda file: None)

    assert look() == expected
    [cache] = (tmp_path / "cache").iterdir()
    for damaged in damages(cache.read_bytes()):
        cache.write_bytes(damaged)
        assert look() == expected
    # it is whole again
    assert look() == expected and readings(folder, cache=tmp_path / "cache")[2] == []


def test_a_cache_of_contents_that_cannot_be_written(tmp_path, monkeypatch):
    monkeypatch.setattr(image_files, "SETTLED", -(10**15))
    folder = written(tmp_path / "d", a=b"1")
    (tmp_path / "file").write_text("")
    with pytest.warns(UserWarning, match="UNNAS_CACHE"):
        assert readings(folder, cache=tmp_path / "file") == (digests(a=b"1"), {}, [b"1"])


# ---- what datasets have in common


@pytest.fixture(params=["tensor", "folder"])
def dataset(request, tmp_path):
    if request.param == "tensor":
        return data.load("synthetic-objects", num_images=23, image_size=16)
    return data.load("imagenet", root=tree(tmp_path / "set", count=12), image_size=16).subset(
        range(23)
    )


def test_halves_are_disjoint_and_cover(dataset):
    first, second = dataset.halves(seed=1)
    assert (len(first), len(second)) == (11, 12)
    assert sorted(first.indices.tolist() + second.indices.tolist()) == list(range(23))
    assert (
        first.indices.tolist()
        == dataset.halves(seed=1)[0].indices.tolist()
        != dataset.halves(seed=2)[0].indices.tolist()
    )


def test_shards_partition_every_batch(dataset):
    dataset = dataset.subset(range(17))
    whole = batches(dataset, 8, seed=2)
    shards = [batches(dataset, 8, seed=2, shard=(rank, 3)) for rank in range(3)]
    assert [len(images) for images, _ in whole] == [8, 8, 1] and all(
        len(shard) == 3 for shard in shards
    )
    for number, (images, labels) in enumerate(whole):
        parts = (
            torch.cat([shard[number][0] for shard in shards]),
            torch.cat([shard[number][1] for shard in shards]),
        )

        def key(images, labels):
            return sorted(
                (image.numpy().tobytes(), int(label)) for image, label in zip(images, labels)
            )

        assert key(images, labels) == key(*parts)


def test_order_and_epochs(dataset):
    plain, shuffled = (
        torch.cat([labels for _, labels in batches(dataset, 5, seed=seed)]) for seed in (None, 3)
    )
    assert (
        torch.equal(plain, dataset.labels)
        and not torch.equal(plain, shuffled)
        and torch.equal(plain.sort().values, shuffled.sort().values)
    )
    assert dataset.num_batches(5) == 5 == len(batches(dataset, 5)) and dataset.num_batches(
        5, True
    ) == 4 == len(batches(dataset, 5, drop_last=True))


def test_unlabeled_has_no_labels_to_give(dataset):
    blind = dataset.unlabeled()
    for view in (blind, blind.subset([1, 2]), blind.halves(0)[1], blind.sample(5, 0)):
        for attribute in ("labels", "num_classes", "classes", "label_maps"):
            with pytest.raises((data.NoLabels, AttributeError)):
                getattr(view, attribute)
        assert {labels for _, labels in view.batches(4)} == {None}
    assert not any(
        isinstance(value, torch.Tensor) and torch.equal(value, dataset._labels)
        for value in vars(blind).values()
    )
    for (a, _), (b, _) in zip(dataset.batches(4, seed=1), blind.batches(4, seed=1)):
        assert torch.equal(a, b)


def test_fingerprint_follows_the_content(dataset):
    views = [
        dataset,
        dataset.subset([0, 1]),
        dataset.subset([1, 0]),
        dataset.resized(24),
        dataset.unlabeled(),
        *dataset.halves(0),
    ]
    assert len({view.fingerprint for view in views}) == len(views)
    assert dataset.subset(range(23)).fingerprint == dataset.fingerprint


def test_fingerprint_of_pixels_and_labels():
    images, labels = torch.zeros(2, 3, 8, 8, dtype=torch.uint8), [0, 1]

    def make(images, labels):
        return data.TensorImages("x", "train", images, labels, "ab")

    changed = images.clone()
    changed[1, 2, 7, 7] = 1
    assert make(images, labels).fingerprint == make(images.clone(), labels).fingerprint
    assert (
        len(
            {
                make(images, labels).fingerprint,
                make(changed, labels).fingerprint,
                make(images, [1, 0]).fingerprint,
            }
        )
        == 3
    )
    assert (
        make(images, labels).unlabeled().fingerprint
        == make(images, [1, 0]).unlabeled().fingerprint
        != make(changed, labels).unlabeled().fingerprint
    )


def test_fingerprint_of_folder_settings(tmp_path):
    root = tree(tmp_path / "d")

    def load(**options):
        return data.load("imagefolder", root=root, **{"image_size": 16, **options}).fingerprint

    assert (
        load() == load()
        and len(
            {
                load(),
                load(image_size=24),
                load(crop="random"),
                load(num_images=4),
                load(num_images=4, seed=1),
            }
        )
        == 5
    )


def test_resizing_is_the_area_mean():
    images = torch.randint(
        0, 256, (3, 3, 16, 16), generator=torch.Generator().manual_seed(0), dtype=torch.uint8
    )
    mean = images.double().reshape(3, 3, 8, 2, 8, 2).mean((3, 5))
    small = data.TensorImages("x", "train", images).resized(8).images
    assert (small.double() - mean).abs().max() <= 0.5
    constant = torch.full((1, 3, 16, 16), 200, dtype=torch.uint8)
    assert (image_files.shrink_or_enlarge(constant, 37) == 200).all()


# ---- synthetic data


def content(name, **options):
    dataset = data.load(name, **options)
    return hashlib.sha256(
        dataset.images.numpy().tobytes() + dataset.labels.numpy().tobytes()
    ).hexdigest()


@pytest.mark.slow
def test_synthetic_content_is_the_same_in_a_fresh_process(tmp_path):
    code = (
        "import sys, tests.test_data as t\nprint([t.content(name, num_images=250, image_size=16,"
        " seed=5, cache=sys.argv[1]) for name in ('synthetic-objects', 'synthetic-streets')])"
    )
    run = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "other")],
        capture_output=True,
        text=True,
        check=True,
        cwd=os.path.dirname(os.path.dirname(os.path.abspath(__file__))),
    )
    assert run.stdout.strip() == str(
        [
            content(name, num_images=250, image_size=16, seed=5)
            for name in ("synthetic-objects", "synthetic-streets")
        ]
    )


PINNED = {"synthetic-objects": "137ca35145ab92d5", "synthetic-streets": "6fba7be11d8ed12c"}


@pytest.mark.parametrize("name", PINNED)
def test_synthetic_content_is_the_same_on_every_machine(name):
    """If a change of the pictures was intended, raise synthetic.VERSION and pin the new
    value.
    """
    assert content(name, num_images=250, image_size=16)[:16] == PINNED[name]


@pytest.mark.parametrize("name", PINNED)
def test_synthetic_draws(name):
    def load(split="train", **options):
        return data.load(name, split, **{"num_images": 260, "image_size": 8, **options})

    whole, begin, again = load(), load(num_images=100), load()
    assert (
        torch.equal(whole.images[:100], begin.images)
        and torch.equal(whole.labels[:100], begin.labels)
        and whole.fingerprint == again.fingerprint
    )
    assert not torch.equal(whole.images, load("test").images) and not torch.equal(
        whole.images, load(seed=1).images
    )
    assert (
        len({image.numpy().tobytes() for image in torch.cat([whole.images, load("test").images])})
        == 520
    )
    counts = whole.labels.bincount()
    assert (
        len(counts) == whole.num_classes == len(whole.classes) and counts.min() >= counts.max() - 8
    )


@pytest.mark.parametrize("name", PINNED)
@pytest.mark.parametrize("size", [8, 17, 64, 224])
def test_synthetic_sizes_show_the_same_scene(name, size):
    small, other = (
        data.load(name, num_images=4, image_size=32),
        data.load(name, num_images=4, image_size=size),
    )
    assert other.images.shape == (4, 3, size, size) and other.image_size == size
    assert (small.images.float().mean((2, 3)) - other.images.float().mean((2, 3))).abs().max() < 8


def test_label_maps_are_train_ids():
    dataset = data.load("synthetic-streets", num_images=100, image_size=32)
    maps = dataset.label_maps
    assert maps.shape == (100, 32, 32) and maps.dtype == torch.uint8
    values = set(maps.unique().tolist())
    assert values <= {*range(19), 255} and {0, 1, 2, 8, 10, 11, 13, 255} <= values
    # sky is above the road, and the maps follow a subset
    rows = torch.arange(32.0)[None, :, None]

    def center(number):
        return (rows * (maps == number)).sum() / (maps == number).sum()

    assert center(10) < center(2) < center(0)
    assert torch.equal(dataset.subset([7, 3]).label_maps, maps[[7, 3]])
    with pytest.raises(data.NoLabels):
        _ = dataset.unlabeled().label_maps
    with pytest.raises(data.NoLabels):
        _ = data.load("synthetic-objects", num_images=2).label_maps


def test_a_vehicle_has_one_label():
    plane, traits = synthetic._screen(8), [np.zeros((1, 1, 1), np.float32)] * 3
    for thing, label in (
        ("car one", 13),
        ("car two", 13),
        ("truck", 14),
        ("bus", 15),
        ("person", 11),
    ):
        parts = synthetic._THINGS[thing][0](plane, traits)
        assert {synthetic._TRAIN_IDS[synthetic._MATERIAL[name]] for _, name in parts} == {label}
    assert data.MAP_CLASSES[13:16] == ("car", "truck", "bus")


def test_the_cache_is_used_and_survives_damage(tmp_path):
    def load():
        return data.load("synthetic-objects", num_images=10, image_size=8, cache=tmp_path)

    first = load()
    [file] = tmp_path.iterdir()
    stamp = file.stat().st_mtime_ns
    assert torch.equal(load().images, first.images) and file.stat().st_mtime_ns == stamp
    file.write_bytes(file.read_bytes()[:1000])
    assert (
        torch.equal(load().images, first.images)
        and file.stat().st_size > 1000
        and len(list(tmp_path.iterdir())) == 1
    )


def test_a_cache_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.warns(UserWarning, match="UNNAS_CACHE"):
        dataset = data.load(
            "synthetic-objects", num_images=10, image_size=8, cache=tmp_path / "file"
        )
    assert len(dataset) == 10


def test_noise_is_the_same_each_time_and_has_no_labels():
    def load(split="train", **options):
        return data.load("noise", split, **options)

    train, test, small = load(), load("test"), load(num_images=50)
    assert (train.images.shape, test.images.shape) == (
        (2000, 3, 32, 32),
        (1000, 3, 32, 32),
    ) and train.images.dtype == torch.uint8
    assert (
        torch.equal(train.images[:50], small.images)
        and torch.equal(load(num_images=3).images, small.images[:3])
        and len(load("val", num_images=7)) == 7
    )
    assert small.fingerprint == load(num_images=50).fingerprint and torch.equal(
        load("val").images, test.images
    )
    assert (
        len(
            {
                image.numpy().tobytes()
                for view in (train, test, load(seed=1))
                for image in view.images
            }
        )
        == 5000
    )
    assert load(num_images=5, image_size=9).images.shape == (5, 3, 9, 9)
    for attribute in ("labels", "num_classes", "classes"):
        with pytest.raises(data.NoLabels):
            getattr(train, attribute)
    assert next(train.batches(4, seed=0))[1] is None and train.crop is None


def test_noise_has_no_statistics():
    images = data.load("noise").images.double()
    counts = images.long().flatten().bincount(minlength=256)
    expected = images.numel() / 256
    # chi squared
    assert ((counts - expected) ** 2 / expected).sum() < 255 + 4 * (2 * 255) ** 0.5
    level, few = (images - images.mean()) / images.std(), 5 / images[:, 0, 1:].numel() ** 0.5
    for one, other in (
        (level[:, 0], level[:, 1]),
        (level[..., 1:], level[..., :-1]),
        (level[:, :, 1:], level[:, :, :-1]),
        (level[1:], level[:-1]),
    ):
        # channels, neighbors and images tell nothing about each other
        assert abs((one * other).mean()) < few


# ---- CIFAR-10


def cifar_pickle(folder, name, seed, count=20):
    rng = np.random.default_rng(seed)
    pixels, labels = (
        rng.integers(0, 256, (count, 3072)).astype(np.uint8),
        (np.arange(count) % 10).tolist(),
    )
    (folder / name).write_bytes(
        pickle.dumps({b"data": pixels, b"labels": labels, b"filenames": [], b"batch_label": b""})
    )
    return pixels


def test_cifar_official_layout(tmp_path):
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    parts = [
        cifar_pickle(folder, name, seed)
        for seed, name in enumerate([*(f"data_batch_{n}" for n in range(1, 6)), "test_batch"])
    ]
    train, test = data.load("cifar10", root=tmp_path), data.load("cifar10", "test", root=tmp_path)
    assert (len(train), len(test), train.num_classes, train.image_size) == (100, 20, 10, 32)
    assert (
        train.images[20].flatten().tolist() == parts[1][0].tolist()
        and test.images[3].flatten().tolist() == parts[5][3].tolist()
    )
    assert train.labels[:12].tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1]
    small = data.load("cifar10", root=tmp_path, image_size=16, num_images=30, seed=2)
    assert small.images.shape == (30, 3, 16, 16)
    assert torch.equal(
        small.labels, data.load("cifar10", root=tmp_path, num_images=30, seed=2).labels
    )


def test_cifar_tree_layout(tmp_path, monkeypatch):
    root = tree(tmp_path / "cifar10", classes=data.CIFAR_CLASSES, count=2, size=(32, 32))
    monkeypatch.setenv("UNNAS_DATA", str(tmp_path))
    train = data.load("cifar10")
    assert (
        len(train) == 20
        and train.labels.tolist() == sorted([*range(10)] * 2)
        and train.classes[3] == "cat"
    )
    assert np.array_equal(train.images[1].permute(1, 2, 0), np.asarray(photo(32, 32, seed=1)))
    assert torch.equal(train.images, data.load("cifar10").images)
    photo(32, 32, seed=9).save(root / "train" / "ship" / "9.png")
    assert len(data.load("cifar10")) == 21
    photo(33, 32).save(root / "test" / "ship" / "9.png")
    with pytest.raises(ValueError, match="not 32 x 32"):
        data.load("cifar10", "test")


def test_a_broken_picture_in_a_cifar_tree_is_named(tmp_path):
    tree(tmp_path, data.CIFAR_CLASSES, size=(32, 32), count=1)
    (tmp_path / "train" / "cat" / "bad.png").write_bytes(b"no")
    with pytest.raises(ValueError, match="train/cat/bad.png cannot be read .*; repair it, or unp"):
        data.load("cifar10", root=tmp_path)


def test_a_cifar_tree_is_decoded_again_when_a_file_changes_in_place(tmp_path, settled):
    root = tmp_path / "cifar10"
    for kind in data.CIFAR_CLASSES:
        (root / "train" / kind).mkdir(parents=True)
        for number in range(2):
            photo(32, 32, seed=number).save(
                root / "train" / kind / f"{number}.png", compress_level=0
            )
    before, again = data.load("cifar10", root=root), data.load("cifar10", root=root)
    assert before.fingerprint == again.fingerprint
    rewrite(root / "train" / "cat" / "1.png", photo(32, 32, seed=9))
    after = data.load("cifar10", root=root)
    changed = [
        position
        for position in range(20)
        if not torch.equal(before.images[position], after.images[position])
    ]
    assert (
        changed == [7]
        and before.fingerprint != after.fingerprint
        and torch.equal(before.labels, after.labels)
    )
    assert np.array_equal(after.images[7].permute(1, 2, 0), photo(32, 32, seed=9))


def test_cifar_without_files_or_network(tmp_path, monkeypatch):
    monkeypatch.setattr(torchvision.datasets.CIFAR10, "url", (tmp_path / "nowhere.tar.gz").as_uri())
    with pytest.raises(FileNotFoundError, match="cifar-10-batches-py"):
        data.load("cifar10", root=tmp_path / "empty")


def test_cifar_that_another_process_has_downloaded_meanwhile_is_read(tmp_path, monkeypatch):
    class Slower:
        """A download during which another one has ended."""

        url, filename = "nowhere", "archive"

        def __init__(self, folder, download):
            for place in (Path(folder), tmp_path):
                cifar_files(place / "cifar-10-batches-py")

    monkeypatch.setattr(torchvision.datasets, "CIFAR10", Slower)
    with pytest.warns(UserWarning, match="100 images for train"):
        data.load("cifar10", root=tmp_path)


def cifar_files(folder, suffix="", count=20):
    """The official files of a small CIFAR-10, for Python or (.bin) for C; the images by name."""
    folder.mkdir(parents=True)
    images = {}
    for seed, name in enumerate([*(f"data_batch_{n}" for n in range(1, 6)), "test_batch"]):
        pixels = cifar_pickle(folder, name, seed, count)
        images[name] = torch.from_numpy(pixels).reshape(-1, 3, 32, 32)
        if suffix:
            rows = np.column_stack([np.arange(count, dtype=np.uint8) % 10, pixels])
            (folder / name).unlink()
            (folder / f"{name}{suffix}").write_bytes(rows.tobytes())
    return images


@pytest.mark.parametrize(
    "suffix, name", [("", "cifar-10-batches-py"), (".bin", "cifar-10-batches-bin")]
)
@pytest.mark.parametrize("off", [0, 1, 2])
@pytest.mark.filterwarnings("ignore:.*and CIFAR-10 has")
def test_official_files_of_cifar_are_found_around_the_root(tmp_path, suffix, name, off):
    folder = tmp_path / "data" / name
    images = cifar_files(folder, suffix)
    for split, parts in (("train", list(images)[:5]), ("test", ["test_batch"])):
        root = [folder, folder.parent, tmp_path][off]
        loaded = data.load("cifar10", split, root=root)
        assert torch.equal(loaded.images, torch.cat([images[part] for part in parts]))
        assert loaded.labels[:12].tolist() == [*range(10), 0, 1]


@pytest.mark.parametrize(
    "train, test, root",
    [
        ("train", "test", ""),
        ("train", "test", "train"),
        ("Train", "Val", ""),
        ("cifar10/train", "cifar10/test", ""),
        ("cifar10/train", "cifar10/test", "cifar10/test"),
    ],
)
@pytest.mark.filterwarnings("ignore:.*and CIFAR-10 has")
def test_trees_of_cifar_are_found_around_the_root(tmp_path, train, test, root):
    for folder, seed in ((train, 1), (test, 2)):
        for kind in data.CIFAR_CLASSES:
            (tmp_path / "d" / folder / kind.title()).mkdir(parents=True)
            photo(32, 32, seed).save(tmp_path / "d" / folder / kind.title() / "0.png")
    for split, seed in (("train", 1), ("test", 2)):
        images = data.load("cifar10", split, root=tmp_path / "d" / root)
        assert images.labels.tolist() == [*range(10)]
        assert np.array_equal(images.images[7].permute(1, 2, 0), photo(32, 32, seed))


@pytest.mark.parametrize(
    "damage, words",
    [
        (lambda path: path.unlink(), "lacks data_batch_3.* of CIFAR-10; unpack the archive again"),
        (lambda path: path.write_bytes(b""), "data_batch_3.* is no file of CIFAR-10"),
        (lambda path: path.write_bytes(b"<html>not found</html>"), "data_batch_3.* is no file of"),
        (lambda path: path.write_bytes(path.read_bytes()[:5000]), "data_batch_3.* is no file of"),
        (lambda path: path.write_bytes(path.read_bytes()[::-1]), "data_batch_3.* is no file of"),
    ],
)
@pytest.mark.parametrize("suffix", ["", ".bin"])
def test_torn_and_missing_files_of_cifar_are_named(tmp_path, suffix, damage, words):
    cifar_files(tmp_path / "cifar-10-batches", suffix)
    damage(tmp_path / "cifar-10-batches" / f"data_batch_3{suffix}")
    with pytest.raises(ValueError, match=words):
        data.load("cifar10", root=tmp_path)


def test_a_part_of_cifar_is_said(tmp_path):
    cifar_files(tmp_path / "cifar-10-batches-py")
    said = warned(lambda: data.load("cifar10", "test", root=tmp_path))
    assert said == [f"root={tmp_path}: 20 images for test, and CIFAR-10 has 10000"]
    root = tree(tmp_path / "t", classes=data.CIFAR_CLASSES[:8], count=1, size=(32, 32))
    with pytest.raises(ValueError, match="but lacks ship, truck; for other images use"):
        data.load("cifar10", root=root)
    shutil.rmtree(root / "test")
    with pytest.raises(ValueError, match="has no split for testing; add test/<class>/"):
        data.load("cifar10", "test", root=root)


class Hostile:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_hostile_pickle_executes_nothing(tmp_path, protocol):
    folder, marker = tmp_path / "cifar-10-batches-py", tmp_path / "executed"
    images = cifar_files(folder)
    for content in (
        Hostile(marker),
        {b"data": Hostile(marker), b"labels": [0]},
        {Hostile(marker): 1},
    ):
        (folder / "test_batch").write_bytes(pickle.dumps(content, protocol))
        with pytest.raises(ValueError, match="test_batch is no file.*asks for (posix|nt).mkdir"):
            data.load("cifar10", "test", root=tmp_path)
        assert not marker.exists()
    honest = {b"data": images["test_batch"].reshape(-1, 3072).numpy(), b"labels": [*range(10)] * 2}
    (folder / "test_batch").write_bytes(pickle.dumps(honest, protocol))
    with pytest.warns(UserWarning, match="20 images for test"):
        loaded = data.load("cifar10", "test", root=tmp_path)
    assert torch.equal(loaded.images, images["test_batch"])


@pytest.mark.parametrize(
    "code",
    [
        b"cbuiltins\neval\n(S'1'\ntR.",
        b"cnumpy\nload\n(S'x'\ntR.",
        b"cnumpy.testing._private.utils\nrunstring\n(S'1'\n}tR.",
        b"cnumpy\nndarray.tofile\n.",
        b"c_codecs\nlookup\n(S'x'\ntR.",
    ],
)
def test_a_pickle_asks_for_arrays_only(tmp_path, code):
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    (folder / "test_batch").write_bytes(code)
    with pytest.raises(ValueError, match="asks for .*, which is no array"):
        data.load("cifar10", "test", root=tmp_path)


def test_a_mistyped_path_makes_no_folder(tmp_path, monkeypatch):
    url = (tmp_path / "nowhere.tar.gz").as_uri()
    monkeypatch.setattr(torchvision.datasets.CIFAR10, "url", url)
    for name in ("cifar10", "cityscapes", "imagefolder", "imagenet"):
        for root in (tmp_path / "mistyped", tmp_path / "mis" / "typed"):
            with pytest.raises(FileNotFoundError, match="no such folder|has no folder"):
                data.load(name, root=root)
    monkeypatch.setenv("UNNAS_DATA", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="the download failed"):
        data.load("cifar10")
    assert list(tmp_path.iterdir()) == []


# ---- street scenes and their label maps

LEVELS = 20, 125, 230
PALETTE = np.random.default_rng(0).permutation(
    np.array([(r, g, b) for r in LEVELS for g in LEVELS for b in LEVELS], np.uint8)
)
# the official numbering: train ids of the ids 0 to 33
OFFICIAL = [255] * 7 + [
    0,
    1,
    255,
    255,
    2,
    3,
    4,
    255,
    255,
    255,
    5,
    255,
    6,
    7,
    8,
    9,
    10,
    11,
    12,
    13,
    14,
    15,
    255,
    255,
    16,
    17,
    18,
]


def street_map(width, height, shift=0):
    """Blocks of all 19 classes, and void in a corner."""
    classes = (np.arange(width)[None] // 10 + 3 * (np.arange(height)[:, None] // 8) + shift) % 19
    classes[-12:, -12:] = 255
    return classes.astype(np.uint8)


def colors_of(classes):
    return PALETTE[np.where(classes == 255, 26, classes)]


def add_street(root, split, name, classes, kind="labelTrainIds", colors=colors_of, suffix=".png"):
    image, label = (
        root / "leftImg8bit" / split / f"{name}_leftImg8bit{suffix}",
        root / "gtFine" / split / f"{name}_gtFine_{kind}.png",
    )
    for path in (image, label):
        path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(colors(classes)).save(image, quality=98)
    Image.fromarray(
        classes
        if kind == "labelTrainIds"
        else np.array([*map(OFFICIAL.index, range(19))] + [4] * 237, np.uint8)[classes]
    ).save(label)
    return image, label


@pytest.fixture
def town(tmp_path):
    """Seven training scenes and four of val; some with train ids, some with ids."""
    for split, count in (("train", 7), ("val", 4)):
        for number in range(count):
            city, kind = ("aachen", "labelTrainIds") if number % 2 else ("bonn", "labelIds")
            add_street(
                tmp_path / "town",
                split,
                f"{city}/{city}_{number:06}_000019",
                street_map(160, 96, number),
                kind,
            )
    return tmp_path / "town"


def streets(root, split="train", **options):
    return data.load(
        "cityscapes", split, root=root, **{"image_size": 48, "crop": "scale", **options}
    )


def share_aligned(images, maps):
    """The share of pixels inside of one class, and how many of these have the color of their
    class.
    """
    pixels = images.permute(0, 2, 3, 1).numpy().astype(int)
    nearest = (np.abs(pixels[:, :, :, None] - PALETTE[None, None, None]).sum(-1)).argmin(-1)
    maps = np.where(maps == 255, 26, maps)
    inside = np.ones(maps[:, 1:-1, 1:-1].shape, bool)
    for down in (0, 1, 2):
        for right in (0, 1, 2):
            inside &= (
                maps[:, down : down + inside.shape[1], right : right + inside.shape[2]]
                == maps[:, 1:-1, 1:-1]
            )
    return inside.mean(), (nearest == maps)[:, 1:-1, 1:-1][inside].mean()


def test_cityscapes_as_on_disk(town):
    (town / "leftImg8bit" / "train" / "bonn" / "notes.png").write_bytes(
        b"not an image of the data set"
    )
    train, test = streets(town), streets(town, "val")
    assert (len(train), len(test), test.split, train.image_size) == (7, 4, "test", 48)
    assert data.load("cityscapes", root=town).image_size == 321
    assert [path.split("/")[-2] for path in train.paths] == ["aachen"] * 3 + ["bonn"] * 4
    with pytest.raises(data.NoLabels, match="label maps, not one label an image.*with_maps"):
        _ = train.labels
    assert not hasattr(train, "num_classes") and [
        labels for _, labels in batches(train, 4, seed=0)
    ] == [None, None]
    mapped = train.with_maps()
    assert (
        mapped.num_classes == 19
        and mapped.classes == data.MAP_CLASSES
        and mapped.classes[13] == "car"
        and not hasattr(mapped, "labels")
    )
    [(images, maps)] = batches(mapped, 7, seed=0)
    assert (
        images.shape == (7, 3, 48, 48)
        and maps.shape == (7, 48, 48)
        and images.dtype == maps.dtype == torch.uint8
    )
    assert torch.equal(images, batches(train, 7, seed=0)[0][0]) and torch.equal(
        images, batches(train.unlabeled(), 7, seed=0)[0][0]
    )


def test_both_numberings_give_the_same_train_ids(town):
    whole = streets(town).with_maps().whole()
    for (images, maps), path in zip(batches(whole, 1), whole.paths):
        expected = street_map(160, 96, int(path.split("_")[-3]))
        assert np.array_equal(maps[0], expected) and np.array_equal(
            images[0].permute(1, 2, 0), colors_of(expected)
        )


def test_ids_become_train_ids_by_the_official_table():
    assert (
        image_files.to_train_ids(np.arange(34, dtype=np.uint8), "labelIds", "").tolist() == OFFICIAL
    )
    # the license plate, -1
    assert image_files.to_train_ids(np.array([255], np.uint8), "labelIds", "").tolist() == [255]
    assert image_files.to_train_ids(
        np.array([0, 18, 255], np.uint8), "labelTrainIds", ""
    ).tolist() == [
        0,
        18,
        255,
    ]


def test_train_ids_are_preferred(town):
    add_street(town, "train", "celle/celle_000000_000019", street_map(40, 40), "labelIds")
    _, label = add_street(
        town, "train", "celle/celle_000000_000019", street_map(40, 40), "labelTrainIds"
    )
    Image.new("L", (40, 40), 7).save(label)
    assert set(
        batches(streets(town).with_maps().whole().subset([7]), 1)[0][1].flatten().tolist()
    ) == {7}


def test_jpeg_images_serve_as_well(tmp_path):
    add_street(tmp_path, "train", "a/a_0_0", street_map(160, 96), suffix=".jpg")
    [(images, maps)] = batches(streets(tmp_path).with_maps(), 1, seed=0)
    assert share_aligned(images, maps)[1] > 0.97


@pytest.mark.parametrize("crop", ["scale", "scale-wide", "inception", "random"])
def test_image_and_map_stay_aligned(town, crop):
    dataset = streets(town, crop=crop).with_maps()
    everything = [batches(dataset, 7, seed=seed)[0] for seed in (*range(12), None)]
    inside, right = share_aligned(*map(torch.cat, zip(*everything)))
    assert inside > 0.3 and right > 0.995
    assert len({maps.numpy().tobytes() for _, maps in everything}) == 13


@pytest.mark.slow
def test_alignment_is_exact_to_a_part_of_a_pixel(tmp_path):
    columns, rows = np.meshgrid(np.arange(240), np.arange(160))
    # ramps: the gray level tells the column or row, the map the same in steps of 13
    for number, place in enumerate((columns, rows)):
        gray = np.repeat(place[:, :, None], 3, 2).astype(np.uint8)
        add_street(
            tmp_path,
            "train",
            f"a/a_{number}_0",
            (place // 13).astype(np.uint8),
            colors=lambda _: gray,
        )
    dataset = streets(tmp_path, image_size=64).with_maps()
    for position in range(2):
        images, maps = zip(
            *(batches(dataset.subset([position]), 1, seed=seed)[0] for seed in range(300))
        )
        off = torch.cat(images)[:, 0].double() - (13.0 * torch.cat(maps) + 6)
        assert off.abs().max() < 9 and abs(off.mean()) < 0.15


@pytest.mark.slow
def test_scale_crops_show_things_from_half_to_twice_their_size(tmp_path):
    ramp = np.broadcast_to(np.arange(250)[None], (100, 250))
    add_street(
        tmp_path,
        "train",
        "a/a_0_0",
        (ramp * 0).astype(np.uint8),
        colors=lambda _: np.repeat(ramp[:, :, None], 3, 2).astype(np.uint8),
    )
    for crop, enlarged in (("scale", 512 / 321), ("scale-wide", 1024 / 769)):
        lines = torch.cat(
            [
                batches(streets(tmp_path, crop=crop), 1, seed=seed)[0][0][:, 0].double().mean(1)
                for seed in range(400)
            ]
        )
        # the ramp's slope tells the short side
        short = 100 * 37 / (lines[:, 42] - lines[:, 5])
        assert short.min() > 46 and 1.9 * enlarged * 48 < short.max() < 2.1 * enlarged * 48
        # the share of draws that would be smaller than the crop
        held = (1 - np.log2(enlarged)) / 2
        assert (
            abs((short < 48.5).double().mean() - held) < 0.06
            and abs(short.log2().median() - np.log2(48 * enlarged)) < 0.2
        )
        center = batches(streets(tmp_path, crop=crop), 1)[0][0][0, 0].double().mean(0)
        assert (
            abs(center.mean() - 124.5) < 0.6
            and abs((center[42] - center[5]) / 37 - 100 / (48 * enlarged)) < 0.03
        )


@pytest.mark.parametrize("width, height", [(98, 98), (480, 360), (2048, 1024), (30, 20)])
def test_scale_boxes_reach_both_edges_and_never_leave(width, height):
    random = image_files.generator(0)
    boxes = np.array([image_files.scale_box(width, height, 48, 1.05, random) for _ in range(3000)])
    assert (
        (boxes[:, :2] >= 0).all() and (boxes[:, 2] <= width).all() and (boxes[:, 3] <= height).all()
    )
    assert np.allclose(boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1])
    step = (boxes[:, 2] - boxes[:, 0]) / 48  # source pixels for one of the crop
    room = np.round(height / step).astype(int) - 48
    offset = np.round(boxes[:, 1] / step)
    for few in (1, 2, 3):  # all offsets from 0 to the last, equally often
        seen = np.bincount(offset[room == few].astype(int), minlength=few + 1)
        assert len(seen) == few + 1 and seen.min() > 0


def test_an_image_smaller_than_the_crop_is_scaled_up(tmp_path):
    add_street(tmp_path, "train", "a/a_0_0", street_map(40, 30))
    for seed in (None, 0, 1):
        for crop in ("scale", "scale-wide"):
            [(images, maps)] = batches(
                streets(tmp_path, image_size=64, crop=crop).with_maps(), 1, seed=seed
            )
            assert (
                images.shape == (1, 3, 64, 64)
                and maps.shape == (1, 64, 64)
                and share_aligned(images, maps)[1] > 0.99
            )


@pytest.fixture(params=["files", "memory"])
def scenes(request, town):
    if request.param == "files":
        return streets(town)
    return data.load("synthetic-streets", num_images=7, image_size=24, crop="scale")


def test_workers_and_shards_do_not_change_maps(scenes):
    mapped = scenes.with_maps()
    here, there = batches(mapped, 4, seed=7), batches(mapped, 4, seed=7, decoders=2)
    assert [len(maps) for _, maps in here] == [4, 3]
    for a, b in zip(here, there):
        assert torch.equal(a[0], b[0]) and torch.equal(a[1], b[1])
    assert not torch.equal(here[0][1], batches(mapped, 4, seed=8)[0][1])
    shards = [batches(mapped, 6, seed=7, shard=(rank, 3)) for rank in range(3)]
    assert [len(shard[1][1]) for shard in shards] == [1, 0, 0] and shards[2][1][0].shape[
        1:
    ] == here[0][0].shape[1:]
    whole = batches(mapped, 6, seed=7)[0]
    assert all(
        torch.equal(
            torch.stack([shards[row % 3][0][part][row // 3] for row in range(6)]), whole[part]
        )
        for part in range(2)
    )


def test_crops_do_not_depend_on_maps_or_batches(scenes):
    plain, mapped = (
        torch.cat([images for images, _ in batches(view, size, seed=3)])
        for view, size in ((scenes, 7), (scenes.with_maps(), 2))
    )
    assert torch.equal(plain, mapped)


def test_unlabeled_scenes_have_no_maps_to_give(scenes):
    for blind in (
        scenes.unlabeled(),
        scenes.with_maps().unlabeled(),
        scenes.unlabeled().whole().subset([1, 2]),
    ):
        assert blind._maps is None and {labels for _, labels in blind.batches(1)} == {None}
        for attribute in ("labels", "num_classes", "classes", "label_maps"):
            assert not hasattr(blind, attribute)
        with pytest.raises(data.NoLabels):
            _ = blind.labels
        with pytest.raises(
            ValueError,
            match=f"{blind.name}.*has no label maps; use cityscapes or synthetic-streets",
        ):
            blind.with_maps()


def test_fingerprints_of_scenes(scenes):
    mapped = scenes.with_maps()
    views = [
        scenes,
        mapped,
        mapped.whole(),
        mapped.subset([0, 1]),
        scenes.resized(32),
        mapped.resized(32),
    ]
    assert len({view.fingerprint for view in views}) == len(views)
    assert scenes.with_maps().unlabeled().fingerprint == scenes.unlabeled().fingerprint
    assert scenes.with_maps().fingerprint == scenes.with_maps().fingerprint


def test_label_free_fingerprints_do_not_depend_on_maps(town):
    before, mapped = streets(town).unlabeled().fingerprint, streets(town).with_maps().fingerprint
    Image.new("L", (160, 96), 3).save(
        town / "gtFine" / "train" / "aachen" / "aachen_000001_000019_gtFine_labelTrainIds.png"
    )
    assert (
        streets(town).unlabeled().fingerprint == before
        and streets(town).with_maps().fingerprint != mapped
    )
    os.rename(town / "gtFine", town / "elsewhere")
    assert streets(town).unlabeled().fingerprint == before
    pixels, maps = (
        torch.zeros(2, 3, 8, 8, dtype=torch.uint8),
        torch.zeros(2, 8, 8, dtype=torch.uint8),
    )
    one, other = (
        data.TensorImages("x", "train", pixels, label_maps=each) for each in (maps, maps + 1)
    )
    assert (
        one.unlabeled().fingerprint == other.unlabeled().fingerprint
        and one.with_maps().fingerprint != other.with_maps().fingerprint
    )


def test_contents_of_maps_decide_the_fingerprint_with_maps_only(town, settled):
    label = town / "gtFine" / "train" / "aachen" / "aachen_000001_000019_gtFine_labelTrainIds.png"
    Image.new("L", (160, 96), 3).save(label, compress_level=0)
    plain, mapped = streets(town), streets(town).with_maps()
    rewrite(label, Image.new("L", (160, 96), 4))
    assert streets(town).with_maps().fingerprint != mapped.fingerprint
    assert (
        streets(town).fingerprint == plain.fingerprint
        and streets(town).unlabeled().fingerprint == plain.unlabeled().fingerprint
    )
    rewrite(label, Image.new("L", (160, 96), 3))
    assert streets(town).with_maps().fingerprint == mapped.fingerprint


def test_whole_images_have_their_own_size(town):
    test = streets(town, "test").with_maps()
    [(images, maps)] = batches(test.whole(), 4)
    assert (
        images.shape == (4, 3, 96, 160)
        and maps.shape == (4, 96, 160)
        and share_aligned(images, maps)[1] == 1
    )
    [(images, maps)] = batches(test.whole().resized(48), 4, decoders=1)
    assert (
        images.shape == (4, 3, 48, 80)
        and maps.shape == (4, 48, 80)
        and share_aligned(images, maps)[1] > 0.99
    )
    assert batches(streets(town).whole(), 1)[0][1] is None and "their own size" in repr(
        test.whole()
    )
    add_street(town, "val", "ulm/ulm_0_0", street_map(100, 96))
    assert [
        tuple(maps.shape) for _, maps in batches(streets(town, "test").with_maps().whole(), 1)
    ] == [(1, 96, 160)] * 4 + [(1, 96, 100)]
    with pytest.raises(
        ValueError,
        match="batch_size=5: images of 100x96 and 160x96 pixels in one batch; pass batch_size=1",
    ):
        batches(streets(town, "test").whole(), 5)


def test_scenes_in_memory():
    def load(**options):
        return data.load("synthetic-streets", num_images=20, image_size=64, **options)

    plain, jittered = load(), load(crop="scale")
    assert (
        next(plain.batches(20, seed=0))[0].shape
        == next(jittered.batches(20, seed=0))[0].shape
        == (20, 3, 64, 64)
    )
    # 64 * 512 / 321
    assert (
        torch.equal(plain.images, load(crop="random").images) and jittered.whole().image_size == 102
    )
    assert torch.equal(jittered.labels, plain.labels) and torch.equal(
        next(jittered.batches(20))[1], plain.labels
    )
    # the center at the scale of the whole
    images, maps = next(jittered.with_maps().batches(20))
    assert torch.equal(images, jittered.images[:, :, 19:83, 19:83]) and torch.equal(
        maps, jittered.label_maps[:, 19:83, 19:83]
    )
    assert torch.equal(next(jittered.with_maps().whole().batches(20))[1], jittered.label_maps)
    assert torch.equal(next(plain.with_maps().batches(20))[1], plain.label_maps)
    weights, alphas = jittered.with_maps().halves(0)
    assert len(weights) == len(alphas) == 10 and next(alphas.batches(3, seed=1))[1].shape == (
        3,
        64,
        64,
    )


def test_resized_maps_keep_their_classes():
    dataset = data.load("synthetic-streets", num_images=6, image_size=32)
    small = dataset.resized(16)
    assert torch.equal(small.label_maps, dataset.label_maps[:, 1::2, 1::2]) and torch.equal(
        small.labels, dataset.labels
    )
    assert torch.equal(next(dataset.with_maps().resized(16).batches(6))[1], small.label_maps)
    assert set(small.with_maps().resized(50).label_maps.unique().tolist()) == set(
        small.label_maps.unique().tolist()
    )


def test_predictions_are_painted_in_the_colors_of_their_classes():
    painted = data.paint_maps(torch.tensor([[[0, 13], [18, 255]]]))
    assert (
        painted.shape == (1, 3, 2, 2)
        and painted[0, :, 0, 0].tolist() == [128, 64, 128]
        and painted[0, :, 1, 1].tolist() == [0, 0, 0]
    )
    assert len({tuple(color) for color in data.MAP_COLORS[:19].tolist()}) == 19


def bad_map(town, pixels):
    label = town / "gtFine" / "train" / "aachen" / "aachen_000003_000019_gtFine_labelTrainIds.png"
    pixels.save(label) if isinstance(pixels, Image.Image) else label.write_bytes(pixels)


@pytest.mark.parametrize(
    "pixels, words",
    [
        (
            Image.new("L", (80, 48)),
            "aachen_000003.*of 80x48 pixels for an image of 160x96; use the map of that image",
        ),
        (Image.new("L", (96, 160)), "of 96x160 pixels for an image of 160x96"),
        (
            Image.new("L", (160, 96), 19),
            "aachen_000003.*value 19, which is none of the labelTrainIds.*use 0 to 18, and 255",
        ),
        (
            Image.new("RGB", (160, 96)),
            "aachen_000003.*mode RGB; store the number of the class in one byte a pixel",
        ),
        (b"no picture", "aachen_000003.*cannot be read.*repair it, or remove it and its image"),
    ],
)
def test_a_bad_label_map_is_named(town, pixels, words):
    bad_map(town, pixels)
    assert len(batches(streets(town), 7)) == 1  # images alone do not mind
    with pytest.raises(ValueError, match=words):
        batches(streets(town).with_maps(), 7)


def test_ids_out_of_the_official_table(town):
    Image.new("L", (160, 96), 34).save(
        town / "gtFine" / "train" / "bonn" / "bonn_000002_000019_gtFine_labelIds.png"
    )
    with pytest.raises(
        ValueError,
        match=(
            "bonn_000002_000019_gtFine_labelIds.png.*value 34, which is none of the labelIds.*use 0"
            " to 33, and 255"
        ),
    ):
        batches(streets(town).with_maps(), 7)


def test_an_image_without_a_label_map(town):
    (town / "gtFine" / "train" / "bonn" / "bonn_000002_000019_gtFine_labelIds.png").unlink()
    with pytest.raises(
        ValueError,
        match=(
            "bonn_000002_000019_leftImg8bit.png has no label map; add"
            " gtFine/train/bonn/bonn_000002.*labelTrainIds.png"
        ),
    ):
        streets(town).with_maps()
    assert len(streets(town)) == 7  # tasks that look at no map do not mind
    assert len(streets(town, "test").with_maps()) == 4


def test_scenes_without_any_label_map_serve_pretext_tasks(town):
    os.rename(town / "gtFine", town / "elsewhere")
    assert batches(streets(town), 7, seed=0)[0][0].shape == (7, 3, 48, 48)
    with pytest.raises(ValueError, match="cityscapes .train.: has no label maps"):
        streets(town).with_maps()


@pytest.mark.parametrize(
    "images, maps, root",
    [
        ("leftImg8bit", "gtFine", ""),
        ("leftImg8bit", "gtFine", "leftImg8bit"),
        ("cityscapes/leftImg8bit", "cityscapes/gtFine", ""),
        ("leftImg8bit_trainvaltest/leftImg8bit", "gtFine_trainvaltest/gtFine", ""),
        ("leftImg8bit", "gtFine_trainvaltest/gtFine", ""),
    ],
)
def test_street_scenes_are_found_around_the_root(town, tmp_path, images, maps, root):
    expected = batches(streets(town).with_maps(), 7)
    for old, new in (("leftImg8bit", images), ("gtFine", maps)):
        (tmp_path / "d" / new).parent.mkdir(parents=True, exist_ok=True)
        os.rename(town / old, tmp_path / "d" / new)
    found = batches(streets(tmp_path / "d" / root).with_maps(), 7)
    assert all(torch.equal(a, b) for a, b in zip(expected[0], found[0]))
    assert len(streets(tmp_path / "d" / root, "test").with_maps()) == 4


def test_coarse_label_maps_serve_where_there_are_no_fine_ones(town):
    expected = batches(streets(town).with_maps(), 7)
    for path in sorted((town / "gtFine").glob("*/*/*")):
        os.rename(path, path.with_name(path.name.replace("gtFine", "gtCoarse")))
    os.rename(town / "gtFine", town / "gtCoarse")
    with pytest.warns(UserWarning, match="has coarse label maps, and there are no fine ones"):
        mapped = streets(town).with_maps()
    assert torch.equal(batches(mapped, 7)[0][1], expected[0][1])


def test_label_maps_of_the_test_split_are_checked_before_training(town):
    label = town / "gtFine" / "val" / "aachen" / "aachen_000003_000019_gtFine_labelTrainIds.png"
    Image.new("L", (160, 96), 77).save(label)
    with pytest.raises(ValueError, match="aachen_000003.*value 77"):
        streets(town, "test").with_maps()
    label.unlink()
    os.mkfifo(label)
    with pytest.raises(ValueError, match="aachen_000003.*no file, but a pipe"):
        streets(town, "test").with_maps()


def test_label_maps_of_one_class_are_said(town):
    for path in sorted((town / "gtFine" / "train").glob("*/*")):
        Image.new("L", (160, 96), 0 if "Train" in path.name else 7).save(path)
    with pytest.warns(UserWarning, match="nearly all pixels of the label maps are road"):
        streets(town).with_maps()


def test_label_ids_that_may_be_train_ids_are_said(town):
    for path in sorted((town / "gtFine" / "train").glob("*/*")):
        path.unlink()
        values = (np.arange(96 * 160).reshape(96, 160) % 19).astype(np.uint8)
        named = path.name.replace("labelTrainIds", "labelIds")
        Image.fromarray(values).save(path.with_name(named))
    with pytest.warns(UserWarning, match="void, and no number is above 18; .* call them labelTrai"):
        streets(town).with_maps()


def test_a_broken_scene_is_skipped_with_its_map(town):
    (
        town / "leftImg8bit" / "train" / "aachen" / "aachen_000003_000019_leftImg8bit.png"
    ).write_bytes(b"no")
    with pytest.warns(UserWarning, match="aachen_000003"):
        train = streets(town)
    images, maps = batches(train.with_maps(), 6)[0]
    assert len(train) == 6 and share_aligned(images, maps)[1] > 0.99


def test_folders_that_are_not_cityscapes(town, tmp_path):
    for root in (tmp_path / "nowhere", tmp_path / "town" / "gtFine"):
        with pytest.raises(
            FileNotFoundError, match="has no folder leftImg8bit/train; pass the folder that holds"
        ):
            streets(root)
    with pytest.raises(FileNotFoundError, match="root=None.*cityscapes/"):
        data.load("cityscapes")
    for path in (town / "leftImg8bit" / "val").glob("*/*"):
        path.unlink()
    with pytest.raises(
        ValueError, match="leftImg8bit/val holds no image <city>/.*_leftImg8bit.png; put the images"
    ):
        streets(town, "test")


def test_data_without_maps(tmp_path):
    for dataset in (
        data.load("synthetic-objects", num_images=4, image_size=8),
        data.load("imagenet", root=tree(tmp_path / "d")),
    ):
        with pytest.raises(
            ValueError,
            match=f"{dataset.name} .train.: has no label maps; use cityscapes or synthetic-streets",
        ):
            dataset.with_maps()


@pytest.mark.parametrize(
    "maps, words",
    [
        (
            torch.zeros(2, 8, 7, dtype=torch.uint8),
            r"label_maps of shape \(2, 8, 7\): must be \(2, 8, 8\)",
        ),
        (torch.full((2, 8, 8), 20, dtype=torch.uint8), "x .train.*value 20, which is none"),
        (torch.zeros(2, 8, 8), "label_maps of torch.float32: must be torch.uint8; pass train ids"),
    ],
)
def test_label_maps_in_memory_are_checked(maps, words):
    with pytest.raises(ValueError, match=words):
        data.TensorImages("x", "train", torch.zeros(2, 3, 8, 8, dtype=torch.uint8), label_maps=maps)


ZEROS = torch.zeros(4, 3, 8, 8, dtype=torch.uint8)


@pytest.mark.parametrize(
    "images, words",
    [
        (ZEROS.float() / 255, "images of x .train. of torch.float32: must be torch.uint8; pass"),
        (ZEROS.int(), "of torch.int32: must be torch.uint8"),
        (ZEROS[0], r"of shape \(3, 8, 8\): must be \(N, 3, H, H\)"),
        (ZEROS[:, :1], r"of shape \(4, 1, 8, 8\): must be"),
        (ZEROS.permute(0, 2, 3, 1), r"of shape \(4, 8, 8, 3\): must be"),
        (ZEROS[..., :7], r"of shape \(4, 3, 8, 7\): must be"),
        (ZEROS[:0], r"of shape \(0, 3, 8, 8\): must be"),
        ([[0]], "images of x .train.: a list; pass a uint8 tensor"),
        (None, "images of x .train.: a NoneType"),
    ],
)
def test_images_in_memory_are_checked(images, words):
    with pytest.raises(ValueError, match=words):
        data.TensorImages("x", "train", images)


@pytest.mark.parametrize(
    "labels, words",
    [
        ([0, 1], r"labels of shape \(2,\): x .train. has 4 images; pass one number per image"),
        ([0, 1] * 3, r"labels of shape \(6,\)"),
        (torch.eye(4), r"labels of shape \(4, 4\)"),
        ([0, 1, 2, 1], "with the value 2: must be whole numbers from 0 to 1, because there are 2"),
        ([0, 1, -1, 1], "with the value -1"),
        ([0, 1, 0.5, 1], "with the value 0.5"),
        ([0, 1, np.nan, 1], "with the value nan"),
        (["a", "b", "a", "b"], "labels of x .train.: no numbers"),
        ([None] * 4, "labels of x .train.: no numbers"),
    ],
)
def test_labels_in_memory_are_checked(labels, words):
    with pytest.raises(ValueError, match=words):
        data.TensorImages("x", "train", ZEROS, labels, ("a", "b"))


def test_labels_need_classes():
    with pytest.raises(ValueError, match="classes=None: x .train. has labels; name their classes"):
        data.TensorImages("x", "train", ZEROS, [0, 1, 0, 1])


def test_arrays_and_whole_numbers_of_any_type_serve():
    for labels in ([0, 1, 1, 0], np.uint8([0, 1, 1, 0]), torch.tensor([0.0, 1, 1, 0])):
        images = data.TensorImages("x", "train", ZEROS.numpy(), labels, ("a", "b"))
        assert images.labels.tolist() == [0, 1, 1, 0] and images.labels.dtype == torch.int64


@pytest.mark.parametrize(
    "factory, words",
    [
        (lambda split, **_: [1], "factory returned a list; return a data.TensorImages"),
        (lambda split, **_: None, "factory returned a NoneType"),
        (
            lambda split, **_: data.TensorImages("x", "train", ZEROS),
            "returned the split 'train' for 'test'; return the one that was asked for",
        ),
    ],
)
def test_what_a_factory_returns_is_checked(factory, words):
    name = f"own {words[:19]}"
    data.register(name, factory)
    with pytest.raises(ValueError, match=f"dataset='{name}': its .*{words}"):
        data.load(name, "test")


@pytest.mark.parametrize(
    "name, factory, words",
    [
        ("own", lambda split: None, "cannot be called with a split and root, image_size"),
        ("own", lambda: None, "cannot be called with a split"),
        ("own", 7, "factory=7: cannot be called"),
        (7, lambda split, **_: None, "name=7: must be a text"),
        ("", lambda split, **_: None, "name='': must be a text"),
    ],
)
def test_what_is_registered_is_checked(name, factory, words):
    with pytest.raises(ValueError, match=words):
        data.register(name, factory)


# ---- errors say what to do


@pytest.mark.parametrize(
    "options, words",
    [
        (dict(name="cifar11"), "cifar11.*synthetic-objects"),
        (dict(split="dev"), "split='dev'"),
        (dict(crop="middle"), "crop='middle'.*inception"),
        (dict(image_size=7), "image_size=7.*at least 8"),
        (dict(num_images=1), "num_images=1.*at least 2"),
        (dict(seed=-1), "seed=-1"),
    ],
)
def test_parameters_that_make_no_sense(options, words):
    with pytest.raises(ValueError, match=words):
        data.load(**{"name": "synthetic-objects", **options})


@pytest.mark.parametrize("name", ["imagefolder", "cifar10"])
def test_a_folder_that_nobody_named(name):
    with pytest.raises(FileNotFoundError, match=f"root=None.*UNNAS_DATA.*{name}/"):
        data.load(name)


def test_other_errors(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such folder"):
        data.load("imagenet", root=tmp_path / "nowhere")
    with pytest.raises(ValueError, match="num_images=13.*12 images"):
        data.load("imagenet", root=tree(tmp_path / "d"), num_images=13)
    toy = data.load("synthetic-objects", num_images=10, image_size=8)
    with pytest.raises(ValueError, match="batch_size=11.*drop_last"):
        toy.batches(11, drop_last=True)
    with pytest.raises(ValueError, match="batch_size=0"):
        toy.batches(0)
    with pytest.raises(ValueError, match="shard"):
        toy.batches(5, shard=(2, 2))


def test_register():
    pixels = torch.arange(5, dtype=torch.uint8).reshape(5, 1, 1, 1).expand(5, 3, 16, 16)

    def mine(split, **options):
        return data.TensorImages("mine", split, pixels, [0, 1, 0, 1, 0], ["a", "b"])

    for _ in range(2):  # a cell of a notebook may run twice
        data.register("mine", mine)
    loaded = data.load("mine", "test", image_size=8, num_images=3)
    assert loaded.images.shape == (3, 3, 8, 8) and loaded.split == "test"
    with pytest.raises(ValueError, match="dataset='noise': already registered.*another name"):
        data.register("noise", mine)


def test_a_mask_chooses_images_and_what_is_no_position_is_refused():
    images = data.load("synthetic-objects", num_images=20, image_size=8)
    mask = images.labels == images.labels[0]
    chosen = images.subset(mask)
    assert chosen.indices.tolist() == images.indices[mask].tolist()
    assert 1 <= len(chosen) < 20 and set(chosen.labels.tolist()) == {int(images.labels[0])}
    assert images.subset([-1, 3]).indices.tolist() == images.indices[[-1, 3]].tolist()
    assert len(images.subset([])) == 0 and len(images.subset(range(3))) == 3
    for wrong in (mask[:-1], [0.5], [[0, 1]], ["a"]):
        with pytest.raises(ValueError, match="pass whole numbers, or a mask"):
            images.subset(wrong)
    for wrong in ([20], [-21]):
        with pytest.raises(ValueError, match="is none of the 20 images"):
            images.subset(wrong)


def test_small_copies_follow_their_images_and_the_size_asked_for(tmp_path):
    Image.new("RGB", (40, 20)).save(tmp_path / "a.png")
    small, copy = tmp_path / "small", tmp_path / "small/a.png.jpg"
    sizes, changed = [], []
    for side in (10, 10, 5):
        assert data.shrink_folder(tmp_path, small, short_side=side) == 1  # no copies of copies
        sizes.append(Image.open(copy).size)
        changed.append(copy.stat().st_mtime_ns)
    assert sizes == [(20, 10), (20, 10), (10, 5)] and changed[0] == changed[1] < changed[2]
    Image.new("RGB", (40, 20), "white").save(tmp_path / "a.png")
    os.utime(tmp_path / "a.png", ns=(2**62, 2**62))
    data.shrink_folder(tmp_path, small, short_side=5)
    assert Image.open(copy).getpixel((0, 0)) == (255, 255, 255)
    with pytest.raises(ValueError, match="short_side=0"):
        data.shrink_folder(tmp_path, small, short_side=0)
    (tmp_path / "a.png").rename(tmp_path / "a.bmp")
    for color in ("black", "white"):  # of the same size and time
        Image.new("RGB", (40, 20), color).save(tmp_path / "a.bmp")
        os.utime(tmp_path / "a.bmp", (1e9, 1e9))
        (small / "a.png.jpg").unlink(missing_ok=True)
        data.shrink_folder(tmp_path, small, short_side=5)
    assert Image.open(small / "a.bmp.jpg").getpixel((0, 0)) == (255, 255, 255)


def test_copies_need_a_source_and_a_folder_of_their_own(tmp_path):
    photo().save(tmp_path / "a.png")
    (tmp_path / "link").symlink_to(tmp_path)
    with pytest.raises(ValueError, match="destination=.*: is the source; name another folder"):
        data.shrink_folder(tmp_path, tmp_path / "link")
    with pytest.raises(FileNotFoundError, match="source=.*nowhere': no such folder"):
        data.shrink_folder(tmp_path / "nowhere", tmp_path / "small")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "link"]


def test_deep_jpeg_2000_pictures_share_one_range(tmp_path):
    ramp = np.tile(np.linspace(0, 255, 60).astype(np.uint16), (40, 1))
    means = {}
    for suffix in ("png", "jp2"):
        (tmp_path / suffix).mkdir()
        for factor in (1, 4, 16):
            Image.fromarray(ramp * factor).save(tmp_path / suffix / f"{factor:02}.{suffix}")
        images = data.load("imagefolder", root=tmp_path / suffix, image_size=16)
        means[suffix] = [float(batch.float().mean()) for batch, _ in images.batches(1)]
    assert means["jp2"] == pytest.approx(means["png"], abs=1) and np.ptp(means["jp2"]) > 20


@pytest.mark.parametrize(
    "training, testing",
    [
        ("trainimages", "testimages"),
        ("TrainVal", "Test"),
        ("data_train", "hold-out"),
        ("train", "validate"),
    ],
)
def test_splits_may_be_written_as_one_word(training, testing, tmp_path):
    laid_out(tmp_path, f"{training}/{{c}}/{{i}}.png", f"{testing}/{{c}}/{{i}}.png")
    for split, folder in (("train", training), ("test", testing)):
        images = data.load("imagefolder", split, root=tmp_path, image_size=16)
        assert images.classes == ("cat", "dog") and folders_of(images, tmp_path) == {folder}


@pytest.mark.parametrize("labels", ["ground_truth", "annots", "masks_512", "1st_manual", "Bbox"])
def test_pictures_of_labels_are_no_class_by_any_name(labels, tmp_path):
    laid_out(tmp_path, "images_512/{i}.png", f"{labels}/{{i}}.png", "masks/{i}.png", count=20)
    images = data.load("imagefolder", root=tmp_path, image_size=16)
    assert folders_of(images, tmp_path) == {"images_512"}


@pytest.mark.parametrize("kinds", ["depth rgb thermal", "input keyboard target"])
def test_classes_that_are_called_like_pictures_of_labels_stay_classes(kinds, tmp_path):
    laid_out(tmp_path, *(f"{kind}/{{i}}.png" for kind in kinds.split()), count=9)
    with pytest.warns(UserWarning, match="(depth|target) are taken for classes; move them"):
        images = data.load("imagefolder", root=tmp_path, image_size=16)
    assert list(images.classes) == kinds.split() and len(images.labels.unique()) == 3


def test_a_copy_follows_its_image_whatever_the_age_of_the_file(tmp_path):
    source, small = tmp_path / "source", tmp_path / "small"
    laid_out(source, "{i}.png", count=3)
    assert data.shrink_folder(source, small, 8) == 3
    first = {path.name: path.stat().st_mtime_ns for path in small.iterdir()}
    photo(12, 12, seed=99).save(tmp_path / "new.png")
    os.utime(tmp_path / "new.png", (1e9, 1e9))
    os.replace(tmp_path / "new.png", source / "0.png")
    (source / "1.png").unlink()
    with pytest.warns(UserWarning, match="has 1 images more, which are no copies of what is in"):
        assert data.shrink_folder(source, small, 8) == 2
    expected = image_files.shrunk(data.read_image(source / "0.png"), 8)
    found = data.read_image(small / "0.png.jpg")
    assert np.abs(np.asarray(found, int) - np.asarray(expected, int)).mean() < 8
    assert (small / "2.png.jpg").stat().st_mtime_ns == first["2.png.jpg"]


def test_a_byte_that_nobody_uses_is_no_transparency(tmp_path):
    pixels = np.random.default_rng(0).integers(256, size=(8, 8, 4), dtype=np.uint8)
    pixels[..., 3] = 0
    Image.fromarray(pixels).save(tmp_path / "a.tga")
    Image.fromarray(pixels).save(tmp_path / "a.png")
    assert (np.asarray(data.read_image(tmp_path / "a.tga")) == pixels[..., :3]).all()
    assert (np.asarray(data.read_image(tmp_path / "a.png")) == 255).all()


def test_test_images_that_train_as_well_are_said(tmp_path):
    laid_out(tmp_path, "train/{c}/{i}.png", "test/{c}/{i}.png")
    shutil.copy(tmp_path / "train" / "cat" / "0.png", tmp_path / "test" / "cat" / "again.png")
    (tmp_path / "test" / "dog" / "link.png").symlink_to(tmp_path / "train" / "dog" / "1.png")
    words = "2 of 12 test images are training images too: cat/again.png, dog/link.png; keep"
    with pytest.warns(UserWarning, match=words):
        study.specs.load(study.Data("imagefolder", 16), str(tmp_path))
    with pytest.warns(UserWarning, match=words):
        use.labeled(tmp_path, 16)
