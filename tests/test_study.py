"The study: interruptions by force, dying workers, tasks and spaces of the user's own, and what bad input gets."
import json
import math
import os
import resource
import signal
import subprocess
import sys
import time
import textwrap
import warnings
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd
import pytest
import torch
from PIL import Image

from unnas import data, study, tasks, train
from unnas.spaces import darts
from unnas.study import Data, Spec
from unnas.train import Recipe

RELEASED = Path(__file__).parents[1]/'data'/'released'


def specs(count=2, task='rot', **change):
    images = Data('synthetic-objects', 16, train_images=60, test_images=30, labels=task == 'cls')
    return [Spec('darts', architecture, 'cifar', 4, 3, images, task, 'cifar', Recipe(epochs=2, batch_size=20, lr=.05), seed=0, **change)
            for architecture in darts.sample(count, seed=0)]


def store(folder): return study.Store(folder/'records', released=folder/'released')


SCRIPT = textwrap.dedent('''
    import sys
    from dataclasses import replace
    from pathlib import Path
    from unnas import study, train
    from unnas.spaces import darts
    train.CHECKPOINT_SECONDS = 0
    images = study.Data('synthetic-objects', 16, train_images=100, test_images=30, labels=False)
    specs = [study.Spec('darts', a, 'cifar', 4, 3, images, 'rot', 'cifar', train.Recipe(epochs=5, batch_size=20, lr=.05), seed=0) for a in darts.sample(2, seed=0)]
    folder = Path(sys.argv[1])
    study.collect(specs, store=study.Store(folder/'records', released=folder/'released'))''')


def records(folder): return {path.stem: json.loads(path.read_text()) for path in (folder/'records').glob('*.json')}


def test_a_study_killed_at_any_moment_ends_as_if_nothing_had_happened(tmp_path):
    def start(folder): return subprocess.Popen([sys.executable, '-c', SCRIPT, str(folder)], env=os.environ | {'OMP_NUM_THREADS': '1'}, stderr=subprocess.DEVNULL)
    assert start(tmp_path/'whole').wait() == 0
    for kill in range(2):  # once in the first run, with a checkpoint; once later
        process, checkpoints = start(tmp_path/'cut'), tmp_path/'cut'/'records'/'checkpoints'
        seen = {path.stat().st_mtime_ns for path in checkpoints.glob('*.pt')} if checkpoints.exists() else set()
        while not checkpoints.exists() or not {path.stat().st_mtime_ns for path in checkpoints.glob('*.pt')} - seen:
            assert process.poll() is None
            time.sleep(.02)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert len(records(tmp_path/'cut')) < 2
    assert start(tmp_path/'cut').wait() == 0
    whole, cut = records(tmp_path/'whole'), records(tmp_path/'cut')
    assert whole.keys() == cut.keys() and len(whole) == 2
    for id in whole: assert whole[id]['result'] == cut[id]['result'] and whole[id]['spec'] == cut[id]['spec']
    assert not list((tmp_path/'cut'/'records'/'checkpoints').iterdir())


class Deadly(tasks.rotation):
    "Kills its process: always (`deadly`), or only where the file of its name is not there yet (`shaky`)."
    def __init__(self, style='cifar', flag=None):
        super().__init__(style)
        self.flag = flag

    def batch(self, images, labels, train, generator):
        if train:
            if self.flag is None: os.kill(os.getpid(), signal.SIGKILL)
            if not os.path.exists(self.flag):
                open(self.flag, 'w').close()
                os.kill(os.getpid(), signal.SIGKILL)
        return super().batch(images, labels, train, generator)


def test_a_dying_worker_is_tried_again_then_reported_and_the_others_go_on(tmp_path):
    flag = str(tmp_path/'flag')
    tasks.register('deadly', Deadly)
    tasks.register('shaky', lambda style='cifar': Deadly(style, flag))
    wanted = [*specs(2), *specs(1, 'deadly'), *specs(1, 'shaky')]
    with pytest.warns(UserWarning, match='1 of 4 runs failed'):
        table = study.collect(wanted, engine='processes', workers=2, store=store(tmp_path))
    assert list(table.status) == ['done', 'done', 'failed', 'done'] and 'attempts' in table.error[2]
    assert len(records(tmp_path)) == 3 and os.path.exists(flag)
    assert table.best[3] == table.best[0]  # after its accident the same rotation task gives the same record


def test_an_error_in_one_run_is_told_and_does_not_stop_the_others(tmp_path):
    class Faulty(tasks.rotation):
        def loss(self, outputs, targets, label_smoothing=0.): raise RuntimeError('a mistake in the loss')
    tasks.register('faulty', Faulty)
    with pytest.warns(UserWarning, match='a mistake in the loss'):
        table = study.collect([*specs(1, 'faulty'), *specs(1)], store=store(tmp_path))
    assert list(table.status) == ['failed', 'done'] and 'a mistake in the loss' in table.error[0]


