"""The documentation site: Sphinx reads the notebooks in nbs/ as they are, with the outputs that are
stored in them.

Sphinx has a page search.html of its own, so the notebook search.ipynb gets another name here
(`stage`), and links of the frozen protocol lead to the names that notebooks have now. Three things
are done to a page before Sphinx parses it (`prepare`): nbdev's `#|` comments get their meaning,
each exported function or class gets its signature and docstring with its source folded below, and
names of the library become links.
"""

import ast
import html
import json
import re
import shutil
from configparser import ConfigParser
from functools import cache
from importlib.util import find_spec
from pathlib import Path

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
nb_render_markdown_format = "myst"  # outputs have tables, too
nb_output_stderr = "remove"  # progress bars
myst_enable_extensions = ["dollarmath", "amsmath"]
myst_heading_anchors = 3

html_theme = "furo"
html_title = settings["title"]
html_show_sourcelink = False
repository = f"{settings['git_url']}/blob/{settings['branch']}"
html_theme_options = {
    "top_of_page_buttons": ["view"],
    "source_view_link": f"{repository}/nbs/{{filename}}",
}
html_css_files = ["site.css"]
pygments_dark_style = "github-dark"
mathjax = Path(find_spec("sphinx-mathjax-offline").submodule_search_locations[0]) / "static/mathjax"
mathjax_path = "tex-svg.js"  # one file of MathJax, so that formulas need no network
html_static_path = ["_static", str(mathjax / mathjax_path)]


def defined(code: str) -> list[str]:
    """The public functions, classes and methods, as class.method, that `code` defines."""
    names = []
    for node in definitions(code):
        methods = (part.name for part in node.body if isinstance(part, ast.FunctionDef))
        names.append(node.name)
        if isinstance(node, ast.ClassDef):
            names += [f"{node.name}.{name}" for name in methods if name[0] != "_"]
    return [name for name in names if name[0] != "_"]


def imported(code: str, package: str) -> dict[str, str]:
    """What `code` of a module in `package` imports from others: the name it has there -> its full
    name.
    """
    names, folders = {}, package.split(".")
    for node in ast.parse(code).body:
        if isinstance(node, ast.ImportFrom):
            above = folders[: len(folders) + 1 - node.level] if node.level else []
            start = ".".join(above + ([node.module] if node.module else []))
            names |= {alias.asname or alias.name: f"{start}.{alias.name}" for alias in node.names}
    return names


@cache
def library(folder: Path = root / settings["lib_path"]) -> dict[str, dict[str, str]]:
    """For each module of the package in `folder`, the names that it defines or imports -> their
    full names where they are documented. A front door goes by the name of its package.
    """
    homes, imports = {}, {}
    for path in folder.rglob("*.py"):
        if path.stem == "_modidx":
            continue
        package = ".".join([folder.name, *path.relative_to(folder).parent.parts])
        module = package if path.stem == "__init__" else f"{package}.{path.stem}"
        code = path.read_text(encoding="utf-8")
        homes[module] = {name: f"{module}.{name}" for name in defined(code)}
        imports[module] = imported(code, package)
    documented = {full for names in homes.values() for full in names.values()}
    aliases = {
        f"{module}.{name}": full for module in imports for name, full in imports[module].items()
    }
    for module, names in imports.items():
        for name, full in names.items():
            while full in aliases and full not in homes:  # it is passed on, and no module
                full = aliases[full]
            if full in documented:
                parts = {one: one[len(full) :] for one in documented if one.startswith(full + ".")}
                homes[module] |= {name: full} | {name + part: one for one, part in parts.items()}
    return homes


def symbols(module: str) -> dict[str, str]:
    """What a page about `module` calls the names of the library -> their full names: its own short,
    others as module.name.
    """
    names = {}
    for home, homes in library().items():
        for short, full in homes.items():
            for prefix in (home, home.partition(".")[2], home.split(".")[-1]):
                names[f"{prefix}.{short}"] = full
    return names | library().get(module, {})


