"""The summary page, figures/index.html: every figure and table of the study that has been made, and
how.

The page is one file without scripts; it refers to the files beside it by relative links.
"""

import csv
import datetime
import html
import json
import re
from pathlib import Path

from unnas.files import written_whole

SCALES = {
    "paper": "The paper's datasets and hyper-parameters.",
    "laptop": "Small networks on small sets of real images, trained for a short time.",
    "former": (
        "The same, before the protocol: the 16 architectures of each space on which the sizes of"
        " trainings were tuned."
    ),
    "smoke": (
        "Tiny networks on embedded synthetic images: this shows that the study runs, not what it"
        " finds."
    ),
}
LONGEST_TABLE = 40  # rows; a longer file is linked, not shown

STYLE = """
:root { color-scheme: light dark;
  --ink: #1b1f24; --soft: #59636e; --line: #d8dee4; --page: #fff; --link: #0a5cc2 }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e8eb; --soft: #9aa4af; --line: #343b44; --page: #14171b; --link: #74b0ff } }
body { font: 16px/1.55 system-ui, sans-serif; color: var(--ink); background: var(--page);
  max-width: 62rem; margin: 0 auto; padding: 2.5rem 1.25rem 4rem }
h1 { font-size: 1.7rem; line-height: 1.25; margin: 0 0 .25rem }
h2 { font-size: 1.25rem; margin: 3rem 0 .25rem; padding-top: 1.25rem;
  border-top: 1px solid var(--line) }
h3 { font-size: 1.05rem; margin: 2rem 0 .25rem }
p { margin: .25rem 0 .75rem } .soft { color: var(--soft); font-size: .9rem }
a { color: var(--link) } .files a { margin-right: 1rem }
figure { margin: 1rem 0; padding: .75rem; background: #fff; border: 1px solid var(--line);
  border-radius: .5rem }
img { display: block; max-width: 100%; height: auto; margin: 0 auto }
.wide { overflow-x: auto }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums }
th, td { padding: .3rem .9rem .3rem 0; text-align: right; white-space: nowrap;
  border-bottom: 1px solid var(--line) }
th.text, td.text { text-align: left } th { font-weight: 600 }
caption { text-align: left; padding: .5rem 0 }
"""


def heading(notebook: dict) -> tuple[str, str]:
    """The title and the one-sentence summary in the first cell of `notebook`; "" for one that is
    missing.
    """
    source = "".join(notebook["cells"][0]["source"])
    title, summary = re.search(r"^# +(.+)", source, re.M), re.search(r"^> *(.+)", source, re.M)
    return title[1] if title else "", summary[1] if summary else ""


def is_number(text: str) -> bool:
    """Whether `text` reads as a number."""
    try:
        float(text)
    except ValueError:
        return False
    return True


def column(name: str, values: list[str]) -> list[str]:
    """A column of a table as HTML cells, its head first: numbers to the right, fractions with two
    places.
    """
    if not all(value == "" or is_number(value) for value in values):
        return [
            f'<{tag} class="text">{html.escape(value)}</{tag}>'
            for tag, value in [("th", name), *(("td", v) for v in values)]
        ]
    if any("." in value for value in values):
        values = [value and f"{float(value):.2f}" for value in values]
    return [f"<th>{html.escape(name)}</th>", *(f"<td>{value}</td>" for value in values)]


def table(path: Path) -> str:
    """The CSV file `path` as an HTML table without its empty columns; "" if it is longer than
    LONGEST_TABLE rows.
    """
    with path.open(newline="", encoding="utf-8") as file:
        names, *rows = csv.reader(file)
    if len(rows) > LONGEST_TABLE:
        return ""
    columns = [
        column(name, list(values)) for name, *values in zip(names, *rows) if any(values) or not rows
    ]
    body = "".join(f"<tr>{''.join(row)}</tr>\n" for row in zip(*columns))
    return f'<div class="wide"><table>\n{body}</table></div>\n'


def styled_table(page: Path) -> str:
    """The table in the HTML file `page`, with the styles of its cells."""
    text = page.read_text(encoding="utf-8")
    styles = re.findall(r'<style type="text/css">.*?</style>', text, re.S)
    return (
        "<div"
        f' class="wide">{"".join([*styles, *re.findall(r"<table.*?</table>", text, re.S)])}</div>'
    )


def provenance(notebook: dict) -> str:
    """When an executed `notebook` ran, for how long, and from which commit."""
    ran = notebook["metadata"].get("papermill", {})
    if not ran.get("start_time"):
        return ""
    start = datetime.datetime.fromisoformat(ran["start_time"]).astimezone(datetime.UTC)
    words = [f"Run on {start:%d %B %Y at %H:%M} UTC", f"in {ran['duration']:.0f} s"]
    commit = notebook["metadata"].get("unnas", {}).get("commit", "")
    if commit:
        words.append(
            f"from commit {commit.removesuffix('+')}"
            + (" with changes" if commit.endswith("+") else "")
        )
    return " ".join(words) + "."


def section(name: str, files: list[Path], root: Path) -> str:
    """What the notebook `name` left: its `files` in one folder under `root`, the folder of the
    page.
    """
    title, lead, ran = name, "", ""
    executed = next((path for path in files if path.suffix == ".ipynb"), None)
    if executed:
        notebook = json.loads(executed.read_text(encoding="utf-8"))
        (title, lead), ran = heading(notebook), provenance(notebook)
    parts = [f"<h3>{html.escape(title or name)}</h3>"]
    if lead:
        parts.append(f"<p>{html.escape(lead)}</p>")
    figures = [path for path in files if path.suffix == ".png"]
    for path in figures:
        address = path.relative_to(root).as_posix()
        parts.append(
            f'<figure><a href="{address}"><img src="{address}"'
            f' alt="{html.escape(title or path.stem)}"></a></figure>'
        )
    pages = {path.stem: path for path in files if path.suffix == ".html" and path.stem != name}
    for path in files:
        if path.suffix == ".csv" and path.stem not in {figure.stem for figure in figures}:
            parts.append(styled_table(pages[path.stem]) if path.stem in pages else table(path))
    links = (f'<a href="{path.relative_to(root).as_posix()}">{path.name}</a>' for path in files)
    parts.append(f'<p class="files soft">{" ".join(links)}</p>')
    if ran:
        parts.append(f'<p class="soft">{html.escape(ran)}</p>')
    return "\n".join(parts)


def page(root: Path) -> str:
    """The summary page of the folder `root`, which has one folder for each scale.

    A file belongs to the notebook that its name begins with: fig2_rho.csv to fig2.
    """
    parts = []
    for scale, meaning in SCALES.items():
        files = sorted(path for path in (root / scale).glob("[!_.]*") if path.is_file())
        names = sorted({path.stem.split("_")[0] for path in files})
        if names:
            parts.append(f'<h2>Scale: {scale}</h2>\n<p class="soft">{meaning}</p>')
        parts += [
            section(name, [path for path in files if path.stem.split("_")[0] == name], root)
            for name in names
        ]
    body = "\n".join(parts) or "<p>Nothing has been made yet: run <code>make study</code>.</p>"
    return f"""<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>unnas: figures and tables</title>
<style>{STYLE}</style>
<h1>Are labels necessary for neural architecture search?</h1>
<p class="soft">The figures and tables of the study that have been made here.</p>
{body}
</html>
"""


def write(root: Path) -> Path:
    """Writes `root`/index.html and returns its path."""
    path = root / "index.html"
    with written_whole(path) as new:
        new.write_text(page(root), encoding="utf-8")
    return path