@dataclass(frozen=True)
class Plain:
    "An architecture of a space of the user's own: so many layers."
    layers: int
    def to_dict(self): return {'layers': self.layers}


def build_plain(architecture, task, *, stem, width, depth, auxiliary=False, drop_path=0.):
    class Network(torch.nn.Module):
        def __init__(self):
            super().__init__()
            channels = [task.in_channels] + [width] * architecture.layers
            self.body = torch.nn.Sequential(*(torch.nn.Sequential(torch.nn.Conv2d(a, b, 3, padding=1), torch.nn.ReLU()) for a, b in zip(channels, channels[1:])))
            self.head = task.head(width)
        def forward(self, x): return self.head(self.body(x), x.shape[-2:])
    return Network()


def test_a_space_of_ones_own_runs_in_workers(tmp_path):
    study.register_space('plain', study.Space(lambda n, seed: [Plain(i + 1) for i in range(n)], build_plain, lambda d: Plain(**d)))
    images = Data('synthetic-objects', 16, train_images=60, test_images=30, labels=False)
    wanted = [Spec('plain', Plain(i), 'cifar', 4, 3, images, 'rot', 'cifar', Recipe(epochs=1, batch_size=20, lr=.05), seed=0) for i in (1, 2)]
    table = study.collect(wanted, engine='processes', workers=2, store=store(tmp_path))
    assert list(table.status) == ['done', 'done'] and table.parameters[0] < table.parameters[1]


def test_label_free_runs_cannot_see_labels():
    train_data, test_data, _ = study.load(specs(1)[0].data)
    for images in (train_data, test_data):
        with pytest.raises(data.NoLabels): images.labels
    grid = study.grid('fig2', 'smoke')
    assert all(setting.data.labels == (task == 'cls') for (_, task), setting in grid.settings.items())


def test_a_fingerprint_of_other_images_is_refused():
    spec = specs(1)[0]
    with pytest.raises(ValueError, match='fingerprint'): study.run(replace(spec, data=replace(spec.data, fingerprint='0' * 64)))


def test_released_records_can_be_shown_without_the_images(tmp_path, monkeypatch):
    monkeypatch.setenv('UNNAS_DATA', str(tmp_path/'nothing'))
    grid = study.small_grid('imagenet', 32, dict(darts=(4, 3)), dict(rot=(None, None)), dict(rot=Recipe(1, 4, .05)), architectures=2, seeds=1, description='')
    images = data.load('synthetic-objects', num_images=8).images
    for split in ('train', 'val'):
        (tmp_path/'tree'/split/'n01').mkdir(parents=True)
        for i, image in enumerate(images): Image.fromarray(image.permute(1, 2, 0).numpy()).save(tmp_path/'tree'/split/'n01'/f'{i}.png')
    kept = store(tmp_path)
    specs = study.specs_of(grid, root=tmp_path/'tree', store=kept)
    made = study.collect(specs, root=tmp_path/'tree', store=kept)
    with pytest.raises(FileNotFoundError): study.specs_of(grid, store=kept)
    kept.release(specs, 'fig2')
    for spec in specs: kept.path(spec.id).unlink()
    study.load.cache_clear()
    assert study.specs_of(grid, store=kept) == specs and study.collect(specs, store=kept).equals(made)
    with pytest.warns(UserWarning, match='2 of 4 runs have records'):
        assert study.specs_of(grid, seeds=2, store=kept) == specs
    asked = study.specs_of(grid, architectures=2, seeds=2, store=kept)  # a number that is given is kept to
    assert len(asked) == 4
    with pytest.warns(UserWarning, match='(?s)2 of 4 runs failed.*FileNotFoundError'): study.collect(asked, store=kept)


def test_identity_covers_all_that_decides_the_result():
    spec = specs(1, 'cls')[0]
    others = [replace(spec, **change) for change in (dict(seed=1), dict(width=8), dict(depth=4), dict(task='rot'), dict(style='imagenet'), dict(stem='imagenet'),
              dict(recipe=replace(spec.recipe, lr=.1)), dict(data=replace(spec.data, train_images=40)), dict(architecture=darts.sample(2, seed=0)[1]))]
    assert len({s.id for s in [spec, *others]}) == len(others) + 1


@pytest.mark.parametrize('options, words', [
    (dict(scale='huge'), ['scale', 'huge', 'smoke']),
    (dict(architectures=0), ['architectures=0', 'at least 2']),
    (dict(architectures=1), ['architectures=1', 'at least 2']),
    (dict(seeds=0), ['seeds=0']),
    (dict(tasks=['cls', 'contrastive']), ['contrastive', 'rot']),
    (dict(spaces=['resnet']), ['resnet', 'darts']),
    (dict(scale='laptop', root='/no/such/folder'), ['/no/such/folder']),
])
def test_bad_parameters_end_at_once(options, words):
    options = dict(options)
    with pytest.raises((ValueError, FileNotFoundError)) as error:
        study.specs_of(study.grid('fig2', options.pop('scale', 'smoke')), **options)
    assert all(word in str(error.value) for word in words), error.value


