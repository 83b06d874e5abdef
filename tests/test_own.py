"""From a folder of images to an architecture: what people have, and what is said of it."""

import json
import multiprocessing
import os
import shutil
import subprocess
import sys
from dataclasses import replace

import numpy as np
import papermill
import pytest
from PIL import Image

import unnas
from tools.readme import ROOT
from unnas import complexity, own, verdict
from unnas.own import looks, schedules
from unnas.spaces import darts

TINY = dict(image_size=16, batch_size=16, steps=6, search_steps=6, architectures=2)


def photo(seed, side=40):
    """A picture of large random blocks, which no other seed has."""
    blocks = np.random.default_rng(seed).integers(0, 256, (8, 9, 3), dtype=np.uint8)
    return Image.fromarray(blocks).resize((side + side // 4, side), Image.Resampling.BICUBIC)


def fill(folder, count, change=lambda picture: picture):
    folder.mkdir(parents=True, exist_ok=True)
    for seed in range(count):
        change(photo(seed)).save(folder / f"{seed:03}.jpg", quality=90)
    return folder


def given(**settings):
    """The settings of `find`, with None for all that is left open."""
    usual = dict(task="rot", method="random", minutes=5, seed=0)
    return dict.fromkeys(schedules.PARAMETERS) | usual | settings


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return fill(tmp_path_factory.mktemp("own") / "photos", 110)


def test_a_look_counts_what_is_there(tmp_path):
    fill(tmp_path / "some" / "deep", 12)
    photo(3, 90).save(tmp_path / "larger.png")  # one of them again, in another size and format
    photo(50).convert("L").save(tmp_path / "gray.jpg")
    Image.new("RGB", (50, 50), "teal").save(tmp_path / "flat.png")
    (tmp_path / "torn.jpg").write_bytes((tmp_path / "gray.jpg").read_bytes()[:300])
    (tmp_path / "phone.HEIC2").touch()
    (tmp_path / ".hidden.jpg").touch()
    seen = own.look(tmp_path)
    assert (len(seen.files), len(seen.readable)) == (16, 15)
    assert seen.usable == 13  # without the torn one, the flat one, and the one that is there again
    for words in ("13 JPEG, 2 PNG", "1 cannot be read: torn.jpg", "1 there again", "1 gray"):
        assert words in str(seen), words
    assert "1 .heic2" in str(seen) and "1 hidden" in str(seen)
    assert seen.short_side == 40 and "Not enough" in str(seen)


def test_a_look_at_one_image_says_so(tmp_path):
    (tmp_path / "torn.jpg").touch()
    assert "1 image, opened.\n1 cannot be read" in str(own.look(tmp_path))
    photo(0).save(tmp_path / "torn.jpg")
    said = str(own.look(tmp_path))
    assert "1 image, opened (1 JPEG)." in said and "Not enough: 1 different image," in said


def test_few_of_many_are_opened_and_judged_by(photos):
    seen = own.look(photos, most=20)
    assert len(seen.seen) == 20 and seen.usable == 110 and "20 of them opened" in str(seen)


def test_a_picture_is_never_in_both_splits(photos, tmp_path):
    both = fill(tmp_path / "both", 110)
    for path in sorted(photos.iterdir()):
        small = Image.open(path).resize((45, 36))
        small.save(both / f"again-{path.name}", quality=70)
    left_out = own.make_copies(own.look(both), tmp_path / "copies", image_size=16, count=500)
    kept = [*(tmp_path / "copies").glob("*/*.jpg")]
    assert left_out == {"there again": 110} and len(kept) == 110
    assert len([path for path in kept if path.parent.name == "test"]) == 22
    assert {min(Image.open(path).size) for path in kept} == {32}


def test_copies_that_were_cut_short_are_made_anew_and_other_folders_are_left(photos, tmp_path):
    more, made = fill(tmp_path / "more", 120), tmp_path / "copies"
    own.make_copies(own.look(more), made, image_size=16, count=500)
    made.with_suffix(".csv").unlink()  # as where it ended before its table was written
    own.make_copies(own.look(photos), made, image_size=16, count=500)
    assert [len([*(made / split).iterdir()]) for split in ("train", "test")] == [88, 22]
    theirs = fill(tmp_path / "theirs" / "train", 2)
    with pytest.raises(ValueError, match="has train, not of a search; name another folder"):
        own.make_copies(own.look(photos), theirs.parent, image_size=16, count=500)
    assert len([*theirs.iterdir()]) == 2


@pytest.mark.parametrize(
    ("change", "task", "words"),
    [
        (lambda picture: photo(1), "rot", "about 1 different images of 105"),
        (lambda picture: Image.new("RGB", (40, 40), "red"), "jig", "about 0 different images"),
        (lambda picture: picture.convert("L"), "col", "task='col': all images that were opened"),
    ],
)
def test_a_folder_with_nothing_to_learn_is_refused(tmp_path, change, task, words):
    fill(tmp_path / "photos", 105, change)
    with pytest.raises(ValueError, match=words):
        unnas.find(tmp_path / "photos", task, folder=tmp_path / "kept")
    assert not (tmp_path / "kept").exists()


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (dict(task="cls"), "task='cls': needs labels"),
        (dict(task="rnd"), "task='rnd': is a control"),
        (dict(task="rotation"), "task='rotation': unknown; choose one of rot, col, jig, con"),
        (dict(method="evolution"), "method='evolution'"),
        (dict(minutes=0), "minutes=0"),
        (dict(budget="20M"), "budget='20M'"),
        (dict(budget="1,5M parameters"), "budget='1,5M parameters'.* or '500,000 parameters'"),
        (dict(budget="0,500M parameters"), "budget='0,500M parameters'"),
        (dict(image_size=4), "image_size=4"),
        (dict(architectures=1), "architectures=1"),
        (dict(seed=-1), "seed=-1"),
        (dict(engine="magic"), "engine='magic'"),
        (dict(method="random"), "search_steps=6: method='random' has no search; leave it out"),
    ],
)
def test_bad_parameters_are_told_before_the_images_are_opened(photos, tmp_path, wrong, words):
    with pytest.raises(ValueError, match=words):
        unnas.find(photos, **(TINY | dict(folder=tmp_path / "kept") | wrong))
    with pytest.raises(FileNotFoundError, match="no such folder"):
        unnas.find(tmp_path / "nowhere", folder=tmp_path / "kept")
    with pytest.raises(FileNotFoundError, match="000.jpg.*: is a file; pass a folder"):
        unnas.find(photos / "000.jpg", folder=tmp_path / "kept")
    with pytest.raises(ValueError, match="images=None: must be a text or a path"):
        unnas.find(None, folder=tmp_path / "kept")
    assert not (tmp_path / "kept").exists()


