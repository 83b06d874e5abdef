"The search: both orders against explicit mathematics, interruptions by force, several processes, and images that must not be touched."
import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torch.func import functional_call

from unnas import data, kernels, search, study, tasks, train
from unnas.study import Data, SearchSpec


def spec(task='rot', train_images=60, **change):
    recipe = search.Recipe(epochs=2, batch_size=10, lr=.05, alpha_lr=.01, held_out=.1, **change.pop('recipe', {}))
    images = Data('synthetic-objects', 12, train_images=train_images, test_images=0, labels=task == 'cls')
    return replace(SearchSpec('cifar', 4, 3, images, task, 'cifar', recipe, seed=0), **change)


def store(folder): return study.Store(folder/'records', released=folder/'released')


def double(order=2, **change):
    torch.manual_seed(0)
    task = tasks.rotation()
    supernet = search.Supernet(task, stem='cifar', width=4, depth=3).double()
    recipe = search.Recipe(epochs=1, batch_size=2, lr=.05, weight_decay=.01, order=order, **change)
    batches = [(torch.randn(8, 3, 12, 12, dtype=torch.float64), torch.arange(8) % 4) for _ in range(3)]
    return search.Bilevel(supernet, task, recipe, train.accelerator('float32')), batches


def test_the_second_order_is_the_gradient_through_an_explicit_step(monkeypatch):
    monkeypatch.setattr(search, 'LENGTH', 1e-6)  # the step of DARTS crosses kinks of the loss (ReLU, max pooling) in a network as small as this
    bilevel, (first, batch, weight_batch) = double()
    bilevel.weight_step(first)  # so that there is momentum
    names = [name for name, p in bilevel.supernet.named_parameters() if any(p is w for w in bilevel.weights)]
    weights = dict(zip(names, bilevel.weights))
    with kernels.plain():  # the kernels have first derivatives only
        inner = torch.autograd.grad(bilevel.loss(weight_batch), bilevel.weights, create_graph=True)
        group = bilevel.sgd.param_groups[0]
        ahead = {name: w - group['lr'] * (.9*bilevel.sgd.state[w]['momentum_buffer'] + g + .01*w) for (name, w), g in zip(weights.items(), inner)}
        outer = bilevel.task.loss(functional_call(bilevel.supernet, ahead, batch[0]), batch[1])
        expected = torch.autograd.grad(outer, bilevel.architecture, retain_graph=True)
        fixed = {name: w.detach().requires_grad_() for name, w in ahead.items()}  # the same, but blind to how the step depends on the alphas
        blind = torch.autograd.grad(bilevel.task.loss(functional_call(bilevel.supernet, fixed, batch[0]), batch[1]), bilevel.architecture)
    loss, gradients = bilevel.alpha_gradients(batch, weight_batch)
    assert loss.item() == pytest.approx(outer.item(), rel=1e-10)
    error = torch.cat([(g - e).flatten() for g, e in zip(gradients, expected)]).norm()
    second = torch.cat([(e - b).flatten() for e, b in zip(expected, blind)]).norm()
    assert error < 1e-5 * second and second > 1e-4


@pytest.mark.parametrize('order, partial_channels', [(1, 1), (2, 1), (1, 2)])
def test_twenty_steps_of_the_fast_search_are_those_of_the_plain_one(order, partial_channels):
    found = []
    for mode in (kernels.plain, nullcontext):
        torch.manual_seed(0)
        supernet = search.Supernet(tasks.jigsaw(), stem='cifar', width=4, depth=3, partial_channels=partial_channels).double()
        recipe = search.Recipe(epochs=1, batch_size=2, lr=.05, alpha_lr=.01, weight_decay=.01, order=order)
        bilevel = search.Bilevel(supernet, tasks.jigsaw(), recipe, train.accelerator('float32'))
        before = supernet.tables()
        with mode():
            for step in range(20):
                batch, weight_batch = ((torch.randn(2, 4, 3, 6, 6, dtype=torch.float64), torch.randint(24, (2,))) for _ in range(2))
                bilevel.alpha_step(batch, weight_batch)
                bilevel.weight_step(weight_batch)
        assert supernet.tables() != before
        found.append(supernet.state_dict())
    torch.testing.assert_close(found[1], found[0], rtol=1e-6, atol=1e-8)


