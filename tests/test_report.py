"""What the notebooks share: parameters of the wrong type, modules of one's own, scores of one's
own, and the tables that stand between records and pictures.
"""

import json
import textwrap
from types import ModuleType

import numpy as np
import pandas as pd
import papermill
import pytest

from tools import study as runner
from unnas import files, spaces, study, tasks
from unnas.spaces import darts
from unnas.study import figures, lists, report

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


def test_what_is_neither_released_nor_here_is_refused_before_anything_starts(tmp_path, monkeypatch):
    monkeypatch.delenv("UNNAS_DATA", raising=False)
    asked = study.specs_of(study.grid("fig2", "laptop"), architectures=20, tasks=["rot"])
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
