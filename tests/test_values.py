"""What parameters may be: a refusal names parameter and value, and what is accepted runs."""

import math
from contextlib import suppress
from dataclasses import fields

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from small import specs

from unnas import data, files, paper, plots, stats, study, tasks, train
from unnas.search import SearchRecipe, Supernet
from unnas.search import fit as search
from unnas.spaces import darts, nasbench101
from unnas.study import lists, report
from unnas.train import Recipe

ANYTHING = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 3),
    st.integers(),
    st.floats(),
    st.floats(-2, 2),
    st.text(max_size=4),
    st.sampled_from(["x", "2", "4", "[0, 1]", "", "rot", "cls", "epoch", b"2", 1 + 2j]),
    st.lists(st.sampled_from([0, 1, 1.5, None, True, "2", math.nan]), max_size=3),
    st.sampled_from([np.int64(2), np.float32(0.5), np.float64("nan"), np.array([1, 2])]),
    st.sampled_from([(), (0.5,), (0.5, 0.9), (0.5, 2), {}, {"a": 1}, object(), int, [], ["rot"]]),
)
QUICK = settings(
    deadline=None, derandomize=True, max_examples=60, suppress_health_check=list(HealthCheck)
)
MANY = settings(
    deadline=None, derandomize=True, max_examples=600, suppress_health_check=list(HealthCheck)
)


def said(call, parameter, value):
    """What `call` gives; None where it refuses, in one sentence that names parameter and value."""
    try:
        return call()
    except (ValueError, TypeError) as error:
        sentence = str(error)
        assert parameter in sentence and "\n" not in sentence.rstrip(), (type(error), sentence)
        shown = [repr(value), str(value)]
        if isinstance(value, np.ndarray):
            shown += [repr(value.tolist()), str(value.shape)]
        if isinstance(value, list | tuple):
            with suppress(ValueError):  # what is read as an array is shown by its shape
                shown.append(str(np.shape(value)))
        if isinstance(value, float) and value.is_integer():
            shown.append(repr(int(value)))  # as the fields of specs are cast
        if isinstance(value, list | tuple | dict | np.ndarray):
            shown += [repr(part) for part in value] + [repr(list(value))]
        assert any(text[:190] in sentence for text in shown), (value, sentence)
        return None


def kept(recipe):
    """A recipe is as it was given, and one of numbers."""
    for field in fields(recipe):
        value = getattr(recipe, field.name)
        assert not (isinstance(value, float) and math.isnan(value)), field.name


@MANY
@given(st.sampled_from([field.name for field in fields(Recipe)]), ANYTHING)
def test_recipes(name, value):
    recipe = said(
        lambda: Recipe(**dict(epochs=2, batch_size=20, lr=0.1) | {name: value}), name, value
    )
    if recipe is not None:
        kept(recipe)
        rates = [train.learning_rate(recipe, epoch) for epoch in range(min(recipe.epochs, 9))]
        assert all(0 <= rate < math.inf for rate in rates)


@MANY
@given(st.sampled_from([field.name for field in fields(SearchRecipe)]), ANYTHING)
def test_search_recipes(name, value):
    given = dict(epochs=2, batch_size=20, lr=0.1) | {name: value}
    recipe = said(lambda: SearchRecipe(**given), name, value)
    if recipe is not None:
        kept(recipe)


SMALL = dict(
    epochs=st.just(1),
    batch_size=st.integers(1, 24),
    lr=st.floats(0, 0.1, exclude_min=True),
    momentum=st.floats(0, 1, exclude_max=True),
    weight_decay=st.floats(0, 1),
)


