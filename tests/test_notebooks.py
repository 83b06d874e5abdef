"""Runs each notebook of the study through papermill, with the smallest parameters that make sense."""
import nbformat
import papermill
import pytest

from tools import study

SMALLEST = {
    "cells": {"datasets": ["synthetic-objects"], "tasks": ["rot"], "seeds": 1, "engine": "serial"},
    "fig1": {},
    "fig2": {"architectures": 3, "seeds": 1, "tasks": ["rot"], "spaces": ["darts"], "engine": "serial"},
    "search": {"task": "jig", "partial_channels": 2},
    "table1": {"architectures": "searched", "datasets": ["synthetic-objects"], "tasks": ["rot"], "random": 1, "engine": "serial"},
    "table2": {"architectures": "searched", "datasets": ["synthetic-streets"], "tasks": ["seg"], "random": 1, "engine": "serial"},
}
LEAVES = {
    "cells": {*(f"cells_{name}.{kind}" for name in ("published", "searched", "similarity") for kind in ("png", "svg")),
              "cells_similarity.csv", "cells_groups.csv"},
    "fig1": {"fig1.png", "fig1.svg"},
    "fig2": {"fig2.png", "fig2.svg", "fig2.csv", "fig2_rho.csv"},
    "search": {"search_synthetic-objects_jig_0_pc2.json", "search_synthetic-objects_jig_0_pc2_curves.csv",
               *(f"search_synthetic-objects_jig_0_pc2_{name}.{kind}" for name in ("curves", "normal", "reduce", "forming", "cells")
                 for kind in ("png", "svg"))},
    "table1": {"table1.png", "table1.svg", *(f"table1_rows.{kind}" for kind in ("csv", "md", "tex", "html"))},
    "table2": {"table2.png", "table2.svg", "table2_predictions.png", "table2_predictions.svg",
               *(f"table2_rows.{kind}" for kind in ("csv", "md", "tex", "html"))},
}


def execute(path, folder, **parameters):
    return papermill.execute_notebook(path, folder / path.name, parameters, cwd=folder, progress_bar=False)


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A folder of its own for records, so that every run is computed."""
    monkeypatch.setenv("UNNAS_HOME", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize("path", study.notebooks(), ids=lambda path: path.stem)
def test_study_notebook_runs_and_leaves_its_files(path, home):
    assert path.stem in SMALLEST, "give this notebook its smallest parameters and the files it leaves"
    execute(path, home, scale="smoke", figures=str(home / "figures"), **SMALLEST[path.stem])
    executed = nbformat.read(home / path.name, as_version=4)
    outputs = [output for cell in executed.cells for output in cell.get("outputs", [])]
    assert not [output for output in outputs if output.output_type == "error"]
    made = {file.name for file in (home / "figures").iterdir()}
    assert made == LEAVES[path.stem]
    assert all((home / "figures" / name).stat().st_size > 0 for name in made)


@pytest.mark.parametrize("path", study.notebooks(), ids=lambda path: path.stem)
def test_study_notebook_refuses_a_parameter_that_it_does_not_know(path, home):
    with pytest.raises(papermill.PapermillExecutionError, match="sclae"):
        execute(path, home, sclae="smoke")
