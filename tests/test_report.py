"""What the notebooks share: parameters of the wrong type, modules of one's own, scores of one's
own, and the tables that stand between records and pictures.
"""

import itertools
import json
import textwrap
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from types import ModuleType, SimpleNamespace

import numpy as np
import pandas as pd
import papermill
import pytest
import small
from pages import run_notebook
from scipy import stats

from tools import study as runner
from unnas import files, ops, protocol, spaces, study, tasks, verdict
from unnas.spaces import darts
from unnas.study import cells, figures, lists, report, searched, tables

PARAMETERS = dict(
    scale="smoke",
    architectures=None,
    seeds=None,
    tasks=["rot"],
    spaces=["darts"],
    score="best",
    engine="serial",
    workers=None,
    gpus=None,
    slice=None,
    root=None,
    figures=None,
    use=None,
)


def page(folder, **change):
    """A page with these variables in its notebook."""
    values = PARAMETERS | dict(figures=str(folder)) | change
    return report.Page("fig2", list(PARAMETERS), values)


@pytest.mark.parametrize(
    "change, words",
    [
        (dict(architectures="abc"), "architectures='abc': must be a whole number of at least 2"),
        (dict(architectures=1), "architectures=1: "),
        (dict(seeds=1.5), "seeds=1.5: must be a whole number of at least 1"),
        (dict(seeds=True), "seeds=True: "),
        (dict(root=2023), "root=2023: must be text; pass it with -r root 2023"),
        (dict(tasks=3), "tasks=3: must be a list of names"),
        (dict(tasks=[]), r"tasks=\[\]: must be a list of names"),
        (dict(tasks=[None]), r"tasks=\[None\]: must be a list of names"),
        (dict(score="losss"), "score='losss': unknown; choose one of best, final, loss, sum_loss"),
        (dict(engine="cluster"), "engine='cluster': unknown"),
        (
            dict(scale="lapotp"),
            "scale='lapotp': unknown; choose one of smoke, laptop, former, paper",
        ),
        (dict(gpus="half"), "gpus='half': must be a number from 0 to 1"),
        (dict(use="missing.py"), "use='missing.py': does not import .*no such file"),
        (dict(use="no.such.module"), "use='no.such.module': does not import"),
        (dict(decoders=2), "decoders: unknown parameters; this notebook has scale, "),
        (dict(archs=2, sed=1), "archs, sed: unknown parameters"),
    ],
)
def test_wrong_parameters_end_in_one_sentence(tmp_path, change, words):
    with pytest.raises(ValueError, match=words) as error:
        page(tmp_path, **change)
    assert "\n" not in str(error.value)


def test_a_scale_that_is_unknown_leaves_no_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("UNNAS_HOME", str(tmp_path))
    for change in (dict(scale="lapotp"), dict(sclae="smoke")):
        with pytest.raises(ValueError, match=next(iter(change))):
            report.Page("fig2", list(PARAMETERS), PARAMETERS | change)
    assert not [*tmp_path.iterdir()]


def test_findings_are_those_of_one_scale(tmp_path, monkeypatch):
    monkeypatch.setenv("UNNAS_HOME", str(tmp_path))
    path = runner.ROOT / "nbs/findings.ipynb"
    for scale in ("smoke", "lapotp"):
        with pytest.raises(ValueError, match=f"scale='{scale}': unknown; choose one of laptop"):
            run_notebook(path, scale=scale)
    assert not [*tmp_path.iterdir()]


def test_a_message_names_the_parameter_of_the_page(tmp_path):
    given = dict(scale="smoke", figures=str(tmp_path), dataset=None, task="jgi", seed=0)
    with pytest.raises(ValueError, match="^task='jgi': unknown; choose one of cls"):
        searched.spec_of(report.Page("search", given, given))
    given |= dict(task="jig", dataset="minst")
    with pytest.raises(ValueError, match="^dataset='minst': unknown"):
        searched.spec_of(report.Page("search", given, given))


def test_names_may_be_text(tmp_path):
    assert page(tmp_path, tasks="rot").tasks == ["rot"]
    assert page(tmp_path, tasks="rot, jig").tasks == ["rot", "jig"]


def test_functions_classes_and_modules_of_a_notebook_are_no_parameters(tmp_path, capsys):
    def helper():
        pass

    made = page(tmp_path, helper=helper, Own=type("Own", (), {}), np=np, _private=3, tasks=tasks)
    assert isinstance(tasks, ModuleType) and made.tasks is None
    assert "tasks: is the module unnas.tasks here, so the default counts" in capsys.readouterr().out