@pytest.mark.parametrize('options, words', [(dict(engine='cluster'), ['engine', 'cluster', 'serial']), (dict(workers=0), ['workers=0', 'at least 1'])])
def test_bad_engines_end_at_once(options, words, tmp_path):
    with pytest.raises(ValueError) as error: study.collect(specs(1), store=store(tmp_path), **options)
    assert all(word in str(error.value) for word in words)


def test_an_unwritable_store_is_refused(tmp_path):
    (tmp_path/'file').write_text('')
    with pytest.raises(OSError, match='choose a folder'): study.Store(tmp_path/'file'/'records')


def streets(**change):
    images = Data('synthetic-streets', 32, train_images=24, test_images=10, labels='maps', crop='scale-wide')
    recipe = Recipe(epochs=3, batch_size=8, lr=.05, test_batch_size=1)
    spec = Spec('darts', darts.sample(1, seed=0)[0], 'cifar', 4, 3, images, 'seg', 'imagenet', recipe, seed=0, options=(('channels', 8), ('rates', (1, 2))))
    return replace(spec, **change)


def test_segmentation_is_a_run_like_any_other(tmp_path):
    tables = [study.collect([streets()], engine=engine, workers=1, store=store(tmp_path/engine)) for engine in ('serial', 'processes')]
    results = [study.records([streets()], store(tmp_path/engine))[0]['result'] for engine in ('serial', 'processes')]
    assert tables[0].status[0] == tables[1].status[0] == 'done' and results[0] == results[1]
    assert results[0]['loss'][-1] < results[0]['loss'][0] and 0 < results[0]['best'] < 100
    predictions = [study.read_map(text) for text in results[0]['predictions']]
    assert len(predictions) == 4 and all(p.shape == (43, 43) and p.max() < 19 for p in predictions)


def test_the_score_of_a_segmentation_is_that_of_its_predictions():
    """The mean IoU over all test scenes, from the predictions alone, by counting pixels."""
    train_data, test_data, _ = study.load(streets().data)
    task = tasks.segmentation(19, 8, (1, 2))
    torch.manual_seed(0)
    network = darts.build(darts.sample(1, seed=0)[0], task, stem='cifar', width=4, depth=3)
    history = train.fit(network, task, train_data, test_data, streets().recipe)
    predicted = torch.stack(study.predict(network, task, test_data)).long()
    labels = torch.cat([maps for _, maps in test_data.batches(1)]).long()
    known = labels != 255
    overlaps = [(int(((predicted == k) & (labels == k)).sum()), int((((predicted == k) | (labels == k)) & known).sum())) for k in range(19)]
    ious = [inner / union for inner, union in overlaps if union]
    assert history.final == pytest.approx(100 * sum(ious) / len(ious), abs=1e-9)
    road = max((labels == k).sum().item() for k in range(19)) / known.sum().item()
    assert study.constant_score(streets()) == pytest.approx(100 * road / len(set(labels[known].tolist())))


def test_street_scenes_without_maps_serve_pretext_tasks_and_refuse_segmentation():
    free = replace(streets().data, labels=False)
    images, _, _ = study.load(free)
    assert next(images.batches(2))[1] is None
    with pytest.raises(data.NoLabels): images.label_maps
    with pytest.raises((ValueError, data.NoLabels)): study.run(streets(data=free))
    with pytest.raises(ValueError, match="task='seg'.*label maps"): study.run(streets(data=Data('synthetic-objects', 16, 40, 20)))
    with pytest.raises(ValueError, match='synthetic-objects.*no label maps.*cityscapes'): study.run(streets(data=Data('synthetic-objects', 16, 40, 20, labels='maps')))
    for task in ('rot', 'col', 'jig'):
        spec = streets(data=free, task=task, options=(('grid', 2),) if task == 'jig' else ())
        assert study.run(replace(spec, recipe=replace(spec.recipe, epochs=1)))['status'] == 'done'


