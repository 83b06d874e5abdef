"""A model at work: features, probes, fine-tuning, comparisons, and training as for Table 1."""

import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from test_export import model_of

from unnas import complexity, data, export, stats, use
from unnas.spaces import darts
from unnas.train import Recipe

RECIPE = Recipe(epochs=1, batch_size=10, lr=0.05, precision="float32")


def objects(split="train", count=40, size=16):
    """Synthetic objects of the first three classes."""
    images = data.load("synthetic-objects", split, image_size=size, num_images=4 * count)
    kept = np.flatnonzero(images.labels.numpy() < 3)
    labels = images.labels[kept]
    return data.TensorImages("objects", split, images.images[kept], labels, ("a", "b", "c"))


def state(model):
    """A copy of all weights and statistics of a model's network."""
    return {name: value.clone() for name, value in model.network.state_dict().items()}


def changed(before, model):
    """The names of weights and statistics that are others now."""
    return {name for name, value in state(model).items() if not torch.equal(value, before[name])}


@pytest.fixture
def folder(tmp_path):
    """A labeled folder of two classes, pictures of 32 x 32 pixels."""
    images = data.load("synthetic-objects", "train", image_size=32, num_images=40)
    for split, start, count in (("train", 0, 12), ("test", 12, 4)):
        for kind, name in enumerate(("cup", "tree")):
            (tmp_path / "own" / split / name).mkdir(parents=True)
            for k in range(start, start + count):
                pixels = images.images[k].permute(1, 2, 0).numpy() // (2 - kind)
                Image.fromarray(pixels).save(tmp_path / "own" / split / name / f"{k}.png")
    return tmp_path / "own"


def test_features_of_a_folder_know_their_files_and_leave_out_the_unreadable(folder):
    model = model_of()
    (folder / "train/cup/0.png").write_bytes(b"no picture")
    with pytest.warns(UserWarning, match="left out 1 unreadable of 32 images: .*cup/0.png"):
        found, paths = use.features(model, folder, batch_size=7)
    assert found.shape == (31, 64) and found.dtype == np.float32 and len(set(paths)) == 31
    for row in (0, 13, 30):
        alone = model.features(export.prepare(model, paths[row])).detach().numpy()
        np.testing.assert_allclose(found[row : row + 1], alone, rtol=1e-5, atol=1e-6)
    assert not model.training


def test_features_are_the_same_whatever_images_come_as(folder):
    model = model_of()
    images, _ = use.labeled(folder, 32)
    expected, paths = use.features(model, images)
    assert paths == images.paths
    pictures = [Image.open(path) for path in paths]
    found, names = use.features(model, pictures)
    np.testing.assert_allclose(found, use.features(model, paths)[0], rtol=1e-6)
    assert names == list(range(24))
    one, name = use.features(model, paths[0])
    np.testing.assert_allclose(one, found[:1], rtol=1e-5, atol=1e-6)
    assert name == paths[:1]
    # at their own size: a data set crops and enlarges all, prepare leaves those of that size alone
    cosine = (expected * found).sum(1) / np.linalg.norm(expected, axis=1)
    assert (cosine / np.linalg.norm(found, axis=1) > 0.95).all()


def test_deep_pictures_have_one_range_in_a_list_as_in_a_folder(tmp_path):
    model, random = model_of(), np.random.default_rng(0)
    (tmp_path / "deep").mkdir()
    for number, top in enumerate((500, 4000)):
        values = random.integers(top, size=(32, 32)).astype(np.uint16)
        Image.fromarray(values).save(tmp_path / "deep" / f"{number}.png")

    def read(images):
        return use._outputs(model, images, 64, lambda inputs: inputs)

    expected, paths = read(tmp_path / "deep")
    for some in (paths, [Path(path) for path in paths]):
        np.testing.assert_array_equal(read(some)[0], expected)
    with pytest.warns(UserWarning, match="left out 2 unreadable of 4 images"):
        found, _ = read([*paths, tmp_path / "none.png", ""])
    np.testing.assert_array_equal(found, expected)
    alone, _ = read(paths[0])
    assert abs(alone - expected[:1]).max() > 0.1  # its own range