def directives(source: str) -> tuple[dict[str, str], str]:
    """The `#|` comments at the top of a cell's `source`, as name -> value, and the code below
    them.
    """
    top = re.match(r"(?:#\|.*\n?)*", source)[0]
    words = (
        line.removeprefix("#|").replace(":", " ").split(maxsplit=1) for line in top.splitlines()
    )
    return {word[0]: word[1] if word[1:] else "" for word in words if word}, source[len(top) :]


def definitions(code: str) -> list[ast.stmt]:
    """The functions and classes that `code` defines at its top level."""
    return [
        node for node in ast.parse(code).body if isinstance(node, (ast.FunctionDef, ast.ClassDef))
    ]


def only_imports(code: str) -> bool:
    """Whether `code` does nothing but import."""
    return all(isinstance(node, (ast.Import, ast.ImportFrom)) for node in ast.parse(code).body)


def passed_on(code: str) -> list[str]:
    """The names in `__all__ = [...]`, or in nbdev's `_all_ = [...]`, with which a front door passes
    on names of its modules; [] where `code` is something else.
    """
    match ast.parse(code).body:
        case [ast.Assign(targets=[ast.Name(id="_all_" | "__all__")], value=ast.List(elts=listed))]:
            return [name.id if isinstance(name, ast.Name) else name.value for name in listed]
    return []


def signatures(code: str, module: str) -> str:
    """Markdown that has Sphinx document the public functions and classes that `code` of `module`
    defines; "" for none.
    """
    kinds = {ast.FunctionDef: "autofunction", ast.ClassDef: "autoclass"}
    lines = [
        f".. {kinds[type(node)]}:: {module}.{node.name}"
        for node in definitions(code)
        if node.name[0] != "_"
    ]
    return "```{eval-rst}\n" + "\n\n".join(lines) + "\n```" if lines else ""


def link_names(markdown: str, names: dict[str, str]) -> str:
    """`markdown` in which each `name` of the library in backticks is a link to where it is
    documented.
    """

    def link(match):
        return f"{{py:obj}}`{match[1]} <{names[match[2]]}>`" if match[2] in names else match[0]

    return re.sub(r"(?<![`}\[])`(([\w.]+)(?:\(\))?)`(?![`\]])", link, markdown)


def outside_links(markdown: str) -> str:
    """`markdown` whose links that lead out of nbs/ lead to the repository; pictures stay."""
    return re.sub(r"(?<!!)(\[[^\]]+\])\(\.\./([^)]*)\)", rf"\1({repository}/\2)", markdown)


def heading(markdown: str) -> str:
    """The last heading in `markdown`, without formulas and links; "" where it has none."""
    found = re.findall(r"^#+ +(.+)", re.sub(r"(?ms)^```.*?^```", "", markdown), re.M)
    words = re.sub(r"\[([^\]]+)\]\([^)]*\)", r"\1", found[-1]) if found else ""
    return re.sub(r"[$`*\\]", "", words).strip()


def markdown_cell(source: str, number: int) -> dict:
    """A Markdown cell."""
    return {"cell_type": "markdown", "id": f"made-{number}", "metadata": {}, "source": source}


def fold(cell: dict, names: list[str]) -> None:
    """Folds the source of `cell`, which defines `names`, on its page."""
    private = [name for name in names if name.startswith("_")]
    prompt = "Source of " + ", ".join(private) if private else "Source"
    cell["metadata"] = {
        "tags": ["hide-input"],
        "mystnb": {"code_prompt_show": prompt, "code_prompt_hide": prompt},
    }


def describe(cell: dict, words: str) -> None:
    """Gives the pictures that `cell` shows these `words` as their alternative text."""
    known = cell["metadata"].get("mystnb", {})
    about = known | {"image": {"alt": f"Picture: {words}"}} if words else known
    cell["metadata"] = cell["metadata"] | {"mystnb": about}


