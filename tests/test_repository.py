"""What holds for the repository as a whole: files agree with each other, and the layout is kept."""
import ast
import filecmp
import json
import os
import re
import shutil
import subprocess
import sys
from configparser import ConfigParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from tools import readme, summary

ROOT = readme.ROOT
NOTEBOOKS = sorted((ROOT / "nbs").glob("*.ipynb"))
MODULES = sorted(path for path in (ROOT / "unnas").rglob("*.py") if not path.name.startswith("_"))

# A module may import modules of lower floors only.
FLOORS = {
    "complexity": 1, "data": 1, "kernels": 1, "paper": 1, "plots": 1, "stats": 1,
    "lanes": 2, "ops": 2, "tasks": 2,
    "spaces.darts": 3, "textbook": 3, "spaces.nasbench101": 3,
    "train": 4,
    "fused": 4, "zerocost": 4, "search": 5,
    "study": 6, "protocol": 7,
}


def settings():
    ini = ConfigParser(delimiters="=", interpolation=None)
    ini.read(ROOT / "settings.ini", encoding="utf-8")
    return ini["DEFAULT"]


def files():
    """Every file that is, or would be, under version control."""
    listed = subprocess.run(["git", "ls-files", "-co", "--exclude-standard", "-z"],
                            cwd=ROOT, check=True, capture_output=True, text=True).stdout
    return [ROOT / name for name in listed.split("\0") if name and (ROOT / name).is_file()]


def name_of(module):
    return ".".join(module.relative_to(ROOT / "unnas").with_suffix("").parts)