def test_a_table_has_the_papers_rows_those_searched_here_and_random_ones(tmp_path):
    evaluation = replace(study.evaluation('table1', 'smoke'), data=Data('synthetic-objects', 12, 60, 30), recipe=Recipe(epochs=1, batch_size=20, lr=.05))
    genotypes = dict(zip(['imagenet_rot', ('synthetic-objects', 'rot', 0), ('synthetic-streets', 'rot', 0), 'random 0', 'random 1'], darts.sample(5, seed=1)))
    specs = study.evaluation_specs(replace(evaluation, window=(1e5, 1e6)), genotypes, seeds=2)
    runs = study.collect([spec for group in specs.values() for spec in group], store=store(tmp_path))
    runs['score'] = runs['best']
    counts = pd.DataFrame([dict(paper_flops=row.flops/1e6, flops=1., paper_parameters=row.parameters/1e6, parameters=2.) for row in study.paper.TABLE1])
    filled = study.fill_table('table1', counts, evaluation, specs, runs)
    shown, gray = study.show_table(filled, 'top-1 (%)', 'M')
    assert len(filled) == 17 + 2 + 2 and list(filled['mean'].notna()) == [row.genotype == 'imagenet_rot' for row in study.paper.TABLE1] + [True]*4
    of = runs.groupby('architecture', sort=False).score.mean()
    assert filled['mean'][18] == of.iloc[2] and filled['mean'][19] == pytest.approx(of.iloc[3:].mean()) and filled['mean'][20] == of.iloc[3:].max()
    assert list(filled.valid[17:]) == [False, True, True, True]  # searched on the images of the evaluation, or on others
    assert gray['here: top-1 (%)'][17] and not gray['here: top-1 (%)'][18] and not gray['paper: top-1 (%)'][17]
    invalid = [row.search_dataset == 'imagenet' for row in study.paper.TABLE1]
    assert list(gray['paper: top-1 (%)'][:17]) == invalid and shown['paper: top-1 (%)'][5] == '76.3 ± 0.06'


def test_slices_are_a_partition_whatever_is_in_the_store_and_bad_ones_are_refused():
    wanted = study.specs_of(study.grid('fig2', 'smoke'), seeds=2)
    for parts in (1, 3, 8, 16, len(wanted) + 5):
        slices = [study.slice_of(wanted, f'{part + 1}/{parts}') for part in range(parts)]
        assert sorted(spec.id for part in slices for spec in part) == sorted(spec.id for spec in wanted)
        assert max(map(len, slices)) - min(map(len, slices)) <= 1
        for kind in {(spec.space, spec.task) for spec in wanted}:  # each slice has the same mix
            counts = [sum((spec.space, spec.task) == kind for spec in part) for part in slices]
            assert max(counts) - min(counts) <= 1
    for wrong in ('0/16', '17/16', '3 of 16', '3/', '/3', 3):
        with pytest.raises(ValueError, match='slice=.*"1/16" to "16/16"'): study.slice_of(wanted, wrong)


def test_a_plan_counts_and_estimates(tmp_path, capsys):
    kept, done = store(tmp_path), specs(2)
    made = study.collect(done, store=kept)
    bigger = [replace(spec, data=replace(spec.data, train_images=400, test_images=100), seed=1) for spec in specs(3)]
    wanted = [*done, *bigger, *[replace(spec, data=replace(spec.data, labels=True), task='cls') for spec in bigger[:1]], done[0]]
    plan = study.plan(wanted, workers=2, store=kept)
    assert list(plan.task) == ['rot', 'rot', 'cls'] and list(plan.runs) == [2, 3, 1] and list(plan.there) == [2, 0, 0] and list(plan.to_do) == [0, 3, 1]
    assert plan.core_hours.tolist() == pytest.approx((plan.to_do * plan.seconds / 3600).fillna(0).tolist())
    told = capsys.readouterr().out
    assert told.startswith('Runs: 6; with records: 2; to do: 4, about ') and 'with workers=2' in told
    assert len(records(tmp_path)) == 2 and study.collect(done, store=kept).equals(made)  # nothing is stored
    ratios = []
    for _ in range(3):  # another program may have disturbed one of the two timings
        ratios.append(study.plan(bigger[:1], store=kept).seconds[0] / study.run(bigger[0])['seconds'])
        if 1/3 < ratios[-1] < 3: break
    else: pytest.fail(f'estimates are {ratios} of the times taken')


def test_a_plan_of_what_is_there_calibrates_nothing(tmp_path, capsys, monkeypatch):
    kept, done = store(tmp_path), specs(1)
    study.collect(done, store=kept)
    monkeypatch.setattr(train, 'fit', None)  # whoever trains now fails
    plan = study.plan(done, store=kept)
    assert capsys.readouterr().out == 'Runs: 1; with records: 1; to do: 0.\n' and plan.to_do[0] == 0 == plan.core_hours[0] and pd.isna(plan.seconds[0])
    assert study.plan([], store=kept).empty and capsys.readouterr().out == 'Runs: 0; with records: 0; to do: 0.\n'


def test_a_plan_has_searches_and_segmentation(tmp_path):
    searching = study.searches('smoke', tasks=['rot'])[0]
    plan = study.plan([streets(), searching], store=store(tmp_path))
    assert list(plan.task) == ['seg', 'rot'] and (plan.seconds > 0).all()