def test_a_budget_bounds_each_network_and_one_too_small_is_named(photos, tmp_path):
    plan = schedules.schedule_for(40, given(budget="3M multiply-adds", **TINY), workers=1)
    (genotype,) = darts.sample(1, seed=0)
    width = plan.width(genotype, "rot")
    networks = [
        darts.build(genotype, schedules._task("rot"), stem="cifar", width=w, depth=5)
        for w in (width, width + 2)
    ]
    sizes = [complexity.count(network, (3, 16, 16))[0] for network in networks]
    assert sizes[0] <= 3e6 < sizes[1]
    exact = replace(plan, budget=sizes[0])
    assert exact.width(genotype, "rot") == width
    assert complexity.paper_flops(networks[0], (3, 16, 16)) > sizes[0]
    # as in a search that began with an earlier version
    assert replace(exact, measure="flops").width(genotype, "rot") < width
    small = TINY | dict(search_steps=None, method="random", budget="100 parameters")
    with pytest.raises(ValueError, match="budget='100 parameters': too small"):
        unnas.find(photos, **small, folder=tmp_path / "kept")


def test_a_worker_that_comes_to_the_call_again_ends_at_once(photos, monkeypatch):
    monkeypatch.setattr(multiprocessing.current_process(), "_inheriting", True, raising=False)
    with pytest.raises(SystemExit):
        unnas.find(photos, **TINY)