def stacked(markdown: str) -> str:
    """A Markdown table as HTML, each cell of which knows its column: a narrow screen shows its rows
    one below the other.
    """
    names, _, *rows = (
        [html.escape(cell.strip()) for cell in line.strip(" |").split(" | ")]
        for line in markdown.strip().splitlines()
    )
    head = "".join(f"<th>{name}</th>" for name in names)
    body = "\n".join(
        "<tr>"
        + "".join(f'<td data-of="{name}">{cell}</td>' for name, cell in zip(names, row))
        + "</tr>"
        for row in rows
    )
    return f'<table class="stacked"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'


def shown_output(output: dict) -> dict:
    """An output of a cell as a page shows it: Markdown tables are `stacked`, and names of columns
    may go over the end of a line after an underscore.
    """
    data = output.get("data", {})
    markdown, table = ("".join(data.get(f"text/{kind}", "")) for kind in ("markdown", "html"))
    parts = markdown.strip().split("\n\n")
    tables = [re.match(r"\| .*\n\| ---", part) for part in parts]
    if any(tables):
        shown = [stacked(part) if known else part for part, known in zip(parts, tables)]
        kind = "html" if len(parts) == 1 else "markdown"
        return output | {"data": {f"text/{kind}": "\n\n".join(shown)}}
    if "<th" not in table:
        return output
    table = re.sub(
        r"(<th[^>]*>)([^<]+)", lambda found: found[1] + found[2].replace("_", "_<wbr>"), table
    )
    return output | {"data": data | {"text/html": table}}


def prepare_cells(cells: list[dict]) -> list[dict]:
    """The cells of a notebook as its page shows them."""
    shown, module, about = [], "", ""
    for cell in cells:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            about = heading(source) or about
            markdown = outside_links(link_names(source, symbols(module)))
            shown.append(cell | {"source": markdown})
            continue
        cell = cell | {"outputs": [shown_output(output) for output in cell["outputs"]]}
        words, code = directives(source)
        if "default_exp" in words:
            module = f"{settings['lib_path']}.{words['default_exp']}".removesuffix(".__init__")
            shown.append(markdown_cell(f"This page is the module `{module}`.", len(shown)))
        if words.keys() & {"default_exp", "hide"} or not code.strip():
            continue
        cell = cell | {"source": code}
        if words.keys() & {"export", "exporti"}:
            if only_imports(code):
                continue
            if names := passed_on(code):
                listed = f"From here you get {', '.join(f'`{name}`' for name in names)}."
                shown.append(markdown_cell(link_names(listed, symbols(module)), len(shown)))
                continue
            if api := signatures(code, module):
                shown.append(markdown_cell(api, len(shown)))
            if names := [node.name for node in definitions(code)]:
                fold(cell, names)
        if words.get("echo") == "false":
            cell["metadata"] = cell["metadata"] | {"tags": ["remove-input"]}
        describe(cell, about)
        shown.append(cell)
    return shown


PAGES = {"search": "one_search"}  # notebooks whose pages have another name
# what the frozen protocol calls a notebook, and the name of that notebook now
FORMER = {"11_study": next((root / "nbs").glob("[0-9]*_study.ipynb")).stem}


def stage(app, config) -> None:
    """Copies the notebooks to where their pages have their names, and reads them there; a Sphinx
    `config-inited` handler.
    """
    folder = Path(app.doctreedir).parent / "source"
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "nbs").mkdir(parents=True)
    (folder / "figures").symlink_to(root / "figures")
    for path in (root / "nbs").glob("[!_.]*.ipynb"):
        text = path.read_text(encoding="utf-8")
        for name, page in (PAGES | FORMER).items():
            text = text.replace(f"]({name}.ipynb", f"]({page}.ipynb")
        copy = folder / "nbs" / f"{PAGES.get(path.stem, path.stem)}.ipynb"
        copy.write_text(text, encoding="utf-8")
        shutil.copystat(path, copy)  # Sphinx reads again what is newer
    app.srcdir = type(app.srcdir)(folder / "nbs")


def room(page: str) -> str:
    """The name of the module that a `page` of the library is about: plots.cells of
    06_plots.cells.
    """
    return page.partition("_")[2]


