"""Statistics against scipy and statsmodels, exact enumeration and simulation, on ties, NaN and
degenerate input.
"""

from fractions import Fraction
from itertools import combinations, product
from math import comb
from time import process_time

import numpy as np
import pandas as pd
import pytest
import scipy.stats
import statsmodels.api as sm
from statsmodels.stats.multitest import multipletests

from unnas import stats


def scores(n=20, spaces=("darts",), tasks=("cls", "rot", "col"), seed=0):
    rng = np.random.default_rng(seed)
    rows = []
    for space in spaces:
        for i, quality in enumerate(rng.normal(size=n)):
            rows += [
                {
                    "space": space,
                    "architecture": f"{i:03d}",
                    "task": task,
                    "score": 80 + quality + 0.5 * rng.normal(),
                    "sd": 0.1,
                    "parameters": 100 + i,
                    "multiply_adds": 1000 - i,
                }
                for task in tasks
            ]
    return pd.DataFrame(rows)


@pytest.mark.parametrize("ties", [False, True])
def test_spearman_and_kendall_equal_scipy(ties):
    rng = np.random.default_rng(1)
    for n in (3, 10, 100):
        x = rng.integers(0, 5, n).astype(float) if ties else rng.normal(size=n)
        y = x + (rng.integers(0, 5, n) if ties else rng.normal(size=n))
        assert stats.spearman(x, y, resamples=10).value == pytest.approx(
            scipy.stats.spearmanr(x, y).statistic
        )
        assert stats.kendall(x, y) == pytest.approx(scipy.stats.kendalltau(x, y).statistic)


def test_interval_equals_the_percentile_bootstrap_of_scipy():
    rng = np.random.default_rng(2)
    x = rng.normal(size=50)
    y = x + rng.normal(size=50)
    ours = stats.spearman(x, y, resamples=4000)
    theirs = scipy.stats.bootstrap(
        (x, y),
        lambda a, b, axis: stats.rank_correlation(a, b),
        paired=True,
        vectorized=True,
        method="percentile",
        n_resamples=4000,
        rng=3,
    ).confidence_interval
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
        interval = stats.spearman(
            x,
            0.7 * x + np.sqrt(0.51) * rng.normal(size=40),
            confidence=0.8,
            resamples=300,
            seed=trial,
        )
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
    assert (
        stats.spearman(x, y, seed=1) == stats.spearman(x, y, seed=1) != stats.spearman(x, y, seed=2)
    )


@pytest.mark.parametrize(
    "function", [stats.spearman, stats.kendall, stats.spearman_better_half, stats.huber_line]
)
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
    assert np.isnan(nothing.value) and (nothing.n, nothing.dropped, nothing.reason) == (
        0,
        2,
        "only 0 finite pair(s)",
    )
    assert np.isnan(stats.kendall([1, np.nan], [np.nan, 2])) and np.isnan(
        stats.spearman_better_half([1, np.nan], [np.nan, 2]).value
    )
    assert len(stats.huber_line([1, np.nan], [np.nan, 2])) == 0


def test_constant_scores_have_no_correlation():
    assert stats.spearman([1, 2, 3], [4, 4, 4]).reason == "all y are equal"
    assert np.isnan(stats.spearman([1, 2, 3], [4, 4, 4]).value) and np.isnan(
        stats.kendall([5, 5], [1, 2])
    )


@pytest.mark.filterwarnings("error")
def test_few_architectures_give_no_warnings():
    assert stats.spearman([1, 2], [5, 9]).value == pytest.approx(1) and np.isnan(
        stats.spearman([1, 2], [5, 9]).low
    )
    four = stats.spearman([1, 2, 3, 4], [1, 2, 4, 3])
    assert (
        four.value == pytest.approx(0.8)
        and np.isnan(four.low)
        and four.reason == "an interval needs 5 finite pairs"
    )
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
    # ties with the last one stay
    assert stats.spearman_better_half([1, 2, 2, 2, 3], [0, 1, 2, 3, 4]).n == 4


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
    line = stats.huber_line(x, y, resamples=10)
    slope = np.polyfit(line.x, line.y, 1)[0]
    assert abs(slope - 3) < 0.2 < abs(np.polyfit(x, y, 1)[0] - 3)


@pytest.mark.slow
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
    assert np.allclose(averaged.score[1:], runs.score[1:] + 1) and np.allclose(
        averaged.sd[1:], 2**0.5
    )
    with pytest.raises(ValueError, match="no column score"):
        stats.over_seeds(runs.drop(columns="score"))


def test_pairs_match_architectures_and_keep_the_incomplete():
    frame = scores(10, spaces=("nasbench101", "darts")).sample(frac=1, random_state=0)
    gone = (frame.space == "darts") & (frame.architecture == "003") & (frame.task == "rot")
    both = stats.pairs(frame[~gone], tasks=["rot", "col"])
    assert len(both) == 2 * 2 * 10 and both.y.isna().sum() == 1
    row = both[(both.space == "darts") & (both.task == "col") & (both.architecture == "007")].iloc[
        0
    ]
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
    assert table[["space", "task"]].values.tolist() == [
        ["darts", "rot"],
        ["darts", "col"],
        ["nasbench101", "rot"],
        ["nasbench101", "col"],
    ]
    assert (table.n[0], table.dropped[0], table.reason[0]) == (
        0,
        20,
        "only 0 finite pair(s)",
    ) and np.isnan(table.rho[0])
    group = both[(both.space == "nasbench101") & (both.task == "col")]
    assert table.rho[3] == pytest.approx(scipy.stats.spearmanr(group.x, group.y).statistic)
    assert (
        table.rho_parameters[3]
        == pytest.approx(-table.rho_multiply_adds[3])
        == pytest.approx(scipy.stats.spearmanr(group.x, group.parameters).statistic)
    )
    lines = stats.huber_lines(both, resamples=20)
    assert set(map(tuple, lines[["space", "task"]].values)) == {
        ("darts", "col"),
        ("nasbench101", "rot"),
        ("nasbench101", "col"),
    }


def test_summary_of_one_architecture_explains_itself():
    with pytest.raises(ValueError, match="needs at least 2"):
        stats.summary(stats.pairs(scores(1)))