@pytest.mark.slow
@settings(deadline=None, derandomize=True, max_examples=15, suppress_health_check=list(HealthCheck))
@given(
    st.fixed_dictionaries(
        SMALL
        | dict(
            nesterov=st.booleans(),
            schedule=st.sampled_from(["epoch", "step"]),
            warmup_factor=st.floats(0, 1),
            label_smoothing=st.floats(0, 1, exclude_max=True),
            drop_path=st.floats(0, 1, exclude_max=True),
            clip=st.none() | st.floats(0, 10, exclude_min=True),
            precise_bn=st.integers(0, 60),
            test_batch_size=st.integers(1, 300),
        )
    )
)
def test_recipes_that_are_accepted_run(values):
    task, pictures = tasks.rotation(), data.load("synthetic-objects", image_size=8, num_images=24)
    pictures = pictures.unlabeled()
    try:
        recipe = Recipe(**values)
    except ValueError:
        return
    options = dict(stem="cifar", width=2, depth=3, drop_path=recipe.drop_path)
    network = darts.build(darts.sample(1, 0)[0], task, **options)
    history = train.fit(network, task, pictures, pictures, recipe)
    assert history.diverged or 0 <= history.final <= 100


@pytest.mark.slow
@settings(deadline=None, derandomize=True, max_examples=4, suppress_health_check=list(HealthCheck))
@given(
    st.fixed_dictionaries(
        SMALL
        | dict(
            batch_size=st.integers(1, 8),
            clip=st.floats(0, 10, exclude_min=True),
            alpha_lr=st.floats(0, 1, exclude_min=True),
            alpha_betas=st.tuples(*2 * [st.floats(0, 1, exclude_max=True)]),
            alpha_weight_decay=st.floats(0, 1),
            alpha_start=st.floats(0, 1, exclude_max=True),
            order=st.sampled_from([1, 2]),
            held_out=st.floats(0, 0.3),
        )
    )
)
def test_search_recipes_that_are_accepted_run(values):
    task, pictures = tasks.rotation(), data.load("synthetic-objects", image_size=8, num_images=24)
    supernet = Supernet(task, stem="cifar", width=2, depth=3)
    history = search(supernet, task, pictures.unlabeled(), SearchRecipe(**values))
    assert history.diverged or len(history.tables) == 2


@QUICK
@given(st.sampled_from(["n", "seed"]), ANYTHING)
def test_samples(name, value):
    given = dict(n=2, seed=0) | {name: value}
    if name == "n" and files._is_whole(value) and value > 5:
        return
    for space in (darts, nasbench101):
        found = said(lambda: space.sample(**given), name, value)
        assert found is None or found == space.sample(**given)


@QUICK
@given(st.sampled_from(["stem", "width", "depth", "auxiliary", "drop_path"]), ANYTHING)
def test_networks(name, value):
    if files._is_whole(value) and value > 32:
        return
    given = dict(stem="cifar", width=4, depth=3, auxiliary=False, drop_path=0.0) | {name: value}
    said(lambda: darts.build(darts.sample(1, 0)[0], tasks.rotation(), **given), name, value)


@QUICK
@given(st.sampled_from(["stem", "width", "depth", "partial_channels"]), ANYTHING)
def test_supernets(name, value):
    if files._is_whole(value) and value > 8:
        return
    given = dict(stem="cifar", width=4, depth=3) | {name: value}
    said(lambda: Supernet(tasks.rotation(), **given), name, value)


@MANY
@given(st.sampled_from(["architectures", "seeds", "tasks", "spaces", "sample_seed"]), ANYTHING)
def test_lists_of_runs(name, value):
    if value is None or files._is_whole(value) and value > 5 and name in ("architectures", "seeds"):
        return
    grid = study.grid("fig2", "smoke")
    given = dict(architectures=2, seeds=1, tasks=["rot"], spaces=["darts"]) | {name: value}
    specs = said(lambda: study.specs_of(grid, look=False, **given), name, value)
    assert specs is None or len(specs) >= 2 and len({spec.id for spec in specs}) == len(specs)


@MANY
@given(
    st.sampled_from(["scale", "datasets", "tasks", "seeds", "partial_channels", "order", "space"]),
    ANYTHING,
)
def test_lists_of_searches(name, value):
    if value is None or files._is_whole(value) and value > 9 and name == "seeds":
        return
    given = dict(scale="smoke", tasks=["rot"]) | {name: value}
    specs = said(lambda: study.searches(look=False, **given), name, value)
    assert specs is None or len(specs) >= 1 and len({spec.id for spec in specs}) == len(specs)


