"""Architectures that were published by id: folders of configurations, a packed file, and what is
said where something is wrong with them.
"""

import gzip
import json
import random
from dataclasses import replace

import pytest

from tests import small
from unnas import study
from unnas.spaces import darts, nasbench101, published

GENOTYPES = dict(zip(("00004", "00007", "00010"), darts.sample(3, seed=5)))
CELLS = dict(zip(("000907", "000961", "004346"), nasbench101.sample(3, seed=5)))
TASKS = ("cls", "rot")


def darts_file(genotype):
    """A configuration in the published format, with what else is in one."""

    def rows(pairs):
        first, *rest = (f"[{operation}, {state}]" for operation, state in pairs)
        return "\n".join([f"  - - {first}", *(f"    - {row}" for row in rest)])

    return (
        "MODEL:\n  TYPE: nas\n  NUM_CLASSES: 10\nNAS:\n  GENOTYPE: custom\n  CUSTOM_GENOTYPE:\n"
        f"{rows(genotype.normal)}\n  - [2, 3, 4, 5]\n{rows(genotype.reduce)}\n  - [2, 3, 4, 5]\n"
        "  WIDTH: 16\n  DEPTH: 20\nOPTIM:\n  BASE_LR: 0.1\n  WEIGHT_DECAY: 0.0005\nNUM_GPUS: 1\n"
    )


def cell_file(cell):
    rows = ",\n           ".join(str(list(row)) for row in cell.matrix)
    return (
        "MODEL:\n  TYPE: nas_bench\n  NUM_CLASSES: 313\n  INPUT_CHANNELS: 1\nNAS:\n"
        f"  MATRIX: [{rows}]\n  OPS: {list(cell.ops)}\n  NUM_STACKS: 3\n  WIDTH: 128\n"
        "OPTIM:\n  BASE_LR: 0.1\nTASK: col\n"
    )


@pytest.fixture
def folder(tmp_path):
    """Three architectures of each space on two tasks, and a configuration of something else."""
    for task in TASKS:
        for name, texts in (
            ("darts", {id: darts_file(genotype) for id, genotype in GENOTYPES.items()}),
            ("nas_bench", {id: cell_file(cell) for id, cell in CELLS.items()}),
        ):
            place = tmp_path / "configs" / "sample_based" / name / "cifar10" / task
            place.mkdir(parents=True)
            for id, text in texts.items():
                (place / f"{id}.yaml").write_text(text)
    search = tmp_path / "configs" / "search_based"
    search.mkdir()
    (search / "rot.yaml").write_text("MODEL:\n  TYPE: darts_search\n")
    return tmp_path / "configs"


@pytest.fixture
def packed(tmp_path):
    """The same as one file."""
    of = {"darts": GENOTYPES, "nas_bench": CELLS}
    fields = {name: {id: a.to_dict() for id, a in found.items()} for name, found in of.items()}
    (tmp_path / "packed.json.gz").write_bytes(gzip.compress(json.dumps(fields).encode()))
    return tmp_path / "packed.json.gz"


def test_a_folder_and_a_packed_file_are_read_alike(folder, packed):
    for space, known in (("darts", GENOTYPES), ("nasbench101", CELLS)):
        for path in (folder, packed, folder / "sample_based"):
            found = published(space, path)
            assert found == known and list(found) == sorted(known)
    plain = packed.with_name("plain.json")
    plain.write_bytes(gzip.decompress(packed.read_bytes()))
    assert published("darts", plain) == GENOTYPES


def test_names_may_say_more_than_the_id(tmp_path):
    """As the files of a release that were copied into one folder."""
    for task, encoding in zip(TASKS, ("utf-8", "utf-16", "utf-8-sig")):
        file = tmp_path / f"darts-cifar10-{task}-00004.yaml"
        file.write_text(darts_file(GENOTYPES["00004"]), encoding=encoding)
    assert published("darts", tmp_path) == {"00004": GENOTYPES["00004"]}