def test_a_page_saves_and_says_what_it_saved(tmp_path, capsys):
    made = page(tmp_path)
    shown = made.save_table(pd.DataFrame(dict(rho=[0.123456], reason=["few"])), "table")
    assert list(shown) == ["rho"] and shown.rho[0] == 0.12
    assert pd.read_csv(tmp_path / "table.csv").reason[0] == "few"
    assert not len(made.close([])) and "table.csv" in capsys.readouterr().out


OWN = textwrap.dedent("""
    from unnas import spaces, study, tasks
    from unnas.spaces import darts

    class Turned(tasks.rotation):
        name, crop = "turned", "random"

    tasks.register("turned", Turned)
    spaces.register("small", spaces.Space(
        darts.sample, darts.build, darts.Genotype.from_dict, title="Small cells", like="darts"
    ))
    first = study.Score(lambda record: -record["result"]["loss"][0], "- loss")
    study.register_score("first", first)
    study.GRIDS["fig2"]["smoke"] = study.lists.shorter(study.grid("fig2", "smoke"), 0.1, 0.4)
""")


def laptop(folder, monkeypatch, records=3, **change):
    """A page at scale laptop of a project in `folder` in which this figure is released."""
    monkeypatch.setenv("UNNAS_HOME", str(folder))
    known = {name: PARAMETERS[name] for name in PARAMETERS if name not in report._ANYWAY}
    note = {"laptop/fig2": dict(parameters=known, records=records)}
    (folder / "figures").mkdir(exist_ok=True)
    (folder / "figures/released.json").write_text(json.dumps(note))
    return report.Page("fig2", list(PARAMETERS), PARAMETERS | dict(scale="laptop") | change)


def test_a_released_figure_is_not_overwritten_by_another_one_or_fewer_records(
    tmp_path, monkeypatch
):
    runs = pd.DataFrame(dict(status=["done", "done", "failed"]))
    monkeypatch.setattr(report, "collect", lambda specs, **options: runs)
    own, mine = tmp_path / "figures/laptop", tmp_path / "figures/mine/laptop"
    assert laptop(tmp_path, monkeypatch, workers=2).folder == own
    assert laptop(tmp_path, monkeypatch, tasks=["jig"]).folder == mine
    assert laptop(tmp_path, monkeypatch, figures=str(own)).folder == own  # asked for
    for records, folder in ((2, own), (3, mine)):
        page = laptop(tmp_path, monkeypatch, records)
        page.collect([])
        assert page.folder == folder
    assert page.records == 2 and not page.close([]).size
    noted = json.loads((tmp_path / "figures/released.json").read_text())
    assert noted["laptop/fig2"]["records"] == 3  # as before: nothing was released


def test_figures_of_two_kinds_of_runs_are_not_overwritten_by_fewer_records(tmp_path, monkeypatch):
    row = dict(status="done", task="rot", best=1.0)
    runs = [pd.DataFrame([row, row]), pd.DataFrame([row, row | dict(status="failed")])]
    own, mine = tmp_path / "figures/laptop", tmp_path / "figures/mine/laptop"
    monkeypatch.setattr(report, "collect", lambda specs, **options: runs[specs[0].seed])
    for records, folder in ((3, own), (4, mine)):
        one = laptop(tmp_path, monkeypatch, records)
        one.target_root = None
        targets = [replace(spec, seed=1) for spec in small.specs()]
        both = figures.proxy_and_target(one, small.specs(), targets)
        assert (one.records, one.folder, len(both.runs)) == (3, folder, 4)


def test_pages_that_close_together_are_all_noted(tmp_path, monkeypatch):
    pages, read = [laptop(tmp_path, monkeypatch) for _ in range(4)], report._released_figures

    def slowly():
        notes = read()
        time.sleep(0.05)
        return notes

    for number, one in enumerate(pages):
        one.name = f"figure {number}"
    monkeypatch.setattr(report, "_released_figures", slowly)
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(report._tell_released, pages))
    assert read().keys() == {"laptop/fig2", *(f"laptop/{one.name}" for one in pages)}


def test_what_is_neither_released_nor_here_is_refused_before_anything_starts(tmp_path, monkeypatch):
    monkeypatch.delenv("UNNAS_DATA", raising=False)
    asked = study.specs_of(study.grid("fig2", "laptop"), architectures=20, tasks=["rot"])
    asked = [replace(spec, seed=99) for spec in asked]  # no such run is listed
    words = "runs have no record, and the images of cifar10 are not here"
    with pytest.raises(FileNotFoundError, match=words) as error:
        page(tmp_path).collect(asked)
    assert "\n" not in str(error.value)


def test_what_is_released_is_listed_without_images(capsys, tmp_path):
    made = page(tmp_path, spaces=["nasbench101"])
    specs = made.specs_of(study.grid("fig2", "laptop"), ["cls", "rot", "gen"])
    tasks, seeds = ({getattr(spec, name) for spec in specs} for name in ("task", "seed"))
    assert tasks == {"cls", "rot"} and seeds == {0, 1} and len(specs) % 4 == 0
    store = study.Store()
    assert all(store.get(spec.id) for spec in specs)
    assert "of 100 architectures per space so far; no signals yet" in capsys.readouterr().out