def test_gpu_hours_need_no_images(tmp_path, monkeypatch, capsys):
    monkeypatch.delenv('UNNAS_DATA', raising=False)
    monkeypatch.setenv('UNNAS_HOME', str(tmp_path))
    wanted = study.specs_of(study.paper_grid('imagenet'), tasks=['cls', 'rot'], spaces=['nasbench101'], look=False, architectures=2)
    hours = study.gpu_hours(wanted, flops_per_second=1e13, utilisation=.1)
    spec, forward = wanted[0], 3 * 1_281_167 + 50_000
    task = tasks.get('cls', style='imagenet', num_classes=1000)
    count = [study.complexity.count(study._network_of(spec, task), (3, 224, 224))[0] for spec in study.specs_of(
        study.paper_grid('imagenet'), tasks=['cls'], spaces=['nasbench101'], look=False, architectures=2)]
    assert hours.multiply_adds[0] in count and hours.multiply_adds[1] == pytest.approx(4 * hours.multiply_adds[0], rel=.01)  # four rotations
    assert hours.gpu_hours[0] == pytest.approx(2 * 2 * hours.multiply_adds[0] * 10 * forward / 1e12 / 3600)
    study.plan(wanted, store=store(tmp_path))
    assert '4 of these have no images here' in capsys.readouterr().out
    for wrong in (dict(utilisation=0), dict(utilisation=1.5), dict(flops_per_second=-1)):
        with pytest.raises(ValueError, match=next(iter(wrong))): study.gpu_hours(wanted, **wrong)


def test_what_was_measured_replaces_the_estimate_of_gpu_hours():
    wanted = study.specs_of(study.grid('fig2', 'paper'), tasks=['cls', 'rot'], spaces=['darts'], architectures=2, seeds=1, look=False)
    measured = pd.DataFrame([dict(data='cifar10', space='darts', task='rot', tflops=2.)])
    guessed, hours = study.gpu_hours(wanted, flops_per_second=1e13, utilisation=.1), study.gpu_hours(wanted, flops_per_second=1e13, utilisation=.1, measured=measured)
    assert hours.gpu_hours[0] == guessed.gpu_hours[0] and hours.gpu_hours[1] == pytest.approx(guessed.gpu_hours[1] / 2)


def test_throughput_times_training_on_images_of_the_right_kind():
    wanted = [streets(), *study.specs_of(study.grid('fig2', 'smoke'), tasks=['cls', 'col'], spaces=['nasbench101'], architectures=2)]
    speeds = study.throughput(wanted, steps=1)
    assert list(speeds.task) == ['seg', 'cls', 'col'] and (speeds.images_per_second > 0).all()
    assert speeds.tflops.tolist() == pytest.approx((6e-12 * speeds.multiply_adds * speeds.images_per_second).tolist())  # forward and twice as much backward
    with pytest.raises(ValueError, match='steps=0'): study.throughput(wanted, steps=0)
    with pytest.raises(ValueError, match='searches'): study.throughput(study.searches('smoke')[:1])


# ---- records that were released, and grids that are known by them

def released(name): return [json.loads(line) for line in (RELEASED/f'{name}.jsonl').read_text().splitlines()]


def test_released_records_are_of_the_specs_that_they_name():
    files = sorted(RELEASED.glob('*.jsonl'))
    assert {'former-fig2', 'former-fig3', 'former-pilot', 'former-search', 'former-streets'} <= {file.stem for file in files}
    known = study.Store(RELEASED.parent/'records', released=RELEASED).released_records()
    for file in files:
        records = released(file.stem)
        assert len({record['id'] for record in records}) == len(records) > 0
        for record in records:
            kind = study.SearchSpec if record['spec'].get('kind') == 'search' else Spec
            spec = kind.from_dict(record['spec'])
            assert spec.id == record['id'] in known and json.loads(json.dumps(spec.to_dict())) == record['spec'], record['id']


@pytest.fixture
def without_images(tmp_path, monkeypatch):
    "A store with the released records, where no images are at hand."
    monkeypatch.delenv('UNNAS_DATA', raising=False)
    study.load.cache_clear()
    return study.Store(tmp_path/'records', released=RELEASED)


@pytest.mark.parametrize('figure, count', [('fig2', 256), ('fig3', 192)])
def test_a_former_grid_is_the_released_former_records(figure, count, without_images):
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        wanted = study.specs_of(study.grid(figure, 'former'), store=without_images)
        runs = study.collect(wanted, store=without_images)
    assert len(wanted) == count and {spec.id for spec in wanted} == {record['id'] for record in released(f'former-{figure}')}
    assert not any(('normalize', True) in spec.options for spec in wanted) and {spec.recipe.precision for spec in wanted} == {'auto'}
    assert list(runs.id) == [spec.id for spec in wanted] and set(runs.status) <= {'done', 'diverged'} and runs.loss.notna().any()


