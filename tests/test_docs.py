"""The documentation site: what docs/conf.py does to a notebook, and that the whole site builds and stands alone."""
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
    assert conf.directives("#| export\n#| eval: false\nx = 1") == ({"export": "", "eval": "false"}, "x = 1")
    assert conf.directives("#| default_exp spaces.darts") == ({"default_exp": "spaces.darts"}, "")
    assert conf.directives("x = 1  #| export") == ({}, "x = 1  #| export")


def test_cells_of_a_page(conf):
    cells = [code("#| default_exp toy"), code("#| hide\nsecret = 1"), code("#| export\nimport torch"),
             code("#| export\ndef shown(a):\n    return a"), code("#| exporti\ndef _helper(): pass"),
             code("#| export\nSIZE = 3"), code("assert shown(1) == 1")]
    page = conf.prepare_cells(cells)
    sources = [cell["source"] for cell in page]
    assert "`unnas.toy`" in sources[0]
    assert ".. autofunction:: unnas.toy.shown" in sources[1]
    assert sources[2:] == ["def shown(a):\n    return a", "def _helper(): pass", "SIZE = 3", "assert shown(1) == 1"]
    folded = ["hide-input" in cell["metadata"].get("tags", []) for cell in page]
    assert folded == [False, False, True, True, False, False]
    assert page[3]["metadata"]["mystnb"]["code_prompt_show"] == "Source of _helper"


def test_signatures_are_of_public_definitions_only(conf):
    text = conf.signatures("class A: pass\ndef _b(): pass\ndef c(): pass\nd = 1", "unnas.toy")
    assert re.findall(r"\.\. (\w+):: (\S+)", text) == [("autoclass", "unnas.toy.A"), ("autofunction", "unnas.toy.c")]
    assert conf.signatures("d = 1", "unnas.toy") == ""


def test_names_become_links(conf):
    names = {"tasks.get": "unnas.tasks.get"}
    linked = conf.link_names("`tasks.get(name)`, `tasks.get()` and `tasks.get`, not ``tasks.get`` or [`tasks.get`](x)", names)
    assert linked == ("`tasks.get(name)`, {py:obj}`tasks.get() <unnas.tasks.get>` and {py:obj}`tasks.get <unnas.tasks.get>`, "
                      "not ``tasks.get`` or [`tasks.get`](x)")


def test_a_page_knows_its_own_names_by_themselves_and_others_by_their_module(conf):
    names = conf.symbols("unnas.spaces.darts")
    assert names["build"] == names["darts.build"] == "unnas.spaces.darts.build"
    assert names["tasks.get"] == "unnas.tasks.get" and "get" not in names


def test_links_out_of_the_site_keep_their_words(conf):
    assert conf.drop_outside_links("[a b](../LICENSE) [c](d.ipynb) ![e](../f.png)") == "a b [c](d.ipynb) ![e](../f.png)"


def test_site_builds_without_warnings_and_stands_alone(conf, tmp_path):
    build = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-c", "docs", "-d", tmp_path / "trees", "nbs", tmp_path / "site"]
    done = subprocess.run(build, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    pages = {path.name: path.read_text(encoding="utf-8") for path in (tmp_path / "site").glob("*.html")}
    assert {f"{conf.PAGES.get(path.stem, path.stem)}.html" for path in (ROOT / "nbs").glob("*.ipynb")} <= pages.keys()
    assert "<h1>A search" in pages["one_search.html"] and 'href="one_search.html"' in pages["table1.html"]
    assert "searchtools.js" in pages["search.html"]  # where the search box of the site leads
    for name, page in pages.items():
        loaded = re.findall(r'<(?:script|img|source)[^>]* src="([^"]+)"', page)
        loaded += [tag for tag in re.findall(r'<link rel="(?:stylesheet|icon)"[^>]* href="([^"]+)"', page)]
        assert not [address for address in loaded if re.match(r"(https?:)?//", address)], name
        local = [address for address in loaded + re.findall(r'<a [^>]*href="([^"]+)"', page) if not re.match(r"[a-z]+:|#", address)]
        missing = [address for address in local if not (tmp_path / "site" / unquote(re.split("[?#]", address)[0])).exists()]
        assert not missing, name