def test_a_model_keeps_the_range_of_the_deep_pictures_that_it_was_trained_on(tmp_path):
    random = np.random.default_rng(0)
    for number in range(8):
        path = tmp_path / "sorted" / "ab"[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(4000, size=(32, 32)).astype(np.uint16)).save(path)
    with pytest.warns(UserWarning, match="scaled to 8 from the range"):
        images, test = use.labeled(tmp_path / "sorted", 32)
        model, _ = use.fine_tune(model_of(), images, test, replace(RECIPE, batch_size=2))
    model = export.load(export.save(model, tmp_path / "model"))
    assert model.ranges == images.ranges and model.ranges["16 bits"][1] > 3900
    assert "scaled from" in (tmp_path / "model" / "README.md").read_text()
    dark = tmp_path / "dark.png"
    Image.fromarray(random.integers(400, size=(32, 32)).astype(np.uint16)).save(dark)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        inputs, _ = use._outputs(model, dark, 64, lambda inputs: inputs)
    darkest = export.prepare(model, np.zeros((32, 32, 3), np.uint8)).numpy()
    assert 0 < (inputs - darkest).mean() < 0.1 * (1 / 0.22)  # a tenth of the range at most
    for one in (dark, Image.open(dark)):
        np.testing.assert_array_equal(export.prepare(model, one).numpy(), inputs)
    Image.fromarray(random.integers(60000, size=(32, 32)).astype(np.uint16)).save(dark)
    with pytest.warns(UserWarning, match="dark.png: pictures of 16 bits .* trained with 0 to 3"):
        use.predict(model, dark)


def test_images_that_are_none_are_refused(tmp_path):
    model = model_of()
    (tmp_path / "a.png").write_bytes(b"x")
    (tmp_path / "b.jpg").write_bytes(b"")
    for images in (tmp_path, [tmp_path / "a.png", str(tmp_path / "b.jpg")]):
        with pytest.raises(ValueError, match="images: none of 2 can be read as an image: .*a.png"):
            use.features(model, images)
    with pytest.raises(ValueError, match="images: none of 1 can be read"):
        use.features(model, tmp_path / "nowhere.png")
    (tmp_path / "empty").mkdir()
    for images in (tmp_path / "empty", []):
        with pytest.raises(ValueError, match="holds no image"):
            use.features(model, images)
    with pytest.raises(ValueError, match="images: none of 1 .*empty: no file, but a folder"):
        use.features(model, [tmp_path / "empty"])
    with pytest.raises(ValueError, match="images: an array of float64"):
        use.features(model, [np.zeros((4, 4, 3))])


def test_the_nearest_of_an_image_is_itself():
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(30, 8)) + 100  # a large common part says nothing
    order, similarity = use.nearest(rows, rows, count=3)
    assert order[:, 0].tolist() == list(range(30))
    assert (np.diff(similarity) <= 0).all() and np.allclose(similarity[:, 0], 1)
    correlation = np.corrcoef(rows[3] - rows.mean(0), rows[order[3, 1]] - rows.mean(0))
    assert similarity[3, 1] == pytest.approx(correlation[0, 1], abs=0.3)
    with pytest.raises(ValueError, match="count=31: there are 30"):
        use.nearest(rows, rows, count=31)
    with pytest.raises(ValueError, match="queries of shape .*8 channels"):
        use.nearest(rows, rows[:, :4])


def test_folders_without_labels_to_learn_are_refused_in_one_sentence(folder, tmp_path):
    for path in (folder / "train/cup").parent.parent.glob("*/tree"):
        path.rename(tmp_path / f"{path.parent.name}-tree")
    with pytest.raises(ValueError, match="folder=.*has no two classes to tell apart; sort"):
        use.labeled(folder, 32)  # one class
    with pytest.raises(ValueError, match="folder=.*has no two classes to tell apart; sort"):
        use.labeled(folder / "train/cup", 32)  # no class
    for split in ("train", "test"):
        (tmp_path / f"{split}-tree").rename(folder / split / "tree")
    for path in sorted((folder / "train/tree").iterdir())[1:]:
        path.unlink()
    with pytest.raises(ValueError, match=r"fewer than two training images of tree \(1\)"):
        use.labeled(folder, 32)
    with pytest.raises(FileNotFoundError, match="no such folder"):
        use.labeled(tmp_path / "nowhere", 32)


def test_few_labels_are_balanced_nested_and_leave_the_rest():
    images = objects()
    few, rest = use.few_labels(images, 2, seed=1)
    assert few.labels.bincount().tolist() == [2, 2, 2]
    both = torch.cat([few.indices, rest.indices]).tolist()
    assert sorted(both) == sorted(images.indices.tolist())
    assert set(few.indices.tolist()) < set(use.few_labels(images, 4, seed=1)[0].indices.tolist())
    assert few.indices.tolist() != use.few_labels(images, 2, seed=2)[0].indices.tolist()
    assert few.indices.tolist() == use.few_labels(images, 2, seed=1)[0].indices.tolist()


