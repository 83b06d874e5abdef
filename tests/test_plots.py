"""Layout of cells checked by numbers, and figures checked by what is in them."""

from itertools import combinations

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from unnas import paper, plots, stats
from unnas.plots.cells import _cell_layout


def darts_graph(cell):
    nodes = [
        (0, "$c_{k-2}$", "input"),
        (1, "$c_{k-1}$", "input"),
        *((i, str(i - 2), "state") for i in range(2, 6)),
        (6, "$c_k$", "output"),
    ]
    return nodes, [(s, 2 + i // 2, o) for i, (o, s) in enumerate(cell)] + [
        (i, 6, "") for i in range(2, 6)
    ]


OPERATIONS = [
    "none",
    "max_pool_3x3",
    "avg_pool_3x3",
    "skip_connect",
    "sep_conv_3x3",
    "sep_conv_5x5",
    "dil_conv_3x3",
    "dil_conv_5x5",
]


def random_cell(rng):
    return [(OPERATIONS[rng.integers(8)], int(rng.integers(2 + slot // 2))) for slot in range(8)]


def random_nasbench_graph(rng):
    matrix = np.triu(rng.random((7, 7)) < 0.4, 1)
    kinds = ["input", *["op"] * 5, "output"]
    labels = [
        "input",
        *rng.choice(["conv3x3-bn-relu", "conv1x1-bn-relu", "maxpool3x3"], 5),
        "output",
    ]
    return [(i, labels[i], kinds[i]) for i in range(7)], [
        (int(a), int(b), "") for a, b in zip(*np.nonzero(matrix))
    ]


PUBLISHED = [
    darts_graph(g[kind]) for g in paper.GENOTYPES.values() for kind in ("normal", "reduce")
]
RANDOM = [darts_graph(random_cell(np.random.default_rng(seed))) for seed in range(100)]
NASBENCH = [random_nasbench_graph(np.random.default_rng(seed)) for seed in range(30)]


def corners(box, margin=0.0):
    return (
        box.x - box.width / 2 - margin,
        box.x + box.width / 2 + margin,
        box.y - box.height / 2 - margin,
        box.y + box.height / 2 + margin,
    )


def curve(points):
    """Points along a line as it is drawn."""
    t = np.linspace(0, 1, 25)[:, None]
    pieces = []
    for index, (a, b) in enumerate(zip(points, points[1:])):
        if index % 2:
            c, d = np.array([(a[0] + b[0]) / 2, a[1]]), np.array([(a[0] + b[0]) / 2, b[1]])
            pieces.append(
                (1 - t) ** 3 * a + 3 * (1 - t) ** 2 * t * c + 3 * (1 - t) * t**2 * d + t**3 * b
            )
        else:
            pieces.append((1 - t) * a + t * b)
    return np.concatenate(pieces)


@pytest.mark.slow
@pytest.mark.parametrize(
    "graphs", [PUBLISHED, RANDOM, NASBENCH], ids=["published", "random", "nasbench"]
)
def test_boxes_do_not_overlap_and_lines_pass_beside_them(graphs):
    for nodes, edges in graphs:
        layout = _cell_layout(nodes, edges)
        assert len(layout.boxes) == len(nodes) + sum(bool(label) for *_, label in edges)
        assert len(layout.lines) == sum(2 if label else 1 for *_, label in edges)
        for a, b in combinations(layout.boxes.values(), 2):
            left_a, right_a, top_a, bottom_a = corners(a, 0.03)
            left_b, right_b, top_b, bottom_b = corners(b, 0.03)
            assert right_a <= left_b or right_b <= left_a or bottom_a <= top_b or bottom_b <= top_a
        for line in layout.lines:
            path = curve(line.points)
            for name, box in layout.boxes.items():
                left, right, top, bottom = corners(box, 0.02)
                inside = (
                    (path[:, 0] > left)
                    & (path[:, 0] < right)
                    & (path[:, 1] > top)
                    & (path[:, 1] < bottom)
                )
                assert name in (line.source, line.target) or not inside.any()


def test_lines_join_the_right_sides():
    layout = _cell_layout(*PUBLISHED[0])
    for line in layout.lines:
        source, target = layout.boxes[line.source], layout.boxes[line.target]
        assert np.allclose(line.points[0], (source.x + source.width / 2, source.y))
        assert np.isclose(line.points[-1][0], target.x - target.width / 2)
        assert abs(line.points[-1][1] - target.y) < target.height / 2
        assert (np.diff(line.points[:, 0]) >= -1e-9).all()  # always from left to right


@pytest.mark.slow
def test_lines_that_enter_a_box_are_apart_and_do_not_cross_before_it():
    for nodes, edges in RANDOM[:30]:
        layout = _cell_layout(nodes, edges)
        entering = sorted(
            (line.points[-1][1], line.points[-3][1]) for line in layout.lines if line.target == 6
        )
        assert np.all(np.diff([end for end, _ in entering]) > 0.05)
        assert np.all(np.diff([before for _, before in entering]) > 0)


def test_two_equal_inputs_give_two_boxes():
    cell = [("sep_conv_3x3", 0), ("sep_conv_3x3", 0)] * 4
    layout = _cell_layout(*darts_graph(cell))
    assert sum(box.label == "sep conv 3×3" for box in layout.boxes.values()) == 8


def test_layout_is_the_same_each_time():
    first, second = (_cell_layout(*RANDOM[0]) for _ in range(2))
    assert first.boxes == second.boxes


def test_an_avoidable_crossing_is_avoided():
    nodes = [(name, name, "state") for name in "abcd"]
    layout = _cell_layout(nodes, [("a", "d", ""), ("b", "c", "")])
    assert (layout.boxes["a"].y - layout.boxes["b"].y) * (
        layout.boxes["d"].y - layout.boxes["c"].y
    ) > 0


def test_text_fits_its_box_in_a_figure_of_natural_size_and_in_small_axes():
    figure = plots.draw_cells({"cell": PUBLISHED[0]})
    small, ax = plt.subplots(figsize=(4, 3))
    plots.draw_cell(*PUBLISHED[0], ax)
    for drawn in (figure, small):
        renderer = FigureCanvasAgg(drawn).get_renderer()
        axes = drawn.axes[0]
        boxes = [
            p.get_window_extent(renderer)
            for p in axes.patches
            if isinstance(p, matplotlib.patches.FancyBboxPatch)
        ]
        assert len(boxes) == len(axes.texts) == 15
        for text in axes.texts:
            extent = text.get_window_extent(renderer)
            assert any(
                b.x0 <= extent.x0 and extent.x1 <= b.x1 and b.y0 <= extent.y0 and extent.y1 <= b.y1
                for b in boxes
            )
    plt.close(small)


@pytest.mark.parametrize(
    "nodes, edges, message",
    [
        ([], [], "nothing to draw"),
        ([(0, "a", "state"), (0, "b", "state")], [], "occurs twice"),
        ([(0, "a", "magic")], [], "'magic' of node 0 is unknown; use one of input, state"),
        ([(0, "a", "state")], [(0, 1, "")], "unknown node 1"),
        ([(0, "a", "state"), (1, "b", "state")], [(0, 1, "skip_connect"), (1, 0, "")], "cycle"),
    ],
)
def test_wrong_graphs_are_refused(nodes, edges, message):
    with pytest.raises(ValueError, match=message):
        _cell_layout(nodes, edges)


def scores(n, seeds=3):
    rng = np.random.default_rng(0)
    rows = []
    for space in ("darts", "nasbench101"):
        quality = rng.normal(size=n)
        for task in ("cls", "rot", "col", "jig"):
            rows += [
                {
                    "space": space,
                    "architecture": str(i),
                    "task": task,
                    "score": 80 + quality[i] + 0.3 * rng.normal(),
                    "parameters": 1 + i,
                    "multiply_adds": 1 + i,
                }
                for _ in range(seeds)
                for i in range(n)
            ]
    return stats.over_seeds(pd.DataFrame(rows))


def panels(frame, **options):
    both = stats.pairs(frame)
    return (
        plots.scatter_panels(
            both,
            stats.summary(both, resamples=100),
            stats.huber_lines(both, resamples=50),
            x_dataset="C10",
            y_dataset="C10",
            **options,
        ),
        both,
    )


@pytest.mark.slow
@pytest.mark.parametrize("n", [3, 40, 500])
def test_scatter_panels_show_every_architecture(n):
    figure, _ = panels(scores(n))
    assert len(figure.axes) == 6
    assert [ax.get_title() for ax in figure.axes] == [
        "Rotation",
        "Colorization",
        "Jigsaw",
        "",
        "",
        "",
    ]
    for ax in figure.axes:
        points = ax.collections[
            [len(getattr(c, "get_offsets", lambda: [])()) for c in ax.collections].index(n)
        ].get_offsets()
        assert len(points) == n
        assert f"n = {n}" in ax.get_legend().get_texts()[0].get_text()
    assert figure.axes[0].get_xlim() == figure.axes[1].get_xlim()
    assert (
        figure.axes[3].get_xlabel() == "C10 supervised accuracy (%)"
        and figure.axes[3].get_ylabel() == "C10 rotation accuracy (%)"
    )
    figure.canvas.draw()


def test_scatter_panels_tell_what_they_do_not_show():
    frame = scores(40)
    rows = frame.index[(frame.space == "darts") & (frame.task == "rot")]
    frame.loc[rows[0], "score"] = np.nan
    frame.loc[rows[1], "score"] = 10.0
    figure, _ = panels(frame, published={"darts": {"rot": 0.82}})
    legend = figure.axes[0].get_legend().get_texts()[0].get_text()
    assert "n = 39, 1 without score" in legend and "paper: ρ = 0.82" in legend
    assert figure.axes[0].get_ylim()[0] > 70
    assert "1 beyond the axes" in legend
    other = figure.axes[1].get_legend().get_texts()[0].get_text()
    assert "paper" not in other and "beyond" not in other


def test_scatter_panels_without_any_score_say_so():
    frame = scores(5, seeds=1)
    frame.loc[frame.task == "rot", "score"] = np.nan
    figure, both = panels(frame)
    assert "undefined: only 0 finite" in figure.axes[0].get_legend().get_texts()[0].get_text()
    figure.canvas.draw()
    with pytest.raises(ValueError, match="has no rows"):
        plots.scatter_panels(both[:0], both, both, x_dataset="", y_dataset="")


def test_scatter_panels_pair_the_reference_task_with_itself_on_other_data():
    plots.style()
    frame = scores(12)
    both = stats.pairs(frame, tasks=["rot", "cls"], targets=frame.assign(score=frame.score - 40))
    figure = plots.scatter_panels(
        both,
        stats.summary(both, resamples=50),
        stats.huber_lines(both, resamples=20),
        x_dataset="IN",
        y_dataset="C10",
        title="above all",
    )
    assert [ax.get_title() for ax in figure.axes[:2]] == [
        "Rotation",
        "Supervised",
    ] and figure.get_suptitle() == "above all"
    assert (
        figure.axes[1].get_xlabel() == "IN supervised accuracy (%)"
        and figure.axes[1].get_ylabel() == "C10 supervised accuracy (%)"
    )
    figure.draw(FigureCanvasAgg(figure).get_renderer())
    extents = [ax.get_tightbbox() for ax in figure.axes]
    assert not any(a.overlaps(b) for a, b in combinations(extents, 2))


@pytest.mark.parametrize("n", [3, 60])
def test_efficiency_curves_show_means_bands_and_expectations(n):
    plots.style()
    curves = stats.random_experiments(stats.pairs(scores(n), targets=scores(n)))
    figure = plots.efficiency_curves(curves, target="IN accuracy", proxy="C10", title="a title")
    assert [ax.get_title() for ax in figure.axes] == [f"DARTS, n = {n}", f"NAS-Bench-101, n = {n}"]
    for ax, space in zip(figure.axes, ("darts", "nasbench101")):
        drawn = {(line.get_color(), line.get_linestyle()): line.get_ydata() for line in ax.lines}
        for task in ("cls", "rot", "col", "jig"):
            curve = curves[(curves.space == space) & (curves.task == task)]
            assert np.array_equal(drawn[plots.TASK_COLORS[task], "-"], curve["mean"])
            assert np.array_equal(drawn[plots.TASK_COLORS[task], "--"], curve["expected"])
        last = curve.iloc[0]
        vertices = ax.collections[-1].get_paths()[0].vertices
        assert vertices[:, 1].max() >= last["mean"] + 2 * last["std"] - 1e-9
        bottom, top = ax.get_ylim()
        assert all(bottom <= y <= top for line in ax.lines for y in line.get_ydata())
        assert [label.get_text() for label in ax.get_xticklabels() if label.get_text()] == [
            str(m) for m in sorted(set(curves.m))
        ]
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels == [
        "C10 supervised",
        "C10 rotation",
        "C10 colorization",
        "C10 jigsaw",
        "exact expectation",
        "± 2 standard deviations",
    ]
    figure.draw(FigureCanvasAgg(figure).get_renderer())
    legend = figure.legends[0].get_window_extent()
    assert not any(ax.get_tightbbox().overlaps(legend) for ax in figure.axes)


def test_efficiency_curves_without_rows_are_refused():
    with pytest.raises(ValueError, match="curves: has no rows"):
        plots.efficiency_curves(pd.DataFrame(), target="", proxy="")


def test_save_writes_three_files(tmp_path):
    plots.style()
    figure, ax = plt.subplots()
    ax.set_xlabel("words in a figure")
    data = pd.DataFrame({"x": [1, 2]})
    paths = plots.save(figure, tmp_path / "a" / "b", "name", data)
    assert [p.suffix for p in paths] == [".png", ".svg", ".csv"] and all(
        p.stat().st_size for p in paths
    )
    assert "words in a figure" in paths[1].read_text()
    assert pd.read_csv(paths[2]).equals(data)
    assert plt.imread(paths[0])[0, 0].tolist() == [1, 1, 1, 1]  # white, not transparent
    before = paths[1].read_bytes()
    plots.save(figure, tmp_path / "a" / "b", "name")
    assert paths[1].read_bytes() == before
    plt.close(figure)


def test_a_folder_that_cannot_be_written_is_refused_at_once(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="folder=.*file.*cannot write there"):
        plots.check_folder(tmp_path / "file" / "figures")
    assert (
        plots.check_folder(tmp_path / "new") == tmp_path / "new"
        and list((tmp_path / "new").iterdir()) == []
    )


def test_image_grid_shows_the_images():
    images = np.random.default_rng(0).integers(0, 256, (10, 3, 8, 8), dtype=np.uint8)
    figure = plots.image_grid(images, [str(i) for i in range(10)], columns=4)
    shown = [ax for ax in figure.axes if ax.images]
    assert len(shown) == 10 and shown[9].get_title() == "9"
    assert (shown[3].images[0].get_array() == images[3].transpose(1, 2, 0)).all()
    torch = pytest.importorskip("torch")
    assert (
        plots.image_grid(torch.from_numpy(images[:2, :1])).axes[0].images[0].get_cmap().name
        == "gray"
    )


@pytest.mark.parametrize(
    "images",
    [
        np.zeros((2, 3, 8, 8)),
        np.zeros((3, 8, 8), np.uint8),
        np.zeros((2, 8, 8, 3), np.uint8),
        np.zeros((0, 3, 8, 8), np.uint8),
    ],
)
def test_image_grid_refuses_other_arrays(images):
    with pytest.raises(ValueError, match="pass uint8 of shape"):
        plots.image_grid(images)


@pytest.mark.slow
def test_text_of_a_contact_sheet_fits_and_cells_have_about_the_same_scale():
    names = ["darts", "imagenet_rot", "imagenet22k_jig", "cityscapes_col", "pdarts"]
    sheet = plots.cell_sheet(
        {
            name: tuple(darts_graph(paper.GENOTYPES[name][kind]) for kind in ("normal", "reduce"))
            for name in names
        }
    )
    assert sheet.get_size_inches()[0] == pytest.approx(14)  # as wide as may be
    renderer = FigureCanvasAgg(sheet).get_renderer()
    sheet.draw(renderer)
    assert [ax.get_title(loc="left") for ax in sheet.axes] == [
        word for name in names for word in (name, "")
    ]
    assert [text.get_text() for text in sheet.texts] == ["normal cell", "reduction cell"] * 2
    scales = []
    for ax in sheet.axes:
        boxes = [
            p.get_window_extent(renderer)
            for p in ax.patches
            if isinstance(p, matplotlib.patches.FancyBboxPatch)
        ]
        assert len(boxes) == len(ax.texts) == 15
        for text in ax.texts:
            extent = text.get_window_extent(renderer)
            assert any(
                b.x0 <= extent.x0 and extent.x1 <= b.x1 and b.y0 <= extent.y0 and extent.y1 <= b.y1
                for b in boxes
            )
        scales.append(ax.texts[0].get_size())
    assert max(scales) < 2 * min(scales)
    extents = [ax.get_tightbbox(renderer) for ax in sheet.axes]
    assert not any(a.overlaps(b) for a, b in combinations(extents, 2))
    assert "sep 3×3" in [text.get_text() for text in sheet.axes[0].texts]


def test_a_contact_sheet_of_one_is_not_larger_than_natural_and_one_of_none_is_refused():
    cell = PUBLISHED[0]
    one = plots.cell_sheet({"one": (cell, cell)})
    assert one.get_size_inches()[0] < 14 and one.axes[0].texts[0].get_size() <= 9
    with pytest.raises(ValueError, match="nothing to draw"):
        plots.cell_sheet({})


EDGES = [(node, source) for node in range(4) for source in range(node + 2)]


def shares(epochs):
    rng = np.random.default_rng(0)
    weights = np.exp(rng.normal(size=(epochs + 1, 14, 8)).cumsum(axis=0) / 5)
    return weights / weights.sum(axis=2, keepdims=True)


@pytest.mark.parametrize("epochs", [0, 1, 50])
def test_alpha_panels_show_each_operation_on_each_edge(epochs):
    alphas = shares(epochs)
    figure = plots.alpha_panels(alphas, edges=EDGES, operations=OPERATIONS, title="a search")
    shown = {ax.get_title(): ax for ax in figure.axes if ax.axison}
    assert len(shown) == 14 and len(figure.axes) == 20
    panel = shown["node 0 → node 2"]
    lines = {line.get_label(): line for line in panel.lines}
    for operation, name in enumerate(OPERATIONS):
        assert np.array_equal(
            lines[plots.operation_text(name)].get_ydata(), alphas[:, EDGES.index((2, 2)), operation]
        )
    # and the level of equal shares
    assert len({(line.get_color(), line.get_linestyle()) for line in lines.values()}) == 9
    assert len({ax.get_ylim() for ax in shown.values()}) == 1 and panel.get_ylim()[1] > alphas.max()
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [
        plots.operation_text(name) for name in OPERATIONS
    ]
    figure.canvas.draw()
    legend = figure.legends[0].get_window_extent()
    assert not any(ax.get_tightbbox().overlaps(legend) for ax in shown.values())


def test_alpha_panels_refuse_what_are_no_shares():
    for wrong, message in [
        (shares(3)[:, :13], r"epochs \+ 1, 14, 8"),
        (shares(3)[0], "epochs"),
        (shares(3) * 2, "after the softmax"),
        (shares(3)[:0], "has shape"),
    ]:
        with pytest.raises(ValueError, match=message):
            plots.alpha_panels(wrong, edges=EDGES, operations=OPERATIONS, title="")


def watched(epochs):
    epoch = np.arange(epochs + 1)
    return pd.DataFrame(
        {
            "epoch": epoch,
            "loss": 2.0 - 0.1 * epoch,
            "alpha_loss": np.where(epoch < 2, np.nan, 2.0),
            "score": 10.0 + epoch,
            "entropy_normal": np.log(8) - 0.01 * epoch,
            "entropy_reduce": np.log(8) - 0.02 * epoch,
            "skips_normal": epoch,
            "skips_reduce": 8,
        }
    )


def test_search_curves_show_all_columns():
    frame = watched(6)
    figure = plots.search_curves(frame)
    assert [ax.get_title() for ax in figure.axes] == [
        "Loss",
        "Score",
        "Entropy of an edge",
        "Skip connections",
    ]
    drawn = [list(line.get_ydata()) for ax in figure.axes for line in ax.lines]
    for name in frame.columns[1:]:
        assert any(np.array_equal(values, frame[name], equal_nan=True) for values in drawn), name
    levels = {
        line.get_label(): line.get_ydata()[0]
        for ax in figure.axes
        for line in ax.lines
        if len(line.get_ydata()) == 2
    }
    assert levels == {"ln 8: undecided": np.log(8), "half of the cell": 4}
    bottom, top = figure.axes[3].get_ylim()
    assert bottom < 0 and top > 8
    figure.canvas.draw()


def test_search_curves_refuse_a_frame_without_a_column_or_row():
    with pytest.raises(ValueError, match="lacks loss, skips_reduce; pass the columns epoch, loss"):
        plots.search_curves(watched(3).drop(columns=["loss", "skips_reduce"]))
    with pytest.raises(ValueError, match="no rows"):
        plots.search_curves(watched(3)[:0])


@pytest.mark.slow
@pytest.mark.parametrize("n", [2, 5, 30])
def test_similarity_map_prints_every_number_inside_its_field(n):
    values = np.random.default_rng(0).random((n, n))
    names = [f"ImageNet rotation {i}" for i in range(n)]
    figure = plots.similarity_map(pd.DataFrame((values + values.T) / 2, names, names), "a title")
    renderer = FigureCanvasAgg(figure).get_renderer()
    figure.draw(renderer)
    ax = figure.axes[0]
    assert (
        len(ax.texts) == n * n and ax.texts[1].get_text() == f"{(values + values.T)[0, 1] / 2:.2f}"
    )
    field = ax.get_window_extent(renderer).width / n
    assert max(text.get_window_extent(renderer).width for text in ax.texts) < 0.95 * field
    assert [label.get_text() for label in ax.get_yticklabels()] == names
    assert figure.axes[1].get_ylim() == (0, 1)


def test_similarity_map_refuses_other_matrices():
    frame = pd.DataFrame(np.eye(3), list("abc"), list("abc"))
    for wrong, message in [
        (frame.iloc[:2], "2 rows and 3 columns"),
        (frame[list("bca")], "the same names"),
        (frame - 0.1, "outside 0 to 1"),
        (frame.replace(1, np.nan), "outside 0 to 1"),
        (frame.iloc[:0, :0], "at least one"),
    ]:
        with pytest.raises(ValueError, match=message):
            plots.similarity_map(wrong, "")


def bars(spaces=("darts", "mine")):
    return pd.DataFrame(
        [
            dict(space=space, task=task, size=size, rho=rho, low=rho - 0.2, high=1, reason="")
            for space in spaces
            for size, rho in (("whole", 0.8), ("quarter", 0.5))
            for task in ("cls", "own")
        ]
    )


def test_seed_agreement_has_a_bar_for_each_task_and_size():
    figure = plots.seed_agreement(bars())
    assert [ax.get_title() for ax in figure.axes] == ["DARTS", "mine"]
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == [
        "Supervised, whole",
        "Supervised, quarter",
        "own, whole",
        "own, quarter",
    ]
    assert [patch.get_width() for patch in figure.axes[0].patches] == [0.8, 0.5, 0.8, 0.5]
    # where the interval of one panel is wider, all axes are
    uneven = bars().assign(low=[-0.8, *bars()["low"][1:]])
    assert all(ax.get_xlim()[0] < -0.8 for ax in plots.seed_agreement(uneven).axes)


def test_accuracy_rows_are_hollow_where_they_do_not_count():
    rows = pd.DataFrame(
        dict(label=["a", "b"], task=["rot", "own"], mean=[75.0, 74.0], std=[0.1, np.nan])
    )
    figure = plots.accuracy_rows(rows.assign(valid=[True, False]), xlabel="x", band=(70, 71, 73))
    dots = [line for line in figure.axes[0].lines if line.get_marker() == "o"]
    assert [line.get_markerfacecolor() for line in dots] == [plots.TASK_COLORS["rot"], "white"]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [
        "objective: rotation",
        "searched on the evaluation's own data",
        "random architectures: lowest to highest",
        "their mean",
    ]


def test_score_panels_say_what_they_do_not_show():
    x = np.arange(20.0)
    points = pd.concat(
        pd.DataFrame(dict(score=name, x=x, y=y))
        for name, y in (("rot", np.append(x[:-1], 1e4)), ("naswot", np.zeros(20)))
    )
    correlations = pd.DataFrame(
        dict(
            score=["rot", "naswot"],
            title=[plots.SCORE_TITLES[name] for name in ("rot", "naswot")],
            unit="",
            rho=[1.0, np.nan],
            low=[0.9, np.nan],
            high=[1.0, np.nan],
            reason=["", "all y are equal"],
            ceiling=np.nan,
        )
    )
    figure = plots.score_panels(points, correlations, xlabel="truth")
    panels, (right,) = figure.subfigs[0].axes, figure.subfigs[1].axes
    assert [ax.get_title() for ax in panels] == [
        "Rotation\nρ = 1.00, 1 beyond",
        "NASWOT\nρ undefined",
    ]
    assert [text.get_text() for text in right.texts] == ["all y are equal"]
    assert right.get_xlabel() == "ρ, with its 95% interval"


@pytest.mark.parametrize(
    "titles, name, title",
    [
        (plots.TASK_TITLES, "rot", "Rotation"),
        (plots.SPACE_TITLES, "darts", "DARTS"),
        (plots.SCORE_TITLES, "rot", "Rotation"),
        (plots.SCORE_TITLES, "naswot", "NASWOT"),
        (plots.DATASET_TITLES, "imagenette", "Imagenette"),
        (plots.DATASET_TITLES, "imagenet", "IN1K"),
        (plots.DATASET_SHORT_TITLES, "imagenet", "IN"),
        (plots.DATASET_SHORT_TITLES, "synthetic-objects", "Synthetic"),
    ],
)
def test_a_name_without_a_title_is_its_own(titles, name, title):
    assert titles[name] == title and titles["registered elsewhere"] == "registered elsewhere"
    assert "registered elsewhere" not in titles
