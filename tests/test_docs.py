"""The documentation site: what docs/conf.py does to a notebook, and that the whole site builds and
stands alone.
"""

import re
import runpy
import subprocess
import sys
from types import SimpleNamespace
from urllib.parse import unquote

import pytest

from tools.readme import ROOT


@pytest.fixture(scope="module")
def conf():
    return SimpleNamespace(**runpy.run_path(str(ROOT / "docs/conf.py")))


def code(source):
    return {"cell_type": "code", "id": "x", "metadata": {}, "outputs": [], "source": source}


def test_directives(conf):
    assert conf.directives("#| export\n#| eval: false\nx = 1") == (
        {"export": "", "eval": "false"},
        "x = 1",
    )
    assert conf.directives("#| default_exp spaces.darts") == ({"default_exp": "spaces.darts"}, "")
    assert conf.directives("x = 1  #| export") == ({}, "x = 1  #| export")


def test_cells_of_a_page(conf):
    cells = [
        code("#| default_exp toy"),
        code("#| hide\nsecret = 1"),
        code("#| export\nimport torch"),
        code("#| export\ndef shown(a):\n    return a"),
        code("#| exporti\ndef _helper(): pass"),
        code("#| export\nSIZE = 3"),
        code("assert shown(1) == 1"),
    ]
    page = conf.prepare_cells(cells)
    sources = [cell["source"] for cell in page]
    assert "`unnas.toy`" in sources[0]
    assert ".. autofunction:: unnas.toy.shown" in sources[1]
    assert sources[2:] == [
        "def shown(a):\n    return a",
        "def _helper(): pass",
        "SIZE = 3",
        "assert shown(1) == 1",
    ]
    folded = ["hide-input" in cell["metadata"].get("tags", []) for cell in page]
    assert folded == [False, False, True, True, False, False]
    assert page[3]["metadata"]["mystnb"]["code_prompt_show"] == "Source of _helper"


def test_a_markdown_table_knows_its_columns_and_long_names_may_be_broken(conf):
    table = "| claim | here |\n| --- | --- |\n| A & B | 0.60 [0.00, 0.94] |\n| C |  |"
    html = conf.shown_output({"data": {"text/markdown": table}})["data"]["text/html"]
    assert '<td data-of="claim">A &amp; B</td><td data-of="here">0.60 [0.00, 0.94]</td>' in html
    assert '<td data-of="claim">C</td>' in html
    prose = {"data": {"text/markdown": ["| is no table\n", "\n", "Prose"]}}
    assert conf.shown_output(prose) == prose
    both = {"data": {"text/markdown": f"Some words:\n\n{table}"}}
    assert conf.shown_output(both)["data"]["text/markdown"] == f"Some words:\n\n{html}"
    pandas = {"data": {"text/html": ["<th>alpha_lr</th>\n", "<td>a_b</td>"], "text/plain": "x"}}
    shown = conf.shown_output(pandas)["data"]
    assert shown["text/html"] == "<th>alpha_<wbr>lr</th>\n<td>a_b</td>" and "text/plain" in shown


def test_signatures_are_of_public_definitions_only(conf):
    text = conf.signatures("class A: pass\ndef _b(): pass\ndef c(): pass\nd = 1", "unnas.toy")
    assert re.findall(r"\.\. (\w+):: (\S+)", text) == [
        ("autoclass", "unnas.toy.A"),
        ("autofunction", "unnas.toy.c"),
    ]
    assert conf.signatures("d = 1", "unnas.toy") == ""


def test_names_become_links(conf):
    names = {"tasks.get": "unnas.tasks.get"}
    linked = conf.link_names(
        "`tasks.get(name)`, `tasks.get()` and `tasks.get`, not ``tasks.get`` or [`tasks.get`](x)",
        names,
    )
    assert (
        linked
        == "`tasks.get(name)`, {py:obj}`tasks.get() <unnas.tasks.get>` and {py:obj}`tasks.get"
        " <unnas.tasks.get>`, not ``tasks.get`` or [`tasks.get`](x)"
    )


def test_a_page_knows_its_own_names_by_themselves_and_others_by_their_module(conf):
    names = conf.symbols("unnas.spaces.darts")
    assert names["build"] == names["darts.build"] == "unnas.spaces.darts.build"
    assert names["tasks.get"] == "unnas.tasks.get" and "get" not in names
    assert conf.symbols("unnas.data")["load"] == names["data.load"] == "unnas.data.load"


