"""Runs each notebook of the study with the smallest parameters that make sense: in this process,
where importing PyTorch costs nothing any more.
"""

import hashlib
import json
import shutil

import matplotlib.pyplot as plt
import nbformat
import pandas as pd
import pytest
from pages import run_notebook
from PIL import Image
from small import shrink
from test_export import model_of

from tools import study
from unnas import complexity, data, export, tasks
from unnas.spaces import nasbench101, nasbench201

pytestmark = pytest.mark.slow

SMALLEST = {
    "anchors": {},
    "cells": {"datasets": ["synthetic-objects"], "tasks": ["rot"], "seeds": 1, "engine": "serial"},
    "fig1": {},
    "fig2": {
        "architectures": 3,
        "seeds": 1,
        "tasks": ["rot"],
        "spaces": ["darts"],
        "engine": "serial",
    },
    "fig3": {
        "architectures": 3,
        "seeds": 1,
        "tasks": ["rot"],
        "spaces": ["nasbench101"],
        "engine": "serial",
    },
    "fig4": {
        "architectures": 3,
        "seeds": 1,
        "tasks": ["rot"],
        "spaces": ["nasbench101"],
        "engine": "serial",
    },
    "fig5": {
        "architectures": 3,
        "seeds": 1,
        "tasks": ["rot"],
        "spaces": ["nasbench101"],
        "engine": "serial",
    },
    "groundtruth": {"architectures": 3, "seeds": 1, "tasks": ["rot"], "engine": "serial"},
    "pilot": {
        "architectures": 3,
        "tasks": ["rot"],
        "spaces": ["nasbench101"],
        "sizes": {"whole": [1, 1], "half": [1, 0.5]},
        "engine": "serial",
    },
    "search": {"task": "jig", "partial_channels": 2, "random": 0},
    "table1": {
        "architectures": "searched",
        "datasets": ["synthetic-objects"],
        "tasks": ["rot"],
        "random": 1,
        "engine": "serial",
    },
    "table2": {
        "architectures": "searched",
        "datasets": ["synthetic-streets"],
        "tasks": ["seg"],
        "random": 1,
        "engine": "serial",
    },
}
LEAVES = {
    "anchors": {  # without released tables
        *(f"anchors_fig2{kind}" for kind in (".png", ".svg", ".csv", "_rho.csv")),
        "anchors_source.json",
    },
    "cells": {
        *(
            f"cells_{name}.{kind}"
            for name in ("published", "searched", "similarity")
            for kind in ("png", "svg")
        ),
        "cells_similarity.csv",
        "cells_groups.csv",
        "cells_settled.csv",
    },
    "fig1": {"fig1.png", "fig1.svg", "fig1_tasks.png", "fig1_tasks.svg"},
    "fig2": {"fig2.png", "fig2.svg", "fig2.csv", "fig2_rho.csv"},
    "fig3": {"fig3.png", "fig3.svg", "fig3.csv", "fig3_rho.csv"},
    "fig4": {
        "fig4.png",
        "fig4.svg",
        "fig4.csv",
        "fig4_rho.csv",
        "fig4_seeds.csv",
        "fig4_paper.png",
        "fig4_paper.svg",
    },
    "fig5": {
        "fig5.png",
        "fig5.svg",
        "fig5.csv",
        "fig5_regret.csv",
        "fig5_paper.png",
        "fig5_paper.svg",
        "fig5_paper.csv",
    },
    "groundtruth": {
        "groundtruth.png",
        "groundtruth.svg",
        "groundtruth.csv",
        "groundtruth_rho.csv",
        "groundtruth_source.json",
    },
    "pilot": {"pilot_fig2.png", "pilot_fig2.svg", "pilot_fig2.csv", "pilot_fig2_scores.csv"},
    "search": {
        "search_synthetic-objects_jig_0_pc2.json",
        "search_synthetic-objects_jig_0_pc2_curves.csv",
        "search_synthetic-objects_jig_0_pc2_compared.csv",
        *(
            f"search_synthetic-objects_jig_0_pc2_{name}.{kind}"
            for name in ("curves", "normal", "reduce", "forming", "cells")
            for kind in ("png", "svg")
        ),
    },
    "table1": {
        "table1.png",
        "table1.svg",
        *(f"table1_rows.{kind}" for kind in ("csv", "md", "tex", "html")),
        "table1_groups.csv",
    },
    "table2": {
        "table2.png",
        "table2.svg",
        "table2_predictions.png",
        "table2_predictions.svg",
        *(f"table2_rows.{kind}" for kind in ("csv", "md", "tex", "html")),
    },
}


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A folder of its own for records, so that every run is computed, with the paper's points; and
    runs that are smaller still.
    """
    shrink(monkeypatch)
    shutil.copytree(study.ROOT / "data" / "paper", tmp_path / "data" / "paper")
    monkeypatch.setenv("UNNAS_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    with plt.rc_context():
        yield tmp_path
    plt.close("all")


@pytest.mark.parametrize("path", study.notebooks(), ids=lambda path: path.stem)
def test_study_notebook_runs_and_leaves_its_files(path, home):
    assert path.stem in SMALLEST, (
        "give this notebook its smallest parameters and the files it leaves"
    )
    assert run_notebook(path, scale="smoke", figures=str(home / "figures"), **SMALLEST[path.stem])
    made = {file.name for file in (home / "figures").iterdir()}
    assert made == LEAVES[path.stem]
    assert all((home / "figures" / name).stat().st_size > 0 for name in made)


@pytest.mark.parametrize("path", study.notebooks(), ids=lambda path: path.stem)
def test_study_notebook_refuses_a_parameter_that_it_does_not_know(path, home):
    with pytest.raises(ValueError, match="sclae"):
        run_notebook(path, sclae="smoke")
    assert not (home / "data/records").exists() and not (home / "figures").exists()


def test_the_tutorial_of_use_runs_on_a_model_and_a_folder_of_ones_own(tmp_path, capsys):
    drawn = data.load("synthetic-objects", "train", image_size=32, num_images=40)
    for k, pixels in enumerate(drawn.images):
        split, kind = ("train", "test")[k % 4 == 3], ("ant", "bee")[k % 2]
        (tmp_path / "images" / split / kind).mkdir(parents=True, exist_ok=True)
        picture = Image.fromarray(pixels.permute(1, 2, 0).numpy())
        picture.save(tmp_path / "images" / split / kind / f"{k}.png")
    for kind in ("ant", "bee"):  # of each class in both splits
        shutil.copytree(
            tmp_path / "images/train" / kind, tmp_path / "images/test" / kind, dirs_exist_ok=True
        )
    folder = export.save(model_of(size=16), tmp_path / "model")
    few = dict(per_class=[4], seeds=1, epochs=1, batch_size=8)
    tutorial, own = study.ROOT / "nbs/tutorial_use.ipynb", tmp_path / "images"
    with plt.rc_context():
        shown = run_notebook(tutorial, model=str(folder), images=str(own), **few)
    plt.close("all")
    printed = capsys.readouterr().out + str(shown)
    assert "'ant', 'bee'" in printed and "a folder: (30, 64), 30 paths" in printed
    assert "largest difference of an output" in printed


@pytest.mark.parametrize(
    "change, words",
    [
        (dict(modle="/nope"), "modle: unknown parameters; this notebook has "),
        (dict(per_class=[5, 0]), "per_class=0: must be a whole number of at least 1"),
        (dict(lr="much"), "lr='much'"),
    ],
)
def test_the_tutorial_of_use_checks_its_parameters_first(change, words):
    with pytest.raises(ValueError, match=words):
        run_notebook(study.ROOT / "nbs/tutorial_use.ipynb", **change)


GROUNDTRUTH = next(path for path in study.notebooks() if path.stem == "groundtruth")


def test_ground_truth_of_nasbench201(home):
    """By the name of the space, with a table of two data sets in percent; CIFAR-10 is the truth."""
    cells = nasbench201.sample(3, seed=0)
    table = home / "table.csv"
    rows = [(str(cell), 90 - place, 60 + place) for place, cell in enumerate(cells)]
    pd.DataFrame(rows, columns=["arch", "cifar10", "cifar100"]).to_csv(table, index=False)
    small = dict(
        scale="smoke",
        architectures=3,
        tasks=["rot"],
        engine="serial",
        figures=str(home / "figures"),
    )
    run_notebook(GROUNDTRUTH, space="nasbench201", table=str(table), **small)
    points = pd.read_csv(home / "figures" / "groundtruth.csv")
    assert points["cell"].tolist() == list(map(str, cells))
    assert points["truth"].tolist() == [90, 89, 88]
    sizes = points["full_multiply_adds"] / (3 * 200 * 25_000)
    for cell, size in zip(cells, sizes):
        network = nasbench201.build(cell, tasks.classification(10), stem="cifar")
        assert size == complexity.count(network, (3, 32, 32))[0]
    with pytest.raises(ValueError, match="space='darts': unknown; choose"):
        run_notebook(GROUNDTRUTH, space="darts", **small)


def test_ground_truth_is_that_of_the_table(home, capsys):
    """Of six cells; the table has five of them, and the largest networks are the best."""
    cells = nasbench101.sample(6, seed=0)
    sizes = [
        len(cell.edges) + 10 * sum(op.startswith("conv3x3") for op in cell.ops) + place / 10
        for place, cell in enumerate(cells)
    ]
    accuracies = {cell.hash(): size / 100 for cell, size in zip(cells[1:], sizes[1:])}
    table = home / "table.csv.gz"
    pd.DataFrame({"hash": list(accuracies), "accuracy": list(accuracies.values())}).to_csv(
        table, index=False
    )
    figures = home / "figures"
    small = dict(
        scale="smoke", architectures=6, tasks=["rot"], engine="serial", figures=str(figures)
    )
    run_notebook(GROUNDTRUTH, table=str(table), **small)
    printed = capsys.readouterr().out
    assert "accuracy: 5 of 6 cells are in the table, 1 are missing" in printed
    assert "accuracy: shares of 1 in the table, percent here" in printed
    points, rho = (
        pd.read_csv(figures / "groundtruth.csv").set_index("hash"),
        pd.read_csv(figures / "groundtruth_rho.csv").set_index("score"),
    )
    assert (
        list(points.index) == [cell.hash() for cell in cells]
        and points["truth"].isna().tolist() == [True] + [False] * 5
    )
    assert points["truth"].dropna().to_dict() == pytest.approx(
        {key: 100 * value for key, value in accuracies.items()}
    )
    assert (
        set(rho.index) == {"cls", "rot", "naswot", "synflow", "parameters", "multiply_adds"}
        and (rho["n"] == 5).all()
        and (rho["dropped"] == 1).all()
    )
    known = points.dropna()
    # trainings as short as these may all answer the same
    assert rho.loc[["naswot", "synflow", "parameters", "multiply_adds"], "rho"].notna().all()
    for name in rho.index:
        assert rho.loc[name, "rho"] == pytest.approx(
            known[name].corr(known["truth"], "spearman"), abs=1e-12, nan_ok=True
        )
        if (known[name] == known[name].max()).sum() == 1:
            assert rho.loc[name, "regret_1"] == pytest.approx(
                known["truth"].max() - known.loc[known[name].idxmax(), "truth"]
            )
        else:  # as of scores of trainings so short
            assert name in ("cls", "rot")
    source = json.loads((figures / "groundtruth_source.json").read_text())
    assert source == {
        "file": "table.csv.gz",
        "sha256": hashlib.sha256(table.read_bytes()).hexdigest(),
        "column": "accuracy",
        "scale": "smoke",
    }
    assert (
        rho.loc["parameters", "gain"] == 0
        and rho.loc["synflow", "cheaper"]
        > rho.loc["naswot", "cheaper"]
        > rho.loc["cls", "cheaper"]
        > 1000
    )


def test_table_without_the_cells_is_refused_before_anything_long(home):
    (home / "table.csv").write_text("hash,accuracy\n" + "0" * 32 + ",0.9\n")
    small = dict(scale="smoke", architectures=3, engine="serial", figures=str(home / "figures"))
    with pytest.raises(ValueError, match="has 0 of the 3 cells; a ranking needs at least 2"):
        run_notebook(GROUNDTRUTH, table=str(home / "table.csv"), **small)
    assert not list((home / "data/records").glob("*.json"))


def test_the_simulation_of_the_protocol_runs_in_small(home):
    """nbdev_test leaves it out, for it takes minutes; so does this test the time of the runs, which
    is that of another test.
    """
    for name in ("protocol.json", "released"):
        (home / "data" / name).symlink_to(study.ROOT / "data" / name)
    names, cells = {}, nbformat.read(study.ROOT / "nbs/protocol.ipynb", as_version=4).cells
    for cell in cells:
        if cell.cell_type == "code" and "study.plan" not in cell.source:
            exec(cell.source.replace("trials = 20", "trials = 1"), names)
    assert len(names["cases"]) == 10 and names["trials"] == 1
    found = names["expect"](*names["cases"]["difference of 0.7 and 0.5"])
    assert 0.1 < found["width"] < 0.8 and found["found"] in (0, 1)