@pytest.mark.slow
def test_things_of_ones_own_in_a_file_reach_figure_2_from_the_command_line(tmp_path, monkeypatch):
    monkeypatch.setenv("UNNAS_HOME", str(tmp_path))
    (tmp_path / "own_things.py").write_text(OWN)
    parameters = dict(
        scale="smoke",
        use=str(tmp_path / "own_things.py"),
        tasks="turned",
        spaces="small",
        score="first",
        architectures=2,
        engine="processes",
        workers=1,
    )
    papermill.execute_notebook(
        runner.ROOT / "nbs/fig2.ipynb",
        tmp_path / "out.ipynb",
        parameters,
        cwd=str(tmp_path),
        progress_bar=False,
    )
    table = pd.read_csv(tmp_path / "figures/smoke/fig2.csv")
    assert set(table.task) == {"turned"} and set(table.space) == {"small"} and (table.y < 0).all()


@pytest.mark.slow
def test_an_error_is_one_sentence_first_and_last(tmp_path):
    with pytest.raises(papermill.PapermillExecutionError) as error:
        papermill.execute_notebook(
            runner.ROOT / "nbs/fig2.ipynb",
            tmp_path / "out.ipynb",
            dict(seeds=1.5, figures=str(tmp_path)),
            progress_bar=False,
        )
    sentence = "ValueError: seeds=1.5: must be a whole number of at least 1"
    lines = str(error.value).strip().splitlines()
    assert lines[-1] == sentence and sentence in lines[2:4] and len(lines) < 12
    assert not [line for line in lines if "site-packages" in line]


def test_a_task_says_how_its_images_are_cropped():
    class Turned(tasks.rotation):
        name, crop = "turned", "random"

    tasks.register("turned", Turned)
    options = dict(architectures=2, seeds=1, spaces=["darts"], look=False)
    specs = study.specs_of(study.grid("fig3", "smoke"), tasks=["turned", "rot", "jig"], **options)
    assert [spec.data.crop for spec in specs[:3]] == ["random", "inception", "random"]


def test_a_space_of_ones_own_is_trained_like_the_one_that_it_names():
    options = dict(architectures=2, seeds=1, tasks=["rot"], look=False)
    grid = study.grid("fig2", "laptop")
    functions = darts.sample, darts.build, darts.Genotype.from_dict
    spaces.register("alike", spaces.Space(*functions, like="nasbench101"))
    own = study.specs_of(grid, spaces=["alike"], **options)[0]
    model = study.specs_of(grid, spaces=["nasbench101"], **options)[0]
    assert (own.space, own.width, own.depth) == ("alike", model.width, model.depth)
    assert (own.recipe, own.data) == (model.recipe, model.data)
    spaces.register("unsized", spaces.Space(*functions))
    with pytest.raises(ValueError, match="space='unsized': does not say how large .* register it"):
        study.specs_of(grid, spaces=["unsized"], **options)


@pytest.mark.slow
def test_a_score_of_ones_own_is_a_column_and_a_name_means_one_thing(tmp_path):
    study.register_score("first", study.Score(lambda record: record["result"]["loss"][0], "loss"))
    with pytest.raises(ValueError, match="score='best': already registered"):
        study.register_score("best", study.Score(len, "records"))
    with pytest.raises(ValueError, match="score='chance': is a column of its own"):
        study.register_score("chance", study.Score(len, "records"))
    grid = lists.shorter(study.grid("fig2", "smoke"), 0.05, 0.2)
    specs = study.specs_of(grid, architectures=2, tasks=["cls", "rot"], spaces=["darts"])
    store = study.Store(tmp_path / "records", released=tmp_path)
    runs = study.collect(specs, store=store)
    losses = [record["result"]["loss"][0] for record in study.records_of(specs, store)]
    assert runs["first"].tolist() == losses
    judged = study.judged(runs, "first")
    assert [judged[0], judged[1]] == [runs.best[0], losses[1]]  # supervision stays an accuracy
    assert report.units(["cls", "rot"], "first") == dict(cls="accuracy (%)", rot="loss")


def test_regrets_and_expectations_by_hand():
    points = pd.DataFrame(
        dict(space="darts", task="rot", x=[70.0, 80, 90, np.nan], y=[1.0, 3, 2, 9])
    )
    regret = figures.regrets(points, ks=(1, 2, 3, 4))
    assert regret.k.tolist() == [1, 2, 3] and regret.regret.tolist() == [10, 0, 0]
    assert regret.random.tolist() == pytest.approx([10, 10 / 3, 0])
    assert figures.without_poorest(points.dropna(), 1).rho[0] == -1
    assert not len(figures.without_poorest(pd.DataFrame(), 2))
    assert not len(figures.without_poorest(points, 2))