def test_pairs_take_the_reference_from_another_table():
    here, there = (
        scores(6, spaces=("nasbench101", "darts")),
        scores(8, spaces=("darts", "nasbench101"), tasks=("cls",), seed=1),
    )
    both = stats.pairs(here, targets=there)
    assert list(dict.fromkeys(both.space)) == ["nasbench101", "darts"] and list(
        dict.fromkeys(both.task)
    ) == ["cls", "rot", "col"]
    assert both.groupby(["space", "task"]).size().eq(8).all() and len(both) == 6 * 8
    row = both[(both.space == "darts") & (both.task == "cls") & (both.architecture == "004")].iloc[
        0
    ]

    def of(frame):
        return frame[
            (frame.space == "darts") & (frame.task == "cls") & (frame.architecture == "004")
        ].score.item()

    assert (row.x, row.y) == (of(there), of(here)) and row.x != row.y
    assert both[both.architecture == "007"].y.isna().all() and both.x.notna().all()
    pd.testing.assert_frame_equal(
        stats.pairs(here, targets=here, tasks=["rot"]), stats.pairs(here, tasks=["rot"])
    )
    with pytest.raises(ValueError, match="targets: .* occurs twice"):
        stats.pairs(here, targets=pd.concat([there, there]))
    with pytest.raises(ValueError, match="'cls': has no scores"):
        stats.pairs(here, targets=here[here.task == "rot"])


def best_of_all_draws(proxy, target, m):
    """Mean and standard deviation over all draws, in fractions; equal proxy scores count for equal
    parts.
    """
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
        assert stats.expected_best(proxy, target, m) == pytest.approx(
            best_of_all_draws(proxy, target, m), abs=1e-12
        )
    mean, std = stats.expected_best(proxy, target, [1, 5])
    assert mean.shape == std.shape == (2,) and (mean[1], std[1]) == stats.expected_best(
        proxy, target, 5
    )


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
        assert stats.expected_best(rank, rank, m)[0] == pytest.approx(
            (n + 1) * m / (m + 1), rel=1e-9
        )


def test_expected_best_equals_a_long_simulation():
    rng = np.random.default_rng(10)
    proxy = rng.integers(0, 6, 40)
    target = proxy + rng.normal(size=40)
    order = rng.permuted(np.tile(np.arange(40), (40000, 1)), axis=1)[:, :5]
    found = target[np.take_along_axis(order, proxy[order].argmax(axis=1)[:, None], axis=1)]
    mean, std = stats.expected_best(proxy, target, 5)
    assert mean == pytest.approx(found.mean(), abs=4 * std / 200) and std == pytest.approx(
        found.std(), rel=0.03
    )


def test_random_experiment_draws_as_the_paper_says():
    target = np.random.default_rng(11).normal(size=500)
    played = stats.random_experiment(target, target)
    assert played.m.tolist() == [2**i for i in range(9)] and played.repetitions.tolist() == [
        500,
        250,
        125,
        63,
        32,
        16,
        8,
        4,
        2,
    ]
    assert (played["mean"].diff().dropna() > -0.1).all() and played["mean"].iloc[-1] > np.quantile(
        target, 0.99
    )
    expected, std = stats.expected_best(target, target, played.m.tolist())
    assert (abs(played["mean"] - expected) < 4 * std / np.sqrt(played.repetitions)).all()
    assert played.equals(stats.random_experiment(target, target)) and not played.equals(
        stats.random_experiment(target, target, seed=1)
    )
    # whatever the other sizes
    assert (
        stats.random_experiment(target, target, sizes=[8]).iloc[0].tolist()
        == played.iloc[3].tolist()
    )
    whole = stats.random_experiment(target, target, sizes=[500])
    assert (whole["mean"][0], whole.repetitions[0]) == (target.max(), 1) and whole["std"][0] == 0
    # of two draws, as NumPy's std has it
    found = [played["mean"].iloc[-1] + sign * played["std"].iloc[-1] for sign in (-1, 1)]
    assert all(np.isclose(target, value).any() for value in found)


def test_random_experiment_gives_equal_proxies_equal_chances():
    played = [
        stats.random_experiment([1, 1, 1, 0], [10, 20, 30, 99], sizes=[3], seed=seed)["mean"][0]
        for seed in range(600)
    ]
    assert (
        np.mean(played) == pytest.approx(20, abs=1.0) and 10 < min(played) + 1 and max(played) <= 30
    )


def test_random_experiment_leaves_out_what_has_no_score():
    proxy, target = [1, 2, np.nan, 3, 4], [5, 6, 99, np.inf, 7]
    played = stats.random_experiment(proxy, target)
    assert (
        played.m.tolist() == [1, 2]
        and played.dropped.tolist() == [2, 2]
        and played["mean"].max() <= 7
    )
    assert (
        stats.expected_best(proxy, target, 3) == (7, 0)
        and stats.top_k_regret(proxy, target, 1) == 0
    )
    assert len(stats.random_experiment([1, np.nan], [np.nan, 1])) == 0


@pytest.mark.parametrize(
    "function",
    [
        lambda m: stats.random_experiment([1, 2, 3], [1, 2, 3], sizes=[m]),
        lambda m: stats.expected_best([1, 2, 3], [1, 2, 3], m),
        lambda m: stats.top_k_regret([1, 2, 3], [1, 2, 3], m),
    ],
)
@pytest.mark.parametrize("m", [0, 4, 1.5])
def test_sizes_beyond_the_architectures_are_refused(function, m):
    with pytest.raises(ValueError, match=f"={m}: must be a whole number from 1 to 3"):
        function(m)


def test_random_experiments_row_by_row():
    both = stats.pairs(scores(20, spaces=("darts", "nasbench101")))
    both.loc[0, "y"] = np.nan
    table = stats.random_experiments(both, sizes=[1, 4])
    assert (table.space + " " + table.task).unique().tolist() == [
        "darts rot",
        "darts col",
        "nasbench101 rot",
        "nasbench101 col",
    ]
    assert table.n.tolist() == [19, 19] + [20] * 6 and table.dropped.tolist() == [1, 1] + [0] * 6
    group = both[(both.space == "nasbench101") & (both.task == "col")]
    assert table.iloc[-1][["expected", "expected_std"]].tolist() == list(
        stats.expected_best(group.y, group.x, 4)
    )
    assert table.iloc[-1]["mean"] == stats.random_experiment(group.y, group.x, sizes=[4])["mean"][0]


@pytest.mark.parametrize("levels", [1000, 3])
def test_regret_equals_enumeration(levels):
    rng = np.random.default_rng(12)
    score, truth = rng.integers(0, levels, 9), rng.normal(size=9)
    for k in range(1, 10):
        sums = {draw: sum(score[i] for i in draw) for draw in combinations(range(9), k)}
        # all sets of k with the highest scores
        chosen = [draw for draw, total in sums.items() if total == max(sums.values())]
        expected = truth.max() - np.mean([max(truth[i] for i in draw) for draw in chosen])
        assert stats.top_k_regret(score, truth, k) == pytest.approx(expected)
    every = stats.top_k_regret(score, truth, range(1, 10))
    assert every.shape == (9,) and (np.diff(every) <= 1e-12).all() and every[-1] == 0