def imports(module):
    """The absolute dotted names that the file `module` imports; `from a import b` counts as a and as a.b."""
    package = ["unnas", *name_of(module).split(".")[:-1]]
    for node in ast.walk(ast.parse(module.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            start = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join(start + ([node.module] if node.module else []))
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)


def test_readme_is_the_index_notebook():
    assert (ROOT / "README.md").read_text(encoding="utf-8") == readme.readme(), "run `make readme`"


def test_package_is_what_the_notebooks_export(tmp_path):
    """Exports and cleans a copy, so that the working tree is left alone and may have changes."""
    shutil.copy(ROOT / "settings.ini", tmp_path)
    for folder in ("nbs", "unnas"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__", ".*"))
    for path in (tmp_path / "unnas").rglob("*.py"):
        path.unlink()  # so that a module without a notebook shows as missing
    (tmp_path / "unnas/__init__.py").touch()
    for command in ("nbdev_export", "nbdev_clean"):
        subprocess.run([Path(sys.executable).parent / command], cwd=tmp_path, check=True)
    kept = [*NOTEBOOKS, *(path for path in (ROOT / "unnas").rglob("*.py"))]
    differ = [str(path.relative_to(ROOT)) for path in kept
              if not (tmp_path / path.relative_to(ROOT)).is_file()
              or not filecmp.cmp(path, tmp_path / path.relative_to(ROOT), shallow=False)]
    assert not differ, "run `make export`"


def test_no_file_names_a_folder_of_one_machine():
    found = []
    for path in files():
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue  # a picture or an archive
        found += [f"{path.relative_to(ROOT)}: {match[0]}"
                  for match in re.finditer(r"(?<![\w.:/])/(work|root|home|Users|scratch)/\w+", text)]
    assert not found


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_has_a_title_and_a_summary_and_healthy_outputs(path):
    notebook = json.loads(path.read_text(encoding="utf-8"))
    title, lead = summary.heading(notebook)
    assert title and lead, "the first cell must be `# Title` and `> one sentence`"
    assert path.stat().st_size <= 1_500_000, "make its pictures smaller"
    outputs = [output for cell in notebook["cells"] for output in cell.get("outputs", [])]
    assert not [output for output in outputs if output["output_type"] == "error"]
    shown = ["".join(output.get("text", "")) for output in outputs if output.get("name") == "stderr"]
    assert not [text for text in shown if "Warning" in text], "it shows a warning"
    bars = [output for output in outputs if "\r" in "".join(output.get("text", ""))]
    assert not bars, "a progress bar is stored state by state; run `make export`"


@pytest.mark.parametrize("module", MODULES, ids=name_of)
def test_imports_run_downwards_only(module):
    name, known = name_of(module), {f"unnas.{other}": floor for other, floor in FLOORS.items()}
    assert name in FLOORS, "give this module a floor"
    upwards = {other for other in imports(module) if known.get(other, 0) >= FLOORS[name]}
    assert not upwards


@pytest.mark.parametrize("module", MODULES, ids=name_of)
def test_package_needs_no_notebook_tools(module):
    assert not {"nbdev", "fastcore", "IPython"} & {name.split(".")[0] for name in imports(module)}


def test_each_folder_of_the_package_is_a_package():
    """Or else the wheel lacks it."""
    assert {module.parent for module in MODULES} == {path.parent for path in (ROOT / "unnas").rglob("__init__.py")}


def test_citation_file():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert {"cff-version", "message", "title", "authors", "version", "license", "preferred-citation"} <= citation.keys()
    assert citation["version"] == settings()["version"]
    paper = citation["preferred-citation"]
    assert [author["family-names"] for author in paper["authors"]] == ["Liu", "Dollár", "He", "Girshick", "Yuille", "Xie"]
    assert {"type", "title", "year", "conference"} <= paper.keys()


def test_each_dependency_is_explained():
    words = f"{settings()['requirements']} {settings()['dev_requirements']}".split()
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    assert not [word for word in words if f"`{re.split('[<>=]', word)[0]}`" not in text]


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md"])
def test_links_lead_somewhere(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    targets = re.findall(r"\]\((?![a-z]+:|#)([^)#\s]+)", text)
    assert targets and not [target for target in targets if not (ROOT / target).exists()]
    anchors = {re.sub(r"[^\w -]", "", line).strip().lower().replace(" ", "-") for line in re.findall(r"^#+ (.+)", text, re.M)}
    assert set(re.findall(r"\]\(#([^)]+)", text)) <= anchors


def test_scripts_can_be_run():
    assert os.access(ROOT / ".ci/run", os.X_OK)


SHOWN = ROOT / "figures" / "former"


def released(*patterns):
    """All numbers of released tables, rounded to two decimals, as texts."""
    tables = [pd.read_csv(path) for pattern in patterns for path in SHOWN.glob(pattern)]
    assert tables, patterns
    numbers = np.concatenate([table.select_dtypes("number").to_numpy(float).ravel() for table in tables])
    return {f"{number:.2f}" for number in numbers[np.isfinite(numbers)]}


PROSE = {"fig2": "fig2*", "fig3": "fig3*", "fig4": "fig4*", "fig5": "fig5*", "groundtruth": "groundtruth*", "pilot": "pilot*",
         "cells": "[cs]*s.csv", "search": "search_cifar10_rot_0_curves*"}


@pytest.mark.parametrize("name", PROSE)
def test_numbers_in_prose_are_those_of_the_released_tables(name):
    """Those with two decimals, in cells that speak of what is shown of scale former."""
    cells = json.loads((ROOT / f"nbs/{name}.ipynb").read_text(encoding="utf-8"))["cells"]
    texts = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown"]
    found = {number for text in texts if "scale `former`" in text or "figures/former" in text for number in re.findall(r"(?<![\w.])-?\d+\.\d\d(?![\d.])", text)}
    assert found <= released(PROSE[name] if "csv" in PROSE[name] else f"{PROSE[name]}.csv")


def test_the_table_of_the_readme_is_that_of_figure_2():
    rows = re.findall(r"^\| (DARTS|NAS-Bench-101) \| (\w+) \| (.+) \|$", (ROOT / "README.md").read_text(encoding="utf-8"), re.M)
    table = pd.read_csv(SHOWN / "fig2_rho.csv").set_index(["space", "task"])
    tasks, spaces = {"rotation": "rot", "colorization": "col", "jigsaw": "jig"}, {"DARTS": "darts", "NAS-Bench-101": "nasbench101"}
    assert len(rows) == 6
    for space, task, cells in rows:
        row = table.loc[spaces[space], tasks[task]]
        assert cells == (f"{row.rho:.2f} [{row.low:.2f}, {row.high:.2f}] | {row.rho_parameters:.2f} | "
                         f"{row.partial:.2f} [{row.partial_low:.2f}, {row.partial_high:.2f}]")


def test_what_the_prose_says_of_the_released_tables():
    """Claims in words, each with the table that it rests on; where one fails, the prose is to be changed."""
    rho = {name: pd.read_csv(SHOWN / f"{name}_rho.csv") for name in ("fig2", "fig3", "fig4", "groundtruth")}
    pretext = rho["fig2"][rho["fig2"].task.isin(["rot", "col", "jig"])]
    assert (pretext.low > 0).sum() == 5  # "all panels but one"
    cells = pretext[pretext.space == "nasbench101"]
    assert (cells.partial_low < 0).all() and (cells.rho_parameters >= cells.rho).all()  # "ranks as well as the tasks do or better"
    color = pretext[(pretext.space == "darts") & (pretext.task == "col")].iloc[0]
    assert color.rho > color.ceiling  # "above its own ceiling"
    assert pretext[pretext.space == "darts"].better_half_self.max() < .1  # "hardly agrees with its other seed"
    large = rho["fig3"][rho["fig3"].task.isin(["rot", "jig"])]
    assert (large.low > 0).tolist() == [True, False, True, True]
    assert (large[large.space == "nasbench101"].rho_parameters > large[large.space == "nasbench101"].rho).all()
    assert (large[large.space == "nasbench101"].partial_low < 0).all()
    proxies = rho["fig4"][rho["fig4"].task.isin(["rot", "col", "jig", "cls"])]
    assert list(proxies[proxies.low <= 0][["space", "task"]].itertuples(index=False, name=None)) == [("darts", "jig")]
    seeds = pd.read_csv(SHOWN / "fig4_seeds.csv").query("space == 'darts'")
    assert seeds["seed 0"].rank().tolist() != seeds["seed 1"].rank().tolist()  # "another one with each seed of the target"
    truth = rho["groundtruth"].set_index("score")
    assert (truth.loc[["cls", "rot", "col"], "low"] > 0).all() and abs(truth.loc["jig", "low"]) < .05  # "touches it"
    assert not (truth[["partial_low", "gain_low"]] > 0).any(axis=None) and not truth[["regret_1", "regret_5", "regret_10"]].any(axis=None)
    assert truth["cheaper"].min() > 20_000
    scores = pd.read_csv(SHOWN / "pilot_fig2_scores.csv")
    color = scores[(scores.task == "col") & (scores.score == "sum_loss")]
    assert (color.seeds >= .94).all() and (color.seeds_more_low > 0).all()  # "agree almost perfectly"
    with_labels = pd.concat([scores, pd.read_csv(SHOWN / "pilot_fig3_scores.csv")]).dropna(subset="rho")
    assert (with_labels.rho_more > 0).mean() > .5 and ((with_labels.rho_more_low < 0) & (with_labels.rho_more_high > 0)).all()
    pilot = pd.read_csv(SHOWN / "pilot_fig2.csv").set_index(["space", "task", "size"])
    cheap = pilot.loc["nasbench101", "cls", "sixteenth"]
    assert cheap.rho > .8 and cheap.rho_first < .3 and pilot.loc["darts", "rot", "sixteenth"].rho_first < .2
    groups = pd.read_csv(SHOWN / "cells_groups.csv").set_index("pairs_of")["similarity"]
    assert abs(groups["found here: same images, other task"] - groups["untrained searches"]) < .02
