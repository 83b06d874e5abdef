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

from tools.readme import ROOT
from unnas.files import written_whole

# folders of figures/, the reader's own first, with what they are
SCALES = {
    "mine/paper": "Your own runs, with the paper's datasets and hyper-parameters.",
    "mine/laptop": "Your own runs at scale laptop, which differ from the released ones.",
    "mine/former": "Your own figures of former records, which differ from the released ones.",
    "paper": "The paper's datasets and hyper-parameters, run here.",
    "smoke": (
        "Tiny networks on embedded synthetic images, run here: this shows that the study runs, not"
        " what it finds."
    ),
    "laptop": (
        "Released: small networks on small sets of real images, trained for a short time, as the"
        " protocol lists them."
    ),
    "former": (
        "Released: the same, before the protocol, with the 16 architectures of each space on which"
        " the sizes of trainings were tuned."
    ),
}
FOLDED = ("search",)  # notebooks whose many figures one has to ask for
LONGEST_TABLE = 40  # rows; a longer file is linked, not shown

STYLE = """
:root { color-scheme: light dark;
  --ink: #1b1f24; --soft: #59636e; --line: #d8dee4; --page: #fff; --link: #0a5cc2;
  --shade: #f4f6f8 }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e8eb; --soft: #9aa4af; --line: #343b44; --page: #14171b; --link: #74b0ff;
    --shade: #1d2228 } }
* { box-sizing: border-box }
body { font: 16px/1.55 system-ui, sans-serif; color: var(--ink); background: var(--page);
  max-width: 62rem; margin: 0 auto; padding: 2.5rem 1.25rem 4rem; overflow-wrap: break-word }
h1 { font-size: 1.7rem; line-height: 1.25; margin: 0 0 .25rem }
h2 { font-size: 1.25rem; margin: 3rem 0 .25rem; padding-top: 1.25rem;
  border-top: 1px solid var(--line) }
h3 { font-size: 1.05rem; margin: 2rem 0 .25rem }
p { margin: .25rem 0 .75rem } .soft { color: var(--soft); font-size: .9rem }
a { color: var(--link) } .files a { margin-right: 1rem; display: inline-block }
nav { background: var(--shade); border-radius: .5rem; padding: .75rem 1rem; margin: 1.5rem 0 }
nav p { margin: .2rem 0 } nav a { margin-right: .75rem; display: inline-block }
figure { margin: 1rem 0; padding: .75rem; background: #fff; border: 1px solid var(--line);
  border-radius: .5rem }
figcaption { color: #59636e; font-size: .85rem; padding-top: .5rem }
img { display: block; max-width: 100%; height: auto; margin: 0 auto }
details { border-top: 1px solid var(--line); margin-top: 1.5rem }
summary { cursor: pointer; padding: .6rem 0; font-weight: 600 }
.wide { overflow-x: auto; margin: .75rem 0;
  background: linear-gradient(90deg, var(--page) 2rem, transparent) left / 3rem 100% no-repeat
    local, linear-gradient(270deg, var(--page) 2rem, transparent) right / 3rem 100% no-repeat
    local, linear-gradient(90deg, #8888, transparent) left / .6rem 100% no-repeat scroll,
    linear-gradient(270deg, #8888, transparent) right / .6rem 100% no-repeat scroll }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums }
th, td { padding: .3rem .9rem .3rem 0; text-align: right; white-space: nowrap;
  border-bottom: 1px solid var(--line) }
th.text, td.text { text-align: left } th { font-weight: 600 }
.answer td, .answer th { white-space: normal; text-align: left; vertical-align: top }
caption { text-align: left; padding: .5rem 0 }
@media (max-width: 40rem) {
  body { padding: 1.25rem .9rem 3rem } h1 { font-size: 1.4rem }
  .answer thead { display: none } .answer tr { display: block; padding: .6rem 0;
    border-bottom: 1px solid var(--line) }
  .answer td { display: block; border: 0; padding: 0 }
  .answer td::before { content: attr(data-of) ": "; color: var(--soft) }
  .answer td:first-child { font-weight: 600 } .answer td:first-child::before { content: "" } }
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


def plain(text: str) -> str:
    """Markdown of one line as HTML: formulas of single letters as these, links as their words."""
    text = re.sub(r"\[([^\]]+)\]\([^)]*\)", r"\1", text).replace("\\rho", "\u03c1")
    return re.sub(r"\$(.*?)\$", r"<i>\1</i>", html.escape(text).replace("**", ""))


def shown_name(name: str, executed: Path | None) -> tuple[str, str]:
    """The title and the summary of notebook `name`: as it was executed, else as it is in nbs/."""
    path = executed or ROOT / "nbs" / f"{name}.ipynb"
    if not path.is_file():
        return name, ""
    title, lead = heading(json.loads(path.read_text(encoding="utf-8")))
    return title or name, lead


def figure(path: Path, root: Path, title: str, lead: str) -> str:
    """A picture with its caption; what it shows beside the first one is in the name of its file."""
    address, part = path.relative_to(root).as_posix(), path.stem.partition("_")[2]
    words = f"{title.split(':')[0]}" + (f": {part.replace('_', ' ')}" if part else "")
    scale = f"scale {path.parent.relative_to(root).as_posix()}"
    if re.match("anchors|.*_versions$", path.stem):
        scale = "from released data, whatever the scale"
    alt = html.escape(f"{words}, {scale}. {lead}".strip())
    return (
        f'<figure><a href="{address}"><img src="{address}" alt="{alt}" loading="lazy"></a>'
        f"<figcaption>{plain(words)}, {scale}</figcaption></figure>"
    )


def section(name: str, files: list[Path], root: Path) -> str:
    """What the notebook `name` left: its `files` in one folder under `root`, the folder of the
    page.
    """
    executed = next((path for path in files if path.suffix == ".ipynb"), None)
    title, lead = shown_name(name, executed)
    scale = files[0].parent.relative_to(root).as_posix()
    head = f'<h3 id="{anchor(scale, name)}">{plain(title)}</h3>'
    parts = [f"<p>{plain(lead)}</p>"] if lead else []
    pictures = [path for path in files if path.suffix == ".png"]
    parts += [figure(path, root, title, lead) for path in pictures]
    pages = {path.stem: path for path in files if path.suffix == ".html" and path.stem != name}
    for path in files:
        if path.suffix == ".csv" and path.stem not in {picture.stem for picture in pictures}:
            parts.append(styled_table(pages[path.stem]) if path.stem in pages else table(path))
    links = (f'<a href="{path.relative_to(root).as_posix()}">{path.name}</a>' for path in files)
    parts.append(f'<p class="files soft">{" ".join(links)}</p>')
    if executed and (ran := provenance(json.loads(executed.read_text(encoding="utf-8")))):
        parts.append(f'<p class="soft">{html.escape(ran)}</p>')
    body = "\n".join(parts)
    if name in FOLDED:
        count = f"{len(pictures)} pictures, {len(files)} files"
        body = f"<details><summary>{count}</summary>\n{body}\n</details>"
    return f"{head}\n{body}"


def anchor(scale: str, name: str = "") -> str:
    """Where a scale, or a notebook of it, is on the page."""
    return "-".join([*scale.split("/"), *([name] if name else [])])


def unbroken(text: str) -> str:
    """`text` as HTML, in which no interval goes over the end of a line."""
    interval = r"\[(-?[\d.]+), (-?[\d.]+)\]"
    return re.sub(rf" {interval}", r"&nbsp;[\1,&nbsp;\2]", html.escape(text))


def answer(root: Path) -> str:
    """The table of claims, beside what came out; "" where there is none."""
    path = root / "laptop" / "findings_claims.csv"
    if not path.is_file():
        return ""
    with path.open(newline="", encoding="utf-8") as file:
        names, *rows = csv.reader(file)
    head = "".join(f"<th>{html.escape(name)}</th>" for name in names)
    body = "\n".join(
        "<tr>"
        + "".join(
            f'<td data-of="{html.escape(name)}">{unbroken(value)}</td>'
            for name, value in zip(names, row)
        )
        + "</tr>"
        for row in rows
    )
    return f"""<p>The paper's claims beside what came out so far, of small trainings of <i>n</i>
