"""Models that are saved, loaded and exported, for both spaces and each task."""

import copy
import json
import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from test_data import png16
from torch import nn

import unnas
from unnas import export, tasks
from unnas.spaces import SPACES
from unnas.study import Data, Spec
from unnas.train import Recipe

ARCHITECTURES = {
    space: SPACES[space].sample(1, seed=0)[0] for space in ("darts", "nasbench101", "nasbench201")
}


def spec_of(space="darts", task="rot", size=32):
    images = Data("synthetic-objects", size, train_images=60, test_images=30, labels=task == "cls")
    shape = "cifar", 4, 3
    recipe = Recipe(epochs=1, batch_size=20, lr=0.05)
    return Spec(space, ARCHITECTURES[space], *shape, images, task, "cifar", recipe, seed=0)


def model_of(space="darts", task="rot", size=32):
    """A model with random weights and statistics."""
    spec = spec_of(space, task, size)
    torch.manual_seed(0)
    network = unnas.study.records.network_of(spec, export._task(task, "cifar", 10, {}))
    for name, buffer in network.named_buffers():
        if name.endswith(("mean", "var")):
            buffer.uniform_(0.5, 1.5)
    return export.of(network, spec)


@pytest.fixture
def photo(tmp_path):
    """A photo of 60 x 40 pixels, as a file."""
    pixels = np.random.default_rng(0).integers(256, size=(40, 60, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """The folder of a saved model; who changes it puts it back."""
    return export.save(model_of(), tmp_path_factory.mktemp("saved"))


@pytest.mark.parametrize("task", ["cls", "rot", "col", "jig", "seg"])
@pytest.mark.parametrize("space", list(ARCHITECTURES))
def test_a_model_comes_back_from_its_folder(space, task, tmp_path, photo):
    if (space, task) == ("nasbench101", "seg"):
        pytest.skip("segmentation is of the DARTS space")
    model = model_of(space, task)
    folder = export.save(model, tmp_path / "model")
    again = export.load(folder)
    x = export.prepare(again, photo)
    assert x.shape == (1, 1 if task == "col" else 3, 32, 32)
    for a, b in zip(again.forward_features(x), model.forward_features(x), strict=True):
        assert torch.equal(a, b)
    if task != "jig":  # its head reads tiles
        assert torch.equal(again(x), model(x))
    files = {path.name for path in folder.iterdir()}
    assert {"config.json", "model.safetensors", "README.md", "cell.png"} <= files
    assert not [name for name in files if name.endswith((".bin", ".pt", ".pkl"))]


@pytest.mark.parametrize("space", list(ARCHITECTURES))
def test_features_are_the_means_of_the_last_maps(space, photo):
    model = model_of(space)
    x = export.prepare(model, [photo, photo])
    maps = model.forward_features(x)
    assert [m.shape[-1] for m in maps] == [32, 16, 8]
    features = model.features(x)
    assert torch.equal(features, maps[-1].mean((2, 3))) and features.shape == (2, maps[-1].shape[1])
    torch.testing.assert_close(model.network.head.linear(features), model(x))
    model.reset_classifier(0)
    assert torch.equal(model(x), features)


@pytest.mark.parametrize("space", list(ARCHITECTURES))
def test_a_head_can_be_taken_away_as_in_torchvision(space, photo):
    network = model_of(space).network
    x = export.prepare(model_of(space), photo)
    maps = network.forward_features(x)[-1]
    network.head = nn.Identity()
    assert torch.equal(network(x), maps)


def test_a_model_that_cannot_be_saved_leaves_the_one_before(tmp_path, photo):
    model = model_of()
    folder, x = export.save(model, tmp_path / "model"), export.prepare(model, photo)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    other = model_of("nasbench201")
    broken = copy.deepcopy(other)
    broken._hub_mixin_config["about"] = object()  # fails when the weights are written
    with pytest.raises(TypeError):
        export.save(broken, folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert export.load(folder)(x).equal(model(x))
    export.save(other, folder)
    assert export.load(folder)(x).equal(other(x)) and len(list(folder.iterdir())) == len(before)
    with pytest.raises(OSError, match="photo.png.*cannot write there"):
        export.save(model, photo)


def test_a_new_head_is_saved_and_another_number_of_classes_refused(tmp_path, photo):
    model = model_of()
    model.reset_classifier(7)
    assert model(export.prepare(model, photo)).shape == (1, 7)
    folder = export.save(model, tmp_path / "tuned")
    again = export.load(folder)
    x = export.prepare(again, photo)
    assert torch.equal(again(x), model(x))
    with pytest.raises(ValueError, match="num_classes=3: .*trained classifier for 7"):
        export.load(folder, num_classes=3)
    assert torch.equal(export.load(folder, num_classes=0)(x), model.features(x))


def test_numbers_of_numpy_are_saved_as_any_other(tmp_path):
    config = model_of(task="cls")._hub_mixin_config
    sizes = dict(width=np.int64(4), depth=np.int64(3), image_size=np.int64(32))
    about = dict(classes=("a", "b"), accuracy=np.float32(0.5))
    model = export.Model(**(config | sizes | dict(num_outputs=np.int64(10), about=about)))
    again = export.load(export.save(model, tmp_path / "model"), num_classes=np.int64(3))
    assert again._hub_mixin_config == config | dict(about=again.about, num_classes=3)
    assert again.about == dict(classes=["a", "b"], accuracy=0.5)
    assert export.load(export.save(again, tmp_path / "new"))._hub_mixin_config["num_classes"] == 3
    for wrong in (True, 3.0, "3", -1):
        with pytest.raises(ValueError, match="num_classes=.*must be a whole number"):
            model.reset_classifier(wrong)
        with pytest.raises(ValueError, match="num_classes=.*must be a whole number"):
            export.load(tmp_path / "new", num_classes=wrong)
    with pytest.raises(ValueError, match="num_classes=0: must be a whole number of at least 1"):
        model.reset_classifier(0, dense=True)
    with pytest.raises(ValueError, match="dense=1: must be True or False"):
        model.reset_classifier(3, dense=1)
    with pytest.raises(ValueError, match="about=.*cannot be kept as JSON"):
        export.Model(**(config | dict(about=dict(images=object()))))


def test_a_head_for_pixels_comes_back_from_its_folder(tmp_path, photo):
    model = model_of()
    model.reset_classifier(5, dense=True)
    folder = export.save(model.eval(), tmp_path / "streets")
    again = export.load(folder)
    x = export.prepare(again, photo)
    assert again(x).shape == (1, 5, 32, 32) and torch.equal(again(x), model(x))
    assert torch.equal(export.load(folder, num_classes=5)(x), model(x))
    assert export.load(folder, num_classes=0)(x).shape == model.features(x).shape
    assert export.load(export.save(model_of(), tmp_path / "b"), 3, dense=True)(x).shape[1] == 3


def test_images_are_prepared_alike_whatever_they_come_as(photo):
    model = model_of()
    picture = Image.open(photo).convert("RGB")
    array = np.asarray(picture)
    expected = export.prepare(model, photo)
    ways = [str(photo), picture, array, torch.from_numpy(array.copy()), array.transpose(2, 0, 1)]
    for way in ways:
        assert torch.equal(export.prepare(model, way), expected)
    both = export.prepare(model, [photo, picture])
    assert torch.equal(both, torch.cat([expected, expected]))
    square = np.asarray(picture.crop((4, 4, 36, 36)))
    normal = (square[0, 0] / 255 - model.task.style.mean) / model.task.style.std
    assert export.prepare(model, square)[0, :, 0, 0].numpy() == pytest.approx(normal, rel=1e-5)
    for wrong in (array.astype(float), array[..., 0], np.zeros((4, 4, 4), np.uint8)):
        with pytest.raises(ValueError, match="images: an array of .*pass uint8"):
            export.prepare(model, wrong)


def test_a_picture_of_pillow_is_prepared_as_its_file(tmp_path):
    model, random = model_of(), np.random.default_rng(0)
    pixels = random.integers(256, size=(40, 60, 4), dtype=np.uint8)
    deep = random.integers(2000, size=(40, 60, 3)).astype(np.uint16)
    turned = Image.Exif()
    turned[0x0112] = 6
    for suffix in ("jpg", "tif"):
        Image.fromarray(pixels[..., :3]).save(tmp_path / f"turned.{suffix}", exif=turned)
    Image.fromarray(pixels).save(tmp_path / "clear.png")
    Image.fromarray(pixels[..., 0]).convert("P").save(tmp_path / "palette.png", transparency=3)
    Image.fromarray(deep[..., 0]).save(tmp_path / "gray.png")
    (tmp_path / "color.png").write_bytes(png16(deep))
    for path in sorted(tmp_path.iterdir()):
        expected, picture = export.prepare(model, path), Image.open(path)
        mode = picture.mode
        assert export.prepare(model, picture).equal(expected), path
        assert picture.mode == mode
        assert export.prepare(model, unnas.data.read_image(path)).equal(expected), path
        if path.stem != "color":  # once loaded, Pillow has only the high bytes of color
            assert export.prepare(model, picture).equal(expected), path


def test_a_task_prepares_images_for_predicting_without_labels():
    images = torch.randint(256, (2, 3, 8, 8), dtype=torch.uint8)
    for name in ("cls", "rot", "col", "seg"):
        task = export._task(name, "cifar", 10, {})
        inputs = task.inputs(images)
        assert inputs.shape == (2, task.in_channels, 8, 8)
    generator = torch.Generator().manual_seed(0)
    first = tasks.rotation().batch(images, None, False, generator)[0][::4]
    assert torch.equal(tasks.rotation().inputs(images), first)


def test_what_is_not_a_model_is_refused_in_one_sentence(tmp_path):
    folder = export.save(model_of(), tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    with pytest.raises(FileNotFoundError, match="nowhere.*no such folder"):
        export.load(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="holds no config.json"):
        export.load(tmp_path)
    (folder / "config.json").write_text(json.dumps(config | dict(format=99)))
    with pytest.raises(ValueError, match="format=99: .*later version"):
        export.load(folder)
    (folder / "config.json").write_text(json.dumps(config | dict(width=8)))
    with pytest.raises(ValueError, match="its weights are not those of the architecture"):
        export.load(folder)
    (folder / "config.json").write_text(json.dumps(config | dict(space="resnet")))
    with pytest.raises(ValueError, match="space='resnet': unknown"):
        export.load(folder)
    (folder / "config.json").write_text("{")
    with pytest.raises(ValueError, match="is not JSON"):
        export.load(folder)
    (folder / "config.json").write_text("{}")
    with pytest.raises(ValueError, match="lacks space"):
        export.load(folder)


@pytest.mark.parametrize(
    "change, words",
    [
        (dict(width=None), "width=None: must be a whole number"),
        (dict(image_size="16"), "image_size='16': must be a whole number"),
        (dict(image_size=16.0), r"image_size=16.0: must be a whole number"),
        (dict(depth=True), "depth=True: must be a whole number"),
        (dict(stem=["cifar"]), r"stem=\['cifar'\]: unknown"),
        (dict(style=3), "style=3: unknown"),
        (dict(options=[1]), r"options=\[1\]: must be a dict"),
        (dict(options=dict(grid=3)), "options={'grid': 3}: are none of task 'rot'"),
        (dict(task="cls"), "num_outputs=None: must be a whole number"),
        (dict(task="seg", num_outputs="3"), "num_outputs='3': must be a whole number"),
        (dict(about="photos"), "about='photos': must be a dict"),
        (dict(architecture=[]), "is no genotype"),
        (dict(num_classes="3"), "num_classes='3': must be a whole number"),
        (dict(num_classes=3, dense="yes"), "dense='yes': must be True or False"),
        (dict(format="2"), "format='2': must be a whole number"),
        (dict(format=99), "format=99: .*later version.*update unnas"),
    ],
    ids=str,
)
def test_a_config_that_is_none_is_refused_with_its_file_and_key(change, words, saved):
    config = json.loads((saved / "config.json").read_text())
    try:
        (saved / "config.json").write_text(json.dumps(config | change))
        with pytest.raises(ValueError, match=f"config.json: .*{words}") as error:
            export.load(saved)
        assert "\n" not in str(error.value)
    finally:
        (saved / "config.json").write_text(json.dumps(config))


def test_a_config_that_lacks_a_key_says_which(saved):
    text = (saved / "config.json").read_text()
    try:
        for key in ("width", "depth", "stem", "image_size", "architecture", "space", "task"):
            config = json.loads(text)
            del config[key]
            (saved / "config.json").write_text(json.dumps(config))
            with pytest.raises(ValueError, match=f"config.json: .* lacks {key}; .*anew"):
                export.load(saved)
        (saved / "config.json").write_text("[1]")
        with pytest.raises(ValueError, match="config.json: .* lacks space, architecture"):
            export.load(saved)
    finally:
        (saved / "config.json").write_text(text)


def test_weights_that_are_none_or_torn_say_how_to_get_them(saved):
    file = saved / "model.safetensors"
    content = file.read_bytes()
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"
    try:
        for torn in (content[: len(content) // 2], content[:100], pointer, b"version", b""):
            file.write_bytes(torn)
            with pytest.raises(ValueError, match="model.safetensors: .*; fetch .*git lfs pull"):
                export.load(saved)
        file.unlink()
        with pytest.raises(FileNotFoundError, match="model.safetensors: no such file; fetch the"):
            export.load(saved)
    finally:
        file.write_bytes(content)
    export.load(saved)


def test_the_card_says_what_the_model_is(tmp_path):
    spec = spec_of()
    network = model_of().network
    folder = export.save(export.of(network, spec, verdict="not learned"), tmp_path / "model")
    card = (folder / "README.md").read_text()
    for words in (
        "rotation (`rot`)",
        "synthetic-objects",
        "not learned",
        spec.id,
        "32 x 32 pixels",
    ):
        assert words in card


def test_a_built_network_can_be_copied_pickled_and_traced():
    model = model_of().eval()
    x = torch.randn(2, 3, 32, 32)
    expected = model(x)
    for twin in (copy.deepcopy(model.network), pickle.loads(pickle.dumps(model.network))):
        assert torch.equal(twin(x), expected)
    assert torch.equal(replace(spec_of()).architecture and model(x), expected)


@pytest.mark.slow
@pytest.mark.parametrize(
    "space, task",
    [
        pytest.param("darts", "rot", marks=pytest.mark.long),  # the others have its parts
        ("nasbench101", "cls"),
        ("darts", "seg"),
    ],
)
def test_onnx_gives_the_same_for_any_batch(space, task, tmp_path):
    runtime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    model = model_of(space, task)
    file = export.onnx(model, tmp_path / "model.onnx")
    session = runtime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    for count in (1, 5):
        x = torch.randn(count, 3, 32, 32)
        (found,) = session.run(None, {"images": x.numpy()})
        expected = model(x).detach().numpy()
        assert np.abs(found - expected).max() <= 1e-5 * max(1, np.abs(expected).max())
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]


def test_onnx_refuses_a_folder_before_it_exports(tmp_path):
    pytest.importorskip("onnxscript")
    with pytest.raises(ValueError, match="file=.*: is a folder; pass a file"):
        export.onnx(model_of(), tmp_path)


@pytest.mark.slow
def test_torch_export_gives_the_same():
    model, x = model_of(), torch.randn(2, 3, 32, 32)
    program = torch.export.export(model, (x,), dynamic_shapes=({0: torch.export.Dim("n")},))
    more = torch.randn(3, 3, 32, 32)
    torch.testing.assert_close(program.module()(more), model(more), rtol=1e-5, atol=1e-5)