def test_a_probe_is_a_logistic_regression_on_scaled_features():
    rng = np.random.default_rng(0)
    labels = np.arange(90) % 3
    rows = rng.normal(size=(90, 6)) * [1, 100, 1, 1, 0.01, 1] + labels[:, None] * 0.8
    scaled = StandardScaler().fit(rows)
    by_hand = LogisticRegression(C=0.1, max_iter=2000).fit(scaled.transform(rows), labels)
    np.testing.assert_allclose(
        use.probe(rows, labels, C=0.1).predict_proba(rows),
        by_hand.predict_proba(scaled.transform(rows)),
    )
    noise = rng.normal(size=(90, 60))
    held_back = use.probe(noise, labels)  # nothing to learn, so the penalty is no weak one
    assert held_back[-1].C <= 1 and use.probe(rows, labels)[-1].C > held_back[-1].C


def test_labels_that_no_probe_can_learn_are_refused():
    rows = np.zeros((6, 2))
    with pytest.raises(ValueError, match=r"labels of shape \(5,\): there are 6 features"):
        use.probe(rows, [0, 1, 0, 1, 0])
    with pytest.raises(ValueError, match="all are of one class"):
        use.probe(rows, [1] * 6)
    with pytest.raises(ValueError, match="class 1 has one image.*state C"):
        use.probe(rows, [0, 0, 0, 0, 0, 1])
    with pytest.raises(ValueError, match="C=0: must be a number above 0"):
        use.probe(rows, [0, 0, 0, 1, 1, 1], C=0)


def test_a_frozen_body_stays_as_it_is_to_the_bit():
    model, images = model_of(size=16), objects()
    before = state(model)
    tuned, history = use.fine_tune(model, images, objects("test"), RECIPE, frozen=True)
    fresh = use._with_new_head(model, images, 0)
    assert changed(state(fresh), tuned) == {"head.linear.weight", "head.linear.bias"}
    assert not changed(before, model) and len(history.score) == 1
    assert all(weight.requires_grad for weight in tuned.parameters())
    free, _ = use.fine_tune(model, images, objects("test"), RECIPE)
    moved = changed(state(fresh), free)
    assert any(name.endswith("running_mean") for name in moved)
    assert "stem.0.weight" in moved or any(name.startswith("stem") for name in moved)
    assert not changed(before, model)


@pytest.mark.parametrize(
    "space, task", [("darts", "col"), ("darts", "jig"), ("nasbench101", "rot")]
)
def test_a_tuned_model_comes_back_with_the_names_of_its_classes(space, task, tmp_path):
    model, test = model_of(space, task, size=16), objects("test")
    tuned, history = use.fine_tune(model, objects(), test, RECIPE, frozen=task == "jig")
    found = use.predict(tuned, test)
    right = [test.classes[k] for k in test.labels]
    assert 100 * (found.label == right).mean() == pytest.approx(history.final)
    assert found.probability.between(1 / 3, 1).all()
    again = export.load(export.save(tuned, tmp_path / "tuned"))
    assert use.predict(again, test).equals(found)
    assert "| classes | ['a', 'b', 'c'] |" in (tmp_path / "tuned/README.md").read_text()
    right = use.hits(tuned, use.labels_task(tuned, 3), test)
    assert 100 * right.mean() == pytest.approx(history.final)


def test_a_finished_checkpoint_is_taken_up_by_the_same_run_alone(tmp_path):
    images, test = objects(), objects("test")
    options = dict(checkpoint=tmp_path / "run.pt")
    first, history = use.fine_tune(model_of(size=16), images, test, RECIPE, **options)
    second, again = use.fine_tune(model_of(size=16), images, test, RECIPE, **options)
    assert not changed(state(first), second) and again.seconds == history.seconds
    other = use.untrained(model_of(size=16), seed=3)  # the same architecture, other weights
    with pytest.raises(ValueError, match="belongs to another run"):
        use.fine_tune(other, images, test, RECIPE, **options)


def test_data_sets_that_do_not_fit_are_refused_before_training():
    model, images = model_of(size=16), objects()
    fewer = data.TensorImages("objects", "test", images.images, images.labels % 2, ("a", "b"))
    with pytest.raises(ValueError, match="test: has 2 classes .*training images have 3"):
        use.fine_tune(model, images, fewer, RECIPE)
    with pytest.raises(ValueError, match="images: 24 pixels large, and the model reads 16"):
        use.fine_tune(model, images.resized(24), images, RECIPE)
    with pytest.raises(data.NoLabels):
        use.fine_tune(model, images.unlabeled(), images, RECIPE)
    with pytest.raises(ValueError, match="lr=1e\\+30: the loss of epoch .* not finite"):
        use.fine_tune(model, images, images, Recipe(3, 10, 1e30, precision="float32"))
    with pytest.raises(ValueError, match="model: has no classifier with named classes"):
        use.predict(model, images)


