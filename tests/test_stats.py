"Statistics against scipy and statsmodels, on ties, NaN and degenerate input."

import numpy as np
import pandas as pd
import pytest
import scipy.stats
import statsmodels.api as sm

from unnas import stats


def scores(n=20, spaces=("darts",), tasks=("cls", "rot", "col"), seed=0):
    rng = np.random.default_rng(seed)
    rows = []
    for space in spaces:
        for i, quality in enumerate(rng.normal(size=n)):
            rows += [{"space": space, "architecture": f"{i:03d}", "task": task, "score": 80 + quality + 0.5 * rng.normal(), "sd": 0.1,
                      "parameters": 100 + i, "multiply_adds": 1000 - i} for task in tasks]
    return pd.DataFrame(rows)


@pytest.mark.parametrize("ties", [False, True])
def test_spearman_and_kendall_equal_scipy(ties):
    rng = np.random.default_rng(1)
    for n in (3, 10, 100):
        x = rng.integers(0, 5, n).astype(float) if ties else rng.normal(size=n)
        y = x + (rng.integers(0, 5, n) if ties else rng.normal(size=n))
        assert stats.spearman(x, y, resamples=10).value == pytest.approx(scipy.stats.spearmanr(x, y).statistic)
        assert stats.kendall(x, y) == pytest.approx(scipy.stats.kendalltau(x, y).statistic)


def test_interval_equals_the_percentile_bootstrap_of_scipy():
    rng = np.random.default_rng(2)
    x = rng.normal(size=50)
    y = x + rng.normal(size=50)
    ours = stats.spearman(x, y, resamples=4000)
    theirs = scipy.stats.bootstrap((x, y), lambda a, b, axis: stats.rank_correlation(a, b), paired=True, vectorized=True, method="percentile",
                                   n_resamples=4000, rng=3).confidence_interval
    assert (ours.low, ours.high) == pytest.approx(tuple(theirs), abs=0.02)
    assert ours.low < ours.value < ours.high
    narrow = stats.spearman(x, y, confidence=0.5)
    assert ours.low < narrow.low < narrow.high < ours.high


def test_interval_covers_the_truth_about_as_often_as_it_says():
    rng = np.random.default_rng(4)
    truth = 6 / np.pi * np.arcsin(0.7 / 2)
    hits = 0
    for trial in range(400):
        x = rng.normal(size=40)
        interval = stats.spearman(x, 0.7 * x + np.sqrt(0.51) * rng.normal(size=40), confidence=0.8, resamples=300, seed=trial)
        hits += interval.low <= truth <= interval.high
    assert 0.74 <= hits / 400 <= 0.87


def test_interval_narrows_with_the_number_of_architectures():
    rng = np.random.default_rng(5)
    x = rng.normal(size=500)
    y = x + rng.normal(size=500)
    few, many = stats.spearman(x[:30], y[:30]), stats.spearman(x, y)
    assert 3 < (few.high - few.low) / (many.high - many.low) < 6  # about sqrt(500 / 30)


def test_same_seed_same_interval():
    x, y = np.random.default_rng(6).normal(size=(2, 30))
    assert stats.spearman(x, y, seed=1) == stats.spearman(x, y, seed=1) != stats.spearman(x, y, seed=2)


@pytest.mark.parametrize("function", [stats.spearman, stats.kendall, stats.spearman_better_half, stats.huber_line])
def test_bad_input_is_refused(function):
    with pytest.raises(ValueError, match="x: has 0 architecture.*pass more"):
        function([], [])
    with pytest.raises(ValueError, match="x: has 1 architecture"):
        function([1], [1])
    with pytest.raises(ValueError, match="same length"):
        function([1, 2, 3], [1, 2])


def test_diverged_runs_are_dropped_and_counted():
    result = stats.spearman([1, 2, 3, 4, np.nan, 6], [1, 2, 4, np.inf, 5, 3])
    assert (result.n, result.dropped) == (4, 2) and result.value == pytest.approx(0.8)
    assert "2 dropped" in str(result)
    nothing = stats.spearman([1, np.nan], [np.nan, 2])
    assert np.isnan(nothing.value) and (nothing.n, nothing.dropped, nothing.reason) == (0, 2, "only 0 finite pair(s)")
    assert np.isnan(stats.kendall([1, np.nan], [np.nan, 2])) and np.isnan(stats.spearman_better_half([1, np.nan], [np.nan, 2]).value)
    assert len(stats.huber_line([1, np.nan], [np.nan, 2])) == 0


def test_constant_scores_have_no_correlation():
    assert stats.spearman([1, 2, 3], [4, 4, 4]).reason == "all y are equal"
    assert np.isnan(stats.spearman([1, 2, 3], [4, 4, 4]).value) and np.isnan(stats.kendall([5, 5], [1, 2]))