def test_former_searches_and_tables_are_the_released_former_records(without_images):
    wanted = study.searches('former', datasets=['cifar10'], seeds=1, store=without_images)
    assert len(wanted) == 4 and {spec.id for spec in wanted} == {record['id'] for record in released('former-search')}
    streets = {record['id']: record for record in released('former-streets')}
    searched = [record for record in streets.values() if record['spec'].get('kind') == 'search']
    tasks_of = [record['spec']['task'] for record in searched]
    assert {spec.id for spec in study.searches('former', datasets=['cityscapes'], tasks=tasks_of, store=without_images)} == {record['id'] for record in searched}
    evaluation = study.evaluation('table2', 'former')
    trained = [Spec.from_dict(record['spec']) for record in streets.values() if record['spec'].get('kind') != 'search']
    assert len(trained) == 2 and all((spec.recipe, spec.options, spec.depth, replace(spec.data, fingerprint='')) ==
                                     (evaluation.recipe, evaluation.options, evaluation.depth, evaluation.data) for spec in trained)


def test_former_records_are_asked_for_by_name(tmp_path, without_images):
    (tmp_path/'some').mkdir()
    for name in ('former-fig2', 'former-fig3'): (tmp_path/'some'/f'{name}.jsonl').write_bytes((RELEASED/f'{name}.jsonl').read_bytes())
    kept = study.Store(tmp_path/'records', released=tmp_path/'some')
    assert len(kept.released_records()) == len(kept.released_records(True)) == 448 and len(kept.released_records(False)) == 0
    for figure in ('fig2', 'fig3'):
        with pytest.raises(FileNotFoundError): study.specs_of(study.grid(figure, 'laptop'), store=kept)
        with pytest.raises(FileNotFoundError, match='no former records with these numbers of images; choose the scale laptop'):
            study.specs_of(study.shorter(study.grid(figure, 'former'), .5, 1), store=kept)


def test_recipes_of_the_study_name_their_precision():
    for scales in (*study.GRIDS.values(), *study.EVALUATIONS.values(), study.SEARCHES):
        for scale, of in scales.items():
            recipes = [s.recipe for s in of.settings.values()] if hasattr(of, 'settings') else [of.recipe]
            assert {recipe.precision for recipe in recipes} == {{'former': 'auto', 'paper': 'bf16'}.get(scale, 'float32')}, (of.description, scale)


def test_an_option_of_a_task_belongs_to_the_identity_and_its_absence_does_not():
    old = specs(1, 'jig')[0]
    new = replace(old, options=study.NORMALIZED)
    assert 'options' not in old.to_dict() and new.to_dict() == old.to_dict() | {'options': {'normalize': True}} and old.id != new.id
    for spec in (old, new): assert Spec.from_dict(json.loads(json.dumps(spec.to_dict()))) == spec
    known = released('former-fig2')
    jigsaw = next(record for record in known if record['spec']['task'] == 'jig')
    assert 'options' not in jigsaw['spec'] and Spec.from_dict(jigsaw['spec']).options == ()
    for figure in ('fig2', 'fig3'):
        grid, style = study.grid(figure, 'laptop'), {'fig2': 'cifar', 'fig3': 'imagenet'}[figure]
        made = [tasks.get(task, style=s.style, **dict(s.options)) for (_, task), s in grid.settings.items() if task == 'jig']
        assert [task.normalize for task in made] == [True, True] and {s.style for s in grid.settings.values()} == {style}


# ---- scores, and what records say

def made(spec, *, status='done', best=50., final=49., loss=(2.3, 1.5), constant=10., untrained=None, **provenance):
    "A record of `spec` as if it had been trained."
    result = dict(best=best, final=final, score=[final], loss=list(loss))
    return dict(schema=study.SCHEMA, id=spec.id, spec=spec.to_dict(), status=status, result=result, chance=25., parameters=1000, multiply_adds=10_000, seconds=1.,
                constant=constant, untrained=untrained, provenance=dict(unnas='0', commit='', changed=False, torch='2', device='x', date='2026-01-01T00:00:00+00:00') | provenance)


def test_losses_are_scores_with_their_sign_turned(tmp_path):
    kept, (first, second) = store(tmp_path), specs(2)
    broken = replace(first, data=Data('imagefolder', 16, labels=False))
    kept.put(made(first, untrained=dict(naswot=3.5, synflow=None)))
    kept.put(made(second, status='diverged', best=None, final=None, loss=[2.3, None], constant=None))
    with pytest.warns(UserWarning, match='1 of 3 runs failed'): runs = study.collect([second, broken, first], store=kept)
    assert set(study.SCORES) == {'best', 'final', 'loss', 'sum_loss'} and list(runs.status) == ['diverged', 'failed', 'done']
    assert runs.loc[:1, list(study.SCORES)].isna().all(axis=None) and runs.loc[:1, ['constant', 'naswot']].isna().all(axis=None)
    done = runs.iloc[2]
    assert (done.best, done.final, done.loss, done.constant, done.naswot) == (50, 49, -1.5, 10, 3.5) and done.sum_loss == pytest.approx(-3.8) and math.isnan(done.synflow)
    kept.put(made(second, status='diverged', best=31., final=None, loss=[2.3, 2.2]))  # it was better once, but has no learning curve
    runs = study.collect([second], store=kept)
    assert runs.best[0] == 31 and runs[['final', 'loss', 'sum_loss']].isna().all(axis=None)


