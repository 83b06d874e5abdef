"""The ImageNet settings of the paper, on a tree of a few generated photos: only widths, depths and
epochs are smaller.
"""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from unnas import data, study

SIZES = ((300, 260), (260, 340), (120, 90))  # the last is smaller than a crop


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder, random = tmp_path_factory.mktemp("imagenet"), np.random.default_rng(0)
    for split, count in (("train", 3), ("val", 3)):
        for wnid in ("n01440764", "n02102040", "n03000684"):
            (folder / split / wnid).mkdir(parents=True)
            for number in range(count):
                coarse = Image.fromarray(random.integers(0, 256, (6, 8, 3), dtype=np.uint8))
                photo = coarse.resize(SIZES[number % len(SIZES)], Image.Resampling.BICUBIC)
                (photo.convert("L") if number == 1 else photo).save(
                    folder / split / wnid / f"{wnid}_{number}.JPEG"
                )
    return folder


def small(grid):
    """The grid with tiny networks and one epoch; images, crops, styles, stems and tasks stay as
    they are.
    """
    sizes = {"darts": (4, 3), "nasbench101": (8, 3)}
    return replace(
        grid,
        settings={
            (space, task): replace(
                s,
                width=sizes[space][0],
                depth=sizes[space][1],
                recipe=replace(s.recipe, epochs=1, batch_size=9, test_batch_size=3),
            )
            for (space, task), s in grid.settings.items()
        },
    )


@pytest.mark.slow
def test_all_tasks_and_spaces_run_on_an_imagenet_tree_whoever_decodes(root, tmp_path):
    specs = study.specs_of(small(study.grid("fig3", "paper")), architectures=2, root=str(root))
    assert {
        (s.data.name, s.data.image_size, s.stem, s.style) for s in specs if s.task != "jig"
    } == {("imagenet", 224, "imagenet", "imagenet")}
    assert {(s.data.image_size, s.data.crop) for s in specs if s.task == "jig"} == {(255, "random")}
    specs = specs[:8]  # one architecture of each space
    tables = [
        study.collect(
            some,
            root=str(root),
            decoders=decoders,
            store=study.Store(tmp_path / str(decoders), tmp_path / "none"),
        )
        for decoders, some in ((0, specs), (2, specs[4::3]))
    ]
    first, second = (table.drop(columns="seconds") for table in tables)
    assert first.iloc[4::3].reset_index(drop=True).equals(second)
    assert (
        list(first.status) == ["done"] * 8 and list(first.task) == ["cls", "rot", "col", "jig"] * 2
    )
    # 1000 permutations of nine tiles
    assert first.set_index(["space", "task"]).loc[("darts", "jig"), "chance"] == pytest.approx(0.1)
    assert first.set_index(["space", "task"]).loc[("darts", "cls"), "chance"] == pytest.approx(
        100 / 3
    )


def test_a_tree_without_classes_is_refused_before_anything_runs(tmp_path):
    (tmp_path / "train").mkdir()
    for number in range(4):
        Image.new("RGB", (64, 64)).save(tmp_path / f"train/photo{number}.jpg")
    with pytest.raises(data.NoLabels, match="class folder"):
        study.specs_of(study.grid("fig3", "paper"), architectures=2, root=str(tmp_path))
    grid = study.grid("fig3", "paper")
    wanted = study.specs_of(grid, architectures=2, tasks=["rot"], root=str(tmp_path), look=False)
    images = study.specs.load(wanted[0].data, str(tmp_path))[:2]
    assert [len(split) for split in images] == [3, 1]