def test_what_intervals_say_in_words():
    ends = dict(low=0.1, high=0.7, partial_low=-0.1, partial_high=0.3, gain_low=np.nan, gain_high=1)
    rho = pd.DataFrame([dict(space="darts", task=task, n=9, **ends) for task in ("rot", "naswot")])
    assert figures.in_words(rho).to_dict("records") == [
        {"space": "darts", "task": "rot", "n": 9, "above 0": "supported", "above 0.8": "against"}
        | {"above 0, given size": "undecided", "above that of size": "not known"}
    ]


def test_former_versions_are_what_their_records_say():
    table = pd.read_csv(files.home() / "data" / "released" / "former-versions.csv")
    key = ["space", "architecture", "task", "seed"]
    known = {}
    for record in study.Store().released_as("former-fig2").values():
        spec = study.Spec.from_dict(record["spec"])
        known[spec.space, spec.architecture_id, spec.task, spec.seed] = record["result"]["best"]
    last = table[table.version == 6].set_index(key)
    assert last.best.to_dict() == known

    settings, rho = figures.former_versions()
    names = [set(own.architecture) for _, own in table[table.space == "darts"].groupby("version")]
    both = table[table.architecture.isin(set.intersection(*names)) & (table.version == 3)]
    means = both.pivot_table(index="architecture", columns="task", values="best")
    row = rho[(rho.version == 3) & (rho.space == "darts") & (rho.task == "jig")].squeeze()
    assert row.n == len(means) == 12
    assert row.rho == pytest.approx(means["cls"].corr(means["jig"], method="spearman"))
    assert row.low < row.rho < row.high
    assert len(rho) == 6 * 2 * 3 and settings.seeds.tolist() == [1] * 4 + [2] * 20
    ends = figures.spread(rho).set_index(["space", "task"])
    assert ends.loc["darts", "col"].tolist() == pytest.approx([0.06, 0.83])


def test_an_installation_without_former_versions_shows_none(tmp_path, monkeypatch):
    monkeypatch.setenv("UNNAS_HOME", str(tmp_path))
    settings, rho = figures.former_versions()
    assert not len(settings) and not len(rho) and not len(figures.spread(rho))
    assert figures.draw_versions(page(tmp_path / "figures"), rho) is None


def scored(architectures, scores):
    """Specs of these architectures and the table of their runs, a row of scores each."""
    specs = {
        name: [study.Spec.from_dict(small.specs(1)[0].to_dict() | change) for change in changes]
        for name, changes in (
            (name, [dict(architecture=own.to_dict(), seed=seed) for seed in range(len(row))])
            for (name, own), row in zip(architectures.items(), scores)
        )
    }
    return specs, pd.DataFrame(dict(score=[score for row in scores for score in row]))