def noisy_runs(n, seeds, noise, seed=0):
    """Runs with a common quality of variance 1 and noise of the given variance, by task."""
    rng, frames = np.random.default_rng(seed), []
    quality = rng.normal(size=n)
    for task, variance in noise.items():
        for s in range(seeds):
            frames.append(
                pd.DataFrame(
                    {
                        "space": "darts",
                        "task": task,
                        "architecture": np.arange(n),
                        "seed": s,
                        "score": quality + variance**0.5 * rng.normal(size=n),
                        "parameters": 1,
                        "multiply_adds": 1,
                    }
                )
            )
    return pd.concat(frames, ignore_index=True)


def test_seed_correlation_is_the_mean_over_pairs_of_seeds():
    runs = noisy_runs(30, 3, {"cls": 0.5, "rot": 1.0})
    # architecture 2 without seed 0, 5 without 1, 4 without 2
    runs.loc[[2, 35, 64], "score"] = np.nan
    table = stats.seed_correlation(runs, resamples=100).set_index("task")
    wide = runs[runs.task == "cls"].pivot(index="architecture", columns="seed", values="score")
    rhos = [
        scipy.stats.spearmanr(wide[a], wide[b], nan_policy="omit").statistic
        for a, b in combinations(range(3), 2)
    ]
    assert table.rho["cls"] == pytest.approx(np.mean(rhos)) and (
        table.n["cls"],
        table.seeds["cls"],
        table.dropped["cls"],
    ) == (30, 3, 0)
    assert table.reliability["cls"] == pytest.approx(3 * np.mean(rhos) / (1 + 2 * np.mean(rhos)))
    assert table.ceiling["rot"] == pytest.approx(
        (table.reliability["cls"] * table.reliability["rot"]) ** 0.5
    )
    one = stats.seed_correlation(runs[runs.seed == 0])
    assert (
        one.rho.isna().all()
        and one.ceiling.isna().all()
        and one.reason[0] == "only 0 architecture(s) with two seeds"
    )
    with pytest.raises(ValueError, match="occurs twice"):
        stats.seed_correlation(pd.concat([runs, runs]))
    sizes = stats.seed_correlation(
        pd.concat([runs.assign(size=16), runs.assign(size=32)]), by=["space", "size"], resamples=20
    )
    assert (
        sizes[["size", "task"]].values.tolist()
        == [[16, "cls"], [16, "rot"], [32, "cls"], [32, "rot"]]
        and sizes.rho.nunique() == 2
    )


def test_interval_between_seeds_covers_the_truth():
    # two scores with noise of variance 1/2 correlate by 2/3
    truth, hits = 6 / np.pi * np.arcsin(2 / 3 / 2), []
    for trial in range(150):
        rng = np.random.default_rng(trial)
        quality = rng.normal(size=40)
        found = stats.between_seeds(
            quality[:, None] + 0.5**0.5 * rng.normal(size=(40, 3)), resamples=200, seed=trial
        )
        hits.append(found.low <= truth <= found.high)
    assert 0.87 <= np.mean(hits) <= 0.99


@pytest.mark.parametrize("seeds", [2, 4])
def test_scores_of_equal_quality_correlate_up_to_the_ceiling(seeds):
    runs = noisy_runs(4000, seeds, {"cls": 0.3, "rot": 1.5})
    ceiling = stats.seed_correlation(runs, resamples=20).set_index("task").ceiling["rot"]
    both = stats.pairs(stats.over_seeds(runs))
    assert stats.spearman(both.x, both.y, resamples=10).value == pytest.approx(ceiling, abs=0.025)


@pytest.mark.filterwarnings("error")
def test_two_architectures_whose_seeds_contradict_each_other_have_no_ceiling():
    rows = [("cls", 0, 0, 1.0), ("cls", 1, 0, 2), ("cls", 0, 1, 2), ("cls", 1, 1, 1)]
    runs = pd.DataFrame(rows, columns=["task", "architecture", "seed", "score"])
    both = pd.concat([runs, runs.assign(task="rot")]).assign(space="darts")
    table = stats.seed_correlation(both, resamples=20)
    assert (table.rho == -1).all() and table.ceiling.isna().all()


def test_between_seeds_explains_what_is_undefined():
    assert stats.between_seeds(np.ones((6, 2))).reason == "all scores of a seed are equal"
    few = stats.between_seeds(np.array([[1.0, 2], [2, 1], [3, 3], [np.nan, 4]]))
    assert (
        (few.value, few.n, few.dropped) == (pytest.approx(0.5), 3, 1)
        and np.isnan(few.low)
        and "needs 5" in few.reason
    )


@pytest.mark.filterwarnings("error")
def test_ranks_by_counting_equal_scipy():
    rng = np.random.default_rng(20)
    for levels in (3, 10**6):
        x, y = rng.integers(0, levels, (2, 7, 30)).astype(float)
        x[rng.random(x.shape) < 0.2] = np.nan
        y[rng.random(y.shape) < 0.2] = np.inf
        expected = []
        for a, b in zip(x, y):
            both = np.isfinite(a) & np.isfinite(b)
            expected.append(scipy.stats.spearmanr(a[both], b[both]).statistic)
        assert stats.rank_correlation(x, y) == pytest.approx(expected)
        assert stats.rank_correlation(x, y[0]) == pytest.approx(
            [stats.rank_correlation(a, y[0]) for a in x]
        )
    assert np.isnan(stats.rank_correlation(np.array([1, 2, np.nan]), np.array([1, np.nan, 2])))


def residuals(a, z):
    """What is left of the ranks of a when a line in the ranks of z is taken out."""
    a, z = scipy.stats.rankdata(a), scipy.stats.rankdata(z)
    return a - np.polyval(np.polyfit(z, a, 1), z)


@pytest.mark.parametrize("ties", [False, True])
def test_partial_correlation_is_that_of_residuals(ties):
    rng = np.random.default_rng(21)
    for n in (5, 30, 200):
        z = rng.normal(size=n)
        x, y, z = (
            of.round(0 if ties else 9) for of in (z + rng.normal(size=n), z - rng.normal(size=n), z)
        )
        ours = stats.partial_spearman(x, y, z, resamples=10).value
        assert ours == pytest.approx(np.corrcoef(residuals(x, z), residuals(y, z))[0, 1])
        fits = [
            sm.OLS(scipy.stats.rankdata(of), sm.add_constant(scipy.stats.rankdata(z))).fit().resid
            for of in (x, y)
        ]
        assert ours == pytest.approx(np.corrcoef(fits)[0, 1])
        # who lacks a score does not count
        with_more = [np.nan, 3 * n, *x], [1, -3 * n, *y], [1, np.nan, *z]
        assert ours == pytest.approx(stats.partial_spearman(*with_more, resamples=10).value)