def test_names_by_other_systems_are_read_or_said(tmp_path):
    texts = [darts_file(genotype) for genotype in GENOTYPES.values()]
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "some" / "a_9.yaml").mkdir(parents=True)
    (tmp_path / "some" / "a_1.YAML").write_text(texts[0])
    (tmp_path / "elsewhere" / "a_2.yml").write_text(texts[1])
    (tmp_path / "some" / "link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "some" / "circle").symlink_to(tmp_path / "some")
    (tmp_path / "some" / "._a_1.yaml").write_bytes(b"\0\5\x16\7")
    (tmp_path / "some" / "search.yaml").write_text("MODEL:\n  TYPE: darts_search\n")
    assert list(published("darts", tmp_path / "some")) == ["1", "2"]
    (tmp_path / "some" / "a_3 copy.yaml").write_text(texts[2])
    (tmp_path / "some" / "a_4.yaml").symlink_to("nowhere")
    with pytest.warns(UserWarning, match=r"2 YAML files .* id, .*: a_3 copy.yaml, a_4.yaml$"):
        assert list(published("darts", tmp_path / "some")) == ["1", "2"]


def wrong(space, path, words):
    with pytest.raises(ValueError, match=words) as error:
        published(space, path)
    assert str(error.value).startswith(f"architectures={str(path)!r}: ")
    assert "\n" not in str(error.value)


def test_an_id_has_one_architecture(folder, packed):
    file = folder / "sample_based/nas_bench/cifar10/rot/000907.yaml"
    file.write_text(cell_file(CELLS["000961"]))
    wrong("nasbench101", folder, "id 000907 has one architecture in .*cls.* and another in .*rot/")
    assert published("darts", folder) == GENOTYPES  # the other space is as it was
    fields = json.dumps(GENOTYPES["00004"].to_dict()), json.dumps(GENOTYPES["00007"].to_dict())
    packed.write_text(f'{{"darts": {{"1": {fields[0]}, "1": {fields[1]}}}}}')
    wrong("darts", packed, "id 1 has two architectures")
    packed.write_text(f'{{"darts": {{"1": {fields[0]}, "2": {fields[0]}}}}}')
    wrong("darts", packed, "ids 1 and 2 are the same architecture; keep one")


@pytest.mark.parametrize("share", [0.0, 0.2, 0.35, 0.5])
def test_a_torn_file_is_named(folder, packed, share):
    for space, place, text in (
        ("darts", "darts/cifar10/rot/00007", darts_file(GENOTYPES["00007"])),
        ("nasbench101", "nas_bench/cifar10/rot/000961", cell_file(CELLS["000961"])),
    ):
        file = folder / f"sample_based/{place}.yaml"
        file.write_text(text[: int(share * len(text))])
        wrong(space, folder, rf"{file.stem}\.yaml")
        file.write_text(text)
    whole = packed.read_bytes()
    packed.write_bytes(whole[: int(share * len(whole))])
    wrong("darts", packed, "is damaged, cut short or no JSON .*; load it again")


def test_what_has_no_architectures_is_refused(tmp_path, folder, packed):
    wrong("darts", folder / "search_based", "has no configurations; pass a folder of YAML files")
    wrong("darts", folder / "sample_based/nas_bench", "has no architectures of the space darts")
    packed.write_text('{"darts": [1, 2]}')
    wrong("darts", packed, "must have a dictionary of architectures, by id, for each space")
    packed.write_text('{"darts": {"7": {"normal": []}}}')
    wrong("darts", packed, "id 7: ")


def listed(architectures, **options):
    grid = study.grid("fig2", "smoke")
    chosen = dict(tasks=["cls", "rot"], seeds=1, look=False) | options
    return study.specs_of(grid, architectures=architectures, **chosen)


@pytest.mark.parametrize("form", ["folder", "packed"])
def test_specs_of_published_architectures_are_named_by_id(form, request):
    path = request.getfixturevalue(form)
    specs = listed(f"3 of {path}")
    assert len(specs) == 3 * 2 * 2
    for space, known in (("darts", GENOTYPES), ("nasbench101", CELLS)):
        of = [spec for spec in specs if spec.space == space]
        assert {spec.architecture_id: spec.architecture for spec in of} == known
    two = listed(f"2 of {path}")
    assert [spec for spec in specs if spec.name in {spec.name for spec in two}] == two
    names = [spec.name for spec in specs if spec.task == "cls" and spec.space == "darts"]
    order = sorted(GENOTYPES)
    random.Random(0).shuffle(order)
    assert names == order
    other = {spec.name for seed in range(9) for spec in listed(f"2 of {path}", sample_seed=seed)}
    assert other == set(GENOTYPES) | set(CELLS)


def test_a_name_is_no_part_of_an_identity(packed):
    named = listed(f"2 of {packed}", spaces=["darts"])[0]
    plain = study.Spec.from_dict(json.loads(json.dumps(named.to_dict())))
    assert named.name and not plain.name
    assert named == plain and named.id == plain.id and hash(named) == hash(plain)
    assert plain.architecture_id == study.specs.canonical_hash(plain.to_dict()["architecture"])[:10]


def test_as_many_as_the_scale_has_and_no_fewer(packed):
    with pytest.raises(ValueError, match="has 3 of the space darts, and 6 are asked for; pass '3 "):
        listed(str(packed))
    with pytest.raises(ValueError, match="has 3 of the space darts, and 4 are asked for"):
        listed(f"4 of {packed}")
    fields = {"darts": {f"{i}": a.to_dict() for i, a in enumerate(darts.sample(9, seed=1))}}
    packed.write_text(json.dumps(fields))
    assert len(listed(packed, spaces=["darts"])) == 2 * study.grid("fig2", "smoke").architectures


@pytest.mark.parametrize("given", ["", "abc", "3 of nowhere", "no\0where", "~nobody/x", "x" * 5000])
def test_a_place_that_is_not_there_is_said_at_once(given):
    with pytest.raises(ValueError, match="architectures=.*a folder or file of published") as error:
        listed(given)
    assert "\n" not in str(error.value)


def test_one_is_no_ranking(packed):
    with pytest.raises(
        ValueError, match="architectures='1 of .*must be a whole number of at least"
    ):
        listed(f"1 of {packed}")


def test_runs_and_their_tables_have_the_ids(tmp_path):
    store, plain = study.Store(tmp_path), small.specs()
    named = [replace(spec, name=id) for spec, id in zip(plain, GENOTYPES)]
    runs = study.collect(named, engine="serial", store=store)
    assert runs["architecture"].tolist() == list(GENOTYPES)[:2]
    assert (runs["status"] == "done").all()
    # the record is that of the architecture, whatever it is called
    again = study.collect(plain, engine="serial", store=store)
    assert again["architecture"].tolist() == [spec.architecture_id for spec in plain]
    assert again.drop(columns="architecture").equals(runs.drop(columns="architecture"))
