"Statistics against scipy and statsmodels, exact enumeration and simulation, on ties, NaN and degenerate input."

from fractions import Fraction
from itertools import combinations
from math import comb

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


def test_pairs_take_the_reference_from_another_table():
    here, there = scores(6, spaces=("nasbench101", "darts")), scores(8, spaces=("darts", "nasbench101"), tasks=("cls",), seed=1)
    both = stats.pairs(here, targets=there)
    assert list(dict.fromkeys(both.space)) == ["nasbench101", "darts"] and list(dict.fromkeys(both.task)) == ["cls", "rot", "col"]
    assert both.groupby(["space", "task"]).size().eq(8).all() and len(both) == 6 * 8
    row = both[(both.space == "darts") & (both.task == "cls") & (both.architecture == "004")].iloc[0]
    def of(frame):
        return frame[(frame.space == "darts") & (frame.task == "cls") & (frame.architecture == "004")].score.item()
    assert (row.x, row.y) == (of(there), of(here)) and row.x != row.y
    assert both[both.architecture == "007"].y.isna().all() and both.x.notna().all()
    pd.testing.assert_frame_equal(stats.pairs(here, targets=here, tasks=["rot"]), stats.pairs(here, tasks=["rot"]))
    with pytest.raises(ValueError, match="targets: .* occurs twice"):
        stats.pairs(here, targets=pd.concat([there, there]))
    with pytest.raises(ValueError, match="'cls': has no scores"):
        stats.pairs(here, targets=here[here.task == "rot"])


def best_of_all_draws(proxy, target, m):
    "Mean and standard deviation over all draws, in fractions; equal proxy scores count for equal parts."
    first = second = Fraction(0)
    for draw in combinations(range(len(proxy)), m):
        best = [target[i] for i in draw if proxy[i] == max(proxy[j] for j in draw)]
        first += Fraction(sum(best), len(best))
        second += Fraction(sum(t * t for t in best), len(best))
    count = comb(len(proxy), m)
    return float(first / count), float(second / count - (first / count) ** 2) ** 0.5


@pytest.mark.parametrize("levels", [1000, 4, 1])
def test_expected_best_equals_enumeration(levels):
    rng = np.random.default_rng(9)
    proxy, target = rng.integers(0, levels, 11).tolist(), rng.integers(0, 50, 11).tolist()
    for m in range(1, 12):
        assert stats.expected_best(proxy, target, m) == pytest.approx(best_of_all_draws(proxy, target, m), abs=1e-12)
    mean, std = stats.expected_best(proxy, target, [1, 5])
    assert mean.shape == std.shape == (2,) and (mean[1], std[1]) == stats.expected_best(proxy, target, 5)


@pytest.mark.parametrize("n, m", [(500, 1), (500, 7), (500, 256), (500, 500), (1500, 600)])
def test_chances_equal_binomials_in_whole_numbers(n, m):
    expected = [float(Fraction(comb(i, m - 1), comb(n, m))) for i in range(n)]
    assert stats.best_of_draw(n, m) == pytest.approx(expected, rel=1e-10, abs=1e-290)


