"""The documentation site: Sphinx reads the notebooks in nbs/ as they are, with the outputs that are stored in them.

Sphinx has a page search.html of its own, so the notebook search.ipynb gets another name here (`stage`). Three things are done to a page before Sphinx parses it (`prepare`): nbdev's `#|` comments get their meaning, each exported
function or class gets its signature and docstring with its source folded below, and names of the library become links.
"""
import ast
import json
import re
import shutil
from configparser import ConfigParser
from importlib.util import find_spec
from pathlib import Path

from unnas._modidx import d as module_index

root = Path(__file__).parents[1]
ini = ConfigParser(delimiters="=", interpolation=None)
ini.read(root / "settings.ini", encoding="utf-8")
settings = ini["DEFAULT"]

project, author, release = settings["title"], settings["author"], settings["version"]
copyright = settings["copyright"]
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_copybutton"]
exclude_patterns = ["_*", ".ipynb_checkpoints"]
default_role = "py:obj"  # docstrings name things in single backticks
add_module_names = False
autodoc_default_options = {"members": True}
autodoc_inherit_docstrings = False  # or each forward() shows that of torch.nn.Module
autodoc_preserve_defaults = True
python_maximum_signature_line_length = 90

nb_execution_mode = "off"
nb_merge_streams = True
nb_output_stderr = "remove"  # progress bars
myst_enable_extensions = ["dollarmath", "amsmath"]
myst_heading_anchors = 3

html_theme = "furo"
html_title = settings["title"]
html_show_sourcelink = False
html_css_files = ["site.css"]
pygments_dark_style = "github-dark"
mathjax = Path(find_spec("sphinx-mathjax-offline").submodule_search_locations[0]) / "static/mathjax"
mathjax_path = "tex-svg.js"  # one file of MathJax, so that formulas need no network
html_static_path = ["_static", str(mathjax / mathjax_path)]


def symbols(module: str) -> dict[str, str]:
    """What a page about `module` calls the names of the library -> their full names: its own short, others as module.name."""
    names = {}
    for home, homes in module_index["syms"].items():
        for full in homes:
            short = full.removeprefix(home + ".")
            names[f"{home.split('.')[-1]}.{short}"] = names[full] = full
            if home == module:
                names[short] = full
    return names


def directives(source: str) -> tuple[dict[str, str], str]:
    """The `#|` comments at the top of a cell's `source`, as name -> value, and the code below them."""
    top = re.match(r"(?:#\|.*\n?)*", source)[0]
    words = (line.removeprefix("#|").replace(":", " ").split(maxsplit=1) for line in top.splitlines())
    return {word[0]: word[1] if word[1:] else "" for word in words if word}, source[len(top):]


def definitions(code: str) -> list[ast.stmt]:
    """The functions and classes that `code` defines at its top level."""
    return [node for node in ast.parse(code).body if isinstance(node, (ast.FunctionDef, ast.ClassDef))]


def only_imports(code: str) -> bool:
    """Whether `code` does nothing but import."""
    return all(isinstance(node, (ast.Import, ast.ImportFrom)) for node in ast.parse(code).body)


def signatures(code: str, module: str) -> str:
    """Markdown that has Sphinx document the public functions and classes that `code` of `module` defines; "" for none."""
    kinds = {ast.FunctionDef: "autofunction", ast.ClassDef: "autoclass"}
    lines = [f".. {kinds[type(node)]}:: {module}.{node.name}" for node in definitions(code) if node.name[0] != "_"]
    return "```{eval-rst}\n" + "\n\n".join(lines) + "\n```" if lines else ""


def link_names(markdown: str, names: dict[str, str]) -> str:
    """`markdown` in which each `name` of the library in backticks is a link to where it is documented."""

    def link(match):
        return f"{{py:obj}}`{match[1]} <{names[match[2]]}>`" if match[2] in names else match[0]

    return re.sub(r"(?<![`}\[])`(([\w.]+)(?:\(\))?)`(?![`\]])", link, markdown)


