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
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from tools import readme, summary
from unnas import protocol, verdict
from unnas.study import cells, tables

ROOT = readme.ROOT
NOTEBOOKS = sorted((ROOT / "nbs").glob("*.ipynb"))
MODULES = sorted(
    path
    for path in (ROOT / "unnas").rglob("*.py")
    if path.parent != ROOT / "unnas" or not path.name.startswith("_")
)

# A module may import modules of lower floors only. A whole number is a floor of the house, and the
# decimals order the modules on it: those of a package, then its front door. Of rooms that grow,
# modules that are not there yet have their floors already.
FLOORS = {
    "complexity": 1,
    "stats": 1,
    "files": 1.1,
    "registry": 1.1,
    "paper": 1.15,
    "plots.charts": 1.2,
    "plots.cells": 1.25,
    "plots": 1.3,
    "fast.kernels": 1.4,
    "fast.batches": 1.5,
    "fast.cells": 1.5,
    "fast.supernet": 1.5,
    "fast.tiles": 1.4,
    "fast.gpu": 1.5,
    "fast": 1.6,
    "data.images": 2,
    "data.synthetic": 2,
    "data": 2.2,
    "ops": 2.2,
    "tasks.augment": 3,
    "tasks.color": 3.1,
    "tasks.tiles": 3.1,
    "tasks.signals": 3.1,
    "tasks.views": 3.1,
    "tasks": 3.2,
    "spaces.darts": 4,
    "spaces.accuracies": 4,
    "spaces.nasbench101": 4.05,
    "spaces.nasbench201": 4.06,
    "spaces": 4.1,
    "textbook": 5,
    "train": 5,
    "scores": 5.1,
    "search": 5.1,
    "verdict": 5.2,
    "study.specs": 6,
    "study.records": 6.1,
    "study.engines": 6.2,
    "study.scales": 6.2,
    "study.lists": 6.3,
    "study.plans": 6.4,
    "study.report": 6.4,
    "study.tables": 6.5,
    "study.figures": 6.5,
    "study.searched": 6.5,
    "study.cells": 6.5,
    "study.anchors": 6.55,
    "study": 6.6,
    "bench": 6.7,
    "protocol": 7,
    "export": 7,
    "own.looks": 7.1,
    "own.schedules": 7.2,
    "own": 7.3,
    "use": 7.1,
}


def settings():
    ini = ConfigParser(delimiters="=", interpolation=None)
    ini.read(ROOT / "settings.ini", encoding="utf-8")
    return ini["DEFAULT"]


def files():
    """Every file that is, or would be, under version control."""
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", "-z"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    return [ROOT / name for name in listed.split("\0") if name and (ROOT / name).is_file()]


def name_of(module):
    return ".".join(module.relative_to(ROOT / "unnas").with_suffix("").parts).removesuffix(
        ".__init__"
    )


def imports(module):
    """The absolute dotted names that the file `module` imports; `from a import b` counts as a and
    as a.b.
    """
    package = ["unnas", *module.relative_to(ROOT / "unnas").parent.parts]
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
        shutil.copytree(
            ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__", ".*")
        )
    for path in (tmp_path / "unnas").rglob("*.py"):
        path.unlink()  # so that a module without a notebook shows as missing
    (tmp_path / "unnas/__init__.py").touch()
    for command in ("nbdev_export", "nbdev_clean"):
        subprocess.run([Path(sys.executable).parent / command], cwd=tmp_path, check=True)
    kept = [*NOTEBOOKS, *(path for path in (ROOT / "unnas").rglob("*.py"))]
    differ = [
        str(path.relative_to(ROOT))
        for path in kept
        if not (tmp_path / path.relative_to(ROOT)).is_file()
        or not filecmp.cmp(path, tmp_path / path.relative_to(ROOT), shallow=False)
    ]
    assert not differ, "run `make export`"


