"""Published tables: what is refused, what is said, and every number against a slow version."""

import gzip
import itertools
import json
from types import SimpleNamespace

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from pages import run_notebook
from scipy import stats as scipy_stats

from tools import study as tools
from unnas import paper, stats
from unnas.spaces import nasbench101
from unnas.study import anchors, figures, report

CELLS = nasbench101.sample(12, seed=3)
HASHES = [cell.hash() for cell in CELLS]
RNG = np.random.default_rng(0)
QUALITY = RNG.normal(size=200)


def noisy(n, noise, low=0.0, high=1.0):
    """Scores of the first `n` in that range."""
    scores = QUALITY[:n] + noise * np.random.default_rng(n).normal(size=n)
    return low + (high - low) * (scores - scores.min()) / np.ptp(scores)


def tables():
    """Small tables as they are published: 12 cells, 10 of them with scores; 60 and 50 others."""
    imagenet = pd.DataFrame(dict(hash=HASHES, imagenet_top1=noisy(12, 0, 40, 60)))
    scores = pd.DataFrame(dict(hash=HASHES[:10]))
    for i, task in enumerate(("rot", "col", "jig", "cls")):
        scores[task] = noisy(10, 0.2 + i / 4, 70, 90)
    levels = []
    codes = itertools.product("0123", "01", "0123")
    cells = [f"64-41414-{a}_{b}0_{c}00" for a, b, c in codes] * 2
    cells = [f"{name[:-1]}{i // 32}" for i, name in enumerate(cells)][:60]
    for names in (cells, [f"64-{1111 + i}-basic" for i in range(50)]):
        level = pd.DataFrame(dict(architecture=names))
        for i, task in enumerate(("class_object", "class_scene", "jigsaw", "segmentsemantic")):
            level[task] = noisy(len(names), i / 3, 20 + i, 60)
        levels.append(level.assign(autoencoder=noisy(len(names), 2, 0.2, 0.8)))
    return dict(zip(anchors._FORMS, (imagenet, scores, *levels)))


@pytest.fixture
def written(tmp_path):
    """The tables as files, by parameter."""
    paths = {}
    for name, table in tables().items():
        paths[name] = str(tmp_path / f"{name}.csv.gz")
        table.to_csv(paths[name], index=False)
    return paths


def untrained():
    sizes = [anchors._size_in_the_paper(cell) for cell in CELLS]
    frame = pd.DataFrame(sizes).assign(hash=HASHES, scale="smoke")
    return frame.assign(naswot=noisy(12, 1), synflow=noisy(12, 3)).set_index("hash")


