"""Writes README.md from nbs/index.ipynb: `python -m tools.readme`."""

import argparse
import posixpath
import re
from pathlib import Path

import nbformat
from nbconvert import MarkdownExporter

from unnas.files import written_whole

ROOT = Path(__file__).parents[1]


def relink(markdown: str, source: str, target: str) -> str:
    """`markdown` of folder `source`, with its relative links rewritten for a file in folder
    `target`.
    """

    def rewrite(match):
        if re.match(r"[a-z]+:|#|/", match[2]):
            return match[0]
        return match[1] + posixpath.relpath(posixpath.join(source, match[2]), target)

    return re.sub(r"(\]\()([^)\s]+)", rewrite, markdown)


def shown_alone(cell):
    """A Markdown cell with what the code `cell` printed as Markdown, where it is marked
    `#| echo: false`; any other cell as it is.
    """
    if cell.cell_type != "code" or not re.match(r"#\| *echo: *false", cell.source):
        return cell
    printed = [out.data["text/markdown"] for out in cell.outputs if "text/markdown" in out.data]
    return nbformat.v4.new_markdown_cell("\n\n".join(printed))


def visible(notebook):
    """`notebook` without its cells marked `#| hide` and without other nbdev directives, its code
    marked as Python; of cells marked `#| echo: false` what they print alone.
    """
    notebook.metadata["language_info"] = {"name": "python"}
    notebook.cells = [cell for cell in notebook.cells if not re.match(r"#\| *hide\b", cell.source)]
    notebook.cells = [shown_alone(cell) for cell in notebook.cells]
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.source = re.sub(r"^(#\|.*\n?)+", "", cell.source)
    return notebook


def readme(index: Path = ROOT / "nbs/index.ipynb") -> str:
    """The text of README.md for the notebook `index`."""
    markdown, _ = MarkdownExporter().from_notebook_node(visible(nbformat.read(index, as_version=4)))
    return relink(re.sub(r"\n{3,}", "\n\n", markdown).strip() + "\n", "nbs", ".")


if __name__ == "__main__":
    argparse.ArgumentParser(prog="python -m tools.readme", description=__doc__).parse_args()
    with written_whole(ROOT / "README.md") as new:
        new.write_text(readme(), encoding="utf-8")
