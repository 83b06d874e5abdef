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
    "study": 6,
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
