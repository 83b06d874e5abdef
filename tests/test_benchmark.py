"The benchmark runs, and nothing fast is slower than its plain twin."
import time
from contextlib import nullcontext
from statistics import median

import numpy as np
import pandas as pd
import papermill
import pytest
import torch

from unnas import kernels, search, tasks, textbook, train
from unnas.spaces import darts
from tools.readme import ROOT


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_the_benchmark_runs_and_goes_on_where_it_stopped(tmp_path, monkeypatch):
    monkeypatch.setenv("UNNAS_HOME", str(tmp_path))
    parameters = dict(size="smoke", works="calls,memory,pretext", repeats=1, figures=str(tmp_path / "figures"))
    def run(**change): papermill.execute_notebook(ROOT / "nbs/benchmark.ipynb", None, parameters | change, cwd=tmp_path, progress_bar=False)
    run()
    table = pd.read_csv(tmp_path / "figures/benchmark.csv")
    assert list(table) == ["work", "plain", "fast", "unit", "ratio", "at_least"] and len(table) == 9
    assert (table[["plain", "fast", "ratio"]] > 0).all(axis=None)
    calls, saved = (table[table["work"].str.contains(word)] for word in ("operator calls", "saved for backward"))
    assert (calls["ratio"] > 3).all() and (saved["ratio"] < .6).all()  # counts depend on no machine
    run(works="calls,crops")
    after = pd.read_csv(tmp_path / "figures/benchmark.csv")
    assert after.iloc[:9].equals(table) and len(after) == 12
    with pytest.raises(papermill.PapermillExecutionError, match="works='serach': unknown"): run(works="serach")


def seconds(step):
    start = time.perf_counter()
    step()
    return time.perf_counter() - start


def test_nothing_fast_is_slower_than_its_plain_twin():
    task = tasks.classification(10)
    inputs, targets = torch.randn(32, 3, 32, 32), torch.randint(10, (32,))
    images = np.random.default_rng(0).integers(256, size=(64, 32, 32, 3), dtype=np.uint8)
    batch = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()

    def supernet(context):
        network = search.Supernet(task, stem="cifar", width=16, depth=3)
        bilevel = search.Bilevel(network, task, search.Recipe(1, 8, .025), train.accelerator("float32"))
        def step():
            with context():
                for change in (lambda half: bilevel.alpha_step(half, half), bilevel.weight_step): change((inputs[:8], targets[:8]))
        return step

    def network(context, layout):
        model = darts.build(darts.sample(1, 0)[0], task, stem="cifar", width=16, depth=5).to(memory_format=layout)
        def step():
            with context(): task.loss(model(inputs.contiguous(memory_format=layout)), targets).backward()
        return step

    def pretext(name):
        fast = tasks.get(name)
        return lambda: textbook.batch(name, list(images), "cifar", 0), lambda: fast.batch(batch, None, True, torch.Generator().manual_seed(0))

    pairs = {"search": (supernet(kernels.plain), supernet(nullcontext)),
             "training": (network(kernels.plain, torch.contiguous_format), network(nullcontext, torch.channels_last)),
             **{name: pretext(name) for name in ("rot", "col", "jig")}}
    kernels.retain_memory()
    for name, (plain, fast) in pairs.items():
        rounds = [(seconds(plain), seconds(fast)) for _ in range(4)][1:]  # the first compiles
        assert median(before / after for before, after in rounds) > 1, name