@pytest.mark.filterwarnings("error")
def test_few_architectures_give_no_warnings():
    assert stats.spearman([1, 2], [5, 9]).value == pytest.approx(1) and np.isnan(stats.spearman([1, 2], [5, 9]).low)
    four = stats.spearman([1, 2, 3, 4], [1, 2, 4, 3])
    assert four.value == pytest.approx(0.8) and np.isnan(four.low) and four.reason == "an interval needs 5 finite pairs"
    five = stats.spearman([1, 2, 3, 4, 5], [1, 2, 4, 3, 5])
    assert -1 <= five.low < 0.9 < five.high <= 1
    assert stats.huber_line([1, 2, 3], [1, 3, 2]).low.isna().all()
    assert np.allclose(stats.huber_line([1, 2, 3, 4, 5], [5, 5, 5, 5, 5])[["y", "low", "high"]], 5)


def test_better_half_is_chosen_by_x():
    x = np.array([1, 2, 3, 4, 5, 6, 7.0])
    y = np.array([1, 2, 3, 7, 6, 5, 4.0])
    half = stats.spearman_better_half(x, y)
    assert (half.value, half.n) == (pytest.approx(-1), 4)
    assert stats.spearman_better_half(y, x).value == pytest.approx(-1)
    assert stats.spearman_better_half([1, 2, 2, 2, 3], [0, 1, 2, 3, 4]).n == 4  # ties with the last one stay


def test_huber_line_equals_statsmodels_and_resists_outliers():
    rng = np.random.default_rng(7)
    for n in (10, 200):
        x = rng.normal(90, 3, n)
        y = 20 + 0.7 * x + rng.standard_t(2, n)
        line = stats.huber_line(x, y, resamples=10)
        fit = sm.RLM(y, sm.add_constant(x), M=sm.robust.norms.HuberT()).fit(maxiter=300, tol=1e-12)
        assert np.allclose(line.y, fit.params[0] + fit.params[1] * line.x, atol=1e-4)
    x = np.linspace(0, 10, 40)
    y = 3 * x + rng.normal(0, 0.1, 40)
    y[-3:] = -100
    slope = stats.huber_fit(x, y)[1]
    assert abs(slope - 3) < 0.2 < abs(np.polyfit(x, y, 1)[0] - 3)


def test_huber_band_covers_the_true_line():
    rng = np.random.default_rng(8)
    hits = []
    for trial in range(150):
        x = rng.uniform(0, 1, 40)
        line = stats.huber_line(x, 2 * x + rng.normal(size=40), resamples=200, points=5, seed=trial)
        hits.append((line.low <= 2 * line.x) & (2 * line.x <= line.high))
    assert 0.87 <= np.mean(hits) <= 0.99


def test_over_seeds_averages_and_counts():
    runs = scores(4).drop(columns="sd")
    again = runs.assign(score=runs.score + 2)
    again.loc[0, "score"] = np.nan
    averaged = stats.over_seeds(pd.concat([runs, again]))
    assert len(averaged) == len(runs)
    assert averaged.score[0] == runs.score[0] and (averaged.runs[0], averaged.diverged[0]) == (1, 1)
    assert np.allclose(averaged.score[1:], runs.score[1:] + 1) and np.allclose(averaged.sd[1:], 2**0.5)
    with pytest.raises(ValueError, match="no column score"):
        stats.over_seeds(runs.drop(columns="score"))


def test_pairs_match_architectures_and_keep_the_incomplete():
    frame = scores(10, spaces=("nasbench101", "darts")).sample(frac=1, random_state=0)
    gone = (frame.space == "darts") & (frame.architecture == "003") & (frame.task == "rot")
    both = stats.pairs(frame[~gone], tasks=["rot", "col"])
    assert len(both) == 2 * 2 * 10 and both.y.isna().sum() == 1
    row = both[(both.space == "darts") & (both.task == "col") & (both.architecture == "007")].iloc[0]
    original = frame[(frame.space == "darts") & (frame.architecture == "007")].set_index("task")
    assert (row.x, row.y, row.parameters) == (original.score["cls"], original.score["col"], 107)
    with pytest.raises(ValueError, match="occurs twice"):
        stats.pairs(pd.concat([frame, frame]))
    with pytest.raises(ValueError, match="'jig': has no scores; the tasks with scores are"):
        stats.pairs(frame, tasks=["jig"])


def test_summary_row_by_row():
    both = stats.pairs(scores(20, spaces=("darts", "nasbench101")))
    both.loc[both.index[:20], "y"] = np.nan  # a whole task diverged
    table = stats.summary(both, resamples=200)
    assert table[["space", "task"]].values.tolist() == [["darts", "rot"], ["darts", "col"], ["nasbench101", "rot"], ["nasbench101", "col"]]
    assert (table.n[0], table.dropped[0], table.reason[0]) == (0, 20, "only 0 finite pair(s)") and np.isnan(table.rho[0])
    group = both[(both.space == "nasbench101") & (both.task == "col")]
    assert table.rho[3] == pytest.approx(scipy.stats.spearmanr(group.x, group.y).statistic)
    assert table.rho_parameters[3] == pytest.approx(-table.rho_multiply_adds[3]) == pytest.approx(scipy.stats.spearmanr(group.x, group.parameters).statistic)
    lines = stats.huber_lines(both, resamples=20)
    assert set(map(tuple, lines[["space", "task"]].values)) == {("darts", "col"), ("nasbench101", "rot"), ("nasbench101", "col")}


def test_summary_of_one_architecture_explains_itself():
    with pytest.raises(ValueError, match="needs at least 2"):
        stats.summary(stats.pairs(scores(1)))