@pytest.mark.filterwarnings("error")
def test_partial_and_difference_explain_what_is_undefined():
    x, y = np.random.default_rng(22).normal(size=(2, 9))
    assert (
        stats.partial_spearman(x, y, np.exp(x)).reason
        == "x or y ranks the architectures exactly as z does"
    )
    assert (
        stats.partial_spearman(x, y, -y).reason
        == "x or y ranks the architectures exactly as z does"
    )
    for function in (stats.partial_spearman, stats.rho_difference):
        assert function(x, y, np.ones(9)).reason == "all z are equal" and np.isnan(
            function(x, y, np.ones(9)).p
        )
        assert (
            function([1, 2, 3, 4], [2, 1, 4, 3], [3, 1, 2, 4]).reason
            == "an interval needs 5 finite pairs"
        )
        lacking = function(x, y, [np.nan, *range(8)])
        assert (lacking.n, lacking.dropped) == (8, 1) and lacking.low < lacking.value < lacking.high
        with pytest.raises(ValueError, match="x, y, z: shapes .* same length"):
            function(x, y, x[:5])
    # beyond 1 where the one is good and the other bad
    assert stats.rho_difference(x, y, -y).value == pytest.approx(2 * stats.spearman(x, y).value)


def three_scores(rng, n, with_y, with_z, seeds):
    """x, y and z with correlations of the means over seeds as given, and 0.5 for y and z; the
    reliability of a mean is 0.85, or 1 for one seed.
    """
    reliability = 0.85 if seeds > 1 else 1
    a, b, c = (r / reliability for r in (with_y, with_z, 0.5))
    quality = rng.multivariate_normal(np.zeros(3), [[1, a, b], [a, 1, c], [b, c, 1]], size=n)
    noise = np.sqrt(seeds * (1 - reliability) / reliability) * rng.normal(size=(n, 3, seeds))
    return [quality[:, i, None] + noise[:, i] for i in range(3)]


@pytest.mark.slow
@pytest.mark.parametrize("seeds, n", [(1, 16), (1, 100), (2, 16), (2, 60)])
def test_difference_is_rarely_found_where_there_is_none(seeds, n):
    found = [
        stats.rho_difference(
            *three_scores(np.random.default_rng(trial), n, 0.6, 0.6, seeds),
            resamples=300,
            seed=trial,
        )
        for trial in range(200)
    ]
    assert np.mean([of.p <= 0.05 for of in found]) <= 0.08
    assert np.mean([not of.low <= 0 <= of.high for of in found]) <= 0.08
    # as often on the one side as on the other
    assert 0.3 < np.mean([of.p < 0.5 for of in found]) < 0.7


@pytest.mark.parametrize("seeds, least", [(1, 0.7), (2, 0.55)])
def test_difference_is_mostly_found_where_there_is_one(seeds, least):
    found = [
        stats.rho_difference(
            *three_scores(np.random.default_rng(trial), 100, 0.7, 0.5, seeds),
            resamples=300,
            seed=trial,
        )
        for trial in range(100)
    ]
    assert np.mean([of.p <= 0.05 for of in found]) > least
    assert np.mean([of.value for of in found]) == pytest.approx(
        6 / np.pi * (np.arcsin(0.35) - np.arcsin(0.25)), abs=0.02
    )


def test_partial_correlation_is_rarely_found_where_there_is_none():
    ps = []
    for trial in range(200):
        rng = np.random.default_rng(trial)
        size = rng.normal(size=40)
        x, y = (
            size[:, None] + rng.normal(size=(40, 1)) + 0.5 * rng.normal(size=(40, 2)) for _ in "xy"
        )
        ps.append(stats.partial_spearman(x, y, size, resamples=300, seed=trial).p)
    assert np.mean(np.array(ps) <= 0.05) <= 0.09


def test_p_counts_the_resamples_that_are_not_above_zero():
    x, y = np.random.default_rng(23).normal(size=(2, 12))
    values = stats.two_way(stats.rank_correlation, x, y, resamples=500)[2]
    assert stats.spearman(x, y, resamples=500).p == (1 + (values <= 0).sum()) / 501
    assert (
        stats.spearman(x, x).p == 1 / 2001
        and stats.spearman(x, -x).p == 1
        and np.isnan(stats.spearman(x, np.ones(12)).p)
    )


