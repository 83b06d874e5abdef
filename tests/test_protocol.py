"""The frozen protocol: that it is what this code computes, and that its primary tests find what is
there and nothing else.
"""

import json
import shutil
from dataclasses import replace
from datetime import date
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from unnas import protocol, stats, study

ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def this_checkout(monkeypatch):
    monkeypatch.setenv("UNNAS_HOME", str(ROOT))


@pytest.fixture(scope="module")
def frozen():
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("UNNAS_HOME", str(ROOT))
        return protocol.frozen()


def ids(specs):
    return [spec.id for spec in specs]


# ---------------------------------------------------------------- what is frozen


@pytest.mark.slow
def test_this_code_computes_what_the_last_version_lists(frozen):
    version = protocol.read()[-1]
    assert {f"{tier.number}: {tier.title}": ids(tier.specs) for tier in frozen} == version["runs"]
    assert [tier.number for tier in frozen] == list(range(1, len(frozen) + 1)) and frozen[
        2
    ].file == "protocol-3"
    assert {spec.data.fingerprint for tier in frozen for spec in tier.specs} == set(
        version["images"].values()
    )


def test_the_text_of_the_protocol_is_that_of_the_last_version():
    assert protocol.text_hash(ROOT / "nbs" / "protocol.ipynb") == protocol.read()[-1]["notebook"]


def test_versions_are_numbered_and_dated():
    versions = protocol.read()
    assert [version["version"] for version in versions] == list(range(1, len(versions) + 1))
    dates = [date.fromisoformat(version["date"]) for version in versions]
    assert dates == sorted(dates)
    assert all(
        version.keys() == {"version", "date", "notebook", "images", "widths", "runs"}
        for version in versions
    )


def test_no_run_is_listed_twice_in_a_tier(frozen):
    for tier in frozen:
        assert len(set(ids(tier.specs))) == len(tier.specs) > 0


def test_recipes_and_images_are_named(frozen):
    for spec in (spec for tier in frozen for spec in tier.specs):
        assert spec.recipe.precision == "float32" and len(spec.data.fingerprint) == 64
        assert (
            spec.data.name != "cifar10"
            or spec.task != "jig"
            or dict(spec.options)["normalize"] is True
        )


def test_none_of_the_architectures_on_which_recipes_were_tuned_is_listed(frozen):
    tuned = {
        spec.architecture
        for figure in ("fig2", "fig3")
        for spec in study.specs_of(study.grid(figure, "former"), look=False)
    }
    assert len(tuned) == 32
    assert not tuned & {
        spec.architecture for tier in frozen for spec in tier.specs if isinstance(spec, study.Spec)
    }


def test_the_first_architectures_are_complete_at_any_time(frozen):
    for tier in frozen[:4]:
        kinds = {(spec.task, spec.seed) for spec in tier.specs}
        blocks = [tier.specs[i : i + len(kinds)] for i in range(0, len(tier.specs), len(kinds))]
        assert all(
            len({spec.architecture for spec in block}) == 1
            and {(spec.task, spec.seed) for spec in block} == kinds
            for block in blocks
        )
        assert [
            len({block[0].architecture for block in blocks if block[0].space == space})
            for space in ("darts", "nasbench101")
        ] == [100, 100]


def test_the_ladder_changes_widths_and_epochs_only(frozen):
    ladder, usual = (
        frozen[5].specs,
        {(spec.architecture, spec.task): spec for spec in frozen[0].specs if spec.seed == 0},
    )
    assert {(spec.width, spec.recipe.epochs) for spec in ladder} == {
        (16, 4),
        (16, 12),
        (32, 4),
        (32, 12),
    }
    for spec in ladder:
        like = usual[spec.architecture, spec.task]
        assert (
            spec
            == replace(
                like, width=spec.width, recipe=replace(like.recipe, epochs=spec.recipe.epochs)
            )
            and spec.space == "nasbench101"
        )
    assert len({spec.architecture for spec in ladder}) == 32


@pytest.mark.slow
@pytest.mark.parametrize("table, name", [("table1", "imagenet_rot"), ("table2", "random 0")])
def test_widths_follow_the_rule(table, name):
    genotypes, widths = protocol.table_genotypes(table), protocol.read()[-1]["widths"][table]
    assert widths.keys() == genotypes.keys() and widths[name] == study.evaluation(
        table, "laptop"
    ).width(genotypes[name])


