"""The scripts in tools/: the README maker, the runner of the study and the summary page."""

import json
import re
import subprocess
import sys

import nbformat
import pandas as pd
import papermill
import pytest
import torch
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from tools import gpu, readme, study, summary
from unnas import bench


def write_notebook(path, *sources):
    """A notebook at `path`: a heading, a cell of parameters, then code cells of `sources`."""
    cells = [
        new_markdown_cell("# A title\n> A lead & more.\n\n[next](01_next.ipynb)"),
        new_code_cell('scale = "smoke"', metadata={"tags": ["parameters"]}),
        *map(new_code_cell, sources),
    ]
    kernel = {"name": "python3", "display_name": "python3", "language": "python"}
    nbformat.write(new_notebook(cells=cells, metadata={"kernelspec": kernel}), path)
    return path


@pytest.mark.parametrize(
    "before, after",
    [
        ("[a](fig2.ipynb)", "[a](nbs/fig2.ipynb)"),
        ("![a](../figures/fig2.png)", "![a](figures/fig2.png)"),
        ("[a](../LICENSE#top) and [b](x.ipynb)", "[a](LICENSE#top) and [b](nbs/x.ipynb)"),
        (
            "[a](https://arxiv.org) [b](#scales) [c](mailto:a@b.org)",
            "[a](https://arxiv.org) [b](#scales) [c](mailto:a@b.org)",
        ),
    ],
)
def test_relink(before, after):
    assert readme.relink(before, "nbs", ".") == after


def test_readme_shows_code_without_directives_and_hides_hidden_cells(tmp_path):
    path = write_notebook(
        tmp_path / "index.ipynb", "#| hide\nsecret = 1", "#| eval: false\nshown = 2"
    )
    text = readme.readme(path)
    assert (
        text.startswith("# A title\n")
        and "```python\nshown = 2\n```" in text
        and "[next](nbs/01_next.ipynb)" in text
    )
    assert "secret" not in text and "#|" not in text


@pytest.mark.slow
def test_run_leaves_an_executed_notebook_and_a_page(tmp_path, capsys):
    bar = (
        "import time\nfrom tqdm import tqdm\nfor _ in tqdm(range(5), mininterval=0):"
        " time.sleep(.05)"
    )
    page = study.run(
        write_notebook(tmp_path / "fig9.ipynb", bar, "print('scale:', scale)"),
        tmp_path / "out",
        scale="tiny",
    )
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["fig9.html", "fig9.ipynb"]
    assert "scale: tiny" in page.read_text(encoding="utf-8")
    executed = nbformat.read(tmp_path / "out/fig9.ipynb", as_version=4)
    assert executed.metadata["unnas"].keys() == {"commit"}
    bars = [
        output.text
        for cell in executed.cells
        for output in cell.get("outputs", [])
        if output.get("name") == "stderr"
    ]
    assert len(bars) == 1 and "5/5" in bars[0] and "\r" not in bars[0]
    assert "5/5" in capsys.readouterr().err
    assert (
        "01_next.ipynb" in executed.cells[0].source and "](01_next" not in executed.cells[0].source
    )


@pytest.mark.slow
def test_a_bar_in_a_notebook_keeps_its_last_state_and_tells_the_terminal(
    tmp_path, capfd, monkeypatch
):
    monkeypatch.delenv("PYTEST_CURRENT_TEST")  # a kernel would see that it is tested
    bar = (
        "import time\nfrom unnas import files\nfiles._Cell.EVERY = 0.0\n"
        "for _ in files.progress_bar(range(5), 'All runs', mininterval=0): time.sleep(.05)"
    )
    papermill.execute_notebook(
        write_notebook(tmp_path / "bar.ipynb", bar), tmp_path / "out.ipynb", progress_bar=False
    )
    executed = nbformat.read(tmp_path / "out.ipynb", as_version=4)
    (output,) = [output for cell in executed.cells for output in cell.get("outputs", [])]
    assert output.output_type == "display_data"
    shown = output.data["text/plain"]
    assert shown.startswith("All runs: 100%") and "5/5" in shown and "\n" not in shown
    told = capfd.readouterr().err
    assert "2/5" in told and "5/5" in told and "\r" not in told


@pytest.mark.slow
def test_failed_run_keeps_the_last_good_page_and_shows_the_error(tmp_path):
    folder = tmp_path / "out"
    good = study.run(write_notebook(tmp_path / "fig9.ipynb", "print('good')"), folder, scale="tiny")
    with pytest.raises(papermill.PapermillExecutionError):
        study.run(write_notebook(tmp_path / "fig9.ipynb", "1 / 0"), folder, scale="tiny")
    assert "good" in good.read_text(encoding="utf-8")
    assert "ZeroDivisionError" in (folder / "_fig9.ipynb").read_text(encoding="utf-8")
    assert "_fig9" not in summary.page(tmp_path)