def page(folder, paths=(), **change):
    """What the functions need of a page."""
    values = dict.fromkeys(anchors.PARAMETERS) | dict(scale="smoke", root=None, figures=str(folder))
    values |= dict(paths) | change
    return report.Page("anchors", list(values), values, **anchors.PARAMETERS)


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("UNNAS_HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    return tmp_path / "home"


WRONG = [
    (
        "macro_table",
        lambda t: t.drop(columns="jigsaw"),
        "has no column jigsaw; its columns are arch",
    ),
    (
        "cell_table",
        lambda t: tables()["macro_table"],
        "row 1 is called '64-1111-basic'; this takes c",
    ),
    (
        "imagenet_table",
        lambda t: t.assign(hash=t.hash.str[:9]),
        "row 1 is called '.*'; this takes c",
    ),
    (
        "cell_table",
        lambda t: pd.concat([t, t[3:4]]),
        "has 64-41414-0_00_300 twice; keep one of its",
    ),
    ("scores_table", lambda t: t[:1], r"has 1 row\(s\); a ranking needs two"),
    ("scores_table", lambda t: t.assign(jig=np.nan), "jig of .* is nan, which is no percentage"),
    ("scores_table", lambda t: t.assign(col="high"), "col of .* is high, which is no percentage"),
    ("scores_table", lambda t: t.assign(rot=t.rot + 90), "rot of .* which is no percentage"),
    (
        "macro_table",
        lambda t: t.assign(autoencoder="?"),
        r"autoencoder of .* is \?, which is no num",
    ),
]


@pytest.mark.parametrize("name, change, words", WRONG, ids=range(len(WRONG)))
def test_a_wrong_table_is_refused_in_one_sentence(tmp_path, name, change, words):
    path = tmp_path / "table.csv"
    change(tables()[name]).to_csv(path, index=False)
    with pytest.raises(ValueError, match=words) as error:
        anchors.read_table(name, str(path))
    assert str(error.value).startswith(f"{name}={str(path)!r}: ") and "\n" not in str(error.value)


def test_what_is_no_table_is_refused(tmp_path):
    with pytest.raises(
        FileNotFoundError, match="cell_table='.*none.csv': no such file; pass a tab"
    ):
        anchors.read_table("cell_table", str(tmp_path / "none.csv"))
    torn = tmp_path / "torn.csv.gz"
    tables()["cell_table"].to_csv(torn, index=False)
    torn.write_bytes(torn.read_bytes()[:200])
    (tmp_path / "empty.csv").write_text("")
    (tmp_path / "picture.csv").write_bytes(bytes(range(256)))
    for name in ("torn.csv.gz", "empty.csv", "picture.csv"):
        with pytest.raises(ValueError, match=f"cell_table='.*{name}': ") as error:
            anchors.read_table("cell_table", str(tmp_path / name))
        assert "\n" not in str(error.value)


def test_missing_rows_and_shares_are_said(tmp_path, capsys):
    table = tables()["imagenet_table"]
    shares = table.assign(imagenet_top1=table.imagenet_top1 / 100)
    shares.to_csv(tmp_path / "shares.csv", index=False)
    found = anchors.read_table("imagenet_table", str(tmp_path / "shares.csv"))
    np.testing.assert_allclose(found.imagenet_top1, table.imagenet_top1)
    said = capsys.readouterr().out
    assert "imagenet_table: 12 of 500 architectures, 488 are missing" in said
    assert "imagenet_table: imagenet_top1 are shares; shown in percent" in said


def test_cells_of_one_table_alone_are_left_out(written, tmp_path, capsys):
    table = tables()["imagenet_table"]
    table[2:].to_csv(written["imagenet_table"], index=False)
    found = anchors.read_tables(page(tmp_path, written))
    assert list(found["scores_table"].index) == HASHES[2:10]
    assert (
        "scores_table: 2 cells are left out, which imagenet_table lacks" in capsys.readouterr().out
    )
    table[10:].to_csv(written["imagenet_table"], index=False)
    with pytest.raises(ValueError, match="scores_table=.*: 0 of its cells are in imagenet_table"):
        anchors.read_tables(page(tmp_path, written))


def rank(values):
    """Ranks from 1, the mean of those of equal values, one at a time."""
    return [sum(v < w for v in values) + (sum(v == w for v in values) + 1) / 2 for w in values]


def slow_rho(x, y):
    a, b = np.array(rank(list(x))), np.array(rank(list(y)))
    a, b = a - a.mean(), b - b.mean()
    return float((a * b).sum() / np.sqrt((a * a).sum() * (b * b).sum()))


def slow_partial(x, y, z):
    """The correlation of what lines through the ranks of z leave of the ranks of x and y."""
    x, y, z = (np.array(rank(list(values))) for values in (x, y, z))
    left = [values - np.polyval(np.polyfit(z, values, 1), z) for values in (x, y)]
    return float(np.corrcoef(*left)[0, 1])


def test_the_table_of_cells_is_that_of_slow_formulas(written, tmp_path, home):
    found, own = anchors.read_tables(page(tmp_path, written)), untrained()
    table = anchors.cell_table(page(tmp_path), found, own).set_index(["cells", "score"])
    truth = found["imagenet_table"].imagenet_top1
    for group, names, hashes in (
        ("all", ["naswot", "synflow", "parameters"], HASHES),
        ("with scores", ["rot", "col", "jig", "cls", "naswot", "synflow"], HASHES[:10]),
    ):
        assert set(names) <= set(table.loc[group].index)
        x, z = truth[hashes], own.parameters[hashes]
        for name in names:
            y = (found["scores_table"] if name in found["scores_table"] else own)[name][hashes]
            row = table.loc[group, name]
            assert row.n == len(hashes) and row.rho == pytest.approx(slow_rho(x, y), abs=1e-9)
            if name != "parameters":
                assert row.partial == pytest.approx(slow_partial(x, y, z), abs=1e-9)
            assert row.gain == pytest.approx(slow_rho(x, y) - slow_rho(x, z), abs=1e-9)
            best = x.sort_values().index[len(x) // 2 :]
            assert row.better_half == pytest.approx(slow_rho(x[best], y[best]), abs=1e-9)
    sizes = anchors.size_table(page(tmp_path), found, own)
    assert sizes.rho[0] == pytest.approx(slow_rho(truth, own.parameters), abs=1e-9)
    assert (tmp_path / "anchors_cells.csv").is_file()
    assert anchors.draw_cells(page(tmp_path), table.reset_index()).figure


def test_cells_without_a_size_are_counted(written, tmp_path, home, capsys):
    found = anchors.read_tables(page(tmp_path, written))
    table = anchors.cell_table(page(tmp_path), found, untrained()[1:])
    assert (
        "1 cells are left out, of which anchors_untrained.csv has no size"
        in capsys.readouterr().out
    )
    assert table.groupby("cells").n.max().to_dict() == {"all": 11, "with scores": 9}


def test_the_paper_is_judged_by_published_accuracies_too(written, tmp_path, home, capsys):
    path, own = str(tmp_path / "accuracies.csv"), untrained()
    accuracies = pd.DataFrame(dict(hash=HASHES[:8], val108=noisy(8, 0.5, 80, 90)))
    accuracies = accuracies.assign(test108=noisy(8, 1, 80, 90)[::-1])
    accuracies.to_csv(path, index=False)
    given = page(tmp_path, written, accuracy_table=path)
    table = anchors.published_table(given, anchors.read_tables(given), own).set_index("score")
    assert "test108 of 8 cells with scores; 2 are left out" in capsys.readouterr().out
    x, z = accuracies.set_index("hash").test108, own.parameters[HASHES[:8]]
    scores = tables()["scores_table"].set_index("hash").loc[HASHES[:8]]
    for name in scores:
        assert table.rho[name] == pytest.approx(slow_rho(x, scores[name]), abs=1e-9)
        assert table.partial[name] == pytest.approx(slow_partial(x, scores[name], z), abs=1e-9)
    accuracies[:1].assign(hash=HASHES[11]).to_csv(path, index=False)
    with pytest.raises(
        ValueError, match="accuracy_table=.*: has 0 of the cells with scores; a ran"
    ):
        anchors.published_table(given, anchors.read_tables(given), own)


def test_the_table_of_transnas_is_that_of_slow_formulas(written, tmp_path, home):
    found = anchors.read_tables(page(tmp_path, written))
    table = anchors.transnas_table(page(tmp_path), found).set_index(["space", "target", "score"])
    names = dict(object="class_object", scene="class_scene", seg="segmentsemantic", jig="jigsaw")
    names |= dict(auto="autoencoder")
    assert len(table) == 20
    for (level, target, score), row in table.iterrows():
        own = found[anchors._LEVELS[level]]
        x, y = own[names[target]], own[names[score]]
        order = x.sort_values().index
        assert row.n == len(x) and row.rho == pytest.approx(slow_rho(x, y), abs=1e-9)
        half, tenth = order[len(x) // 2 :], order[-len(x) // 10 :]
        assert row.better_half == pytest.approx(slow_rho(x[half], y[half]), abs=1e-9)
        assert row.best_tenth == pytest.approx(slow_rho(x[tenth], y[tenth]), abs=1e-9)
        assert row.few_low < row.rho < row.few_high
    assert anchors.draw_transnas(page(tmp_path), table.reset_index()).figure


def test_small_samples_are_random_ones_without_replacement():
    x, y = QUALITY[:7], noisy(7, 1)
    every = [
        scipy_stats.spearmanr(x[list(rows)], y[list(rows)]).statistic
        for rows in itertools.combinations(range(7), 4)
    ]
    drawn = stats.small_samples(x, y, 4, draws=7000, seed=7)
    values, counts = np.unique(drawn.round(9), return_counts=True)
    expected, of = np.unique(np.round(every, 9), return_counts=True)
    np.testing.assert_array_equal(values, expected)  # none has a repeated architecture
    assert scipy_stats.chisquare(counts, 7000 * of / len(every)).pvalue > 0.001
    assert (drawn == stats.small_samples(x, y, 4, draws=7000, seed=7)).all()
    with pytest.raises(ValueError, match="draws=0: must be a whole number of at least 1"):
        stats.small_samples(x, y, 16, draws=0)
    with pytest.raises(ValueError, match="size=1: a correlation needs at least 2"):
        stats.small_samples(x, y, 1)


@pytest.mark.parametrize(
    "share, number", [(1e-12, 1), (0.1, 1), (0.3, 3), (0.35, 4), (0.5, 5), (1, 10)]
)
def test_a_share_of_the_best_is_rounded_up(share, number):
    x = np.arange(10.0)
    found = stats.spearman_of_best(x, np.r_[x[:6], x[6:][::-1]], share)
    assert found.n == number
    assert number < 2 or number > 4 or found.value == pytest.approx(-1)
    assert number < 10 or found == stats.spearman(x, np.r_[x[:6], x[6:][::-1]])
    for wrong in (0, 1.1, -0.5):
        with pytest.raises(ValueError, match="share="):
            stats.spearman_of_best(x, x, wrong)


def test_what_is_found_and_lost_by_a_score(written, tmp_path, home):
    found, own = anchors.read_tables(page(tmp_path, written)), untrained()
    curves, regret = anchors.chosen_by(page(tmp_path), found, own)
    truth = found["imagenet_table"].imagenet_top1[HASHES[:10]]
    of = {**found["scores_table"], "naswot": own.naswot[HASHES[:10]]}
    for task in ("rot", "cls", "naswot"):
        row = curves[(curves.space == "nasbench101") & (curves.task == task) & (curves.m == 2)]
        pairs = list(itertools.combinations(HASHES[:10], 2))
        mean = np.mean([truth[max(pair, key=lambda h: of[task][h])] for pair in pairs])
        assert row.expected.item() == pytest.approx(mean)
        lost = regret[(regret.task == task) & (regret.k == 2) & (regret.space == "nasbench101")]
        best = of[task].sort_values().index[-2:]
        assert lost.regret.item() == pytest.approx(truth.max() - truth[best].max())
    assert set(curves.space) == {"nasbench101", "transnas-cell", "transnas-macro"}
    assert anchors.draw_curves(page(tmp_path), curves).figure


def test_what_was_computed_is_written_down_cell_by_cell(tmp_path, home):
    packed = tmp_path / "packed.json.gz"
    fields = {"nas_bench": {f"{i}": cell.to_dict() for i, cell in enumerate(CELLS[:3])}}
    packed.write_bytes(gzip.compress(json.dumps(fields).encode()))
    own = page(tmp_path, architectures=f"2 of {packed}")
    two = anchors.untrained_cells(own)
    kept = tmp_path / "anchors_untrained.csv"
    assert len(two) == 2 and set(two.index) <= set(HASHES[:3])
    marked = pd.read_csv(kept).assign(naswot=[1.5, 2.5])
    marked.to_csv(kept, index=False)
    three = anchors.untrained_cells(page(tmp_path, architectures=f"3 of {packed}"))
    assert three.loc[marked.hash, "naswot"].tolist() == [1.5, 2.5]  # not computed again
    assert len(three) == 3 and len(pd.read_csv(kept)) == 3
    assert three.notna().all(axis=None)
    # the size is that of the paper's network: width 128
    for cell in CELLS[:3]:
        network = nasbench101.build(
            cell, SimpleNamespace(in_channels=3, head=lambda c: _Head(c)), stem="cifar", width=128
        )
        count = sum(p.numel() for p in network.parameters())
        assert three.parameters[cell.hash()] == count


def _Head(channels):
    import torch

    return torch.nn.Linear(channels, 10)


def test_points_are_joined_within_their_reach(tmp_path):
    """A made-up picture: two architectures far apart, one with a panel too few, and two that lie
    closer than what is told apart, in order.
    """
    rows = []
    for x, panels in ((10.0, 4), (20.0, 3), (30.0, 4), (30.004, 4), (50.0, 4)):
        for i, task in enumerate(("rot", "col", "jig", "cls")[:panels]):
            rows.append(("top", task, x + 0.001 * i, x + i))
    points = pd.DataFrame(rows, columns=["figure", "panel", "x", "y"]).sample(
        frac=1, random_state=0
    )
    points.to_csv(tmp_path / "points.csv", index=False)
    found = paper.figure2_points(tmp_path / "points.csv")
    assert found[found.task == "col"][["x", "y"]].to_numpy().round(3).tolist() == [
        [13, 11],
        [33, 31],
        [33.004, 31.004],
        [53, 51],
    ]
    assert found.groupby("architecture").size().tolist() == [3, 3, 3, 3]
    assert not len(paper.figure2_points(tmp_path / "points.csv", within=1e-9))


def test_the_paper_stands_beside_ours():
    own = pd.DataFrame(
        [
            dict(space="darts", task="rot", n=16, rho=0.5, low=0.1, high=0.8, better_half=0.2),
            dict(space="darts", task="naswot", n=16, rho=0.5, low=0.1, high=0.8, better_half=0.2),
        ]
    )
    beside = figures.beside_rebuilt(own)
    assert beside.task.tolist() == ["rot"] and beside.rho.tolist() == [0.5]
    assert beside.paper_rho.tolist() == [0.84] and beside.paper_n.tolist() == [281]
    assert not len(figures.beside_rebuilt(own[:0]))


NOTEBOOK = next(path for path in tools.notebooks() if path.stem == "anchors")


@pytest.mark.slow
def test_the_notebook_draws_what_is_released_and_computes_what_it_is_given(
    home, written, tmp_path, capsys
):
    """Given tables it computes; without, it draws the same from what it left, and says from which
    files that was computed.
    """
    (home / "figures").mkdir()
    untrained().reset_index().to_csv(home / "figures/anchors_untrained.csv", index=False)
    run_notebook(NOTEBOOK, **written, figures=str(home / "figures"))
    made = {path.name for path in (home / "figures").iterdir()}
    assert {f"anchors_{name}.png" for name in ("cells", "transnas", "curves")} <= made
    capsys.readouterr()
    run_notebook(NOTEBOOK, figures=str(tmp_path / "again"))
    printed = capsys.readouterr().out
    plt.close("all")
    for name in ("cells", "size", "transnas", "curves", "regret"):
        one, two = (
            folder / f"anchors_{name}.csv" for folder in (home / "figures", tmp_path / "again")
        )
        assert one.read_text() == two.read_text()
    source = json.loads((tmp_path / "again/anchors_source.json").read_text())
    assert source["cell_table"]["file"] == "cell_table.csv.gz" and set(source) == set(written)
    assert "anchors_transnas: as released; to compute it, pass cell_table, macro_table" in printed