def test_no_file_names_a_folder_of_one_machine():
    found = []
    for path in files():
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue  # a picture or an archive
        found += [
            f"{path.relative_to(ROOT)}: {match[0]}"
            for match in re.finditer(r"(?<![\w.:/])/(work|root|home|Users|scratch)/\w+", text)
        ]
    assert not found


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_has_a_title_and_a_summary_and_healthy_outputs(path):
    notebook = json.loads(path.read_text(encoding="utf-8"))
    title, lead = summary.heading(notebook)
    assert title and lead, "the first cell must be `# Title` and `> one sentence`"
    assert path.stat().st_size <= 500_000, "make its pictures smaller"
    outputs = [output for cell in notebook["cells"] for output in cell.get("outputs", [])]
    assert not [output for output in outputs if output["output_type"] == "error"]
    shown = [
        "".join(output.get("text", "")) for output in outputs if output.get("name") == "stderr"
    ]
    assert not [text for text in shown if "Warning" in text], "it shows a warning"
    bars = [output for output in outputs if "\r" in "".join(output.get("text", ""))]
    assert not bars, "a progress bar is stored state by state; run `make export`"


@pytest.mark.parametrize("module", MODULES, ids=name_of)
def test_imports_run_downwards_only(module):
    name, known = name_of(module), {f"unnas.{other}": floor for other, floor in FLOORS.items()}
    assert name in FLOORS, "give this module a floor"
    package = ".".join(["unnas", *module.relative_to(ROOT / "unnas").parent.parts])
    upwards = {
        other
        for other in imports(module)
        if known.get(other, 0) >= FLOORS[name] and other != package  # `from . import sibling`
    }
    assert not upwards


