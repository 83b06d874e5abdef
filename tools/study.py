"""Runs the study's notebooks at one scale and writes the summary page: `python -m tools.study
smoke`.

Each notebook of the study is executed by papermill into figures/SCALE/, where the notebook puts its
figures and tables too. The study keeps its records, so a run that was cut short goes on where it
stopped.
"""

import argparse
import html
import logging
import os
import re
import shutil
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import nbformat
import papermill
from nbconvert import HTMLExporter

from tools import summary
from tools.readme import ROOT, relink
from unnas.files import written_whole


def notebooks(folder: Path = ROOT / "nbs") -> list[Path]:
    """The notebooks of the study: those whose names are not numbered, and not those of pages that
    need no scale, of tutorials and of one's own images.
    """
    others = ("index", "protocol", "findings", "checks", "deviations", "tutorial", "benchmark")
    others += ("own",)
    names = (path for path in folder.glob("[a-z]*.ipynb") if not path.stem.startswith(others))
    return sorted(names)


def commit() -> str:
    """The short name of the commit at hand, with a `+` after it where the tree differs from it; ""
    outside git.
    """
    describe = ["git", "describe", "--always", "--dirty=+", "--exclude=*"]
    done = subprocess.run(describe, cwd=ROOT, capture_output=True, text=True)
    return done.stdout.strip()


class Log:
    """A stream for progress bars that ends in a file: it writes a bar's state once in so many
    `seconds`, on a line of its own.
    """

    def __init__(self, stream, seconds: float = 10, clock=time.monotonic):
        self.stream, self.seconds, self.clock = stream, seconds, clock
        self.state, self.written = "", clock()

    def write(self, text: str) -> None:
        """Takes what a bar draws; of several states since the last time, the last one counts."""
        *lines, rest = (self.state + text).split("\n")
        lines, self.state = [line.split("\r")[-1] for line in lines], rest.split("\r")[-1]
        if self.clock() - self.written >= self.seconds and self.state:
            lines.append(self.state)
            self.state = ""
        if lines:
            self.stream.write("\n".join(lines) + "\n")
            self.written = self.clock()

    def flush(self) -> None:
        """Has the file written."""
        self.stream.flush()


# colors of JupyterLab's pages where the reader's screen is dark, and pictures on white; words whole
DARK = """<style>@media (prefers-color-scheme: dark) { :root, body {
  color-scheme: dark; background: #14171b;
  --jp-layout-color0: #14171b; --jp-layout-color1: #14171b; --jp-layout-color2: #23282f;
  --jp-content-font-color0: #fff; --jp-content-font-color1: #e6e8eb;
  --jp-content-font-color2: #b3bac2; --jp-ui-font-color0: #fff; --jp-ui-font-color1: #e6e8eb;
  --jp-content-link-color: #74b0ff; --jp-cell-editor-background: #1d2228;
  --jp-cell-editor-border-color: #343b44; --jp-border-color0: #343b44; --jp-border-color1: #343b44;
  --jp-rendermime-table-row-background: #1d2228;
  --jp-rendermime-table-row-hover-background: #23282f;
  --jp-mirror-editor-keyword-color: #7cc7ff; --jp-mirror-editor-string-color: #ff9d8a;
  --jp-mirror-editor-number-color: #a5d6a7; --jp-mirror-editor-comment-color: #9aa4af;
  --jp-mirror-editor-punctuation-color: #b3bac2; --jp-cell-prompt-not-active-font-color: #9aa4af;
  --jp-cell-inprompt-font-color: #9aa4af; --jp-cell-outprompt-font-color: #9aa4af;
  --jp-mirror-editor-operator-color: #d7aefb; --jp-mirror-editor-variable-color: #e6e8eb }
  img { background: #fff } }
  .jp-OutputArea-output pre { word-break: normal; overflow-wrap: break-word }</style>"""
MATHJAX = Path(find_spec("sphinx-mathjax-offline").submodule_search_locations[0])


def with_places(page: str) -> str:
    """The HTML `page`, whose links to its own headings, written as GitHub and the documentation
    have them (#another-recipe), lead to the places that nbconvert has made (Another-recipe).
    """
    known = re.findall(r'<h[1-6][^>]* id="([^"]+)"', page)
    places = {re.sub(r"[^\w-]", "", name.lower()): name for name in known}
    return re.sub(
        r'href="#([^"]+)"', lambda link: f'href="#{places.get(link[1].lower(), link[1])}"', page
    )


