"""The published data: what other modules rely on."""

import pytest
import torch

from unnas import data, files, paper, tasks, train

OPERATIONS = {
    "none",
    "max_pool_3x3",
    "avg_pool_3x3",
    "skip_connect",
    "sep_conv_3x3",
    "sep_conv_5x5",
    "dil_conv_3x3",
    "dil_conv_5x5",
}


def test_genotypes_are_cells_of_the_darts_space():
    assert len(paper.GENOTYPES) == 17
    for genotype in paper.GENOTYPES.values():
        assert genotype["normal_concat"] == genotype["reduce_concat"] == (2, 3, 4, 5)
        for cell in (genotype["normal"], genotype["reduce"]):
            assert len(cell) == 8
            assert all(
                operation in OPERATIONS and 0 <= state < 2 + slot // 2
                for slot, (operation, state) in enumerate(cell)
            )


def test_genotype_values():
    assert paper.GENOTYPES["darts"]["normal"] == (
        ("sep_conv_3x3", 0),
        ("sep_conv_3x3", 1),
        ("sep_conv_3x3", 0),
        ("sep_conv_3x3", 1),
        ("sep_conv_3x3", 1),
        ("skip_connect", 0),
        ("skip_connect", 0),
        ("dil_conv_3x3", 2),
    )
    assert paper.GENOTYPES["cityscapes_col"]["reduce"] == (
        ("avg_pool_3x3", 1),
        ("avg_pool_3x3", 0),
    ) * 3 + (("avg_pool_3x3", 1), ("skip_connect", 4))
    assert paper.GENOTYPES["imagenet_rot"]["reduce"][-2:] == (
        ("sep_conv_3x3", 4),
        ("sep_conv_5x5", 2),
    )
    assert paper.GENOTYPES["imagenet22k_cls"]["reduce"][4:6] == (
        ("dil_conv_5x5", 3),
        ("dil_conv_5x5", 2),
    )
    assert paper.GENOTYPES["pdarts"]["normal"][-1] == ("dil_conv_5x5", 4)
    assert len({str(genotype) for genotype in paper.GENOTYPES.values()}) == 17


def test_every_search_setting_has_a_genotype_widths_and_rows():
    searched = {f"{dataset}_{task}" for dataset, task in paper.SEARCH}
    assert len(searched) == 12
    for widths in paper.WIDTHS.values():
        assert set(widths) == searched | {"darts"}
    for table in (paper.TABLE1, paper.TABLE2):
        own = {
            row.genotype: f"{row.search_dataset}_{row.search_task}"
            for row in table
            if row.genotype in searched
        }
        assert set(own) == searched and all(key == name for key, name in own.items())


def test_tables():
    assert (len(paper.TABLE1), len(paper.TABLE2)) == (17, 13)
    best = max(paper.TABLE2, key=lambda row: row.mean)
    assert (best.genotype, best.mean, best.std, best.flops, best.parameters, best.valid) == (
        "cityscapes_jig",
        74.1,
        0.39,
        128e9,
        10.2e6,
        False,
    )
    assert [row.std for row in paper.TABLE1[:4]] == [None] * 4 and all(
        row.std > 0 for row in paper.TABLE1[4:]
    )
    assert (
        sum(not row.valid for row in paper.TABLE1) == 5
        and sum(not row.valid for row in paper.TABLE2) == 4
    )
    assert all(
        row.method.startswith("UnNAS") == (row.search_task in ("rot", "col", "jig"))
        for row in paper.TABLE1 + paper.TABLE2
    )
    assert paper.table(paper.TABLE2).loc[12, ["mean", "valid"]].tolist() == [74.1, False]


def test_rank_correlations():
    assert {space: sorted(values) for space, values in paper.RHO.items()} == dict.fromkeys(
        ["darts", "nasbench101"], ["cls", "col", "jig", "rot"]
    )
    for values in paper.RHO.values():
        assert max(values, key=values.get) == "cls" and min(values, key=values.get) == "col"


def test_points_of_figure_4():
    points = paper.figure4_points()
    assert points.groupby(["space", "task"]).size().to_dict() == {
        ("darts", "rot"): 380,
        ("darts", "col"): 368,
        ("darts", "jig"): 368,
        ("darts", "cls"): 371,
        ("nasbench101", "rot"): 432,
        ("nasbench101", "col"): 430,
        ("nasbench101", "jig"): 416,
        ("nasbench101", "cls"): 430,
    }
    assert points.iloc[0].tolist() == ["darts", "rot", 30.2441, 93.6711]
    rho = {
        key: round(panel.x.corr(panel.y, method="spearman"), 2)
        for key, panel in points.groupby(["space", "task"])
    }
    assert [rho["darts", task] for task in ("rot", "col", "jig", "cls")] == [0.70, 0.65, 0.80, 0.83]
    assert [rho["nasbench101", task] for task in ("rot", "col", "jig", "cls")] == [
        0.69,
        0.64,
        0.76,
        0.77,
    ]