def test_the_weights_are_back_to_the_bit_after_a_look_ahead():
    bilevel, (first, batch, weight_batch) = double()
    before = [w.detach().clone() for w in bilevel.weights]
    bilevel.alpha_gradients(batch, weight_batch)
    assert all(map(torch.equal, before, bilevel.weights))


def test_adam_and_sgd_move_as_their_formulas_say():
    bilevel, (first, batch, weight_batch) = double(order=1, clip=.1)
    alphas, weights = ([p.detach().clone() for p in group] for group in (bilevel.architecture, bilevel.weights))
    gradients = torch.autograd.grad(bilevel.loss(batch), bilevel.architecture)
    bilevel.alpha_step(batch, weight_batch)
    for alpha, start, g in zip(bilevel.architecture, alphas, gradients):
        g = g + 1e-3*start  # weight decay; the first step of Adam is lr * g / (|g| + eps) whatever the betas
        assert torch.allclose(alpha, start - 3e-4 * g/(g.abs() + 1e-8), rtol=0, atol=1e-9)
    gradients = torch.autograd.grad(bilevel.loss(weight_batch), bilevel.weights)
    norm = torch.cat([g.flatten() for g in gradients]).norm()
    bilevel.weight_step(weight_batch)
    assert norm > .1
    for weight, start, g in zip(bilevel.weights, weights, gradients):
        assert torch.allclose(weight, start - .05*(.1*g/norm + .01*start), rtol=0, atol=1e-6)  # clipped, then decayed


@pytest.mark.parametrize('task', ['cls', 'rot', 'col', 'jig', 'seg'])
def test_every_task_searches(task):
    change = dict(data=Data('synthetic-streets', 32, 60, 0, 'maps', 'scale'), style='imagenet', options=(('channels', 8), ('rates', (2,)))) if task == 'seg' else {}
    result = study.run(spec(task, **change))['result']
    assert len(result['loss']) == len(result['alpha_loss']) == len(result['score']) == 2 and len(result['tables']) == 3
    assert result['tables'][0] != result['tables'][2] and all(0 <= score <= 100 for score in result['score'])


def test_alphas_wait_for_their_epoch():
    result = study.run(spec(recipe=dict(alpha_start=1.)))['result']
    assert result['tables'][0] == result['tables'][1] != result['tables'][2]
    assert result['alpha_loss'][0] is None and result['alpha_loss'][1] > 0
    midway = study.run(spec(recipe=dict(alpha_start=1.5)))['result']
    assert midway['tables'][1] != midway['tables'][2] != result['tables'][2]


def test_only_training_images_are_touched_and_no_labels():
    touched = []

    def guarded(split, **options):
        touched.append(split)
        if split != 'train': raise AssertionError('the test split was opened')
        images = data.load('synthetic-objects', split, image_size=12, num_images=60)

        class Guarded(type(images)):
            @property
            def labels(self): raise AssertionError('a label was read')

            def _read(self, plan, *rest):
                for pixels, labels in super()._read(plan, *rest):
                    assert labels is None, 'labels were handed out'
                    yield pixels, labels
        images.__class__ = Guarded
        return images
    data.register('guarded', guarded)
    study.load.cache_clear()
    record = study.run(spec(data=Data('guarded', 12, test_images=0, labels=False)))
    assert record['status'] == 'done' and touched == ['train']