def test_log_keeps_one_state_of_a_bar_in_a_while(capsys):
    now = iter(range(100))
    log = study.Log(sys.stderr, seconds=4, clock=lambda: next(now))
    for step in range(10):
        log.write(f"\rstep {step}")
    log.write("\rstep 10\n")
    log.write("a warning\nand its end\n")
    log.flush()
    assert capsys.readouterr().err.splitlines() == [
        "step 3",
        "step 7",
        "step 10",
        "a warning",
        "and its end",
    ]


def test_study_notebooks_are_those_that_are_neither_library_nor_tutorial(tmp_path):
    for name in ("00_paper", "07_spaces.darts", "index", "tutorial_x", "fig2", "table1", "_fig3"):
        (tmp_path / f"{name}.ipynb").touch()
    assert [path.stem for path in study.notebooks(tmp_path)] == ["fig2", "table1"]


def make_results(root):
    """A folder of results, as `make study` leaves them."""
    (root / "smoke").mkdir()
    for name in ("fig2.png", "fig2.svg", "fig2.html"):
        (root / "smoke" / name).write_bytes(b"")
    points = "".join(f"{i}, {i}\n" for i in range(3))
    (root / "smoke/fig2.csv").write_text("x, y\n" + points, encoding="utf-8")
    (root / "smoke/fig2_rho.csv").write_text(
        "space,task,rho,n,reason\nDARTS,R & D,0.8163,6,\nDARTS,col,,7,\n", encoding="utf-8"
    )
    notebook = nbformat.read(write_notebook(root / "smoke/fig2.ipynb"), as_version=4)
    notebook.metadata["papermill"] = {"start_time": "2026-01-02T03:04:05+00:00", "duration": 61.7}
    notebook.metadata["unnas"] = {"commit": "abc1234+"}
    nbformat.write(notebook, root / "smoke/fig2.ipynb")


def test_summary_page_shows_figures_tables_and_where_they_come_from(tmp_path):
    make_results(tmp_path)
    page = summary.write(tmp_path).read_text(encoding="utf-8")
    assert (
        '<img src="smoke/fig2.png"' in page
        and ">Scale: smoke</h2>" in page
        and "Scale: paper" not in page
    )
    assert "A title" in page and "A lead &amp; more." in page
    assert '<td class="text">R &amp; D</td><td>0.82</td><td>6</td></tr>' in page
    assert '<td class="text">col</td><td></td><td>7</td></tr>' in page and "reason" not in page
    assert page.count("<table>") == 1, "the points of a figure are linked, not shown"
    assert "02 January 2026 at 03:04 UTC in 62 s from commit abc1234 with changes." in page


def test_summary_page_takes_a_styled_table_over_the_bare_one(tmp_path):
    (tmp_path / "smoke").mkdir()
    (tmp_path / "smoke/table9_rows.csv").write_text("score\n75.1234\n")
    page = (
        '<!DOCTYPE html><html><style type="text/css">#T_a { color: gray }</style><body><table'
        ' id="T_a"><td>75.1</td></table></body></html>'
    )
    (tmp_path / "smoke/table9_rows.html").write_text(page)
    text = summary.page(tmp_path)
    assert (
        "<td>75.1</td>" in text
        and "#T_a { color: gray }" in text
        and "75.1234" not in text
        and text.count("<!") == 1
    )


def test_summary_page_stands_alone(tmp_path):
    make_results(tmp_path)
    page = summary.page(tmp_path)
    targets = re.findall(r'(?:src|href)="([^"#]+)"', page)
    places = set(re.findall(r'href="#([^"]+)"', page))
    assert places == {"smoke", "smoke-fig2"} == set(re.findall(r'id="([^"]+)"', page))
    assert len(targets) >= 6 and all((tmp_path / target).is_file() for target in targets)
    assert "<script" not in page and "http" not in page and "prefers-color-scheme: dark" in page