def test_an_untrained_model_has_the_weights_of_its_seed_and_no_past():
    model = model_of()
    one, same, other = (use.untrained(model, seed) for seed in (0, 0, 1))
    assert not changed(state(one), same) and changed(state(one), other) and one.about == {}
    assert one.architecture == model.architecture and changed(state(one), model)
    before = torch.get_rng_state()
    use.untrained(model, 5)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("measure", ["multiply_adds", "parameters"])
def test_a_resnet_is_the_widest_within_the_budget(measure):
    model = model_of()
    network = use.resnet_like(model, 5, measure)
    wider = use.ResNet(5, "cifar", network.width + 1)
    which = ["multiply_adds", "parameters"].index(measure)
    model.reset_classifier(5)
    budget, own, more = (
        complexity.count(each, (3, 32, 32))[which] for each in (model.network, network, wider)
    )
    assert own <= budget < more


@pytest.mark.slow
def test_what_compare_finds_is_paired_and_repeats(tmp_path):
    model, images, test = model_of(size=16), objects(count=60), objects("test")
    ways = ["probe", "head", "scratch", "resnet"]
    options = dict(per_class=[4], seeds=2, ways=ways, checkpoints=tmp_path)
    found = use.compare(model, images, test, RECIPE, **options)
    assert list(found) == [(4, way) for way in ways]
    assert {right.shape for right in found.values()} == {(len(test), 2)}
    assert len(list(tmp_path.glob("*.pt"))) == 6  # all but the probes
    again = use.compare(model, images, test, RECIPE, **options)
    assert all(np.array_equal(found[key], again[key]) for key in found)
    table = use.summary(found, test.labels).set_index("way")
    by_class = [found[4, "head"][test.labels.numpy() == kind].mean() for kind in range(3)]
    assert table.accuracy["head"] == pytest.approx(100 * np.mean(by_class))
    gain = table.accuracy["head"] - table.accuracy["scratch"]
    assert table.more["head"] == pytest.approx(gain) and np.isnan(table.more["scratch"])


@pytest.mark.parametrize("per_class", [4, np.int64(4), (4,), np.array([4])])
def test_compare_takes_one_number_of_labels(per_class):
    model, images = model_of(size=16), objects()
    found = use.compare(model, images, images, RECIPE, per_class=per_class, seeds=1, ways=["probe"])
    assert list(found) == [(4, "probe")]


def test_compare_refuses_before_it_trains():
    model, images = model_of(size=16), objects()
    with pytest.raises(ValueError, match="ways='?.*magic.*unknown"):
        use.compare(model, images, images, RECIPE, ways=["magic"])
    with pytest.raises(ValueError, match="per_class=1000: .* pass at most"):
        use.compare(model, images, images, RECIPE, per_class=[1000])
    for wrong in (True, 4.0, 0, None, "4", [], [4, 5.5]):
        with pytest.raises(ValueError, match="per_class=.*: must be a whole number of at least 1"):
            use.compare(model, images, images, RECIPE, per_class=wrong)
    with pytest.raises(ValueError, match="batch_size=10: .*only 6 images"):
        use.compare(model, images, images, RECIPE, per_class=[2], ways=["probe"])
    with pytest.raises(ValueError, match="against='scratch': unknown"):
        use.summary({(5, "probe"): np.ones((4, 2), bool)}, [0, 1, 0, 1])
    with pytest.raises(ValueError, match=r"labels of shape \(3,\): 4 images were tested"):
        use.summary({(5, "scratch"): np.ones((4, 2), bool)}, [0, 1, 0])


@pytest.mark.slow
def test_the_intervals_of_a_comparison_hold_the_truth():
    """With luck of images and of seeds, five seeds: about 19 of 20 times."""
    rng, inside = np.random.default_rng(0), 0
    for _ in range(150):
        skill = 0.5 + rng.normal(0, 0.3, (200, 1)) + rng.normal(0, 0.03, (1, 5))
        hits = rng.random((200, 5)) < skill.clip(0, 1)
        truth = np.mean((0.5 + np.random.default_rng(1).normal(0, 0.3, 10**6)).clip(0, 1))
        low, high, _ = stats.two_way(lambda m: m.mean(axis=-1), hits.astype(float), resamples=200)
        inside += low <= truth <= high
    assert 0.9 < inside / 150 < 0.99