def test_what_searches_find_is_trained_as_the_table_is(tmp_path, frozen):
    tier = frozen[6]
    searches = [spec for spec in tier.specs if isinstance(spec, study.SearchSpec)]
    kept = study.Store(tmp_path / "records", released=tmp_path / "released")
    assert protocol.of_searched(tier, kept) == []
    genotype = protocol.table_genotypes("table1")["random 1"]
    # the first one diverged
    for spec, found in ((searches[0], None), (searches[1], genotype.to_dict())):
        result = dict(final=None, best=None, genotype=found)
        kept.put(
            dict(
                schema=study.records.SCHEMA,
                id=spec.id,
                spec=spec.to_dict(),
                status="done" if found else "diverged",
                result=result,
                chance=10.0,
                parameters=1,
                multiply_adds=1,
                seconds=1.0,
                provenance=dict(date="2026-01-01T00:00:00+00:00"),
            )
        )
    trained = protocol.of_searched(tier, kept)
    like = [
        spec
        for spec in tier.specs
        if isinstance(spec, study.Spec) and spec.architecture == genotype
    ]
    assert trained == like and [spec.seed for spec in trained] == [0, 1, 2]


# ---------------------------------------------------------------- its text


def edited(tmp_path, change):
    """The hash of the protocol's notebook after a change of its cells."""
    notebook = json.loads((ROOT / "nbs" / "protocol.ipynb").read_text(encoding="utf-8"))
    change(notebook["cells"])
    path = tmp_path / "protocol.ipynb"
    path.write_text(json.dumps(notebook), encoding="utf-8")
    return protocol.text_hash(path)


def results(cells):
    return next(
        i for i, cell in enumerate(cells) if "".join(cell["source"]).startswith(protocol.RESULTS)
    )


def markdown(*source):
    return {"cell_type": "markdown", "metadata": {}, "source": list(source)}


def test_results_may_be_added_to_the_protocol(tmp_path):
    before = edited(tmp_path, lambda cells: None)
    assert before == protocol.text_hash(ROOT / "nbs" / "protocol.ipynb")
    assert edited(tmp_path, lambda cells: cells.append(markdown("A new result."))) == before
    assert (
        edited(tmp_path, lambda cells: cells[results(cells)]["source"].append("\n\nMore of it."))
        == before
    )
    assert edited(tmp_path, lambda cells: cells.__delitem__(slice(results(cells), None))) == before
    assert (
        edited(
            tmp_path,
            lambda cells: [
                cell.update(outputs=[], execution_count=7)
                for cell in cells
                if cell["cell_type"] == "code"
            ],
        )
        == before
    )
    # one string or its lines
    assert (
        edited(
            tmp_path, lambda cells: [cell.update(source="".join(cell["source"])) for cell in cells]
        )
        == before
    )


@pytest.mark.parametrize(
    "change",
    [
        lambda cells: cells[results(cells) - 1]["source"].append(" More."),
        lambda cells: cells[1]["source"].__setitem__(0, cells[1]["source"][0] + "!"),
        lambda cells: cells.insert(results(cells), markdown("A hypothesis that comes late.")),
        lambda cells: cells.pop(2),
        lambda cells: cells.insert(3, cells.pop(2)),
        lambda cells: cells.insert(2, markdown("Not yet.\n\n", protocol.RESULTS)),
    ],
    ids=["appended", "a letter", "inserted", "left out", "moved", "no beginning of a cell"],
)
def test_what_comes_before_the_results_is_frozen(tmp_path, change):
    assert edited(tmp_path, change) != edited(tmp_path, lambda cells: None)


# ---------------------------------------------------------------- other code, or another list


@pytest.fixture(scope="module")
def listed():
    return protocol.tiers(protocol.read()[-1]["widths"])