@pytest.mark.parametrize("command", [["format", "--check"], ["check"]], ids=" ".join)
def test_code_has_the_style_of_the_project(command):
    """With the settings in pyproject.toml."""
    done = subprocess.run(
        [Path(sys.executable).parent / "ruff", *command, "--quiet", "--no-cache"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, f"run `make export`, then see to\n{done.stdout}{done.stderr}"


def exported(path):
    """The code of each exported cell of the notebook at `path`, without its directives."""
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "code" and re.match(r"#\| *exporti?\b", source):
            yield re.sub(r"^(#\|.*\n)+", "", source).strip()


def is_table(code):
    """Whether `code` does nothing but give names to values, as a table of numbers does."""
    return all(isinstance(node, (ast.Assign, ast.AnnAssign)) for node in ast.parse(code).body)


LONGEST_CELL = 60  # lines


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_exported_cells_are_short(path):
    long = [code for code in exported(path) if code.count("\n") >= LONGEST_CELL]
    named = [code.partition("\n")[0] for code in long if not is_table(code)]
    assert not named, f"split what has more than {LONGEST_CELL} lines"


# The documentation of what these methods override is PyTorch's.
OVERRIDES = {"forward", "backward", "extra_repr"}


@pytest.mark.parametrize("module", MODULES, ids=name_of)
def test_public_names_have_docstrings(module):
    def without(body, prefix=""):
        for node in body:
            if not isinstance(node, (ast.FunctionDef, ast.ClassDef)) or node.name[0] == "_":
                continue
            if ast.get_docstring(node) is None and node.name not in OVERRIDES:
                yield prefix + node.name
            if isinstance(node, ast.ClassDef):
                yield from without(node.body, f"{node.name}.")

    assert not [*without(ast.parse(module.read_text(encoding="utf-8")).body)]


@pytest.mark.parametrize("module", MODULES, ids=name_of)
def test_package_needs_no_notebook_tools(module):
    assert not {"nbdev", "fastcore", "IPython"} & {name.split(".")[0] for name in imports(module)}


def test_each_folder_of_the_package_is_a_package():
    """Or else the wheel lacks it."""
    assert {module.parent for module in MODULES} == {
        path.parent for path in (ROOT / "unnas").rglob("__init__.py")
    }


def test_citation_file():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert {
        "cff-version",
        "message",
        "title",
        "authors",
        "version",
        "license",
        "preferred-citation",
    } <= citation.keys()
    assert citation["version"] == settings()["version"]
    paper = citation["preferred-citation"]
    assert [author["family-names"] for author in paper["authors"]] == [
        "Liu",
        "Dollár",
        "He",
        "Girshick",
        "Yuille",
        "Xie",
    ]
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
    anchors = {
        re.sub(r"[^\w -]", "", line).strip().lower().replace(" ", "-")
        for line in re.findall(r"^#+ (.+)", text, re.M)
    }
    assert set(re.findall(r"\]\(#([^)]+)", text)) <= anchors


def test_scripts_can_be_run():
    assert os.access(ROOT / ".ci/run", os.X_OK)


SHOWN = ROOT / "figures" / "former"


def released(*patterns):
    """All numbers of released tables, rounded to two decimals, as texts."""
    folders = SHOWN, ROOT / "figures"
    paths = [path for pattern in patterns for folder in folders for path in folder.glob(pattern)]
    tables = [pd.read_csv(path) for path in paths]
    assert tables, patterns
    numbers = np.concatenate(
        [table.select_dtypes("number").to_numpy(float).ravel() for table in tables]
    )
    return {f"{number:.2f}" for number in numbers[np.isfinite(numbers)]}


ANCHORS = [f"anchors_{name}.csv" for name in ("cells", "size", "transnas", "fig2_rho")]
PROSE = {
    "anchors": "anchors*",
    "fig2": "fig2*",
    "fig3": "fig3*",
    "fig4": "fig4*",
    "fig5": "fig5*",
    "groundtruth": "groundtruth*",
    "pilot": "pilot*",
    "cells": "[cs]*s.csv",
    "search": "search_cifar10_rot_0_curves*",
}


@pytest.mark.parametrize("name", PROSE)
def test_numbers_in_prose_are_those_of_the_released_tables(name):
    """Those with two decimals, in cells that speak of what is shown of scale former."""
    cells = json.loads((ROOT / f"nbs/{name}.ipynb").read_text(encoding="utf-8"))["cells"]
    texts = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown"]
    found = {
        number
        for text in texts
        if "scale `former`" in text or "figures/former" in text or "anchors" in text
        for number in re.findall(r"(?<![\w.])-?\d+\.\d\d(?![\d.])", text)
    }
    own = PROSE[name] if "csv" in PROSE[name] else f"{PROSE[name]}.csv"
    assert found <= released(own, *ANCHORS)


def test_the_table_of_the_readme_is_that_of_the_findings():
    """Which is the one that the released rank correlations give."""
    shown = str(protocol.shown_claims())
    assert shown in (ROOT / "README.md").read_text(encoding="utf-8"), "run nbs/index.ipynb"
    rho = pd.read_csv(ROOT / "figures/laptop/fig2_rho.csv").set_index(["space", "task"])
    spaces = {"DARTS": "darts", "NAS-Bench-101": "nasbench101"}
    tasks = {"rotation": "rot", "colorization": "col", "jigsaw": "jig"}
    pattern = (
        r"^\| Secondary\. (.+): (\w+) ranks as labels do \| .+? \| (\d+) \| (.+?) \| size (.+?)"
        r" \| (.+) \|$"
    )
    rows = re.findall(pattern, shown, re.M)
    assert len(rows) == rho.index.isin(tasks.values(), level="task").sum()
    for space, task, n, here, size, said in rows:
        row, known = (rho.loc[spaces[space], name] for name in (tasks[task], "parameters"))
        assert here == f"{row.rho:.2f} [{row.low:.2f}, {row.high:.2f}]", "run nbs/findings.ipynb"
        assert size == f"{known.rho:.2f} [{known.low:.2f}, {known.high:.2f}]"
        words = verdict.word(row.low, row.high), verdict.word(row.low, row.high, 0.8)
        edge = ", at the edge" if min(abs(row.low - 0.8), abs(row.high - 0.8)) < 0.005 else ""
        assert n == str(int(row.n)) and ("interim" in said or row.n == 100)
        if words[1] == "against" and row.ceiling < 0.8:
            near = ", at the edge" if row.ceiling > 0.795 else ""
            words, edge = (words[0], f"out of reach (ceiling {row.ceiling:.2f}{near})"), ""
        assert said.removesuffix(" (interim)") == "above 0: {}; above 0.8: {}{}".format(
            *words, edge
        )


def test_released_figures_show_no_fewer_records_than_are_noted():
    """A figure was drawn from at most the records that are released, and by its own parameters."""
    notes = json.loads((ROOT / "figures/released.json").read_text(encoding="utf-8"))
    tier = (ROOT / "data/released/protocol-1.jsonl").read_text(encoding="utf-8").count("\n")
    for name, note in notes.items():
        scale, notebook = name.split("/")
        cells = json.loads((ROOT / f"nbs/{notebook}.ipynb").read_text(encoding="utf-8"))["cells"]
        own = next(c for c in cells if "parameters" in c["metadata"].get("tags", []))
        values = {}
        exec("".join(own["source"]), values)
        known = {key: json.loads(json.dumps(values[key])) for key in note["parameters"]}
        assert known == note["parameters"] and values["scale"] == scale, name
        assert [*(ROOT / "figures" / scale).glob(f"{notebook}*.csv")]
        assert note["records"] <= tier if scale == "laptop" else note["records"] > 0


@pytest.mark.parametrize(
    "notebook, said",
    [
        ("cells", cells.in_short),
        ("table1", partial(tables.in_short, "table1")),
        ("findings", cells.in_short),
        ("findings", partial(tables.in_short, "table1")),
    ],
)
def test_pages_say_what_the_released_tables_say(notebook, said):
    """A page begins with what its last run has released; after a new one it is run again."""
    page = json.loads((ROOT / f"nbs/{notebook}.ipynb").read_text(encoding="utf-8"))
    outputs = [out for cell in page["cells"] for out in cell.get("outputs", ())]
    texts = ["".join(out.get("data", {}).get("text/markdown", "")) for out in outputs]
    assert said() in texts, f"run nbs/{notebook}.ipynb again"


def test_what_the_prose_says_of_the_released_tables():
    """Claims in words, each with the table that it rests on; where one fails, the prose is to be
    changed.
    """
    rho = {name: pd.read_csv(SHOWN / f"{name}_rho.csv") for name in ("fig2", "fig3", "fig4")}
    pretext = rho["fig2"][rho["fig2"].task.isin(["rot", "col", "jig"])]
    assert pretext.rho.round(2).agg(["min", "max"]).tolist() == [0.41, 0.84]  # "gave 0.41 to 0.84"
    large = rho["fig3"][rho["fig3"].task.isin(["rot", "jig"])]
    assert (large.low > 0).tolist() == [True, False, True, True]
    assert (
        large[large.space == "nasbench101"].rho_parameters > large[large.space == "nasbench101"].rho
    ).all()
    assert (large[large.space == "nasbench101"].partial_low < 0).all()
    proxies = rho["fig4"][rho["fig4"].task.isin(["rot", "col", "jig", "cls"])]
    assert list(
        proxies[proxies.low <= 0][["space", "task"]].itertuples(index=False, name=None)
    ) == [("darts", "jig")]
    seeds = pd.read_csv(SHOWN / "fig4_seeds.csv").query("space == 'darts'")
    # "another one with each seed of the target"
    assert seeds["seed 0"].rank().tolist() != seeds["seed 1"].rank().tolist()
    scores = pd.read_csv(SHOWN / "pilot_fig2_scores.csv")
    color = scores[(scores.task == "col") & (scores.score == "sum_loss")]
    # "agree almost perfectly"
    assert (color.seeds >= 0.94).all() and (color.seeds_more_low > 0).all()
    with_labels = pd.concat([scores, pd.read_csv(SHOWN / "pilot_fig3_scores.csv")]).dropna(
        subset="rho"
    )
    assert (with_labels.rho_more > 0).mean() > 0.5 and (
        (with_labels.rho_more_low < 0) & (with_labels.rho_more_high > 0)
    ).all()
    pilot = pd.read_csv(SHOWN / "pilot_fig2.csv").set_index(["space", "task", "size"])
    cheap = pilot.loc["nasbench101", "cls", "sixteenth"]
    assert (
        cheap.rho > 0.8
        and cheap.rho_first < 0.3
        and pilot.loc["darts", "rot", "sixteenth"].rho_first < 0.2
    )
    use = pd.read_csv(ROOT / "figures/use.csv").set_index(["per_class", "way"])
    better = use[use.more_low > 0]
    assert list(better.index) == [(10, "probe"), (10, "head"), (10, "resnet")]
    # "by less and barely"
    assert use.more[10, "resnet"] < min(use.more[10, "probe"], use.more[10, "head"])
    assert not (use.more_high < 0).any() and use.accuracy.max() < 60  # "far above guessing"
    groups = pd.read_csv(ROOT / "figures/laptop/cells_groups.csv").set_index("pairs_of")
    of_paper = groups.similarity[groups.index.str.startswith("the paper's: ")]
    assert len(of_paper) == 3
    # "about twice as much in common as random ones", "nearly as much in common"
    assert of_paper.between(1.8 * groups.similarity["random architectures"], 0.5).all()
    assert groups.similarity["the paper's, shuffled"] > 0.85 * of_paper.max()


def test_what_the_prose_says_of_the_anchors():
    """Claims and numbers of the pages that quote them, each with the table that it rests on."""
    table = pd.read_csv(ROOT / "figures/anchors_cells.csv").set_index(["cells", "score"])
    scored, every = table.loc["with scores"], table.loc["all"]
    pretext = scored.loc[["rot", "col", "jig"]]
    assert set(scored.n) == {239} and set(every.n) == {500}
    # "are left", "size does not explain the agreement", "does a score without training do as well"
    assert pretext.partial.round(2).agg(["min", "max"]).tolist() == [0.57, 0.70]
    assert (pretext.partial_low > 0.4).all() and (pretext.gain_low > 0).all()
    assert (pretext.low > every.high.max()).all()
    # "keeps", and "the wrong way round"
    assert every.partial_low["naswot"] > 0 > every.partial_high["synflow"]
    size = pd.read_csv(ROOT / "figures/anchors_size.csv").set_index(["networks", "target"]).rho
    shown = {
        ("the paper's", "ImageNet, cells with scores"): "0.31",
        ("the paper's", "CIFAR-10"): "0.55",
    }
    assert {key: f"{size[key]:.2f}" for key in shown} == shown
    text = (ROOT / "nbs/fig2.ipynb").read_text(encoding="utf-8")
    assert "with 0.55 and on ImageNet with 0.31" in text and "0.57 to 0.70" in text
    other = pd.read_csv(ROOT / "figures/anchors_transnas.csv")
    other = other[other.target == "object"].set_index(["space", "score"])
    jigsaw, scenes = (other.xs(name, level="score") for name in ("jig", "scene"))
    # "of scenes not much more"
    assert (scenes.best_tenth < 0.25).all() and (scenes.best_tenth < jigsaw.best_tenth + 0.15).all()


def test_the_tests_that_the_page_of_checks_names_exist():
    page = (ROOT / "nbs/checks.ipynb").read_text(encoding="utf-8")
    named = re.findall(r"`(test_\w+)::(test_\w+)`", page)
    texts = {file: (ROOT / f"tests/{file}.py").read_text(encoding="utf-8") for file, _ in named}
    assert len(named) > 25
    assert not [f"{file}::{test}" for file, test in named if f"def {test}(" not in texts[file]]


def test_the_card_of_the_released_records_names_each_file_and_field():
    folder = ROOT / "data" / "released"
    card = (folder / "README.md").read_text()
    for path in folder.glob("*.jsonl"):
        assert re.sub(r"protocol-\d", "protocol-N", path.name) in card
        record = json.loads(path.open().readline())
        names = (
            set(record) | set(record["spec"]) | set(record["result"]) | set(record["provenance"])
        )
        names -= {"kind", "partial_channels"}
        assert not [name for name in names if name not in card]