def described(page: str, executed) -> str:
    """The HTML `page` of a notebook, whose pictures have the heading above as alternative text."""
    title, titles = "", []
    for cell in executed.cells:
        if cell.cell_type == "markdown":
            title = (re.findall(r"^#+ +(.+)", cell.source, re.M) or [title])[-1]
        pictures = [out for out in cell.get("outputs", []) if "image/png" in out.get("data", {})]
        titles += [title] * len(pictures)
    words = iter(titles)
    return re.sub(
        'alt="No description[^"]*"',
        lambda _: f'alt="Picture: {html.escape(next(words, ""))}"',
        page,
    )


def as_page(executed, name: str, folder: Path) -> str:
    """An executed notebook as HTML that needs no network: formulas are set by a copy of MathJax in
    the folder above.
    """
    exporter = HTMLExporter(require_js_url="", jquery_url="", mermaid_js_url="", mathjax_url="")
    page, _ = exporter.from_notebook_node(executed, {"metadata": {"name": name}})
    script = folder.parent / "tex-svg.js"
    if not script.exists():
        shutil.copy(MATHJAX / "static/mathjax/tex-svg.js", script)
    formulas = (
        "<script>window.MathJax = {tex: {inlineMath: [['$', '$']]}}</script>"
        '<script defer src="../tex-svg.js"></script>'
    )
    page = with_places(re.sub(r'<script[^>]* src="https?:[^"]*"[^>]*></script>', "", page))
    page = described(page, executed)
    return page.replace("</head>", f"{DARK}{formulas}</head>", 1)


def run(notebook: Path, folder: Path, **parameters) -> Path:
    """Executes `notebook` into `folder`, as .ipynb and .html, and returns the path of the
    page.

    While it runs, and after an error, the executed notebook is `_NAME.ipynb`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    unfinished = folder / f"_{notebook.name}"
    executed = papermill.execute_notebook(
        notebook,
        unfinished,
        parameters,
        cwd=ROOT,
        progress_bar=False,
        # its progress bars, as they are drawn
        stderr_file=sys.stderr if sys.stderr.isatty() else Log(sys.stderr),
        coalesce_streams=True,  # and only their last state in the output
    )
    executed.metadata["unnas"] = {"commit": commit()}
    for cell in executed.cells:
        if cell.cell_type == "markdown":
            cell.source = relink(cell.source, "nbs", os.path.relpath(folder, ROOT))
    page = as_page(executed, notebook.stem, folder)
    with written_whole(folder / notebook.name) as new:
        nbformat.write(executed, new)
    with written_whole(folder / f"{notebook.stem}.html") as new:
        new.write_text(page, encoding="utf-8")
    unfinished.unlink()
    return folder / f"{notebook.stem}.html"


def main(scale: str) -> None:
    """Runs every notebook of the study at `scale`, then writes figures/index.html."""
    folder = ROOT / "figures" / scale
    for notebook in notebooks():
        print(f"Running {notebook.relative_to(ROOT)} at scale {scale}", flush=True)
        try:
            run(notebook, folder, scale=scale)
        except KeyboardInterrupt:
            logging.getLogger("asyncio").disabled = True  # it would tell of all that was cut short
            sys.exit("\nInterrupted. Run the same command again to go on.")
        except papermill.PapermillExecutionError as error:
            shown = (folder / f"_{notebook.name}").relative_to(ROOT)
            sys.exit(
                f"{error}\n{notebook.name} failed; {shown} shows where. Run the same command again"
                " to go on."
            )
    page = summary.write(ROOT / "figures")
    made = sorted(path.name for path in folder.iterdir() if not path.name.startswith("_"))
    print(f"\n{folder.relative_to(ROOT)}/ has {', '.join(made)}")
    print(f"The summary is {page.relative_to(ROOT)}; open it in a browser: file://{page}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m tools.study", description=__doc__)
    parser.add_argument("scale", choices=["smoke", "laptop", "former", "paper"])
    main(parser.parse_args().scale)