def rooms(pages: list[str]) -> dict[str, list[str]]:
    """Those `pages` of the library that the sidebar shows, and the pages below each: below the
    front door of a package those of its modules.
    """
    doors = {room(page): page for page in pages}
    below = {page: [] for page in pages if room(page).rpartition(".")[0] not in doors}
    for page in pages:
        if page not in below:
            below[doors[room(page).rpartition(".")[0]]].append(page)
    return below


def contents(entries: list[str], caption: str = "") -> str:
    """A hidden table of contents, which is a part of the sidebar; "" without entries."""
    head = ["```{toctree}", ":hidden:", *([f":caption: {caption}"] if caption else []), ""]
    return "\n".join([*head, *entries, "```"]) if entries else ""


# the parts of the study's pages, each a question, in the order of the paper
STUDY = {
    "Do they rank as labels do?": ["fig1", "fig2", "fig3", "fig4", "groundtruth", "anchors"],
    "Do they find good ones?": ["fig5", "search", "cells", "table1", "table2"],
    "How sure is this?": ["protocol", "pilot", "deviations", "checks", "benchmark"],
}


def sidebar(pages: list[str]) -> dict[str, str]:
    """Pages that others stand below in the sidebar -> their tables of contents. The name of a
    notebook says where it stands.
    """
    library = [page for page in pages if page[0].isdigit()]
    tutorials = [page for page in pages if page.startswith("tutorial")]
    own = [page for page in pages if page in ("own_images", "tutorial_use")]
    placed = {"index", "findings", *library, *tutorials, *own}
    names = {PAGES.get(name, name) for names in STUDY.values() for name in names}
    study = {
        question: [PAGES.get(name, name) for name in names if PAGES.get(name, name) in pages]
        for question, names in STUDY.items()
    }
    groups = {
        "Start": ["Overview <self>", *(page for page in pages if page == "findings")],
        **study,
        "More of the study": [page for page in pages if page not in placed | names],
        "Your own images": own,
        "Tutorials": [page for page in tutorials if page not in own],
        "Library": list(rooms(library)),
    }
    start = "\n\n".join(filter(None, (contents(rows, words) for words, rows in groups.items())))
    return {"index": start} | {page: contents(below) for page, below in rooms(library).items()}


def tables(app) -> dict[str, str]:
    """The tables of contents of the site: page -> Markdown."""
    pages = sorted(path.stem for path in Path(app.srcdir).glob("*.ipynb"))
    return {page: table for page, table in sidebar(pages).items() if table}


def outdated(app, env, added: set, changed: set, removed: set) -> list[str]:
    """The pages that Sphinx is to read again: those with tables of contents, where a page has come
    or gone; an `env-get-outdated` handler.
    """
    return list(tables(app)) if added or removed else []


def prepare(app, page: str, source: list[str]) -> None:
    """Turns the notebook `source[0]` of a `page` into what the site shows; a Sphinx `source-read`
    handler.
    """
    notebook = json.loads(source[0])
    cells = prepare_cells(notebook["cells"])
    if below := tables(app).get(page):
        cells.append(markdown_cell(below, len(cells)))
    # Warnings then name the cell; else MyST-NB counts 10,000 lines a cell and pads each docstring
    # with as many empty ones.
    metadata = notebook["metadata"] | {"source_map": list(range(len(cells)))}
    source[0] = json.dumps(notebook | {"cells": cells, "metadata": metadata})


def link_source(app, page: str, template: str, context: dict, tree) -> None:
    """Has the button of a page lead to its notebook; a Sphinx `html-page-context` handler."""
    names = {new: name for name, new in PAGES.items()}
    notebook = f"{names.get(page, page)}.ipynb"
    if (root / "nbs" / notebook).is_file():
        context["theme_source_view_link"] = f"{repository}/nbs/{notebook}"
    else:
        context["theme_top_of_page_buttons"] = []


def setup(app) -> None:
    """Connects the handlers to Sphinx."""
    app.connect("config-inited", stage)
    app.connect("env-get-outdated", outdated)
    app.connect("source-read", prepare)
    app.connect("html-page-context", link_source)