def test_groups_stand_against_random_architectures():
    drawn = darts.sample(9, seed=0)
    names = ["random 0", "random 1", "random 2"]
    names += [("cifar10", "rot", 0), ("cifar10", "col", 0), ("cifar10", "cls", 0)]
    names += [("cifar10", "cls", 1), "imagenet_rot", "pdarts"]
    architectures = dict(zip(names, drawn)) | {("cifar10", "jig", None): drawn[1]}
    architectures |= {("cifar10", "rnd", 0): drawn[2]}
    values = [[50, 52], [40, 42], [46, 44], [60, 62], [52, 50], [70, 71], [65, 65], [47, 48]]
    values += [[45, 46], [41, 42], [30, 31]]
    collapsed = {("cifar10", "col", 0), ("cifar10", "cls", 1)}
    table = tables.comparisons(*scored(architectures, values), names[:3], collapsed)
    found = table.set_index(["group", "against"])
    assert found.collapsed.groupby("group").max().sum() == 3  # col, cls, and without labels
    random = "random architectures"
    own = found.loc["searched here without labels", random]
    assert own.n == 2 and own["mean"] == 56 and own.difference == pytest.approx(56 - 137 / 3)
    ends = stats.ttest_ind([61, 51], [51, 41, 45], equal_var=False).confidence_interval(0.95)
    assert [own.low, own.high] == pytest.approx([ends.low, ends.high])
    own = found.loc["searched here without labels", "searched here: supervised"]
    ends = stats.ttest_ind([61, 51], [70.5, 65], equal_var=False).confidence_interval(0.95)
    assert own.difference == pytest.approx(56 - 67.75) and own.high == pytest.approx(ends.high)
    # it is random 1, which is not compared with itself
    own = found.loc["random, selected by jigsaw", random]
    assert own.n == 1 and own.difference == pytest.approx(41.5 - 48)
    ends = stats.ttest_ind([41, 42], [51, 45], equal_var=False).confidence_interval(0.95)
    assert [own.low, own.high] == pytest.approx([ends.low, ends.high])
    assert {group for group, against in found.index if against == random} == {
        "searched here: rotation",
        "searched here: colorization",
        "searched here: supervised",
        "searched here: random labels",
        "searched here without labels",
        "random, selected by jigsaw",
        "the paper's, without labels",
        "earlier work, with labels",
    }
    assert len(found) == 9  # with one search by random labels there is nothing to compare
    means = {"searched here without labels": [61, 51], "searched here: supervised": [70.5, 65]}
    p = [stats.ttest_ind(own, [51, 41, 45], equal_var=False).pvalue for own in means.values()]
    assert found.p_holm.count() == 2  # groups of one architecture are not corrected for
    own = [found.p_holm[group, random] for group in means]
    assert own == pytest.approx([max(p[0], 2 * p[1]), 2 * p[1]]) and p[1] < p[0]
    own = found.loc["searched here without labels", random]
    assert (own.against_n, own.against_width) == (3, 4)
    specs, runs = scored(architectures, values)
    runs.loc[6:7, "score"] = np.nan  # of the search by rotation, both
    runs.loc[8, "score"] = np.nan  # and of the one by colorization the first
    own = tables.comparisons(specs, runs, names[:3]).set_index(["group", "against"])
    own = own.loc["searched here without labels", random]
    assert (own.n, own["mean"]) == (1, 50) and np.isnan(own.low)
    few = tables.comparisons(*scored(architectures, values), names[:1])
    assert few.against.tolist() == ["searched here: supervised"]
    assert not len(tables.comparisons({}, pd.DataFrame(dict(score=[])), []))


def test_what_a_wider_network_gains_is_told_within_groups():
    drawn = darts.sample(6, seed=0)
    names = ["random 0", "random 1", "random 2", "pdarts", "imagenet_rot", "imagenet_jig"]
    values = [[50], [53], [55], [70], [60], [64]]
    specs, runs = scored(dict(zip(names, drawn)), values)
    for name, width in zip(names, (8, 10, 12, 20, 8, 12)):
        specs[name] = [replace(spec, width=width) for spec in specs[name]]
    table = SimpleNamespace(specs=specs, runs=runs, drawn=names[:3])
    x, y = np.array([-1, 0, 1, -1, 1]), np.array([-8 / 3, 1 / 3, 7 / 3, -2, 2])
    slope, left = (x * y).sum() / 4, 6 - 3 - 1  # three groups, one of them of one architecture
    reach = stats.t.ppf(0.975, left) * np.sqrt(((y - slope * x) ** 2).sum() / left / 4)
    assert f"{slope:+.1f} points better [{slope - reach:+.1f}, {slope + reach:+.1f}], over 6" in (
        tables.of_width(table)
    )
    table.drawn, table.specs = [], {name: [replace(s[0], width=8)] for name, s in specs.items()}
    assert tables.of_width(table) == "All networks of a group are of one width."


def test_the_first_of_random_architectures_is_selected_by_the_mean_of_its_seeds(tmp_path):
    kept = study.Store(tmp_path / "records", released=tmp_path / "released")
    specs = [
        spec
        for spec in lists.recorded(study.grid("fig2", "laptop"), tasks=["rot"], spaces=["darts"])
        if spec.architecture in darts.sample(16, seed=1)
    ]
    assert len(specs) == 32
    for place, spec in enumerate(specs):
        record = study.Store().get(spec.id)
        best = {5: 90.0, 21: 50.0, 7: 75.0, 23: 75.0}.get(place, 40.0)
        kept.put(record | dict(result=record["result"] | dict(best=best)))
    kept.release(specs, "protocol-1")
    selected = tables.selected_genotypes("laptop", kept)
    assert selected == {("cifar10", "rot", None): specs[7].architecture}
    # random labels by what is left of their loss
    specs = [
        spec
        for spec in lists.recorded(study.grid("fig2", "laptop"), tasks=["rnd"], spaces=["darts"])
        if spec.architecture in darts.sample(16, seed=1)
    ]
    for place, spec in enumerate(specs):
        record = study.Store().get(spec.id)
        loss, best = [2.0, {9: 0.5, 3: 1.0}.get(place, 1.5)], 50.0 if place == 3 else 10.0
        kept.put(record | dict(result=record["result"] | dict(loss=loss, best=best)))
    kept.release(specs, "protocol-1")
    selected = tables.selected_genotypes("laptop", kept)
    assert selected["cifar10", "rnd", None] == specs[9].architecture
    assert tables.selected_genotypes("smoke", kept) == {}