@pytest.mark.parametrize('count, held_out', [(40, 0.), (41, .1), (97, .37)])
def test_the_three_parts_share_no_image(count, held_out):
    images = data.load('synthetic-objects', image_size=12, num_images=count)
    for seed in (0, 1):
        parts = search.parts(images, held_out, seed)
        indices = [set(part.indices.tolist()) for part in parts]
        assert sum(map(len, indices)) == len(set.union(*indices)) == count
        assert len(parts[2]) == int(held_out*count) and 0 <= len(parts[1]) - len(parts[0]) <= 1
    assert search.parts(images, .1, 0)[0].indices.tolist() != search.parts(images, .1, 1)[0].indices.tolist()


SCRIPT = textwrap.dedent('''
    import sys
    from pathlib import Path
    from unnas import search, study
    search.CHECKPOINT_STEPS = 4  # not a divisor of the 5 steps of an epoch
    images = study.Data('synthetic-objects', 12, train_images=112, test_images=0, labels=False)
    recipe = search.Recipe(epochs=3, batch_size=10, lr=.05, alpha_lr=.01, held_out=.1, alpha_start=.5)
    spec = study.SearchSpec('cifar', 4, 3, images, 'rot', 'cifar', recipe, seed=0)
    folder = Path(sys.argv[1])
    study.collect([spec], store=study.Store(folder/'records', released=folder/'released'))''')


def test_a_search_killed_at_any_moment_ends_in_the_same_architecture(tmp_path):
    def start(folder): return subprocess.Popen([sys.executable, '-c', SCRIPT, str(folder)], env=os.environ | {'OMP_NUM_THREADS': '1'}, stderr=subprocess.DEVNULL)
    whole = start(tmp_path/'whole')
    checkpoints, seen = tmp_path/'cut'/'records'/'checkpoints', set()
    for kill in range(2):
        process = start(tmp_path/'cut')
        while not checkpoints.exists() or not (new := {path.stat().st_mtime_ns for path in checkpoints.glob('*.pt')} - seen):
            assert process.poll() is None, 'it ended before it was killed'
            time.sleep(.02)
        process.send_signal(signal.SIGKILL)
        process.wait()
        seen |= new
        assert not list((tmp_path/'cut'/'records').glob('*.json'))
    assert start(tmp_path/'cut').wait() == 0 == whole.wait()
    (whole,), (cut,) = ([json.loads(path.read_text()) for path in (tmp_path/name/'records').glob('*.json')] for name in ('whole', 'cut'))
    assert whole['result'] == cut['result'] and whole['result']['steps'] == 15 and whole['id'] == cut['id']
    assert not list(checkpoints.iterdir())


def test_a_checkpoint_of_another_search_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(search, 'CHECKPOINT_STEPS', 1)
    study.run(spec(), checkpoint=tmp_path/'search.pt')
    with pytest.raises(ValueError, match='search.pt.*another run.*remove'): study.run(spec(seed=1), checkpoint=tmp_path/'search.pt')


def test_the_same_record_whatever_the_engine(tmp_path):
    specs = [spec(), spec(partial_channels=2)]
    tables = [study.collect(specs, engine=engine, workers=2, store=store(tmp_path/engine)) for engine in ('serial', 'processes')]
    assert tables[0].drop(columns='seconds').equals(tables[1].drop(columns='seconds')) and list(tables[0].status) == ['done', 'done']
    both = [study.records(specs, store(tmp_path/engine)) for engine in ('serial', 'processes')]
    assert [record['result'] for record in both[0]] == [record['result'] for record in both[1]]
    assert 'beta_normal' in both[0][1]['result']['tables'][0] and 'beta_normal' not in both[0][0]['result']['tables'][0]


def test_collapse_is_told_in_the_record(monkeypatch):
    monkeypatch.setattr(search, 'TOO_MANY_SKIPS', 0)
    assert ['normal' in text for text in study.run(spec())['result']['warnings']] == [True, False]