@pytest.fixture
def home(tmp_path, monkeypatch, listed):
    monkeypatch.setattr(protocol, "tiers", lambda widths: listed)  # which takes seconds
    (tmp_path / "home" / "data").mkdir(parents=True)
    shutil.copy(ROOT / "data" / "protocol.json", tmp_path / "home" / "data")
    monkeypatch.setenv("UNNAS_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def assert_refused(words):
    with pytest.raises(ValueError) as error:
        protocol.frozen()
    told, version = str(error.value), protocol.read()[-1]
    assert (
        words in told
        and f"version {version['version']} of {version['date']}" in told
        and "freeze a new version" in told
        and "\n" not in told
    )


def change_list(home, change):
    versions = json.loads((home / "data" / "protocol.json").read_text())
    change(versions[-1]["runs"])
    (home / "data" / "protocol.json").write_text(json.dumps(versions))


def tier_of(runs, number):
    return next(listed for title, listed in runs.items() if title.startswith(f"{number}: "))


@pytest.mark.slow
@pytest.mark.parametrize(
    "number, change",
    [
        (2, lambda listed: listed.__setitem__(17, "0" * 64)),
        (1, lambda listed: listed.insert(0, listed.pop(1))),
    ],
    ids=["another run", "another order"],
)
def test_a_list_that_differs_in_one_run_is_refused(home, number, change):
    change_list(home, lambda runs: change(tier_of(runs, number)))
    assert_refused(f"tier '{number}: ")


def test_a_list_without_a_tier_is_refused(home):
    change_list(home, lambda runs: runs.popitem())
    assert_refused("protocol: ")


@pytest.mark.slow
def test_code_with_other_trainings_is_refused(monkeypatch):
    grid = study.GRIDS["fig3"]["laptop"]
    settings = {
        key: replace(s, recipe=replace(s.recipe, epochs=5)) for key, s in grid.settings.items()
    }
    monkeypatch.setitem(study.GRIDS["fig3"], "laptop", replace(grid, settings=settings))
    assert_refused("tier '2: ")


@pytest.mark.slow
def test_code_with_other_images_is_refused(monkeypatch):
    grid = study.GRIDS["fig3"]["laptop"]
    settings = {
        key: replace(s, data=replace(s.data, train_images=6000)) for key, s in grid.settings.items()
    }
    monkeypatch.setitem(study.GRIDS["fig3"], "laptop", replace(grid, settings=settings))
    assert_refused("protocol: ")


# ---------------------------------------------------------------- the primary tests

OPTIONS = dict(resamples=1000)


def synthetic(rho, seed, n=40, noise=0.3):
    """Runs of `n` architectures a space and two seeds, and the truth: pretext scores that correlate
    with the quality by `rho`, random labels that do not.
    """
    random, rows = np.random.default_rng(seed), []
    quality, size = random.normal(size=(2, 2, n))
    for of, space in enumerate(("darts", "nasbench101")):
        for task in ("cls", "rot", "jig", "col", "rnd"):
            share = {"cls": 1.0, "rnd": 0.0}.get(task, rho)
            score = share * quality[of] + np.sqrt(1 - share**2) * random.normal(size=n)
            for run in range(2):
                seen = score + noise * random.normal(size=n)
                # what must not be looked at
                misleading = quality[of] if task == "rnd" else random.normal(size=n)
                for i in range(n):
                    best, loss = (
                        (misleading[i], seen[i]) if task == "rnd" else (seen[i], misleading[i])
                    )
                    rows.append(
                        dict(
                            space=space,
                            architecture=f"{space[0]}{i:02}",
                            task=task,
                            seed=run,
                            best=best,
                            final=misleading[i],
                            loss=loss,
                            sum_loss=misleading[i],
                            parameters=1000 + round(100 * size[of][i]),
                            status="done",
                        )
                    )
    return pd.DataFrame(rows), pd.Series({f"n{i:02}": 90 + quality[1][i] for i in range(n)})


def matrix(runs, space, task, column):
    of = runs[(runs.space == space) & (runs.task == task)].sort_values(["architecture", "seed"])
    return of[column].to_numpy().reshape(-1, 2)


def test_a_true_signal_is_found():
    for seed in range(3):
        table = protocol.primary(*synthetic(0.9, seed), **OPTIONS)
        assert (
            list(table.index) == ["H1", "H2", "H3", "H4", "H5", "H6"]
            and table.index.name == "hypothesis"
        )
        assert (
            list(table.task) == ["rot", "jig", "col"] * 2
            and list(table.space) == ["nasbench101"] * 3 + ["darts"] * 3
        )
        assert (table.p_holm < 0.05).all() and (table.low > 0).all() and (table.value > 0.4).all()
        assert (table.n == 40).all() and (table.dropped == 0).all()


def test_noise_is_not_found():
    tables = [protocol.primary(*synthetic(0, seed), **OPTIONS) for seed in range(5)]
    # of five studies, one at most
    assert sum((table.p_holm < 0.05).any() for table in tables) <= 1
    assert np.mean([table.value for table in tables]) == pytest.approx(0, abs=0.15)


def test_size_alone_is_no_signal():
    """Pretext scores that follow the number of parameters, as the truth does, add nothing to it."""
    runs, truth = synthetic(0, 0)
    cells = runs.space == "nasbench101"
    random = np.random.default_rng(1)
    runs.loc[cells & (runs.task != "rnd"), "best"] = runs.parameters[
        cells
    ] / 100 + 0.3 * random.normal(size=cells.sum())
    sizes = runs[cells].groupby("architecture").parameters.first()
    truth = sizes / 100 + 0.3 * random.normal(size=40)
    table = protocol.primary(runs, truth, **OPTIONS)
    assert (table.p_holm > 0.05).iloc[:3].all() and (table.value.abs() < 0.5).iloc[:3].all()
    assert (
        stats.spearman(
            truth.to_numpy(), matrix(runs, "nasbench101", "rot", "best"), resamples=10
        ).value
        > 0.8
    )


def test_random_labels_that_rank_as_well_as_a_pretext_task_take_its_signal_away():
    runs, truth = synthetic(0.9, 0)
    control = (runs.space == "darts") & (runs.task == "rnd")
    runs.loc[control, "loss"] = runs.best[(runs.space == "darts") & (runs.task == "rot")].to_numpy()
    table = protocol.primary(runs, truth, **OPTIONS)
    assert (
        table.value["H4"] == pytest.approx(0)
        and (table.p_holm["H4":] > 0.05).all()
        and (table.p_holm[:"H3"] < 0.05).all()
    )


def test_the_primary_tests_by_hand():
    runs, truth = synthetic(0.6, 3)
    shuffled = runs.sample(frac=1, random_state=0).reset_index(drop=True)
    table = protocol.primary(shuffled, truth.sample(frac=1, random_state=1), **OPTIONS)
    sizes = (
        runs[runs.space == "nasbench101"]
        .groupby("architecture")
        .parameters.first()
        .sort_index()
        .to_numpy(float)
    )
    x, control = matrix(runs, "darts", "cls", "best"), matrix(runs, "darts", "rnd", "loss")
    for row, task in enumerate(("rot", "jig", "col")):
        partial = stats.partial_spearman(
            truth.sort_index().to_numpy(),
            matrix(runs, "nasbench101", task, "best"),
            sizes,
            **OPTIONS,
        )
        difference = stats.rho_difference(
            x, matrix(runs, "darts", task, "best"), control, **OPTIONS
        )
        for found, expected in ((table.iloc[row], partial), (table.iloc[3 + row], difference)):
            assert (found.value, found.low, found.high, found.p) == pytest.approx(
                (expected.value, expected.low, expected.high, expected.p)
            )
            assert (found.n, found.dropped) == (expected.n, expected.dropped) == (40, 0)
    worst, ordered = 0.0, np.argsort(table.p.to_numpy(), kind="stable")
    # Holm: the smallest times six, the next times five, never falling
    for rank, row in enumerate(ordered):
        worst = max(worst, min(1, (6 - rank) * table.p.iloc[row]))
        assert table.p_holm.iloc[row] == pytest.approx(worst)
    assert table.value["H1"] == pytest.approx(
        _partial(
            *(
                pd.Series(v).rank()
                for v in (
                    truth.sort_index().to_numpy(),
                    matrix(runs, "nasbench101", "rot", "best").mean(1),
                    sizes,
                )
            )
        )
    )


def _partial(x, y, z):
    """The correlation of what is left of x and y after a line through z."""
    left = [v - np.polyval(np.polyfit(z, v, 1), z) for v in (x, y)]
    return np.corrcoef(*left)[0, 1]


def test_architectures_without_a_score_are_left_out_and_counted():
    runs, truth = synthetic(0.9, 0)

    def where(space, task, *architectures, seed=(0, 1)):
        return (
            (runs.space == space)
            & (runs.task == task)
            & runs.architecture.isin(architectures)
            & runs.seed.isin(np.atleast_1d(seed))
        )

    runs.loc[where("nasbench101", "rot", "n00", "n01"), "best"] = np.nan  # both seeds diverged
    # one of two: the other counts
    runs.loc[where("nasbench101", "jig", "n00", seed=0), "best"] = np.nan
    # missing on the side of the control
    runs.loc[where("darts", "rnd", "d05"), "loss"] = np.nan
    runs.loc[where("darts", "cls", "d06"), "best"] = np.nan
    runs.loc[where("darts", "col", "d07", "d08"), "best"] = np.nan
    runs = runs[~where("nasbench101", "col", "n03")]  # not computed yet
    # failed: nothing is known of it
    runs.loc[where("darts", "rot", "d09").reindex(runs.index), ["best", "parameters"]] = np.nan
    table = protocol.primary(runs, truth.drop("n10"), **OPTIONS)
    assert (
        table.dropped.to_dict() == dict(H1=3, H2=1, H3=2, H4=3, H5=2, H6=4)
        and (table.n + table.dropped == 40).all()
    )
    assert (table.p_holm < 0.05).all()


def test_a_task_without_any_run_counts_as_not_confirmed():
    runs, truth = synthetic(0.9, 0)
    whole = protocol.primary(runs, truth, **OPTIONS)
    for rest in (
        runs[(runs.task != "col") | (runs.space != "darts")],
        runs.assign(best=runs.best.where((runs.task != "col") | (runs.space != "darts"))),
    ):
        table = protocol.primary(rest, truth, **OPTIONS)
        assert (
            np.isnan(table.value["H6"])
            and np.isnan(table.p["H6"])
            and table.p_holm["H6"] == 1
            and table.n["H6"] == 0
            and table.dropped["H6"] == 40
        )
        # still of six
        assert table.p["H1":"H5"].equals(whole.p["H1":"H5"]) and table.p_holm[
            "H1":"H5"
        ].tolist() == pytest.approx(whole.p_holm["H1":"H5"].tolist())


def test_random_labels_are_guessed_at_chance():
    """By the networks of the released runs, after their training: nothing can be learned of the
    classes of other images.
    """
    records = [
        json.loads(line)
        for line in (ROOT / "data/released/protocol-1.jsonl").read_text().splitlines()
    ]
    final = [record["result"]["final"] for record in records if record["spec"]["task"] == "rnd"]
    assert len(final) >= 6 and abs(np.mean(final) - 10) < 3
    loss = [record["result"]["loss"] for record in records if record["spec"]["task"] == "rnd"]
    # although the training images were learned by heart, in part
    assert np.mean([of[-1] for of in loss]) < 2 < min(of[0] for of in loss)


def test_the_second_version_has_changed_nothing_but_the_searches(frozen):
    first, second = protocol.read()[:2]
    changed = [title for title in first["runs"] if first["runs"][title] != second["runs"][title]]
    assert [title[0] for title in changed] == ["7", "8"]
    for title, tier in zip(changed, frozen[6:]):
        trainings = ids(spec for spec in tier.specs if isinstance(spec, study.Spec))
        assert first["runs"][title][-len(trainings) :] == trainings
    assert first["widths"] == second["widths"]
    shared = first["images"].keys() & second["images"].keys()
    assert len(shared) > 12 and all(first["images"][k] == second["images"][k] for k in shared)


# ---------------------------------------------------------------- what counts against the claim


def looked_at(runs, truth, listed=100):
    """What `protocol.against` says of synthetic runs, of so many architectures that are listed."""
    runs = runs.assign(multiply_adds=runs.parameters)
    scored = stats.over_seeds(runs.assign(score=study.judged(runs, "best")))
    points = stats.pairs(scored, tasks=["rot", "jig", "col", "rnd"])
    rho = stats.summary(points, resamples=500)
    found = protocol.SoFar([], runs, truth, rho, interim=listed < 100)
    table = protocol.against(found, protocol.primary(runs, truth, **OPTIONS), **OPTIONS)
    return table.set_index(["would count against", "space", "task"])


def test_what_speaks_for_the_claim_is_not_against_it():
    said = looked_at(*synthetic(0.95, 0)).says
    assert set(said.loc["H1 is not confirmed":"H6 is not confirmed"]) == {"not against"}
    for whose in ("supervision", "published accuracy"):
        assert (said.loc[f"random labels rank as well, by {whose}"] == "not against").all()
        better = said.loc[f"the number of parameters ranks better, by {whose}"]
        assert (better == "not against").all()
    assert not (said == "against").any() and (said == "undecided").any()


def test_tasks_that_rank_by_chance_count_against_it():
    said = looked_at(*synthetic(0, 0)).says
    for whose in ("supervision", "published accuracy"):
        assert (said.loc[f"ρ with {whose} below 0.8"] == "against").all()
    # all is computed, so what is undecided has not been confirmed
    for number in range(1, 7):
        assert (said.loc[f"H{number} is not confirmed"] == "against").all()
    half = said.loc["worse than supervision in the better half"]
    assert (half == "against").sum() >= 3 and not (half == "not against").any()
    interim = looked_at(*synthetic(0, 0), listed=40).says
    assert set(interim.loc["H1 is not confirmed":"H6 is not confirmed"]) <= {"undecided", "against"}
    assert "undecided" in set(interim.loc["H1 is not confirmed":"H6 is not confirmed"])


def test_random_labels_that_rank_better_count_against_it():
    runs, truth = synthetic(0, 0)
    control, own = ((runs.space == "darts") & (runs.task == task) for task in ("rnd", "cls"))
    runs.loc[control, "loss"] = runs.loc[own, "best"].to_numpy()
    table = looked_at(runs, truth)
    words = "random labels rank as well, by supervision"
    assert (table.says.loc[words, "DARTS"] == "against").all()
    assert table.here.loc[words, "DARTS", "Rotation"].startswith("difference of ρ -")


def test_random_labels_that_rank_cells_by_their_truth_count_against_it():
    """Whatever supervised accuracy at the small scale says of them."""
    runs, truth = synthetic(0.5, 0)
    control = (runs.space == "nasbench101") & (runs.task == "rnd")
    runs.loc[control, "loss"] = truth.reindex(runs.architecture[control]).to_numpy()
    own = (runs.space == "nasbench101") & (runs.task == "cls")
    runs.loc[own, "best"] = np.random.default_rng(0).normal(size=own.sum())
    said = looked_at(runs, truth).says
    words = "random labels rank as well, by"
    assert (said.loc[f"{words} published accuracy", "NAS-Bench-101"] == "against").all()
    assert (said.loc[f"{words} supervision", "NAS-Bench-101"] == "undecided").any()


def by_chance_alone(runs, scores=("best", "sum_loss")):
    """The runs, with colorization in the DARTS space whose seeds have nothing in common."""
    own, random = (runs.space == "darts") & (runs.task == "col"), np.random.default_rng(0)
    for score in scores:
        runs.loc[own, score] = random.normal(size=own.sum())
    return runs


def test_the_rule_on_colorization_asks_both_scores_of_thirty_architectures():
    runs, truth = synthetic(0.9, 0)
    accurate = by_chance_alone(runs.copy(), ["sum_loss"])
    assert not protocol.colorization_stops(accurate)
    assert not np.isnan(protocol.primary(accurate, truth, **OPTIONS).p["H6"])
    runs = by_chance_alone(runs)
    assert protocol.colorization_stops(runs)
    assert not protocol.colorization_stops(runs[runs.architecture < "d29"])  # 29 of each space
    assert protocol.colorization_stops(runs[runs.architecture < "d30"])
    # what comes after the first thirty is not asked
    late = (runs.space == "darts") & (runs.architecture >= "d30") & (runs.task == "col")
    same = 10.0 * runs.architecture[late].str[1:].astype(int)  # by which all forty would agree
    runs.loc[late, "best"] = runs.loc[late, "sum_loss"] = same
    assert protocol.colorization_stops(runs)
    table = protocol.primary(runs, truth, **OPTIONS)
    assert np.isnan(table.p["H6"]) and table.p_holm["H6"] == 1 and table.n["H6"] == 40


def test_a_low_rho_whose_ceiling_is_low_is_out_of_reach():
    assert protocol._above(0.1, 0.7, 0.75).endswith("above 0.8: out of reach (ceiling 0.75)")
    assert protocol._above(0.1, 0.7, 0.85).endswith("above 0.8: against")
    assert protocol._above(0.85, 0.9, 0.75) == "above 0: supported; above 0.8: supported"
    # the rows of what counts against the claim say the same
    said = protocol._criterion("", (0.5, 0.1, 0.7), 0.8, unless=True)
    assert said == ("", "0.50 [0.10, 0.70]", "undecided")


def test_an_interval_that_ends_at_the_number_says_so():
    assert protocol._above(0.1, 0.7954).endswith("above 0.8: against, at the edge")
    assert protocol._above(0.7987, 0.98).endswith("above 0.8: undecided, at the edge")
    said = protocol._criterion("", (0.5, 0.1, 0.7954), 0.8)
    assert said == ("", "0.50 [0.10, 0.80], at the edge", "against")
    assert "edge" not in protocol._above(0.1, 0.7949) + protocol._above(0.8051, 0.9)


def test_other_scores_stand_beside_the_one_that_was_chosen():
    runs, truth = synthetic(0.9, 0)
    own = (runs.space == "darts") & (runs.task == "rot")
    runs.loc[own, "loss"] = runs.loc[(runs.space == "darts") & (runs.task == "cls"), "best"].values
    runs = runs.assign(multiply_adds=runs.parameters)
    scored = stats.over_seeds(runs.assign(score=study.judged(runs, "best")))
    rho = stats.summary(stats.pairs(scored, tasks=["rot", "rnd"]), resamples=100)
    table = protocol.by_score(protocol.SoFar([], runs, truth, rho, True), **OPTIONS)
    assert list(table.score[:4]) == ["best", "final", "loss", "sum_loss"] and len(table) == 8
    table = table.set_index(["space", "task", "score"])
    row = table.loc["darts", "rot", "loss"]
    assert row.rho == pytest.approx(1) and row.more > table.loc["darts", "rot", "best"].more > 0
    x, y = (matrix(runs, "darts", task, "best") for task in ("cls", "rot"))
    assert table.loc["darts", "rot", "best"].rho == stats.spearman(x, y, resamples=1).value


def test_a_task_as_good_as_supervision_but_noisier_is_not_worse_in_the_better_half():
    runs, truth = synthetic(1, 0, n=100, noise=0.02)
    own, random = (runs.space == "darts") & (runs.task == "rot"), np.random.default_rng(1)
    runs.loc[own, "best"] += 0.5 * random.normal(size=own.sum())
    table, words = looked_at(runs, truth), "worse than supervision in the better half"
    row = table.loc[words, "DARTS", "Rotation"]
    assert row.here.startswith("difference of ρ -") and row.says == "undecided"
    runs.loc[own, "best"] = random.normal(size=own.sum())
    assert looked_at(runs, truth).says.loc[words, "DARTS", "Rotation"] == "against"


def test_records_that_were_repeated_differ_by_what_their_table_says():
    folder = ROOT / "data" / "released"
    repeated = pd.read_csv(folder / "repeated.csv")
    texts = [(folder / f"protocol-{tier}.jsonl").read_text(encoding="utf-8") for tier in (1, 7)]
    lines = [line for text in texts for line in text.splitlines()]
    records = {record["id"]: record for record in map(json.loads, lines)}
    assert not repeated.duplicated(["id", "device"]).any() and set(repeated["id"]) <= set(records)
    for row in repeated.itertuples():
        result = records[row.id]["result"]
        assert row.score == (-result["loss"][-1] if row.task == "rnd" else result["best"])
        assert not row.equal or row.again == row.score
    table = protocol.repeated().set_index(["space", "task"])
    first = repeated[
        repeated["id"].isin({json.loads(line)["id"] for line in texts[0].split("\n") if line})
    ]
    assert table["runs"].sum() == len(first) and table["equal"].sum() == first["equal"].sum()
    own = repeated.drop(first.index)
    widths = {records[name]["spec"]["width"] for name in own["id"]}
    (row,) = protocol.repeated_table1().itertuples()
    assert (row.runs, row.architectures, widths) == (len(own), 8, {12}) and len(own) == 24
    assert row.mean == pytest.approx((own["again"] - own["score"]).mean())  # three seeds of each
    assert row.low < row.mean < row.high
    own = first[(first["space"] == "darts") & (first["task"] == "jig")]
    differences = [again - score for again, score in zip(own["again"], own["score"])]
    assert table.loc["DARTS", "Jigsaw"]["mean"] == pytest.approx(np.mean(differences))
    rms = np.linalg.norm(differences) / len(differences) ** 0.5
    assert table.loc["DARTS", "Jigsaw"]["rms"] == pytest.approx(rms)
    assert (table["rms"] < table["seeds"]).all()  # as the protocol's deviations say