def test_what_is_said_first_of_a_table(tmp_path, monkeypatch):
    monkeypatch.setenv("UNNAS_HOME", str(tmp_path))
    assert "No comparison" in tables.in_short("table1")
    rows = [("a", -1.0, -2.0, 0.1), ("b", -3.0, -4.0, -2.0), ("c", 3.0, 1.0, 5.0)]
    table = pd.DataFrame(rows, columns=["group", "difference", "low", "high"])
    table["against"], table["n"], table["collapsed"] = "random architectures", 2, [0, 0, 1]
    table["width"], table["against_width"], table["p_holm"] = [10.0, 11.5, 13.0], 12, 0.04
    table = pd.concat([table, table[2:].assign(group="d", n=1, collapsed=0)], ignore_index=True)
    (tmp_path / "figures/laptop").mkdir(parents=True)
    table[table.group != "c"].to_csv(tmp_path / "figures/laptop/table1_groups.csv")
    said = tables.in_short("table1")
    assert said.startswith("**Nothing here is known to be better")
    assert "a (-1.0 points [-2.0, +0.1])" in said and "Worse: b (-3.0" in said
    assert "Single architectures" in said and "same way: d (+3.0 points [+1.0, +5.0])." in said
    assert protocol._search_claim() == dict(
        n="",
        here="not computed yet",
        baseline="to random cells not computed yet",
        verdict="undecided",
    )
    table.to_csv(tmp_path / "figures/laptop/table1_groups.csv")
    said = tables.in_short("table1")
    assert said.startswith(
        "**Better than random architectures of the same budget**, after Holm's correction for 3"
        " groups: c (+3.0 points"
    )
    assert "[+1.0, +5.0]; 1 of 2 may have collapsed).\n\n- Worse: b (-3.0" in said
    assert "groups have 10.0 to 13.0 on average, the random ones 12.0" in said
    table.assign(p_holm=0.06).to_csv(tmp_path / "figures/laptop/table1_groups.csv")
    said = tables.in_short("table1")
    assert said.startswith("**Nothing here is known to be better")
    assert "but not after Holm's correction for 3 groups: b (-3.0" in said


def test_the_claim_on_searches_is_judged_by_the_interval_to_those_with_labels(
    tmp_path, monkeypatch
):
    monkeypatch.setenv("UNNAS_HOME", str(tmp_path))
    (tmp_path / "figures/laptop").mkdir(parents=True)
    without, labels = "searched here without labels", "searched here: supervised"
    rows = [
        (without, "random architectures", 3, 50.0, -1.0, -5.0, 3.0),
        (labels, "random architectures", 1, 53.0, 2.0, 1.0, 3.0),
        (without, labels, 3, 50.0, -3.0, -4.0, -2.0),
    ]
    columns = ["group", "against", "n", "mean", "difference", "low", "high"]
    table = pd.DataFrame(rows, columns=columns)

    def said(table):
        table.to_csv(tmp_path / "figures/laptop/table1_groups.csv", index=False)
        return protocol._search_claim()

    one = dict(n="3 without labels, 1 with", baseline="to random cells -1.0 points [-5.0, +3.0]")
    here = "-3.0 points, without minus with labels; no interval: one with labels"
    assert said(table[:2]) == one | dict(here=here, verdict="undecided")
    here = "-3.0 points [-4.0, -2.0], without minus with labels"
    assert said(table) == one | dict(here=here, verdict="against")
    assert said(table.replace(-2.0, 2.0))["verdict"] == "undecided"
    rest = (f"{without}, not collapsed", labels, 2, 52.0, -1.0, -2.5, 0.5)
    more = pd.concat([table, pd.DataFrame([rest], columns=columns)])
    found, words = said(more), "without what may have collapsed"
    assert found["here"] == f"{here}; -1.0 points [-2.5, +0.5] {words}"
    assert found["verdict"] == f"against; undecided {words}"
    assert said(table.replace(-4.0, 0.5).replace(-2.0, 2.0))["verdict"] == "supported"


def test_what_is_released_is_shown_and_what_is_not_is_counted(tmp_path, capsys):
    listed = lists.recorded(study.grid("fig2", "laptop"), tasks=["rot"], spaces=["darts"])[:2]
    unknown = small.specs(2)
    groups = dict(a=listed[:1], b=listed, c=unknown, d=[listed[1], unknown[0]])
    own = page(tmp_path)
    assert list(report.released_of(own, groups, "seeds")) == ["a", "b"]
    assert "2 of 4 architectures so far; to compute more, give seeds." in capsys.readouterr().out
    assert report.released_of(page(tmp_path, seeds=1), groups, "seeds") is groups
    assert report.released_of(own, dict(c=unknown), "seeds") == dict(c=unknown)
    assert report.released_of(own, dict(a=listed), "seeds") == dict(a=listed)