def judged_runs():
    rows = [('cls', 91., 90., -.3, -3.), ('rot', 71., 70., -.5, -5.), ('rnd', 11., 10., -1.5, -15.), ('shuf', 41., 40., -1.2, -12.)]
    return pd.DataFrame(rows, columns=['task', 'best', 'final', 'loss', 'sum_loss'], index=[7, 3, 5, 1])


@pytest.mark.parametrize('score, reference, expected', [
    ('best', 'cls', [91, 71, -1.5, 41]), ('final', 'cls', [90, 70, -1.5, 40]), ('loss', 'cls', [91, -.5, -1.5, -1.2]), ('sum_loss', 'cls', [91, -5, -15, -12]),
    ('sum_loss', 'rot', [-3, 71, -15, -12]), ('sum_loss', None, [-3, -5, -15, -12]), ('best', None, [91, 71, -1.5, 41])])
def test_what_runs_are_judged_by(score, reference, expected):
    runs = judged_runs()
    assert study.judged(runs, score, reference).to_dict() == dict(zip([7, 3, 5, 1], expected))


def test_runs_of_two_tables_may_be_judged_together():
    runs = judged_runs()
    assert list(study.judged(pd.concat([runs, runs.assign(best=runs.best + 1)]), 'best')) == [91, 71, -1.5, 41, 92, 72, -1.5, 42]  # the same numbers of rows


def test_the_reference_is_judged_by_its_accuracy_unless_told_otherwise():
    assert list(study.judged(judged_runs(), 'sum_loss')) == [91, -5, -15, -12]
    with pytest.raises(ValueError, match="score='accuracy': unknown; choose one of best, final, loss, sum_loss"): study.judged(judged_runs(), 'accuracy')


def test_records_say_what_a_constant_answer_scores_and_how_they_were_made():
    supervised, pretext = (study.run(replace(spec, recipe=replace(spec.recipe, epochs=1))) for spec in (specs(1, 'cls')[0], specs(1)[0]))
    for record in (supervised, pretext):
        assert record['constant'] == study.constant_score(Spec.from_dict(record['spec'])) and record['constant'] >= record['chance'] - 1e-9
        assert {name: record['provenance'][name] for name in study.OPEN} == train.circumstances('auto')
    assert supervised['untrained'].keys() == {'naswot', 'synflow'} and all(map(math.isfinite, supervised['untrained'].values()))
    assert pretext['untrained'] is None and study.run(specs(1, 'rnd')[0])['untrained'] is None
    labels = study.load(specs(1, 'cls')[0].data)[1].labels
    assert supervised['constant'] == pytest.approx(100*max(labels.bincount()).item()/len(labels))


def test_scoring_the_untrained_network_does_not_change_its_training():
    spec = specs(1, 'cls')[0]
    train_data, test_data, _ = study.load(spec.data)
    task, record = tasks.get('cls', num_classes=10), study.run(spec)
    torch.manual_seed(train.derive_seed(spec.seed, 'weights'))
    network = darts.build(spec.architecture, task, stem=spec.stem, width=spec.width, depth=spec.depth)
    history = train.fit(network, task, train_data, test_data, spec.recipe, seed=spec.seed)
    assert record['result']['loss'] == history.loss and record['result']['score'] == history.score


@pytest.mark.parametrize('ways, words', [
    ([{}, dict(precision='float32', processes=1, cuda_graphs=False)], None),  # records made before do not say it
    ([dict(precision='bf16'), dict(precision='bf16')], None),
    ([dict(precision='bf16'), dict(precision='float32')], '1 with precision=bf16.*1 with precision=float32|1 with precision=float32.*1 with precision=bf16'),
    ([{}, dict(precision='float32', processes=2, cuda_graphs=False)], 'processes=2'),
    ([dict(precision='bf16', cuda_graphs=True), dict(precision='bf16', cuda_graphs=False)], 'cuda_graphs=True')])
def test_a_table_of_records_that_were_made_in_different_ways_warns(tmp_path, ways, words):
    kept, wanted = store(tmp_path), specs(2)
    for spec, way in zip(wanted, ways): kept.put(made(spec, **way))
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter('always')
        assert len(study.collect(wanted, store=kept)) == 2
    told = [str(warning.message) for warning in seen]
    if words is None: assert told == []
    else:
        with pytest.warns(UserWarning, match=words): study.collect(wanted, store=kept)
        assert len(told) == 1 and 'not made in the same way' in told[0]