def test_two_processes_keep_the_same_alphas(tmp_path):
    script = tmp_path/'two.py'
    script.write_text(textwrap.dedent('''
        import sys, torch
        from unnas import data, search, tasks, train
        images = data.load('synthetic-objects', image_size=12, num_images=50).unlabelled()
        task, losses = tasks.rotation(), []
        plain = search.Bilevel.alpha_gradients
        def noted(self, *batches):
            loss, gradients = plain(self, *batches)
            losses.append(loss.item())
            return loss, gradients
        search.Bilevel.alpha_gradients = noted
        for order in (1, 2):
            torch.manual_seed(0)
            supernet = search.Supernet(task, stem='cifar', width=4, depth=3)
            losses.clear()
            history = search.fit(supernet, task, images, search.Recipe(epochs=2, batch_size=10, lr=.05, alpha_lr=.01, held_out=.1, order=order))
            state = dict(alphas=[p.detach() for p in supernet.architecture()], weights=[p.detach() for p in supernet.weights()], own=list(losses),
                         loss=history.loss, alpha_loss=history.alpha_loss, score=history.score, buffers=[b for b in supernet.buffers()])
            torch.save(state, f'{sys.argv[1]}/{order}-{train.accelerator().process_index}.pt')'''))
    done = subprocess.run([sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc_per_node', '2', str(script), str(tmp_path)],
                          capture_output=True, text=True, timeout=300, env=os.environ | {'OMP_NUM_THREADS': '1', 'ACCELERATE_USE_CPU': 'true'})
    assert done.returncode == 0, done.stderr[-3000:]
    for order in (1, 2):
        first, second = (torch.load(tmp_path/f'{order}-{rank}.pt') for rank in (0, 1))
        for kind in ('alphas', 'weights', 'buffers'): assert all(torch.equal(a, b) for a, b in zip(first[kind], second[kind])), kind
        assert first['own'] != second['own']  # each had images of its own, so equality needed the averaging
        assert all(first[kind] == second[kind] for kind in ('loss', 'alpha_loss', 'score'))
        assert np.mean(first['own'] + second['own']) == pytest.approx(np.mean(first['alpha_loss']))


def test_files_search_like_anything_else_whatever_the_number_of_decoders(tmp_path):
    rng = np.random.default_rng(0)
    (tmp_path/'images').mkdir()
    for i in range(18): Image.fromarray(rng.integers(0, 255, (30 + i, 40, 3), dtype=np.uint8)).save(tmp_path/'images'/f'{i}.jpg')
    one = spec(style='imagenet', data=Data('imagefolder', 16, test_images=0, labels=False))
    one = replace(one, recipe=replace(one.recipe, epochs=1, batch_size=4))
    kept = [store(tmp_path/str(decoders)) for decoders in (0, 2)]
    study.collect([one], root=str(tmp_path/'images'), store=kept[0])
    table = study.collect([one], root=str(tmp_path/'images'), store=kept[1], decoders=2, engine='processes', workers=1)
    assert table.status[0] == 'done', table.error[0]
    assert study.records([one], kept[0])[0]['result'] == study.records([one], kept[1])[0]['result']


@pytest.mark.parametrize('change, words', [
    (dict(width=5), ['width=5', 'even']),
    (dict(depth=2), ['depth=2', 'at least 3']),
    (dict(stem='resnet'), ['stem', 'resnet', 'cifar']),
    (dict(stem='imagenet'), ['image_size=12', 'divides them by 32', 'cifar stem']),
    (dict(partial_channels=4), ['partial_channels=4', 'width (now 4)', 'multiple']),
    (dict(train_images=20), ['batch_size=10', 'only 9', 'more images']),
    (dict(task='seg', data=Data('synthetic-objects', 12, train_images=60, test_images=0)), ["task='seg'", 'label maps', 'cityscapes']),
    (dict(task='cls', data=Data('synthetic-objects', 12, train_images=60, test_images=0, labels=False)), ['label']),
])
def test_bad_input_is_refused_before_the_first_step(change, words, monkeypatch):
    monkeypatch.setattr(search.Bilevel, 'weight_step', lambda *_: pytest.fail('it took a step'))
    with pytest.raises((ValueError, data.NoLabels)) as error: study.run(spec(**change))
    assert all(word in str(error.value) for word in words), error.value