def test_searches_that_are_released_are_shown_without_images(tmp_path, monkeypatch, capsys):
    monkeypatch.delenv("UNNAS_DATA", raising=False)
    own = report.searches_of(page(tmp_path, scale="laptop"), datasets=None, seeds=None)
    released = study.Store().released_as("protocol-7")
    searches = [id for id, record in released.items() if record["spec"].get("kind") == "search"]
    assert sorted(spec.id for spec in own) == sorted(searches)
    said = (
        f"{len(own)} of 27 searches so far; to compute more, give datasets, tasks or seeds."
        in capsys.readouterr().out
    )
    assert said == (len(own) < 27)
    smoke = report.searches_of(page(tmp_path), datasets=["synthetic-objects"], seeds=None)
    assert smoke == study.searches("smoke", datasets=["synthetic-objects"])
    assert report.searches_of(page(tmp_path), datasets=None) == study.searches("smoke")


def search_record(seed, none, cell, lr=0.1):
    """A record of a search that found this cell, and whose normal cell has these alphas of none."""
    (spec,) = study.searches("smoke", datasets=["synthetic-objects"], tasks=["rot"], seeds=[seed])
    spec = replace(spec, recipe=replace(spec.recipe, alpha_lr=lr))
    ramp = np.arange(8.0) * (1 if none else -1) / 1e6  # of all operations but none
    alphas = np.stack([np.tile(ramp, (14, 1)), np.zeros((14, 8))])
    alphas[1] += np.eye(14, 8) / 1e6
    alphas[0, :, list(ops.OPS).index("none")] = none
    tables = [{}, dict(alpha_normal=alphas[0].tolist(), alpha_reduce=alphas[1].tolist())]
    result = dict(tables=tables, genotype=cell.to_dict(), steps=9)
    return dict(spec=spec.to_dict(), result=result)


def test_settings_of_searches_stand_side_by_side():
    a, b = darts.sample(2, seed=0)
    records = [search_record(0, 0, a), search_record(3, 50, b), search_record(0, 0, a, lr=0.2)]
    found = cells.settled(records)
    assert found.seeds.tolist() == [2, 1] and found.alpha_lr.tolist() == ["0.1", "0.2"]
    # of four tables one has all weight on none, and 0 nats
    near = dict(abs=1e-5)
    assert found.entropy.tolist() == pytest.approx([0.75 * np.log(8), np.log(8)], **near)
    assert found.entropy_kept.tolist() == pytest.approx([np.log(7)] * 2, **near)
    assert found.none.tolist() == pytest.approx([(3 / 8 + 1) / 4, 1 / 8], **near)
    assert found.similarity[0] == darts.similarity(a, b)
    assert found.normal_alphas[0] == pytest.approx(-1)
    assert found[["similarity", "normal_alphas", "reduction_alphas"]].loc[1].isna().all()


def test_a_search_that_is_sure_of_none_has_not_decided_whatever_its_record_says():
    old = verdict.Verdict(
        (
            verdict.Finding("learned", False, "Not learned."),
            verdict.Finding("decided", True, "The search decided: 0.1 nats."),
        )
    )
    tables = np.zeros((14, 8))
    tables[:, list(ops.OPS).index("none")] = 9.0
    record = search_record(0, 0, darts.sample(1, seed=0)[0]) | dict(chance=25.0)
    record["result"] |= dict(
        tables=[dict(alpha_normal=tables, alpha_reduce=tables)],
        final=60.0,
        warnings=["skips"],
        verdict=old.to_dict(),
    )
    said = searched.verdict_of(record)
    assert [finding.holds for finding in said.findings] == [False, False, False]
    assert [finding.question for finding in said.findings] == ["learned", "decided", "collapsed"]
    assert said.findings[0].words == "Not learned." and "7 operations" in said.findings[1].words


def test_intervals_of_similarity_resample_architectures():
    def alphas(x):
        return dict(normal_alphas=x, reduction_alphas=np.nan)

    names = list("abcdef")
    own = np.random.default_rng(0).normal(size=6)
    pairs = pd.DataFrame(
        [
            dict(first=a, second=b, kind="k", similarity=x + y, inputs_only=0, **alphas(x))
            for (a, x), (b, y) in itertools.combinations(zip(names, own), 2)
        ]
    )
    row = cells.by_kind(pairs, dict(chance=pairs)).set_index("pairs_of")
    assert row.similarity["k"] == pytest.approx(2 * own.mean())
    slow, rng = [], np.random.default_rng(1)
    for _ in range(2000):
        drawn = rng.choice(6, 6)
        both = [own[i] + own[j] for i, j in itertools.combinations(drawn, 2) if i != j]
        slow += [np.mean(both)] if both else []
    ends = np.quantile(slow, [0.025, 0.975])
    assert [row.low["k"], row.high["k"]] == pytest.approx(ends, abs=0.15)
    assert row.normal_alphas_low["k"] < row.normal_alphas["k"] < row.normal_alphas_high["k"]
    assert np.isnan(row.low["chance"]) and np.isnan(row.reduction_alphas_low["k"])
    few = cells.by_kind(pairs[pairs["first"].isin(["a"]) & (pairs["second"] < "e")], {})
    assert np.isnan(few.low[0])