@pytest.mark.slow
def test_holm_equals_statsmodels():
    rng = np.random.default_rng(24)
    for n in (1, 2, 6, 30):
        p = rng.random(n).round(1) ** 3
        assert stats.holm(p) == pytest.approx(multipletests(p, method="holm")[1])
        some = np.insert(p, [0, n // 2], np.nan)
        known = np.isfinite(some)
        assert (
            stats.holm(some)[known] == pytest.approx(multipletests(p, method="holm")[1])
            and np.isnan(stats.holm(some)[~known]).all()
        )
    assert stats.holm([]).shape == (0,)


def seed_scores(rng, n, reliabilities=(0.68, 0.6), seeds=2, bad=0.0, common=0.0, r=0.85):
    """Two scores (n, seeds): correlated qualities, a share of bad architectures, and noise, of
    which a part is common to all runs with a seed.
    """
    quality = rng.multivariate_normal([0, 0], [[1, r], [r, 1]], size=n)
    quality[rng.random(n) < bad] -= 4
    trait, scores = rng.normal(size=(n, 1)), []
    for column, reliability in zip(quality.T, reliabilities):
        noise = np.sqrt(1 - common) * rng.normal(size=(n, seeds)) + np.sqrt(
            common
        ) * trait * rng.normal(size=seeds)
        scores.append(column[:, None] + np.sqrt((1 - reliability) / reliability) * noise)
    return scores


def true_rho(trials=1, **world):
    """The rho of the means over seeds in a large sample, or the mean over several samples if seeds
    differ.
    """
    rng = np.random.default_rng(25)
    return np.mean(
        [
            stats.rank_correlation(
                *(score.mean(axis=1) for score in seed_scores(rng, 100_000 // trials, **world))
            )
            for _ in range(trials)
        ]
    )


@pytest.mark.slow
@pytest.mark.parametrize("n", [8, 16])
@pytest.mark.parametrize("world", [{}, {"bad": 0.25}, {"reliabilities": (0.68, 0.3), "bad": 0.25}])
def test_interval_over_architectures_and_seeds_covers_the_truth(n, world):
    truth, hits = true_rho(**world), []
    for trial in range(200):
        found = stats.spearman(
            *seed_scores(np.random.default_rng(trial), n, **world), resamples=300, seed=trial
        )
        hits.append(found.low <= truth <= found.high)
    assert np.mean(hits) >= 0.92


@pytest.mark.slow
def test_interval_covers_the_truth_where_a_seed_favors_some_architectures():
    world, hits = {"common": 0.3, "reliabilities": (0.68, 0.3)}, []
    truth = true_rho(trials=50, **world)
    for trial in range(150):
        x, y = seed_scores(np.random.default_rng(trial), 60, **world)
        found = [
            stats.spearman(x, y, resamples=300, seed=trial),
            stats.spearman(x.mean(axis=1), y.mean(axis=1), resamples=300, seed=trial),
        ]
        hits.append([of.low <= truth <= of.high for of in found])
    both, architectures = np.mean(hits, axis=0)
    assert both >= 0.91 and architectures < 0.91


@pytest.mark.slow
def test_seeds_drawn_as_architectures_are_would_miss_the_truth():
    world, hits = {"seeds": 4, "reliabilities": (0.68, 0.3)}, []
    truth = true_rho(**world)
    for trial in range(100):
        rng = np.random.default_rng(trial)
        scores = seed_scores(rng, 200, **world)
        ours = stats.spearman(*scores, resamples=200, seed=trial)
        rows = rng.integers(200, size=(150, 200, 1))
        drawn = [score[rows, rng.integers(4, size=(150, 1, 4))].mean(axis=2) for score in scores]
        plain = np.quantile(stats.rank_correlation(*drawn), [0.025, 0.975])
        hits.append([ours.low <= truth <= ours.high, plain[0] <= truth <= plain[1]])
    assert np.mean(hits, axis=0)[0] >= 0.92 and np.mean(hits, axis=0)[1] < 0.87


def test_two_way_step_by_step():
    rng = np.random.default_rng(26)
    x, y = seed_scores(rng, 11, seeds=3)
    y = y[:, :2]
    x[4, 1] = x[5, 0] = x[5, 2] = y[6, 0] = np.nan

    def rho(x, y):
        return scipy.stats.spearmanr(x, y).statistic

    means = [np.nanmean(score, axis=1) for score in (x, y)]

    def without(score, seed):
        return [
            (
                np.nanmean(np.delete(row, seed))
                if np.isfinite(np.delete(row, seed)).any()
                else np.nanmean(row)
            )
            for row in score
        ]

    of_x = [rho(without(x, seed), means[1]) for seed in range(3)]
    of_y = [rho(means[0], without(y, seed)) for seed in range(2)]
    draws = np.random.default_rng(5)
    rows = draws.integers(11, size=(40, 11))
    seeds = draws.integers(3, size=(40, 2)), draws.integers(2, size=(40, 1))
    expected = [
        rho(means[0][row], means[1][row])
        + np.mean([2 * (np.mean(of_x) - of_x[s]) for s in a])
        + np.mean(of_y)
        - of_y[b[0]]
        for row, a, b in zip(rows, *seeds)
    ]
    low, high, values = stats.two_way(stats.rank_correlation, x, y, resamples=40, seed=5)
    assert values == pytest.approx(expected) and (low, high) == pytest.approx(
        tuple(np.quantile(expected, [0.025, 0.975]))
    )
    found = stats.spearman(x, y, resamples=40, seed=5)
    assert (found.low, found.high) == pytest.approx(
        (low, min(high, 1))
    ) and found.value == pytest.approx(rho(*means))


def test_interval_stays_within_what_is_possible():
    beyond = 0
    for trial in range(20):
        x, y = seed_scores(np.random.default_rng(trial), 12, reliabilities=(0.95, 0.9), r=1.0)
        found, high = (
            stats.spearman(x, y, resamples=100),
            stats.two_way(stats.rank_correlation, x, y, resamples=100)[1],
        )
        beyond += high > 1
        assert (
            found.high == pytest.approx(min(1, high))
            and found.high <= 1
            and stats.spearman(x, -y, resamples=100).low >= -1
        )
    assert beyond > 3


def test_two_way_takes_any_statistic():
    rng = np.random.default_rng(27)
    # seeds that differ by much
    x = rng.normal(size=(200, 1)) + np.array([0, 3.0, 6, 9]) + rng.normal(size=(200, 4))
    values = stats.two_way(lambda x: x.mean(axis=-1), x, resamples=20_000)[2]
    variance = x.mean(axis=1).var() / 200 + x.mean(axis=0).var(ddof=1) / 4
    assert values.var() == pytest.approx(variance, rel=0.05) and values.mean() == pytest.approx(
        x.mean(), abs=0.05
    )


def test_one_seed_is_drawn_as_before_and_empty_seeds_do_not_count():
    x, y = seed_scores(np.random.default_rng(28), 20, seeds=1)
    one = stats.spearman(x[:, 0], y[:, 0])
    assert (
        one
        == stats.spearman(x, y)
        == stats.spearman(
            np.hstack([np.full((20, 1), np.nan), x, np.full((20, 1), np.inf)]), y[:, 0]
        )
    )
    x, y = x[:, 0], y[:, 0]
    assert (one.low, one.high) == stats.bootstrap(
        lambda rows: stats.rank_correlation(x[rows], y[rows]), 20
    )
    with pytest.raises(ValueError, match="x, y: shapes"):
        stats.spearman(np.ones((3, 2, 2)), np.ones(3))


def test_architectures_without_a_run_are_dropped_and_missing_seeds_are_not():
    x, y = seed_scores(np.random.default_rng(29), 30)
    x[3] = np.nan
    y[7, 0] = np.nan
    found = stats.spearman(x, y)
    assert (found.n, found.dropped) == (29, 1)
    assert found.value == pytest.approx(
        scipy.stats.spearmanr(
            *(np.nanmean(np.delete(score, 3, axis=0), axis=1) for score in (x, y))
        ).statistic
    )


def test_results_depend_on_the_seed_alone():
    x, y = seed_scores(np.random.default_rng(30), 24)
    z = np.arange(24.0)
    for function, scores in (
        (stats.spearman, (x, y)),
        (stats.partial_spearman, (x, y, z)),
        (stats.rho_difference, (x, y, z)),
        (stats.ceiling, (x, y)),
        (stats.better_half, (x, y)),
    ):
        assert function(*scores, resamples=100, seed=1) == function(*scores, resamples=100, seed=1)
        assert (
            function(*scores, resamples=100, seed=1).low
            != function(*scores, resamples=100, seed=2).low
        )


@pytest.mark.parametrize("seeds", [(2, 2), (3, 2), (1, 3)])
def test_across_seeds_is_the_mean_over_different_seeds(seeds):
    rng = np.random.default_rng(31)
    x, y = (np.arange(20)[:, None] + 8 * rng.normal(size=(20, k)) for k in seeds)
    x[2, 0] = y[3, 1] = np.nan
    rhos = [
        scipy.stats.spearmanr(x[:, a], y[:, b], nan_policy="omit").statistic
        for a, b in product(*map(range, seeds))
        if a != b
    ]
    if seeds[0] == 1:  # the architecture has no score in x at all
        x, y = np.delete(x, 2, axis=0), np.delete(y, 2, axis=0)
    assert stats.across_seeds(x, y) == pytest.approx(np.mean(rhos))
    assert np.isnan(stats.across_seeds(x[:, 0], y[:, 0])) and np.isnan(
        stats.across_seeds([[1, 2], [np.nan, np.nan]], [1, 2])
    )


@pytest.mark.filterwarnings("error")
def test_ceiling_is_that_of_seed_to_seed_correlations():
    x, y = seed_scores(np.random.default_rng(32), 50, seeds=3)
    y = y[:, :2]
    found = stats.ceiling(x, y, resamples=200)
    rho_x, rho_y = (stats.between_seeds(score, resamples=10).value for score in (x, y))
    assert found.value == pytest.approx(
        np.sqrt(3 * rho_x / (1 + 2 * rho_x) * 2 * rho_y / (1 + rho_y))
    )
    rows = np.random.default_rng(0).integers(50, size=(200, 50))  # as for rho
    values = []
    for row in rows:
        a, b = (
            max(
                0,
                np.mean(
                    [
                        scipy.stats.spearmanr(score[row, s], score[row, t]).statistic
                        for s, t in combinations(range(score.shape[1]), 2)
                    ]
                ),
            )
            for score in (x, y)
        )
        values.append(np.sqrt(3 * a / (1 + 2 * a) * 2 * b / (1 + b)))
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(values, [0.025, 0.975])))
    assert stats.ceiling(x[:, 0], y).reason == "only one seed of x" and np.isnan(
        stats.ceiling(x, y[:, :1]).low
    )
    apart = stats.ceiling(x, y * [1, -1])
    assert np.isnan(apart.value) and apart.reason == "seeds do not agree" and apart.low == 0
    assert (
        np.isnan(stats.ceiling(x[:4], y[:4]).low)
        and stats.ceiling([[1, 2], [np.nan, 1]], [[1, 2], [np.nan, np.nan]]).reason
        == "only 1 finite pair(s)"
    )


@pytest.mark.parametrize("world", [{}, {"bad": 0.25}])
def test_interval_of_the_ceiling_covers_the_truth(world):
    for n in (8, 16):
        truth = stats.ceiling(
            *seed_scores(np.random.default_rng(33), 30_000, **world), resamples=1
        ).value
        found = [
            stats.ceiling(
                *seed_scores(np.random.default_rng(trial), n, **world), resamples=200, seed=trial
            )
            for trial in range(120)
        ]
        assert np.mean([of.low <= truth <= of.high for of in found]) >= 0.91


def half_by_loops(x, y):
    """The better half by each seed of x, judged by the others: rho with y, rho of the seed itself,
    and the ceiling.
    """
    n, seeds = x.shape
    values, own, ceilings = [], [], []
    ranks_x, ranks_y = (
        np.array([scipy.stats.rankdata(column) for column in score.T]).T / n for score in (x, y)
    )

    def best(scores):
        return [i for i in range(n) if sum(other > scores[i] for other in scores) < -(-n // 2)]

    for a in range(seeds):
        half, others = best(x[:, a]), [b for b in range(seeds) if b != a]
        judge = x[:, others].mean(axis=1)
        values.append(scipy.stats.spearmanr(judge[half], y.mean(axis=1)[half]).statistic)
        own.append(scipy.stats.spearmanr(judge[half], x[half, a]).statistic)
        noise_x = np.mean([ranks_x[i].var(ddof=1) for i in best(y.mean(axis=1))]) / len(others)
        noise_y = np.mean([ranks_y[i].var(ddof=1) for i in half]) / y.shape[1]
        reliability_x = max(0, 1 - noise_x / ranks_x[half][:, others].mean(axis=1).var(ddof=1))
        ceilings.append(
            np.sqrt(reliability_x * max(0, 1 - noise_y / ranks_y[half].mean(axis=1).var(ddof=1)))
        )
    return np.mean(values), np.mean(own), np.mean(ceilings)


@pytest.mark.parametrize("n, seeds", [(11, 2), (30, 2), (31, 4)])
def test_better_half_equals_slow_loops(n, seeds):
    x, y = seed_scores(np.random.default_rng(n), n, seeds=seeds)
    x[0], y[1] = x[1], y[0]  # ties
    found = stats.better_half(x, y, resamples=60, seed=3)
    assert (found.value, found.self, found.ceiling) == pytest.approx(half_by_loops(x, y))
    assert (found.n, found.dropped) == (-(-n // 2), 0) and found.low < found.value < found.high
    if n > 11:
        values, own, _ = np.transpose(
            [
                half_by_loops(x[rows], y[rows])
                for rows in np.random.default_rng(3).integers(n, size=(60, n))
            ]
        )
        ends, gap = np.quantile([values, values - own], [0.025, 0.975], axis=1).T
        assert (found.low, found.high) == pytest.approx(tuple(ends))
        assert (found.gap_low, found.gap_high) == pytest.approx(tuple(gap))


def test_missing_runs_neither_choose_nor_judge():
    x, y = seed_scores(np.random.default_rng(34), 21)
    lone = np.vstack([[[np.nan, 99.0]], x])  # good, but nobody else can say so
    found, without = (
        stats.better_half(lone, np.vstack([[[0.0, 0.0]], y]), resamples=20),
        stats.better_half(x, y, resamples=20),
    )
    # it takes one of the places in the half of its seed
    chosen = [x[:, 0] >= np.sort(x[:, 0])[10], x[:, 1] >= np.sort(x[:, 1])[11]]
    rhos = [
        scipy.stats.spearmanr(x[half, 1 - a], y.mean(axis=1)[half]).statistic
        for a, half in enumerate(chosen)
    ]
    assert found.value == pytest.approx(np.mean(rhos)) != without.value and found.n == 10
    nobody = stats.better_half(
        np.vstack([x, [[np.nan, np.nan]]]), np.vstack([y, [[1, 1]]]), resamples=20
    )
    assert nobody.value == without.value and nobody.dropped == 1


@pytest.mark.parametrize("world", [{}, {"bad": 0.25}, {"reliabilities": (0.95, 0.9)}, {"seeds": 3}])
def test_scores_of_equal_quality_reach_the_ceiling_of_the_half(world):
    found = stats.better_half(
        *seed_scores(np.random.default_rng(35), 20_000, r=1.0, **world), resamples=1
    )
    assert found.value == pytest.approx(found.ceiling, abs=0.03)
    small = [
        stats.better_half(
            *seed_scores(np.random.default_rng(trial), 40, r=1.0, **world), resamples=1
        )
        for trial in range(60)
    ]
    assert np.mean([of.value for of in small]) == pytest.approx(
        np.mean([of.ceiling for of in small]), abs=0.06
    )
    poor = stats.better_half(
        *seed_scores(np.random.default_rng(35), 20_000, r=0.3, **world), resamples=1
    )
    assert poor.value < poor.ceiling - 0.2


def test_noisier_bad_architectures_do_not_hide_the_ceiling_of_the_half():
    x, y = seed_scores(np.random.default_rng(36), 20_000, r=1.0, bad=0.25)
    bad, rng = x.mean(axis=1) < -2, np.random.default_rng(37)
    for score in (x, y):
        score[bad] += 3 * rng.normal(size=score[bad].shape)
    found = stats.better_half(x, y, resamples=1)
    assert found.value == pytest.approx(found.ceiling, abs=0.06)


def test_interval_of_the_better_half_covers_the_truth():
    truth = stats.better_half(*seed_scores(np.random.default_rng(38), 50_000), resamples=1).value
    found = [
        stats.better_half(*seed_scores(np.random.default_rng(trial), 24), resamples=200, seed=trial)
        for trial in range(100)
    ]
    assert np.mean([of.low <= truth <= of.high for of in found]) >= 0.91


def test_judging_by_the_scores_that_chose_is_regression_to_the_mean():
    x, y = seed_scores(np.random.default_rng(39), 4000, r=1.0)
    one = stats.better_half(x[:, 0], y, resamples=20)
    half = stats.spearman_better_half(x[:, 0], y.mean(axis=1), resamples=20)
    assert (
        (one.value, one.low, one.high, one.n) == (half.value, half.low, half.high, half.n)
        and np.isnan(one.ceiling)
        and np.isnan(one.self)
    )
    assert one.value < stats.better_half(x, y, resamples=20).value - 0.02


@pytest.mark.filterwarnings("error")
def test_better_half_explains_what_is_undefined():
    x, y = seed_scores(np.random.default_rng(40), 8)
    few = stats.better_half(x, y)
    assert (
        few.reason == "an interval needs 5 architectures in the better half"
        and np.isfinite([few.value, few.ceiling, few.self]).all()
        and np.isnan(few.low)
    )
    assert np.isnan(stats.better_half(x, y[:, 0]).ceiling)
    assert stats.better_half(x, np.ones(8)).reason == "all x or all y of the better half are equal"
    assert stats.better_half([[1, 2], [np.nan, np.nan]], [1, 2]).reason == "only 1 finite pair(s)"


def test_runs_stay_with_their_mean_by_seed():
    runs = noisy_runs(6, 3, {"cls": 0.5, "rot": 1.0}).sample(frac=1, random_state=0)
    runs = runs[~((runs.task == "rot") & (runs.seed == 1))]  # rotation has two seeds
    runs = runs[~((runs.task == "cls") & (runs.architecture == 4) & (runs.seed == 0))]
    runs.loc[(runs.task == "cls") & (runs.architecture == 2) & (runs.seed == 2), "score"] = np.inf
    averaged = stats.over_seeds(runs).set_index(["task", "architecture"])
    for (task, architecture), of in averaged.iterrows():
        mine = (
            runs[(runs.task == task) & (runs.architecture == architecture)].set_index("seed").score
        )
        expected = [mine.get(seed, np.nan) for seed in ((0, 1, 2) if task == "cls" else (0, 2))]
        assert np.array_equal(
            of.by_seed,
            [score if np.isfinite(score) else np.nan for score in expected],
            equal_nan=True,
        )
        assert of.score == pytest.approx(np.nanmean(of.by_seed))
    both = stats.pairs(averaged.reset_index())
    assert (
        np.isnan(both.x_by_seed[4][0])
        and np.isnan(both.x_by_seed[2][2])
        and both.x_by_seed.map(len).eq(3).all()
        and both.y_by_seed.map(len).eq(2).all()
    )
    table = stats.summary(both, resamples=20)
    x, y = np.array(both.x_by_seed.tolist()), np.array(both.y_by_seed.tolist())
    assert table.rho[0] == stats.spearman(x, y, resamples=20).value and table.across_seeds[
        0
    ] == stats.across_seeds(x, y)
    in_order = stats.over_seeds(runs.drop(columns="seed"))
    first = runs[(runs.task == "rot") & (runs.architecture == 3)].score.tolist()
    assert (
        list(in_order[(in_order.task == "rot") & (in_order.architecture == 3)].by_seed.item())
        == first
    )


def test_a_diverged_or_absent_architecture_has_a_tuple_of_nothing():
    runs = noisy_runs(5, 2, {"cls": 0.5, "rot": 1.0})
    runs = runs[~((runs.task == "rot") & (runs.architecture == 3))]
    runs.loc[(runs.task == "cls") & (runs.architecture == 1), "score"] = np.nan
    both = stats.pairs(stats.over_seeds(runs)).set_index("architecture")
    assert (
        np.isnan(both.x_by_seed[1]).tolist() == [True, True] == np.isnan(both.y_by_seed[3]).tolist()
        and np.isfinite(both.x_by_seed[3]).all()
    )
    assert (
        stats.spearman(
            stats.scores_by_seed(both, "x", "x_by_seed"),
            stats.scores_by_seed(both, "y", "y_by_seed"),
            resamples=9,
        ).dropped
        == 2
    )


def test_a_score_set_by_hand_counts_as_one_run():
    single = stats.pairs(scores(10))
    assert single.x_by_seed.tolist() == [(x,) for x in single.x] and single.y_by_seed.tolist() == [
        (y,) for y in single.y
    ]
    both = stats.pairs(stats.over_seeds(noisy_runs(12, 2, {"cls": 0.5, "rot": 1.0})))
    flipped = stats.summary(both.assign(y=-both.y), resamples=20)  # as for a loss
    assert flipped.rho[0] == pytest.approx(-stats.summary(both, resamples=20).rho[0]) and np.isnan(
        flipped.ceiling[0]
    )
    both.loc[0, "y"] = np.nan
    assert stats.summary(both, resamples=20).dropped[0] == 1
    plain = both.drop(columns=["x_by_seed", "y_by_seed"])
    assert stats.summary(plain, resamples=20).rho[0] == stats.summary(both, resamples=20).rho[0]


COLUMNS = [
    "space",
    "task",
    "n",
    "dropped",
    "rho",
    "low",
    "high",
    "p",
    "across_seeds",
    "ceiling",
    "ceiling_low",
    "ceiling_high",
    "tau",
    "partial",
    "partial_low",
    "partial_high",
    "partial_p",
    "gain",
    "gain_low",
    "gain_high",
    "better_half",
    "better_half_low",
    "better_half_high",
    "better_half_ceiling",
    "better_half_self",
    "rho_parameters",
    "rho_multiply_adds",
    "reason",
]


def sized_runs(n, seeds):
    """Runs of two spaces and three tasks, of networks whose parameters say something about their
    quality.
    """
    rng, rows = np.random.default_rng(41), []
    for space in ("darts", "nasbench101"):
        for architecture in range(n):
            quality, size = rng.normal(size=2)
            rows += [
                {
                    "space": space,
                    "task": task,
                    "architecture": architecture,
                    "seed": seed,
                    "score": quality + 0.5 * size + 0.6 * rng.normal(),
                    "parameters": size,
                    "multiply_adds": -size,
                }
                for task in ("cls", "rot", "jig")
                for seed in range(seeds)
            ]
    return pd.DataFrame(rows)


def test_summary_says_what_the_functions_say():
    both = stats.pairs(stats.over_seeds(sized_runs(30, 2)))
    table = stats.summary(both, resamples=100, seed=4)
    assert (
        table.columns.tolist() == COLUMNS
        and len(table) == 4
        and table.drop(columns="reason").notna().all(axis=None)
    )
    group = both[(both.space == "nasbench101") & (both.task == "jig")]
    x, y, size, row = (
        np.array(group.x_by_seed.tolist()),
        np.array(group.y_by_seed.tolist()),
        group.parameters,
        table.iloc[3],
    )
    options = {"resamples": 100, "seed": 4}
    rho, limit, half = (
        stats.spearman(x, y, **options),
        stats.ceiling(x, y, **options),
        stats.better_half(x, y, **options),
    )
    partial, gain = (
        stats.partial_spearman(x, y, size, **options),
        stats.rho_difference(x, y, size, **options),
    )
    assert row[["rho", "low", "high", "p"]].tolist() == [rho.value, rho.low, rho.high, rho.p]
    assert row[["ceiling", "ceiling_low", "ceiling_high"]].tolist() == [
        limit.value,
        limit.low,
        limit.high,
    ]
    assert row[["partial", "partial_low", "partial_high", "partial_p"]].tolist() == [
        partial.value,
        partial.low,
        partial.high,
        partial.p,
    ]
    assert row[["gain", "gain_low", "gain_high"]].tolist() == [gain.value, gain.low, gain.high]
    assert gain.value == pytest.approx(row.rho - row.rho_parameters)
    assert row[[name for name in COLUMNS if "half" in name]].tolist() == [
        half.value,
        half.low,
        half.high,
        half.ceiling,
        half.self,
    ]
    assert row.across_seeds == stats.across_seeds(x, y) and row.tau == pytest.approx(
        scipy.stats.kendalltau(group.x, group.y).statistic
    )


@pytest.mark.filterwarnings("error")
def test_summary_leaves_out_what_is_not_known():
    runs = sized_runs(20, 2)
    known = stats.summary(stats.pairs(stats.over_seeds(runs[runs.seed == 0])), resamples=20)
    seeds = [
        "across_seeds",
        "ceiling",
        "ceiling_low",
        "ceiling_high",
        "better_half_ceiling",
        "better_half_self",
    ]
    assert (
        known[seeds].isna().all(axis=None)
        and known.drop(columns=[*seeds, "reason"]).notna().all(axis=None)
        and known.columns.tolist() == COLUMNS
    )
    sizes = [name for name in COLUMNS if name.startswith(("partial", "gain", "rho_"))]
    for nothing in (7, np.nan):
        without = stats.summary(
            stats.pairs(stats.over_seeds(runs.assign(parameters=nothing, multiply_adds=nothing))),
            resamples=20,
        )
        assert without[sizes].isna().all(axis=None) and without.drop(
            columns=[*sizes, "reason"]
        ).notna().all(axis=None)
        assert (without.reason == "").all() and (
            without.rho == stats.summary(stats.pairs(stats.over_seeds(runs)), resamples=20).rho
        ).all()


def test_summary_of_a_whole_study_takes_about_a_second():
    both = stats.pairs(stats.over_seeds(sized_runs(100, 2)))
    both = pd.concat([both, both.assign(task=both.task + " again")], ignore_index=True)
    before = process_time()
    assert len(stats.summary(both)) == 8
    assert process_time() - before < 3  # below 1 on an idle machine


def test_seed_correlation_has_the_interval_of_the_ceiling():
    runs = noisy_runs(30, 2, {"cls": 0.5, "rot": 1.0})
    table = stats.seed_correlation(runs, resamples=100).set_index("task")
    wide = [
        runs[runs.task == task].pivot(index="architecture", columns="seed", values="score")
        for task in ("cls", "rot")
    ]
    limit = stats.ceiling(*wide, resamples=100)
    assert table.loc["rot", ["ceiling", "ceiling_low", "ceiling_high"]].tolist() == pytest.approx(
        [limit.value, limit.low, limit.high]
    )
    assert table.loc["cls", ["ceiling", "ceiling_low", "ceiling_high"]].isna().all()
    assert table.columns[-4:].tolist() == ["ceiling", "ceiling_low", "ceiling_high", "reason"]
    # one architecture in common
    apart = stats.seed_correlation(
        runs[(runs.task == "cls") | (runs.architecture == 0)], resamples=20
    )
    assert apart.ceiling_low.isna().all()


def test_overview_counts_and_averages_single_runs():
    runs = pd.DataFrame(
        {
            "space": ["mine"] * 4 + ["darts"] * 2,
            "task": ["rot", "cls", "cls", "cls", "rot", "rot"],
            "status": ["done", "done", "failed", "diverged", "done", "done"],
            "score": [70.0, 90, np.nan, np.nan, 60, 64],
            "constant": [25.0, 10, np.nan, 10, 25, 25],
            "seconds": [1.0, 2, np.nan, 4, 5, 7],
        }
    )
    table = stats.overview(runs)
    assert table.index.tolist() == [("mine", "rot"), ("mine", "cls"), ("darts", "rot")]
    expected = dict(runs=3, failed=1, diverged=1, constant=10, lowest=90, mean=90, highest=90)
    assert table.loc[("mine", "cls"), list(expected)].to_dict() == expected
    assert table.loc[("mine", "cls"), "seconds"] == 3 and np.isnan(table.sd["mine", "cls"])
    last = table.loc[("darts", "rot")]
    assert last[["lowest", "mean", "highest"]].tolist() == [60, 62, 64]
    assert last.sd == pytest.approx(8**0.5) and last.seconds == 6
    by_task = stats.overview(runs, by=["task"])
    assert by_task.runs.to_dict() == {"rot": 3, "cls": 3} and by_task.index.name == "task"
    with pytest.raises(ValueError, match="runs: has no column constant"):
        stats.overview(runs.drop(columns="constant"))


def test_a_run_that_is_there_twice_is_no_other_seed():
    runs = pd.DataFrame(
        dict(space="a", architecture=["x", "y"], task="cls", score=[1.0, 2.0], seed=0)
    )
    runs = runs.assign(parameters=1, multiply_adds=1)
    assert stats.over_seeds(runs).runs.tolist() == [1, 1]
    with pytest.raises(ValueError, match="runs: a, x, cls, 0 occurs twice; keep one run"):
        stats.over_seeds(pd.concat([runs, runs]))


@pytest.mark.parametrize(
    "options, words",
    [
        (dict(points=1.5), "points=1.5"),
        (dict(resamples=0), "resamples=0"),
        (dict(confidence=95), "confidence=95"),
    ],
)
def test_options_of_a_line_are_checked(options, words):
    with pytest.raises(ValueError, match=words):
        stats.huber_line([1, 2, 3], [1, 2, 4], **options)


def test_holm_takes_no_other_numbers():
    with pytest.raises(ValueError, match="p=-1.0: must be from 0 to 1"):
        stats.holm([-1, 0.5])