@pytest.mark.slow
def test_a_script_that_is_not_guarded_ends_with_one_sentence(photos, tmp_path):
    script = tmp_path / "script.py"
    given = TINY | dict(budget="1M multiply-adds", folder=str(tmp_path / "kept"), workers=2)
    script.write_text(f"import unnas\nunnas.find({str(photos)!r}, **{given})\n")
    done = subprocess.run([sys.executable, script], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr.count("Traceback") == 1
    last = done.stderr.strip().splitlines()[-1]
    assert "a worker came to this call again; in a script, put the call below if __name__" in last


@pytest.mark.long
def test_a_time_that_is_too_short_says_what_would_do():
    with pytest.raises(ValueError, match="minutes=0.01: too short") as error:
        schedules.schedule_for(40, given(minutes=0.01), workers=2)
    needed = int(str(error.value).partition("allow ")[2].partition(" ")[0])
    assert 0 < needed < 300
    fewer = schedules.schedule_for(40, given(minutes=needed / 4, steps=10), workers=2)
    assert fewer.steps == 10 and fewer.architectures >= 4


def test_trainings_are_shorter_where_time_is_short():
    times = dict(core_seconds=600.0, workers=2, step=0.1)
    assert [schedules._fill("random", steps=n, **times)[0] for n in (400, 200)] == [6, 20]
    many, steps = schedules._fill("darts", steps=200, search_step=0.2, **times)
    assert many == 8 and steps == int((600 - (8 + 7) * 22) / 0.4)


@pytest.fixture(scope="module")
def found(photos, tmp_path_factory):
    place = tmp_path_factory.mktemp("found") / "kept"
    options = dict(engine="serial", folder=place, budget="1M multiply-adds")
    return unnas.find(photos, "jig", method="darts", **TINY, **options), options


@pytest.mark.slow
def test_the_verdict_rests_on_new_trainings(found):
    found, _ = found
    kinds = found.trainings.groupby("kind")
    assert kinds.size().to_dict() == dict(found=schedules.SEEDS, random=2)
    own_seeds = set(found.trainings.seed[found.trainings.kind == "found"])
    assert own_seeds == {1, 2, 3} and found.verdict["decided"] is False
    assert str(found.verdict).startswith(("Not learned", "Undecided", "Not known", "Worse"))
    scores = {kind: part.score.to_list() for kind, part in kinds}
    assert verdict.better(scores["found"], scores["random"]) in found.verdict.findings


@pytest.mark.slow
def test_it_goes_on_where_it_stopped_and_says_that_images_have_changed(found, photos):
    before, options = found
    records = {path: path.stat().st_mtime_ns for path in before.folder.glob("records/*.json")}
    next(iter(records)).unlink()  # as if it had been interrupted
    shutil.copy(photos / "000.jpg", photos / "new.jpg")
    try:
        with pytest.warns(UserWarning, match="files have changed since this search began"):
            again = unnas.find(photos, "jig", method="darts", **TINY, **options)
    finally:
        (photos / "new.jpg").unlink()
    assert again.verdict == before.verdict and again.genotype == before.genotype
    assert again.trainings.equals(before.trainings)
    written = {path for path, time in records.items() if path.stat().st_mtime_ns != time}
    assert len(written) == 1


@pytest.mark.slow
def test_searches_side_by_side(found, tmp_path):
    (row,) = own.summary({"some photos": found[0].folder}).to_dict("records")
    assert row["images"] == "some photos" and row["method"] == "darts" and row["others"] == 2
    assert row["verdict"] == str(found[0].verdict) and row["image_size"] == 16


def test_what_is_no_kept_search_is_told_in_a_sentence(tmp_path):
    with pytest.raises(ValueError, match="folders=.*: must be a dict"):
        own.summary([tmp_path])
    for name, text, words in (
        ("trainings.csv", "", "no search that has ended; it lacks found.json, schedule.json$"),
        ("schedule.json", "{}", "it lacks found.json$"),
        ("found.json", '{"verdict": ', "schedule.json: lacks settings, schedule; run the search"),
        ("schedule.json", '{"settings": {}, "schedule": {}}', "found.json: is damaged .*; run"),
    ):
        (tmp_path / name).write_text(text)
        with pytest.raises(ValueError, match=words):
            own.summary({"none": tmp_path})


def test_commas_part_thousands():
    read = schedules.read_budget
    assert read("1,500,000 parameters") == read("1.5M parameters") == (1.5e6, "parameters")


@pytest.mark.slow
def test_a_search_begins_anew_without_the_files_that_are_named(photos, tmp_path):
    images, kept = fill(tmp_path / "images", 104), tmp_path / "kept"
    options = TINY | dict(search_steps=None, method="random", engine="serial", folder=kept)
    first = unnas.find(images, **options)
    shutil.copytree(photos, images, dirs_exist_ok=True)
    with pytest.warns(UserWarning, match="began, .* remove schedule.json, images.csv and model.pt"):
        unnas.find(images, **options)
    for name in ("schedule.json", "images.csv", "model.pt"):
        (kept / name).unlink()
    again = unnas.find(images, **options)
    assert len(list((kept / "images").rglob("*.jpg"))) == 110 and again.spec.id != first.spec.id


@pytest.mark.slow
def test_a_folder_with_a_search_of_other_images_is_refused(found, tmp_path):
    _, options = found
    fill(tmp_path / "others", 105)
    with pytest.raises(ValueError, match="has a search of other images .*; name another folder"):
        unnas.find(tmp_path / "others", "jig", method="darts", **TINY, **options)


@pytest.mark.slow
def test_the_model_has_the_weights_of_the_task_and_a_card(found, photos, tmp_path):
    found, _ = found
    saved = found.save(tmp_path / "model")
    config = json.loads((saved / "config.json").read_text())
    assert darts.Genotype.from_dict(config["architecture"]) == found.genotype
    assert config["task"] == "jig"
    card = (saved / "README.md").read_text()
    assert "held-out images" in card and found.verdict.findings[0].words[:12] in card
    features = unnas.load(saved).features(unnas.export.prepare(found.model, photos / "001.jpg"))
    assert features.shape[0] == 1 and features.std() > 0


@pytest.mark.slow
def test_the_model_scales_deep_pictures_as_its_images_were(found, tmp_path):
    found, _ = found
    values = np.arange(1000, 3000, 2, dtype=np.uint16).reshape(40, 25)
    (tmp_path / "deep").mkdir()
    Image.fromarray(values).save(tmp_path / "deep" / "0.png")
    assert found.model.ranges == {}
    deep = replace(found, look=own.look(tmp_path / "deep"))
    assert deep.model.ranges == {"16 bits": (1000, 2998)}


def test_the_notebook_shows_what_was_found(found, photos, tmp_path):
    found, options = found
    parameters = dict(root=str(photos), task="jig", method="darts", model=str(tmp_path / "model"))
    parameters |= dict(budget=options["budget"], engine="serial", kept=str(found.folder), **TINY)
    notebook = papermill.execute_notebook(
        ROOT / "nbs" / "own_images.ipynb",
        tmp_path / "own_images.ipynb",
        parameters | dict(figures=str(tmp_path / "figures")),
        cwd=tmp_path,
        progress_bar=False,
    )
    printed = "".join(
        output.get("text", "") for cell in notebook.cells for output in cell.get("outputs", [])
    )
    assert str(found.verdict) in printed and "# A network of unnas" in printed
    drawn = {path.suffix for path in (tmp_path / "figures").iterdir()}
    assert drawn == {".png", ".svg", ".csv"} and unnas.load(tmp_path / "model")


def test_the_example_is_drawn_once(tmp_path):
    folder = own.example(tmp_path / "drawn", 3)
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert len(before) == 3 and own.example(folder, 3) == folder
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == before


def test_what_looks_are_named_by_is_where_they_are(photos):
    other = photos.parent / "elsewhere" / "photos"
    shutil.copytree(photos, other)
    settings = dict(task="rot", method="darts", seed=0)
    places = {own._place(own.look(folder, most=1), settings, None) for folder in (photos, other)}
    places.add(own._place(own.look(photos, most=1), settings | dict(seed=1), None))
    assert len(places) == 3


def test_near_pictures_count_as_the_same():
    one, other = looks._pattern(photo(1)), looks._pattern(photo(2))
    assert list(looks._repeated([one, other, one ^ 0b101, other ^ 0b1111])) == [
        False,
        False,
        True,
        False,
    ]


def test_a_pipe_among_pictures_is_seen_and_not_waited_for(photos, tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    shutil.copy(next(photos.rglob("*.jpg")), tmp_path / "a.jpg")
    seen = own.look(tmp_path).seen
    assert "pipe" in seen["pipe.jpg"].fault and not seen["a.jpg"].fault


def test_a_look_at_the_current_folder_knows_its_name(photos, tmp_path, monkeypatch):
    shutil.copy(next(photos.rglob("*.jpg")), tmp_path / "~$b.jpg")
    monkeypatch.chdir(tmp_path)
    found = own.look(".")
    assert found.folder == tmp_path and not found.seen["~$b.jpg"].fault


def test_numbers_of_numpy_are_numbers():
    kinds = schedules.PARAMETERS
    given = dict(seed=np.int64(3), architectures=np.int32(2), minutes=np.float64(1.5))
    assert json.dumps({name: kinds[name](name, value) for name, value in given.items()}) == (
        '{"seed": 3, "architectures": 2, "minutes": 1.5}'
    )


def test_copies_are_waited_for_and_a_damaged_schedule_is_named(tmp_path, photos):
    place = tmp_path / "place"
    seen = own.look(photos, skip=place)
    jobs = dict(image_size=16, count=120)
    context = multiprocessing.get_context("fork")
    two = [
        context.Process(target=own.make_copies, args=(seen, place / "images"), kwargs=jobs)
        for _ in range(2)
    ]
    for process in two:
        process.start()
    for process in two:
        process.join()
    assert [process.exitcode for process in two] == [0, 0]
    assert len(list((place / "images").rglob("*.jpg"))) == 110
    (place / "schedule.json").write_text("{")
    with pytest.raises(ValueError, match="is damaged .*; name another folder, or remove schedule"):
        unnas.find(photos, folder=place, minutes=1)


def test_what_a_search_writes_is_not_taken_for_images(tmp_path, photos):
    shutil.copytree(photos, tmp_path / "photos")
    shutil.copytree(photos, tmp_path / "photos" / "out" / "images")
    whole, rest = (
        own.look(tmp_path / "photos"),
        own.look(tmp_path / "photos", skip=tmp_path / "photos/out"),
    )
    assert len(whole.files) == 2 * len(rest.files)
    (tmp_path / "link").symlink_to(tmp_path / "photos")
    assert own.look(tmp_path / "link", skip=tmp_path / "photos/out").files == rest.files


@pytest.mark.parametrize("images, folder", [("p/images", "p"), ("p", "p"), ("p/images", "link")])
def test_copies_are_never_written_among_the_images(tmp_path, photos, images, folder):
    (tmp_path / "link").symlink_to("p")
    shutil.copytree(photos, tmp_path / images)
    with pytest.raises(ValueError, match="folder=.*among your images, into .*; name another fol"):
        unnas.find(tmp_path / images, folder=tmp_path / folder, minutes=1)
    assert len(list((tmp_path / "p").rglob("*.*"))) == 110
    with pytest.raises(ValueError, match="has 000.jpg, .* not of a search; name another folder$"):
        own.make_copies(own.look(photos), tmp_path / images, image_size=16, count=500)


def test_a_folder_of_a_long_name_has_a_place(tmp_path, photos):
    folder = tmp_path / ("\u0444" * 110)
    shutil.copytree(photos, folder)
    place = own._place(own.look(folder, most=1), dict(task="rot", method="darts"), None)
    assert place.name.startswith("\u0444" * 50 + "-rot-darts-")


def test_pages_that_are_not_used_are_said(tmp_path):
    photo(0).save(tmp_path / "a.tif", save_all=True, append_images=[photo(1)])
    photo(0).save(tmp_path / "b.tif")
    assert "1 with more than one page or frame, of which" in str(own.look(tmp_path))


def test_a_full_disk_is_no_unreadable_image(tmp_path, photos, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", full)
    with pytest.raises(OSError, match="folder=.*: a copy cannot be written there .*No space left"):
        own.make_copies(own.look(photos), tmp_path / "place/images", image_size=16, count=60)


def test_an_outlier_among_deep_pictures_is_named(tmp_path):
    deep = tmp_path / "deep"
    deep.mkdir()
    for seed in range(105):
        values = np.asarray(photo(seed).convert("L")).astype(np.uint16) * 4
        values[0, 0] = 65535 if seed == 0 else 0
        Image.fromarray(values).save(deep / f"{seed}.png")
    with pytest.raises(ValueError, match="pass more images, or look for an outlier, .* 0 to 65535"):
        own.make_copies(own.look(deep), tmp_path / "place/images", image_size=16, count=500)