def test_released_files_appear_whole_or_not_at_all(tmp_path):
    kept, wanted = store(tmp_path), specs(2)
    for spec in wanted: kept.put(made(spec))
    path = kept.release(wanted[:1], 'fig9')
    before, limit = path.read_bytes(), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before)//2, limit[1]))  # no file may grow longer: as on a disk that is full
    try:
        with pytest.raises(OSError): kept.release(wanted, 'fig9')
        with pytest.raises(OSError): kept.release(wanted, 'fig10')
    finally: resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert path.read_bytes() == before and [file.name for file in kept.released.glob('*.jsonl')] == ['fig9.jsonl'] and set(kept.released_records()) == {wanted[0].id}
    assert [json.loads(line)['id'] for line in kept.release(wanted[::-1], 'fig9').read_text().splitlines()] == [spec.id for spec in wanted[::-1]]
    assert set(kept.released_records()) == {spec.id for spec in wanted}


# ---- tasks that a grid does not know

@pytest.fixture
def registry(monkeypatch): monkeypatch.setattr(tasks, '_FACTORIES', dict(tasks._FACTORIES))


def test_a_task_takes_the_recipe_of_the_one_that_it_names(registry):
    for name, like in (('quick', 'cls'), ('usual', 'rot'), ('coloured', 'col'), ('odd', 'nobody')):
        tasks.register(name, type(name, (tasks.rotation,), dict(name=name, trained_as=like)))
    tasks.register('bare', lambda style='cifar': tasks.rotation(style))
    grid, searches = study.grid('fig2', 'laptop'), study.SEARCHES['laptop']
    for name, like in (('quick', 'cls'), ('usual', 'rot'), ('coloured', 'col'), ('odd', 'rot'), ('bare', 'rot'), ('shuf', 'cls')):
        for space in ('darts', 'nasbench101'):
            spec, model = (study.specs_of(grid, architectures=2, seeds=1, tasks=[task], spaces=[space], look=False)[0] for task in (name, like))
            labels = name == 'shuf'
            assert (spec.task, spec.recipe, spec.width, spec.data) == (name, model.recipe, model.width, replace(model.data, labels=labels))
        searched = study.searches('laptop', datasets=['cifar10'], tasks=[name], seeds=1, look=False)[0]
        assert searched.recipe == searches.settings['cifar10', like].recipe and searched.data.labels is labels
    assert study.specs_of(grid, architectures=2, tasks=['rnd'], look=False)[0].recipe.epochs == 60  # the grid knows this one
    jigsaw = type('pieces', (tasks.jigsaw,), dict(name='pieces', trained_as='jig'))
    tasks.register('pieces', jigsaw)
    assert study.specs_of(grid, architectures=2, tasks=['pieces'], look=False)[0].options == ()  # options are those of the task itself


def test_controls_are_run_where_they_are_asked_for(registry):
    tasks.register('null', type('null', (tasks.rotation,), dict(name='null', control=True)))
    grid = study.grid('fig2', 'laptop')
    assert grid.tasks == ['cls', 'rot', 'col', 'jig'] and ('darts', 'rnd') in grid.settings
    assert {spec.task for spec in study.specs_of(grid, architectures=2, look=False)} == {'cls', 'rot', 'col', 'jig'}
    asked = study.specs_of(grid, architectures=2, seeds=1, tasks=['cls', 'rnd', 'shuf', 'null'], look=False)
    assert [spec.task for spec in asked[:4]] == ['cls', 'rnd', 'shuf', 'null'] and [spec.data.labels for spec in asked[:4]] == [True, False, True, False]


def test_a_supervised_task_of_ones_own_is_told_the_number_of_classes(registry, tmp_path):
    class Mirrored(tasks.classification):
        "Classes of mirrored images."
        name, trained_as = 'mirrored', 'cls'
        def __init__(self, num_classes=3, style='cifar'): super().__init__(num_classes, style)
        def batch(self, images, labels, train, generator): return super().batch(images.flip(3), labels, train, generator)
    tasks.register('mirrored', Mirrored)
    grid = study.shorter(study.grid('fig2', 'smoke'), images=.05, epochs=.2)
    wanted = study.specs_of(grid, architectures=2, tasks=['mirrored', 'shuf'], spaces=['nasbench101'])
    assert {(spec.task, spec.data.labels, spec.recipe.epochs, spec.recipe.batch_size) for spec in wanted} == {('mirrored', True, 1, 50), ('shuf', True, 1, 50)}
    runs = study.collect(wanted, store=store(tmp_path))
    assert list(runs.status) == ['done']*4 and set(runs.chance) == {10.} and runs.naswot.notna().all()  # ten classes in the images
    assert study.gpu_hours(wanted[:1], flops_per_second=1e13, utilisation=.1).gpu_hours[0] > 0 and len(study.throughput(wanted[:1], steps=1)) == 1