def test_names_that_a_front_door_passes_on_lead_to_where_they_are_documented(conf, tmp_path):
    (tmp_path / "toy/pets").mkdir(parents=True)
    (tmp_path / "toy/__init__.py").touch()
    (tmp_path / "toy/_modidx.py").write_text("def d(): pass")
    (tmp_path / "toy/pets/cats.py").write_text(
        "class Cat:\n    def purr(self): pass\n    def _hide(self): pass\ndef _groom(): pass\n"
    )
    (tmp_path / "toy/pets/__init__.py").write_text(
        "from toy.pets.cats import Cat as Feline\nfrom .cats import Cat\nfrom . import cats\n"
        "def buy(): pass\n"
    )
    (tmp_path / "toy/shop.py").write_text(
        "import os\nfrom .pets import Cat, buy\nfrom . import pets"
    )
    cat, buy = "toy.pets.cats.Cat", "toy.pets.buy"
    assert conf.library(tmp_path / "toy") == {
        "toy": {},
        "toy.pets.cats": {"Cat": cat, "Cat.purr": f"{cat}.purr"},
        "toy.pets": {
            "buy": buy,
            **{"Cat": cat, "Cat.purr": f"{cat}.purr"},
            **{"Feline": cat, "Feline.purr": f"{cat}.purr"},
        },
        "toy.shop": {"Cat": cat, "Cat.purr": f"{cat}.purr", "buy": buy},
    }


def test_a_front_door_has_the_name_of_its_package_and_lists_what_it_passes_on(conf):
    page = conf.prepare_cells(
        [
            code("#| default_exp data.__init__"),
            code("#| export\n_all_ = [load, 'nobody']"),
            code("#| export\ndef shown(): pass"),
        ]
    )
    sources = [cell["source"] for cell in page]
    assert sources[0] == "This page is the module `unnas.data`."
    assert "{py:obj}`load <unnas.data.load>`, `nobody`." in sources[1]
    assert ".. autofunction:: unnas.data.shown" in sources[2]


def test_the_sidebar_has_the_modules_of_a_package_below_its_front_door(conf):
    study = ["cells", "fig2", "fig9", "findings", "index", "one_search", "tutorial_x"]
    pages = ["05_toy.cats", "06_toy", "07_lone.dog", *study]
    assert conf.rooms(pages[:3]) == {"06_toy": ["05_toy.cats"], "07_lone.dog": []}
    sidebar = conf.sidebar(pages)
    assert re.findall(r":caption: (.+)\n\n([^`]*?)\n```", sidebar["index"]) == [
        ("Start", "Overview <self>\nfindings"),
        ("Do they rank as labels do?", "fig2"),
        ("Do they find good ones?", "one_search\ncells"),
        ("More of the study", "fig9"),
        ("Tutorials", "tutorial_x"),
        ("Library", "06_toy\n07_lone.dog"),
    ]
    assert sidebar["06_toy"].endswith(":hidden:\n\n05_toy.cats\n```")
    assert sidebar["07_lone.dog"] == ""


def test_links_out_of_the_site_lead_to_the_repository(conf):
    assert (
        conf.outside_links("[a b](../LICENSE) [c](d.ipynb) ![e](../f.png)")
        == f"[a b]({conf.repository}/LICENSE) [c](d.ipynb) ![e](../f.png)"
    )


def test_pictures_of_a_cell_are_called_by_the_heading_above(conf):
    above = dict(cell_type="markdown", source="# A\n```sh\n# no\n```\n## The [*one*](b.md) $\\rho$")
    shown = conf.prepare_cells([above, code("1"), code("#| echo: false\n2")])
    alts = [cell["metadata"]["mystnb"]["image"]["alt"] for cell in shown[1:]]
    assert alts == ["Picture: The one rho"] * 2
    assert shown[2]["metadata"]["tags"] == ["remove-input"] and shown[2]["source"] == "2"


@pytest.mark.slow
def test_site_builds_without_warnings_and_stands_alone(conf, tmp_path):
    build = [
        sys.executable,
        "-m",
        "sphinx",
        "-q",
        "-W",
        "--keep-going",
        "-c",
        "docs",
        "-d",
        tmp_path / "trees",
        "nbs",
        tmp_path / "site",
    ]
    done = subprocess.run(build, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    pages = {
        path.name: path.read_text(encoding="utf-8") for path in (tmp_path / "site").glob("*.html")
    }
    assert {
        f"{conf.PAGES.get(path.stem, path.stem)}.html" for path in (ROOT / "nbs").glob("*.ipynb")
    } <= pages.keys()
    assert (
        "<h1>A search" in pages["one_search.html"]
        and 'href="one_search.html"' in pages["table1.html"]
    )
    assert "searchtools.js" in pages["search.html"]  # where the search box of the site leads
    assert f'href="{conf.FORMER["11_study"]}.html"' in pages["protocol.html"]
    for name, page in pages.items():
        loaded = re.findall(r'<(?:script|img|source)[^>]* src="([^"]+)"', page)
        loaded += re.findall(r'<link rel="(?:stylesheet|icon)"[^>]* href="([^"]+)"', page)
        assert not [address for address in loaded if re.match(r"(https?:)?//", address)], name
        local = [
            address
            for address in loaded + re.findall(r'<a [^>]*href="([^"]+)"', page)
            if not re.match(r"[a-z]+:|#", address)
        ]
        missing = [
            address
            for address in local
            if not (tmp_path / "site" / unquote(re.split("[?#]", address)[0])).exists()
        ]
        assert not missing, name