def test_pairs_with_random_labels_are_a_kind_of_their_own():
    drawn = darts.sample(4, seed=0)
    by = [("rot", 0), ("rot", 1), ("rnd", 0), ("rnd", 1)]
    found = [
        cells.Found(f"{task} {seed}", own, "here", "cifar10", task)
        for (task, seed), own in zip(by, drawn)
    ]
    kinds = cells.compared(found).kind.value_counts().to_dict()
    assert kinds == {
        "found here: same images and task, other seed": 1,
        "found here: a task, and random labels": 4,
        "found here: random labels, other seed": 1,
    }
    assert "here, with random labels" in cells.made_of(found).index.get_level_values(0)


def test_pairs_of_searches_that_have_not_collapsed_are_a_row_of_their_own():
    drawn = darts.sample(4, seed=0)
    found = [
        cells.Found(str(number), own, "here", "cifar10", "rot", collapsed=number == 3)
        for number, own in enumerate(drawn)
    ]
    pairs = cells.compared(found)
    rows = cells.by_kind(pairs, {}).set_index("pairs_of")
    name = "found here: same images and task, other seed"
    assert rows.pairs.to_dict() == {name: 6, f"{name}, none collapsed": 3}
    three = pairs[~pairs.collapsed & (pairs.second != "3")].similarity
    assert len(three) == 3 and rows.similarity[f"{name}, none collapsed"] == three.mean()
    assert list(cells.by_kind(cells.compared(found[:3]), {}).pairs_of) == [name]  # none has
    other = "found here: same images, other task"
    tasks = ("cls", "rot", "col", "col")
    found = [replace(own, task=task, collapsed=False) for own, task in zip(found, tasks)]
    rows = cells.by_kind(cells.compared(found), {}).set_index("pairs_of")
    assert rows.pairs.to_dict() == {
        other: 5,
        name: 1,
        f"{other}, one with labels": 3,
        f"{other}, both without labels": 2,
    }


def test_what_is_said_of_similar_cells_follows_from_the_interval(tmp_path, monkeypatch):
    monkeypatch.setenv("UNNAS_HOME", str(tmp_path))
    assert "No searches are released" in cells.in_short()
    (tmp_path / "figures/laptop").mkdir(parents=True)
    alphas = ["normal_alphas", "reduction_alphas"]
    columns = ["pairs_of", "pairs", "similarity", "low", "high", *alphas]
    columns += [f"{name}_{end}" for name in alphas for end in ("low", "high")]
    for low, said in ((0.3, "found agree more"), (0.1, "is undecided")):
        rows = [
            ("found here: same images and task, other seed", 12, 0.4, low, 0.5, 0.6, 0.1, 0.3, 0.9),
            ("found here: a task, and random labels", 3, 0.25),
            ("untrained searches", 7, 0.22),
        ]
        table = pd.DataFrame([dict(zip(columns, row)) for row in rows], columns=columns)
        table.to_csv(tmp_path / "figures/laptop/cells_groups.csv", index=False)
        words = cells.in_short()
        assert said in words
        assert words.splitlines()[-3:] == [
            f"| searches by one task, with different seeds | 12 | 40% [{low:.0%}, 50%]"
            " | 0.60 [0.30, 0.90] | 0.10 |",
            "| one by a task, one by random labels | 3 | 25% |  |  |",
            "| searches that learn nothing | 7 | 22% |  |  |",
        ]


def test_alphas_are_compared_edge_by_edge_around_their_mean():
    drawn, random = darts.sample(3, seed=0), np.random.default_rng(0)
    tables = [random.normal(size=(14, 8)) for _ in range(2)]
    moved = tuple(k * table + random.normal(size=(14, 1)) for k, table in zip((3, -2), tables))
    found = [
        cells.Found("a", drawn[0], "here", "cifar10", "rot", tuple(tables)),
        cells.Found("b", drawn[1], "here", "cifar10", "rot", moved),
        cells.Found("c", drawn[2], "paper", "imagenet", "rot"),
    ]
    alphas = cells.compared(found)[["normal_alphas", "reduction_alphas"]]
    assert alphas.loc[0].tolist() == pytest.approx([1, -1]) and alphas[1:].isna().all(axis=None)