@QUICK
@given(st.sampled_from(["images", "epochs"]), ANYTHING)
def test_shorter_grids(name, value):
    given = dict(images=0.5, epochs=0.5) | {name: value}
    grid = said(lambda: lists.shorter(study.grid("fig2", "smoke"), **given), name, value)
    assert grid is None or all(s.recipe.epochs >= 1 for s in grid.settings.values())


@QUICK
@given(st.sampled_from(["workers", "gpus"]), ANYTHING)
def test_engines(name, value):
    given = dict(workers=None, gpus=None) | {name: value}
    engine = "processes" if name == "workers" else "ray"
    said(lambda: study.check_engine(engine, **given), name, value)


@QUICK
@given(st.sampled_from(["confidence", "resamples", "seed"]), ANYTHING)
def test_intervals(name, value):
    if name == "resamples" and files._is_whole(value) and value > 99:
        return
    x, y = np.arange(9.0), np.sin(np.arange(9.0))
    given = dict(resamples=20) | {name: value}
    for function in (stats.spearman, stats.better_half):
        found = said(lambda: function(x, y, **given), name, value)
        assert found is None or not found.low > found.high


@MANY
@given(st.sampled_from(sorted(report.PARAMETERS)), ANYTHING)
def test_parameters_of_notebooks(name, value):
    said(lambda: report.PARAMETERS[name](name, value), name, value)


@QUICK
@given(ANYTHING)
def test_shares_of_sizes(value):
    for sizes in (value, {"half": value}, {"half": (value, 1)}):
        found = said(lambda: report.sizes("sizes", sizes), "sizes", sizes)
        assert found is None or all(0 < share <= 1 for pair in found.values() for share in pair)


# ---- specs


@MANY
@given(st.sampled_from([field.name for field in fields(study.Data)]), ANYTHING)
def test_data_of_specs(name, value):
    made = said(lambda: study.Data(**dict(name="synthetic-objects") | {name: value}), name, value)
    assert made is None or study.Data(**vars(made)) == made


@MANY
@given(st.sampled_from([field.name for field in fields(study.Spec)]), ANYTHING)
def test_specs(name, value):
    (given,) = specs(1)
    made = said(lambda: study.Spec(**vars(given) | {name: value}), name, value)
    if made is not None:
        assert made.width >= 1 <= made.depth and 0 <= made.seed < 2**32
        assert len(made.id) == 64 and (made.id == given.id) == (made == given)


# ---- tables of runs, and how long they take


@QUICK
@given(
    st.sampled_from(["specs", "engine", "workers", "store", "root", "decoders", "gpus"]), ANYTHING
)
def test_what_is_collected(name, value):
    given = dict(specs=[]) | {name: value}
    table = said(lambda: study.collect(**given), name, value)
    assert table is None or len(table) == 0


@QUICK
@given(st.sampled_from(["specs", "workers", "store", "root"]), ANYTHING)
def test_what_is_planned(name, value):
    table = said(lambda: study.plan(**dict(specs=[]) | {name: value}), name, value)
    assert table is None or len(table) == 0


@QUICK
@given(st.sampled_from(["specs", "flops_per_second", "utilization", "measured"]), ANYTHING)
def test_hours_of_gpus(name, value):
    table = said(lambda: study.gpu_hours(**dict(specs=specs(1)) | {name: value}), name, value)
    assert table is None or (table.gpu_hours >= 0).all()


# ---- pictures and files