architectures: rank correlations with 95% intervals (H1 to H3 and their baseline: partial ones given
the size; H4 to H6: differences of two; last row: accuracies). A rank correlation is compared
with 0 and with the paper's 0.8, a hypothesis (H) or a difference with 0: <i>supported</i> where the
whole interval lies above, <i>against</i> where it lies below, and else <i>undecided</i>; a
hypothesis is supported only if its p, corrected for six tests, is below 0.05 as well, and
<i>interim</i> looks decide nothing.</p>
<div class="answer"><table><thead><tr>{head}</tr></thead>
<tbody>
{body}
</tbody></table></div>
"""


def results(root: Path) -> dict[str, dict[str, list[Path]]]:
    """The files in the folders of `root`, by scale and notebook. A file belongs to the notebook
    that its name begins with: fig2_rho.csv to fig2.
    """
    found = {}
    for scale in SCALES:
        for path in sorted((root / scale).glob("[!_.]*")):
            if path.is_file():
                found.setdefault(scale, {}).setdefault(path.stem.split("_")[0], []).append(path)
    return found


def contents(found: dict[str, dict[str, list[Path]]]) -> str:
    """Links to all parts of the page."""
    lines = [
        f'<p><a href="#{anchor(scale)}"><b>{scale}</b></a>'
        + " ".join(f'<a href="#{anchor(scale, name)}">{name}</a>' for name in names)
        + "</p>"
        for scale, names in found.items()
    ]
    return "<nav>" + "\n".join(lines) + "</nav>" if lines else ""


def page(root: Path) -> str:
    """The summary page of the folder `root`, which has one folder for each scale."""
    found, parts = results(root), []
    for scale, names in found.items():
        parts.append(
            f'<h2 id="{anchor(scale)}">Scale: {scale}</h2>\n<p class="soft">{SCALES[scale]}</p>'
        )
        parts += [section(name, files, root) for name, files in names.items()]
    body = "\n".join(parts) or "<p>Nothing has been made yet: run <code>make study</code>.</p>"
    return f"""<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>unnas: figures and tables</title>
<style>{STYLE}</style>
<h1>Are labels necessary for neural architecture search?</h1>
{answer(root)}{contents(found)}
{body}
</html>
"""


def write(root: Path) -> Path:
    """Writes `root`/index.html and returns its path."""
    path = root / "index.html"
    with written_whole(path) as new:
        new.write_text(page(root), encoding="utf-8")
    return path