def drop_outside_links(markdown: str) -> str:
    """`markdown` without links that lead out of nbs/, whose targets are not on the site; their words and pictures stay."""
    return re.sub(r"(?<!!)\[([^\]]+)\]\(\.\./[^)]*\)", r"\1", markdown)


def markdown_cell(source: str, number: int) -> dict:
    """A Markdown cell."""
    return {"cell_type": "markdown", "id": f"made-{number}", "metadata": {}, "source": source}


def fold(cell: dict, names: list[str]) -> None:
    """Folds the source of `cell`, which defines `names`, on its page."""
    private = [name for name in names if name.startswith("_")]
    prompt = "Source of " + ", ".join(private) if private else "Source"
    cell["metadata"] = {"tags": ["hide-input"],
                        "mystnb": {"code_prompt_show": prompt, "code_prompt_hide": prompt}}


def prepare_cells(cells: list[dict]) -> list[dict]:
    """The cells of a notebook as its page shows them."""
    shown, module = [], ""
    for cell in cells:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            markdown = drop_outside_links(link_names(source, symbols(module)))
            shown.append(cell | {"source": markdown})
            continue
        words, code = directives(source)
        if "default_exp" in words:
            module = f"{settings['lib_path']}.{words['default_exp']}"
            shown.append(markdown_cell(f"This page is the module `{module}`.", len(shown)))
        if words.keys() & {"default_exp", "hide"} or not code.strip():
            continue
        cell = cell | {"source": code}
        if words.keys() & {"export", "exporti"}:
            if only_imports(code):
                continue
            if api := signatures(code, module):
                shown.append(markdown_cell(api, len(shown)))
            if names := [node.name for node in definitions(code)]:
                fold(cell, names)
        shown.append(cell)
    return shown


PAGES = {"search": "one_search"}  # notebooks whose pages have another name


def stage(app, config) -> None:
    """Copies the notebooks to where their pages have their names, and reads them there; a Sphinx `config-inited` handler."""
    folder = Path(app.doctreedir).parent / "source"
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "nbs").mkdir(parents=True)
    (folder / "figures").symlink_to(root / "figures")
    for path in (root / "nbs").glob("[!_.]*.ipynb"):
        text = path.read_text(encoding="utf-8")
        for name, page in PAGES.items():
            text = text.replace(f"]({name}.ipynb", f"]({page}.ipynb")
        copy = folder / "nbs" / f"{PAGES.get(path.stem, path.stem)}.ipynb"
        copy.write_text(text, encoding="utf-8")
        shutil.copystat(path, copy)  # Sphinx reads again what is newer
    app.srcdir = type(app.srcdir)(folder / "nbs")


def sidebar() -> str:
    """The tables of contents, which make the sidebar: a notebook's name says which one it is in."""
    pages = sorted(PAGES.get(path.stem, path.stem) for path in (root / "nbs").glob("[!_.]*.ipynb"))
    library = [page for page in pages if page[0].isdigit()]
    tutorials = [page for page in pages if page.startswith("tutorial")]
    study = [page for page in pages if page not in {"index", *library, *tutorials}]
    groups = {"Start": ["Overview <self>"], "Study": study, "Tutorials": tutorials, "Library": library}
    return "\n\n".join(
        f"```{{toctree}}\n:hidden:\n:caption: {caption}\n\n" + "\n".join(entries) + "\n```"
        for caption, entries in groups.items() if entries
    )


def prepare(app, page: str, source: list[str]) -> None:
    """Turns the notebook `source[0]` of a `page` into what the site shows; a Sphinx `source-read` handler."""
    notebook = json.loads(source[0])
    cells = prepare_cells(notebook["cells"])
    if page == "index":
        cells.append(markdown_cell(sidebar(), len(cells)))
    # Warnings then name the cell; else MyST-NB counts 10,000 lines a cell and pads each docstring with as many empty ones.
    metadata = notebook["metadata"] | {"source_map": list(range(len(cells)))}
    source[0] = json.dumps(notebook | {"cells": cells, "metadata": metadata})


def setup(app):
    app.connect("config-inited", stage)
    app.connect("source-read", prepare)