@pytest.mark.slow
def test_training_as_for_table_1_gives_a_model_within_its_budget(folder, tmp_path):
    (genotype,) = darts.sample(1, seed=0)
    options = dict(epochs=2, batch_size=12, budget=3e6, image_size=32, depth=3, stem="cifar")
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        model = use.train_from_scratch(
            genotype, folder, **options, checkpoint=tmp_path / "run.pt", crop="random"
        )
    shape, width = (3, 32, 32), model._hub_mixin_config["width"]
    assert complexity.paper_flops(model.network, shape) <= 3e6
    wider = darts.build(genotype, model.task, stem="cifar", width=width + 2, depth=3)
    assert complexity.paper_flops(wider, shape) > 3e6
    again = export.load(export.save(model, tmp_path / "model"))
    found = use.predict(again, folder / "test")
    assert found.equals(use.predict(model, folder / "test"))
    assert set(found.label) <= {"cup", "tree"} and len(found) == 8
    about = model.about
    assert about["auxiliary_head"] is True and about["training_images"] == 24
    truth = [path.split("/")[-2] for path in found.image]
    # the test of a training crops, and so does prepare, but for images of just this size
    assert abs(100 * (found.label == truth).mean() - about["test_accuracy"]) <= 25
    finished = torch.load(tmp_path / "run.pt", weights_only=True)
    assert finished["identity"] == about["run"]
    assert len(finished["history"]["score"]) == 2
    assert any(name.startswith("auxiliary_head.") for name in finished["network"])


def test_training_as_for_table_1_says_what_is_wrong(folder):
    (genotype,) = darts.sample(1, seed=0)
    options = dict(epochs=1, batch_size=8, image_size=32, depth=3, stem="cifar")
    with pytest.raises(ValueError, match="genotype='darts': is no darts.Genotype"):
        use.train_from_scratch("darts", folder, **options)
    with pytest.raises(
        ValueError, match="budget='1,000 multiply-adds': too small for a network of 3 cells"
    ):
        use.train_from_scratch(genotype, folder, **options, budget=1000)
    with pytest.raises(ValueError, match="batch_size=80: .*only 24 images"):
        use.train_from_scratch(genotype, folder, **options | dict(batch_size=80), budget=1e7)
    with pytest.raises(ValueError, match="has no two classes"):
        use.train_from_scratch(genotype, folder / "train/cup", **options)
    assert [use._has_auxiliary(side, "imagenet") for side in (192, 224, 256, 288)] == [
        *(False, True, True, False)
    ]
    assert use.table1_recipe(1, 64).warmup_epochs == 0
    assert use.table1_recipe(50, 64).warmup_epochs == 1


def test_files_are_cropped_as_those_of_a_data_set_whatever_their_size(folder):
    model = model_of()
    for side in (model.image_size, 2 * model.image_size):
        for path in folder.rglob("*.png"):
            Image.open(path).resize((side, side)).save(path)
        images = data.load("imagefolder", "test", root=folder, image_size=model.image_size)
        of_files, names = use.features(model, folder / "test")
        of_data, _ = use.features(model, images)
        order = [names.index(str(path)) for path in images.paths]
        np.testing.assert_allclose(of_files[order], of_data, atol=1e-6)


def test_items_that_are_no_images_are_left_out_and_counted(folder):
    model, path = model_of(), next(folder.rglob("*.png"))
    torn = path.with_name("torn.png")
    torn.write_bytes(path.read_bytes()[:200])
    items = [path, Image.open(torn), None, np.zeros((0, 16, 3), np.uint8), Image.open(path)]
    with pytest.warns(UserWarning, match="left out 3 unreadable of 5 images: number 1 .*number 3"):
        found, names = use.features(model, items)
    assert names == [str(path), 4]
    np.testing.assert_allclose(found[0], found[1], atol=1e-6)


def test_features_that_are_not_finite_are_named():
    features = np.random.default_rng(0).normal(size=(5, 3))
    features[3, 1] = np.nan
    with pytest.raises(ValueError, match="features: row 3 of 5 has numbers that are not finite"):
        use.nearest(features, features[:1])
    with pytest.raises(ValueError, match="features: row 3 of 5 has numbers that are not finite"):
        use.probe(features, [0, 1, 0, 1, 0])


def test_a_model_of_another_precision_is_told_what_to_do(folder):
    with pytest.raises(ValueError, match="model: its weights are torch.float16.*model.float"):
        use.features(model_of().half(), folder)