def test_points_of_figure_4_may_be_missing(tmp_path, monkeypatch):
    file = files.home() / "data" / "paper" / "fig4_points.csv"
    assert paper.figure4_points(file).equals(paper.figure4_points())
    with pytest.raises(FileNotFoundError, match="data/paper/fig4_points.csv"):
        paper.figure4_points(tmp_path / "nothing.csv")
    monkeypatch.setenv("UNNAS_HOME", str(tmp_path))  # a project without the file
    points = paper.figure4_points()
    assert points.empty and list(points) == list(paper.figure4_points(file))


def test_settings():
    assert len(paper.SAMPLES) == 16
    sample = paper.SAMPLES["darts", "imagenet", "jig"]
    assert (
        sample.width,
        sample.depth,
        sample.epochs,
        sample.lr,
        sample.batch_size,
        sample.input_shape,
    ) == (32, 22, 5, 0.0125, 32, (9, 3, 64, 64))
    assert paper.SAMPLES["nasbench101", "imagenet", "cls"].precise_bn == 0
    search = paper.SEARCH["imagenet22k", "rot"]
    assert (search.lr, search.alpha_lr, search.batch_size, search.epochs, search.alpha_start) == (
        0.2,
        6e-4,
        128,
        1,
        0.0,
    )
    evaluation = paper.EVALUATION["imagenet"]
    assert (
        evaluation.lr,
        evaluation.epochs,
        evaluation.batch_size,
        evaluation.label_smoothing,
    ) == (0.5, 250, 1024, 0.1)
    assert all(
        setting.num_outputs == 313 and setting.in_channels == 1
        for (*_, task), setting in (paper.SAMPLES | paper.SEARCH).items()
        if task == "col"
    )


OPTIONS = {"cls": ("num_outputs",), "seg": ("num_outputs", "aspp_channels", "aspp_rates")}
SETTINGS = {
    **{f"samples {' '.join(key)}": setting for key, setting in paper.SAMPLES.items()},
    **{f"search {' '.join(key)}": setting for key, setting in paper.SEARCH.items()},
    **{f"evaluation {key}": setting for key, setting in paper.EVALUATION.items()},
}


@pytest.mark.parametrize("name", SETTINGS)
def test_settings_agree_with_the_tasks_and_crops_that_this_package_has(name):
    setting, kind = SETTINGS[name], name.split()[0]
    options = {
        {"num_outputs": "num_classes"}.get(key, key.removeprefix("aspp_")): getattr(setting, key)
        for key in OPTIONS.get(setting.task, ())
    }
    style = "cifar" if setting.dataset == "cifar10" else "imagenet"
    task = tasks.get(setting.task, style=style, **options)
    assert task.num_outputs == setting.num_outputs
    if kind != "evaluation":
        assert task.in_channels == setting.in_channels
        assert getattr(task, "grid", None) == setting.grid
        assert setting.gray == (task.style.gray if setting.task == "jig" else 0)
    if kind != "evaluation" and setting.task != "seg":  # whose images need maps
        side = setting.image_size
        images, labels = torch.zeros(1, 3, side, side, dtype=torch.uint8), torch.zeros(1).long()
        inputs, _ = task.batch(images, labels, True, torch.Generator().manual_seed(0))
        assert tuple(inputs.shape[1:]) == setting.input_shape
    if setting.dataset == "cifar10":
        assert setting.test_size == setting.image_size  # nothing is cut off
    else:
        crop = "random" if setting.task == "jig" else "inception"
        if setting.dataset == "cityscapes":
            crop = "scale" if kind == "search" else "scale-wide"
        assert setting.test_size == round(setting.image_size * data.SHORT_SIDE[crop])


def test_settings_agree_with_the_recipe_that_this_package_has():
    recipe = train.Recipe(1, 1, 0.1)
    for setting in (*paper.SAMPLES.values(), *paper.EVALUATION.values()):
        assert (setting.momentum, setting.nesterov) == (recipe.momentum, recipe.nesterov)
    assert not any(setting.nesterov for setting in paper.SEARCH.values())