POINTS = pd.DataFrame(
    dict(
        space="darts",
        task="rot",
        score="rot",
        title="Rotation",
        unit="%",
        label="one",
        reason="",
        size="whole",
        valid=True,
        **dict.fromkeys(["x_sd", "y_sd", "std", "dropped"], 0.0),
        **dict.fromkeys(["n", "m", "epoch"], [4, 8, 16]),
        **dict.fromkeys(["x", "y", "mean", "expected", "loss", "alpha_loss"], [1.0, 3.0, 2.0]),
        **dict.fromkeys(["entropy_normal", "entropy_reduce", "skips_normal"], [1.0, 2.0, 2.0]),
        **dict.fromkeys(["skips_reduce", "rho", "low", "high", "ceiling"], [0.1, 0.2, 0.3]),
    )
)
CELL = [(0, "in", "input"), (1, "out", "output")], [(0, 1, "sep_conv_3x3")]
PICTURES = {
    "scatter_panels": dict(
        pairs=POINTS,
        summary=POINTS,
        lines=POINTS,
        x_dataset="C10",
        y_dataset="C10",
        published=None,
        title="",
        units=None,
    ),
    "efficiency_curves": dict(curves=POINTS, target="accuracy", proxy="C10", title=""),
    "alpha_panels": dict(
        alphas=np.full((3, 2, 2), 0.5),
        edges=[(0, 0), (0, 1)],
        operations=["none", "skip_connect"],
        title="",
        states=["input", "one", "output"],
    ),
    "search_curves": dict(frame=POINTS.assign(score=POINTS.x), operations=8),
    "similarity_map": dict(matrix=pd.DataFrame([[1.0]], ["a"], ["a"]), title=""),
    "image_grid": dict(images=np.zeros((2, 3, 4, 4), np.uint8), titles=None, columns=8, size=1.0),
    "accuracy_rows": dict(rows=POINTS, xlabel="", band=None),
    "score_panels": dict(points=POINTS, correlations=POINTS[:1], xlabel=""),
    "seed_agreement": dict(agreement=POINTS),
    "draw_cells": dict(cells={"a": CELL}),
    "cell_sheet": dict(cells={"a": (CELL, CELL)}),
    "draw_cell": dict(nodes=CELL[0], edges=CELL[1], ax=plt.Figure().add_subplot()),
    "operation_text": dict(name="skip_connect"),
}
PARAMETERS = [(picture, name) for picture, options in PICTURES.items() for name in options]


def test_pictures_of_what_is_right_are_drawn():
    for picture, options in PICTURES.items():
        getattr(plots, picture)(**options)


@settings(QUICK, max_examples=200)
@given(st.sampled_from(PARAMETERS), ANYTHING)
def test_pictures(which, value):
    picture, name = which
    said(lambda: getattr(plots, picture)(**PICTURES[picture] | {name: value}), name, value)


@settings(QUICK, max_examples=60)
@given(
    st.sampled_from([p for p in PARAMETERS if isinstance(PICTURES[p[0]][p[1]], pd.DataFrame)]),
    st.sampled_from(list(POINTS)),
    st.one_of(
        st.none(),
        st.sampled_from([-1, math.nan, math.inf, "x", True, 1j, [1], b"2"]),
        st.lists(st.sampled_from([-1.0, 0.5, math.nan, math.inf, None, "1", True]), min_size=3),
    ),
)
def test_columns_of_pictures(which, column, value):
    picture, name = which
    table = PICTURES[picture][name]
    column = column if column in table else table.columns[0]
    value = [value] if not isinstance(value, list) else value
    table = table.assign(**{column: (len(table) * value)[: len(table)]})
    try:
        getattr(plots, picture)(**PICTURES[picture] | {name: table})
    except ValueError as error:
        assert str(error).startswith(f"{name}: ") and "\n" not in str(error)


@QUICK
@given(st.sampled_from(["figure", "name", "data"]), ANYTHING)
def test_files_of_pictures(tmp_path_factory, name, value):
    folder = tmp_path_factory.mktemp("saved")
    given = dict(figure=plt.Figure((1, 1)), name="a", data=None) | {name: value}
    paths = said(lambda: plots.save(folder=folder, **given), name, value)
    assert paths is None or all(path.parent == folder and path.is_file() for path in paths)


@QUICK
@given(ANYTHING)
def test_tables_of_the_paper(value):
    table = said(lambda: paper.table(value), "rows", value)
    assert table is None or len(table) == 0