def test_chances_are_stable_for_a_whole_search_space():
    n = 423624
    for m in (1, 2, 1000, n // 2, n):
        p = stats.best_of_draw(n, m)
        assert p.sum() == pytest.approx(1, abs=1e-9) and (p >= 0).all() and (np.diff(p) >= 0).all()
    # the best rank of m from 1..n is (n + 1) m / (m + 1) on average
    rank = np.arange(1.0, n + 1)
    for m in (1, 3, 4096):
        assert stats.expected_best(rank, rank, m)[0] == pytest.approx((n + 1) * m / (m + 1), rel=1e-9)


def test_expected_best_equals_a_long_simulation():
    rng = np.random.default_rng(10)
    proxy = rng.integers(0, 6, 40)
    target = proxy + rng.normal(size=40)
    order = rng.permuted(np.tile(np.arange(40), (40000, 1)), axis=1)[:, :5]
    found = target[np.take_along_axis(order, proxy[order].argmax(axis=1)[:, None], axis=1)]
    mean, std = stats.expected_best(proxy, target, 5)
    assert mean == pytest.approx(found.mean(), abs=4 * std / 200) and std == pytest.approx(found.std(), rel=0.03)


def test_random_experiment_draws_as_the_paper_says():
    target = np.random.default_rng(11).normal(size=500)
    played = stats.random_experiment(target, target)
    assert played.m.tolist() == [2**i for i in range(9)] and played.repetitions.tolist() == [500, 250, 125, 63, 32, 16, 8, 4, 2]
    assert (played["mean"].diff().dropna() > -0.1).all() and played["mean"].iloc[-1] > np.quantile(target, 0.99)
    expected, std = stats.expected_best(target, target, played.m.tolist())
    assert (abs(played["mean"] - expected) < 4 * std / np.sqrt(played.repetitions)).all()
    assert played.equals(stats.random_experiment(target, target)) and not played.equals(stats.random_experiment(target, target, seed=1))
    assert stats.random_experiment(target, target, sizes=[8]).iloc[0].tolist() == played.iloc[3].tolist()  # whatever the other sizes
    whole = stats.random_experiment(target, target, sizes=[500])
    assert (whole["mean"][0], whole.repetitions[0]) == (target.max(), 1) and np.isnan(whole["std"][0])


def test_random_experiment_gives_equal_proxies_equal_chances():
    played = [stats.random_experiment([1, 1, 1, 0], [10, 20, 30, 99], sizes=[3], seed=seed)["mean"][0] for seed in range(600)]
    assert np.mean(played) == pytest.approx(20, abs=1.0) and 10 < min(played) + 1 and max(played) <= 30


def test_random_experiment_leaves_out_what_has_no_score():
    proxy, target = [1, 2, np.nan, 3, 4], [5, 6, 99, np.inf, 7]
    played = stats.random_experiment(proxy, target)
    assert played.m.tolist() == [1, 2] and played.dropped.tolist() == [2, 2] and played["mean"].max() <= 7
    assert stats.expected_best(proxy, target, 3) == (7, 0) and stats.top_k_regret(proxy, target, 1) == 0
    assert len(stats.random_experiment([1, np.nan], [np.nan, 1])) == 0


@pytest.mark.parametrize("function", [lambda m: stats.random_experiment([1, 2, 3], [1, 2, 3], sizes=[m]),
                                      lambda m: stats.expected_best([1, 2, 3], [1, 2, 3], m), lambda m: stats.top_k_regret([1, 2, 3], [1, 2, 3], m)])
@pytest.mark.parametrize("m", [0, 4, 1.5])
def test_sizes_beyond_the_architectures_are_refused(function, m):
    with pytest.raises(ValueError, match=f"={m}: must be a whole number from 1 to 3"):
        function(m)


def test_random_experiments_row_by_row():
    both = stats.pairs(scores(20, spaces=("darts", "nasbench101")))
    both.loc[0, "y"] = np.nan
    table = stats.random_experiments(both, sizes=[1, 4])
    assert (table.space + " " + table.task).unique().tolist() == ["darts rot", "darts col", "nasbench101 rot", "nasbench101 col"]
    assert table.n.tolist() == [19, 19] + [20] * 6 and table.dropped.tolist() == [1, 1] + [0] * 6
    group = both[(both.space == "nasbench101") & (both.task == "col")]
    assert table.iloc[-1][["expected", "expected_std"]].tolist() == list(stats.expected_best(group.y, group.x, 4))
    assert table.iloc[-1]["mean"] == stats.random_experiment(group.y, group.x, sizes=[4])["mean"][0]


@pytest.mark.parametrize("levels", [1000, 3])
def test_regret_equals_enumeration(levels):
    rng = np.random.default_rng(12)
    score, truth = rng.integers(0, levels, 9), rng.normal(size=9)
    for k in range(1, 10):
        sums = {draw: sum(score[i] for i in draw) for draw in combinations(range(9), k)}
        chosen = [draw for draw, total in sums.items() if total == max(sums.values())]  # all sets of k with the highest scores
        expected = truth.max() - np.mean([max(truth[i] for i in draw) for draw in chosen])
        assert stats.top_k_regret(score, truth, k) == pytest.approx(expected)
    every = stats.top_k_regret(score, truth, range(1, 10))
    assert every.shape == (9,) and (np.diff(every) <= 1e-12).all() and every[-1] == 0


def noisy_runs(n, seeds, noise, seed=0):
    "Runs with a common quality of variance 1 and noise of the given variance, by task."
    rng, frames = np.random.default_rng(seed), []
    quality = rng.normal(size=n)
    for task, variance in noise.items():
        for s in range(seeds):
            frames.append(pd.DataFrame({"space": "darts", "task": task, "architecture": np.arange(n), "seed": s,
                                        "score": quality + variance**0.5 * rng.normal(size=n), "parameters": 1, "multiply_adds": 1}))
    return pd.concat(frames, ignore_index=True)


def test_seed_correlation_is_the_mean_over_pairs_of_seeds():
    runs = noisy_runs(30, 3, {"cls": 0.5, "rot": 1.0})
    runs.loc[[2, 35, 64], "score"] = np.nan  # architecture 2 without seed 0, 5 without 1, 4 without 2
    table = stats.seed_correlation(runs, resamples=100).set_index("task")
    wide = runs[runs.task == "cls"].pivot(index="architecture", columns="seed", values="score")
    rhos = [scipy.stats.spearmanr(wide[a], wide[b], nan_policy="omit").statistic for a, b in combinations(range(3), 2)]
    assert table.rho["cls"] == pytest.approx(np.mean(rhos)) and (table.n["cls"], table.seeds["cls"], table.dropped["cls"]) == (30, 3, 0)
    assert table.reliability["cls"] == pytest.approx(3 * np.mean(rhos) / (1 + 2 * np.mean(rhos)))
    assert table.ceiling["rot"] == pytest.approx((table.reliability["cls"] * table.reliability["rot"]) ** 0.5)
    one = stats.seed_correlation(runs[runs.seed == 0])
    assert one.rho.isna().all() and one.ceiling.isna().all() and one.reason[0] == "only 0 architecture(s) with two seeds"
    with pytest.raises(ValueError, match="occurs twice"):
        stats.seed_correlation(pd.concat([runs, runs]))
    sizes = stats.seed_correlation(pd.concat([runs.assign(size=16), runs.assign(size=32)]), by=["space", "size"], resamples=20)
    assert sizes[["size", "task"]].values.tolist() == [[16, "cls"], [16, "rot"], [32, "cls"], [32, "rot"]] and sizes.rho.nunique() == 2


def test_interval_between_seeds_covers_the_truth():
    truth, hits = 6 / np.pi * np.arcsin(2 / 3 / 2), []  # two scores with noise of variance 1/2 correlate by 2/3
    for trial in range(150):
        rng = np.random.default_rng(trial)
        quality = rng.normal(size=40)
        found = stats.between_seeds(quality[:, None] + 0.5**0.5 * rng.normal(size=(40, 3)), resamples=200, seed=trial)
        hits.append(found.low <= truth <= found.high)
    assert 0.87 <= np.mean(hits) <= 0.99


@pytest.mark.parametrize("seeds", [2, 4])
def test_scores_of_equal_quality_correlate_up_to_the_ceiling(seeds):
    runs = noisy_runs(4000, seeds, {"cls": 0.3, "rot": 1.5})
    ceiling = stats.seed_correlation(runs, resamples=20).set_index("task").ceiling["rot"]
    both = stats.pairs(stats.over_seeds(runs))
    assert stats.spearman(both.x, both.y, resamples=10).value == pytest.approx(ceiling, abs=0.025)


@pytest.mark.filterwarnings("error")
def test_between_seeds_explains_what_is_undefined():
    assert stats.between_seeds(np.ones((6, 2))).reason == "all scores of a seed are equal"
    few = stats.between_seeds(np.array([[1.0, 2], [2, 1], [3, 3], [np.nan, 4]]))
    assert (few.value, few.n, few.dropped) == (pytest.approx(0.5), 3, 1) and np.isnan(few.low) and "needs 5" in few.reason