def test_summary_page_begins_with_the_answer_then_ones_own_runs_and_folds_searches(tmp_path):
    for name in ("former/search_x.png", "laptop/fig2.png", "mine/laptop/fig2.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    answer = 'claim,here\nA & B,"0.60 [0.00, 0.94]"\n'
    (tmp_path / "laptop/findings_claims.csv").write_text(answer)
    page = summary.page(tmp_path)
    assert "<i>interim</i> looks" in page and "H1 to H3" in page
    parts = ["A &amp; B", "<nav>", 'src="mine/laptop/fig2.png"', 'src="laptop/fig2.png"']
    places = [page.index(part) for part in [*parts, "<details>", 'src="former/search_x.png"']]
    assert places == sorted(places) and "0.60&nbsp;[0.00,&nbsp;0.94]" in page
    alts = re.findall('alt="([^"]*)"', page)
    assert len(alts) == 3 and alts[0].startswith("Figure 2, scale mine/laptop. Pretext score")
    assert summary.plain("**a** [b](c.md) $\\rho < 1$") == "a b <i>\u03c1 &lt; 1</i>"


def test_an_executed_notebook_needs_no_network_and_knows_dark_screens(tmp_path):
    notebook = nbformat.read(write_notebook(tmp_path / "fig9.ipynb", "1 + 1"), as_version=4)
    page = study.as_page(notebook, "fig9", tmp_path / "out")
    loaded = re.findall(r'<(?:script|link)[^>]* (?:src|href)="([^"]+)"', page)
    assert loaded == ["../tex-svg.js"] and (tmp_path / "tex-svg.js").is_file()
    assert "prefers-color-scheme: dark" in page


def test_pictures_of_an_executed_notebook_say_what_they_are(tmp_path):
    notebook = nbformat.read(write_notebook(tmp_path / "fig9.ipynb", "draw()"), as_version=4)
    picture = nbformat.v4.new_output("display_data", {"image/png": "iVBORw0KGgo="})
    notebook.cells[-1].outputs = [picture]
    assert 'alt="Picture: A title"' in study.as_page(notebook, "fig9", tmp_path / "out")


def test_links_to_headings_lead_to_where_they_are(tmp_path):
    notebook = nbformat.read(write_notebook(tmp_path / "fig9.ipynb"), as_version=4)
    words = "[below](#is-it-luck) and [far](x.ipynb#else), [nowhere](#gone)\n\n## Is it luck?"
    notebook.cells.append(new_markdown_cell(words))
    page = study.as_page(notebook, "fig9", tmp_path / "out")
    assert 'href="#Is-it-luck?"' in page and 'id="Is-it-luck?"' in page
    assert 'href="x.ipynb#else"' in page and 'href="#gone"' in page


INTERRUPTED = """
import asyncio
from tools import study

async def fails():
    raise ValueError("cut short")

def run(*args, **options):
    loop = asyncio.new_event_loop()
    study.left = loop.create_task(fails())
    loop.run_until_complete(asyncio.sleep(0.01))
    raise KeyboardInterrupt

study.run = run
study.main("smoke")
"""


def test_after_an_interrupt_the_last_line_says_how_to_go_on():
    command = [sys.executable, "-c", INTERRUPTED]
    done = subprocess.run(command, cwd=readme.ROOT, capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr.count("\n") == 2, done.stderr
    assert done.stderr.endswith("\nInterrupted. Run the same command again to go on.\n")


def test_summary_page_of_nothing(tmp_path):
    assert "make study" in summary.page(tmp_path)


def test_long_table_is_left_to_its_link(tmp_path):
    path = tmp_path / "x.csv"
    for rows, shown in [(summary.LONGEST_TABLE, True), (summary.LONGEST_TABLE + 1, False)]:
        path.write_text("a\n" + "1\n" * rows, encoding="utf-8")
        assert bool(summary.table(path)) == shown


@pytest.mark.slow
def test_what_needs_a_gpu_goes_through_its_lines_without_one(tmp_path, monkeypatch):
    parts = ["darts_cifar", "segmentation", "operations"]
    for name in parts:  # the limits are those of a GPU
        monkeypatch.setitem(gpu.LIMITS, gpu.PARTS[name], 900)
    gpu.everything(tmp_path, 30, "smoke", parts)
    about = json.loads((tmp_path / "gpu_cpu.json").read_text())
    assert all(about["parts"][name].startswith("done") for name in parts), about
    table = pd.read_csv(tmp_path / "gpu_cpu.csv")
    assert list(table) == list(pd.read_csv(readme.ROOT / "figures" / "benchmark.csv"))
    assert len(table) == 14 and (table["ratio"] > 0).all()
    table = pd.read_csv(tmp_path / "gpu_cpu_operations.csv")
    assert len(table) == 32 and set(table["how"]) == {"PyTorch", "tiles"}


def test_rows_of_a_gpu_are_those_of_the_benchmark(tmp_path):
    rows = gpu.Rows(tmp_path / "rows.csv")
    rows.add("a step", 8.0, 2.0, "ms", 3)
    rows.add("a rate", 100.0, 300.0, "images/s")
    rows.add("memory (at most)", 100.0, 80.0, "MB", 1.0)
    table = pd.read_csv(rows.path)
    assert list(table["ratio"]) == [4, 3, 0.8] and list(bench.reached(table)) == [True, False, True]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_nothing_is_measured(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "tools.gpu", "--folder", str(tmp_path)],
        cwd=readme.ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1 and "There is no GPU here" in done.stderr
    assert not [*tmp_path.iterdir()]
