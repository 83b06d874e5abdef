"""The benchmark runs and goes on where it stopped; nothing fast is slower than its plain twin."""

import time
from functools import partial
from statistics import median

import numpy as np
import pandas as pd
import papermill
import pytest
import torch

from tools.readme import ROOT
from unnas import bench
from unnas.spaces import darts


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.long
def test_the_benchmark_runs_and_goes_on_where_it_stopped(tmp_path, monkeypatch):
    monkeypatch.setenv("UNNAS_HOME", str(tmp_path))
    parameters = dict(
        size="smoke", works="calls,memory,pretext", repeats=1, figures=str(tmp_path / "figures")
    )

    def run(**change):
        papermill.execute_notebook(
            ROOT / "nbs/benchmark.ipynb",
            None,
            parameters | change,
            cwd=tmp_path,
            progress_bar=False,
        )

    run()
    table = pd.read_csv(tmp_path / "figures/benchmark.csv")
    assert list(table) == ["work", "plain", "fast", "unit", "ratio", "at_least"] and len(table) == 9
    assert (table[["plain", "fast", "ratio"]] > 0).all(axis=None)
    calls, saved = (
        table[table["work"].str.contains(word)] for word in ("operator calls", "saved for backward")
    )
    # counts depend on no machine
    assert (calls["ratio"] > 3).all() and (saved["ratio"] < 0.6).all()
    run(works="calls,crops")
    after = pd.read_csv(tmp_path / "figures/benchmark.csv")
    assert after.iloc[:9].equals(table) and len(after) == 12
    with pytest.raises(papermill.PapermillExecutionError, match="works='serach': unknown"):
        run(works="serach")


def test_results_of_other_conditions_are_dropped(tmp_path):
    def row(value):
        return bench.Row("work", 2, "ms", lambda: [[3 * value], [value]])

    conditions = bench.Conditions("cpu", 1, 1, "smoke")
    bench.Results(tmp_path, conditions).add(row(1.0))
    bench.Results(tmp_path, conditions).add(row(2.0))  # it is there
    assert bench.Results(tmp_path, conditions).table["plain"].tolist() == [3]
    samples = bench.Results(tmp_path, conditions).samples
    (tmp_path / "benchmark.csv").unlink()  # as where it was cut off between its files
    bench.Results(tmp_path, conditions).add(row(1.0))
    assert bench.Results(tmp_path, conditions).samples.equals(samples)
    for changes in (dict(fresh=True), dict(conditions=bench.Conditions("cpu", 2, 1, "smoke"))):
        results = bench.Results(tmp_path, **dict(conditions=conditions) | changes)
        assert not len(results.table) and not len(results.samples)
        results.add(row(2.0))
        assert results.table["plain"].tolist() == [6]


def test_an_interrupted_row_leaves_the_others(tmp_path):
    results = bench.Results(tmp_path, bench.Conditions("cpu", 1, 1, "smoke"))
    results.add(bench.Row("first", 2, "ms", lambda: [[3.0], [1.0]]))
    with pytest.raises(KeyboardInterrupt):
        results.add(bench.Row("second", 2, "ms", partial(_raise, KeyboardInterrupt)))
    assert results.table["work"].tolist() == results.samples["work"].unique().tolist() == ["first"]


def _raise(error):
    raise error


def test_goals_are_at_least_or_at_most():
    works = ["time", "time", "memory (at most)", "memory (at most)"]
    table = pd.DataFrame(
        dict(work=works, ratio=[2.5, 2.4, 0.6, 0.7], at_least=[2.5, 2.5, 0.6, 0.6])
    )
    assert bench.reached(table).tolist() == [True, False, True, False]


def test_the_released_table_and_its_sentence():
    table, run = bench.last_run()
    assert bench.sentence(table, run).startswith(f"{bench.reached(table).sum()} of {len(table)}")
    assert run["commit"] in bench.sentence(table, run)
    assert list(table) == ["work", "plain", "fast", "unit", "ratio", "at_least"]


@pytest.mark.long
def test_the_roofline_has_operators_and_a_picture(tmp_path):
    results = bench.Results(tmp_path, bench.Conditions("cpu", 1, 1, "smoke"))
    roof = bench.roofline(results)
    assert len(roof.table()) == 7 and (roof.table()["gflops"] > 0).all() and not len(roof.steps)
    assert str(roof).startswith("Peaks: matmul ")
    bench.draw_roofline(roof)


def _pairs():
    images = np.random.default_rng(0).integers(256, size=(32, 32, 32, 3), dtype=np.uint8)
    build = partial(darts.build, darts.sample(1, 0)[0], stem="cifar", width=16, depth=3)
    supernet = dict(stem="cifar", width=16, depth=3, image=32, batch=8)
    return {
        "search": bench.pair(partial(bench.SearchStep, **supernet)),
        "training": bench.pair(partial(bench.training_step, build=build, image=32, batch=8)),
        **{name: bench.pretext_pair(name, list(images)) for name in ("rot", "col", "jig")},
    }


def _seconds(step):
    start = time.process_time()
    step()
    return time.process_time() - start


def _ratio(steps):
    rounds = [[*map(_seconds, steps)] for _ in range(3)][1:]  # the first warms up
    return median(before / after for before, after in rounds)


@pytest.mark.clock
def test_nothing_fast_is_slower_than_its_plain_twin():
    """Each is faster by half or more, so that one of three tries on a busy machine shows it. The
    time is that of this process, of which others take none.
    """
    for name, steps in _pairs().items():
        assert any(_ratio(steps) > 1 for _ in range(3)), name
