"""What a change of the code must leave as it is: identities, numbers, and public names.

What they are is in identities.json, golden.json and public.json beside this file.
In the repository's folder,

    python -m tests.test_guards

adds lists and runs that are new to the first two, and never changes what is in them.
It writes public.json anew.
"""

import importlib
import json
import math
import pkgutil
import tempfile
from contextlib import contextmanager
from dataclasses import replace
from functools import cache, partial
from hashlib import sha256
from pathlib import Path

import pytest
import torch

import unnas
from unnas import paper, study
from unnas.spaces import darts
from unnas.train import Recipe

ROOT = Path(__file__).parents[1]
IDENTITIES, GOLDEN, PUBLIC = (
    Path(__file__).with_name(f"{name}.json") for name in ("identities", "golden", "public")
)
REWRITE = "`python -m tests.test_guards`"
RELEASED = sorted((ROOT / "data" / "released").glob("*.jsonl"))


def read(path):
    """What is held in a file; nothing where there is no file yet."""
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def write(path, held):
    """Write `held`, one entry to a line and sorted, so that a difference is easy to read."""
    lines = (f"{json.dumps(name)}: {json.dumps(held[name])}" for name in sorted(held))
    path.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


def extend(path, computed):
    """Add to a file what it lacks. What it holds stays, also where `computed` has other values."""
    write(path, computed | read(path))


# ---------------------------------------------------------------- identities


def records(name):
    """The records in a released file."""
    text = (ROOT / "data" / "released" / f"{name}.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


@pytest.mark.parametrize("path", RELEASED, ids=lambda path: path.stem)
def test_every_released_record_reads_back_to_its_own_identity(path):
    assert records(path.stem)
    for record in records(path.stem):
        kind = study.SearchSpec if record["spec"].get("kind") == "search" else study.Spec
        spec = kind.from_dict(record["spec"])
        assert spec.id == record["id"]
        assert json.loads(json.dumps(spec.to_dict())) == record["spec"]


def test_there_are_released_records_of_trainings_and_of_searches():
    assert {"former-fig2", "former-search", "protocol-1"} <= {path.stem for path in RELEASED}


def test_what_was_released_of_scale_former_is_found_without_images():
    """With fingerprints, which come from the records."""
    with without_images() as store:
        for figure in study.GRIDS:
            specs = study.specs_of(study.grid(figure, "former"), store=store)
            released = records(f"former-{figure}")
            assert [spec.id for spec in specs] == [record["id"] for record in released]
        specs = study.searches("former", store=store)
        found = {spec.id for spec in specs}.intersection(store.released_records(former=True))
        assert len(found) == 6  # the four of CIFAR-10, and two of the four of street scenes


@contextmanager
def without_images():
    """No images but synthetic ones, and the released records of this checkout; gives a store."""
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as environment:
        environment.setenv("UNNAS_HOME", str(ROOT))
        environment.setenv("UNNAS_DATA", str(Path(folder) / "nothing"))
        yield study.Store(Path(folder) / "records", released=ROOT / "data" / "released")


CONTROLS = ["rnd", "shuf"]


def shorter(*arguments):
    """`shorter` of the study, in whichever of its modules it is."""
    homes = [name for name, names in public().items() if "shorter" in names]
    return importlib.import_module(homes[0]).shorter(*arguments)


def genotypes():
    """All published cells, and four random ones."""
    cells = sorted(paper.GENOTYPES.items())
    published = {name: darts.Genotype.from_dict(cell) for name, cell in cells}
    return published | {f"random {i}": cell for i, cell in enumerate(darts.sample(4, seed=1))}


def evaluated(of, cells, **options):
    """The trainings of these published or random cells, in one list."""
    groups = study.evaluation_specs(of, cells, look=False, **options)
    return [spec for group in groups.values() for spec in group]


def lists():
    """By name, functions that list specs: of each figure, the searches and each table, by scale."""
    found = {}
    for figure, scales in study.GRIDS.items():
        for scale, grid in scales.items():
            specs = partial(study.specs_of, look=False)
            found[f"{figure} {scale}"] = partial(specs, grid)
            found[f"{figure} {scale}, controls"] = partial(
                specs, grid, architectures=4, tasks=CONTROLS
            )
            found[f"{figure} {scale}, shorter"] = partial(
                specs, shorter(grid, 1 / 4, 1 / 4), architectures=4, sample_seed=3
            )
    for scale in study.SEARCHES:
        specs = partial(study.searches, scale, look=False)
        found[f"searches {scale}"] = specs
        found[f"searches {scale}, controls"] = partial(specs, tasks=CONTROLS, seeds=[1, 4])
        found[f"searches {scale}, second order"] = partial(specs, order=2, partial_channels=4)
    for table, scales in study.EVALUATIONS.items():
        cells = genotypes()
        widths = {name: 8 + 4 * (i % 3) for i, name in enumerate(cells)}
        for scale, of in scales.items():
            found[f"{table} {scale}"] = partial(evaluated, of, cells, widths=widths)
        few = {name: cells[name] for name in ("imagenet_rot", "random 0")}
        found[f"{table} smoke, widths by rule"] = partial(evaluated, scales["smoke"], few)
    return found


def digest(specs):
    """How many specs, and SHA-256 of their identities in their order."""
    ids = [spec.id for spec in specs]
    return dict(count=len(ids), sha256=sha256("".join(ids).encode()).hexdigest())


@pytest.mark.parametrize("name", read(IDENTITIES))
def test_a_list_of_specs_has_the_identities_that_it_had(name):
    with without_images():
        known = lists()
        assert name in known, "this list is gone, and with it the way to its records"
        assert digest(known[name]()) == read(IDENTITIES)[name], "records are lost"


def test_the_identities_of_every_list_are_held():
    new = lists().keys() - read(IDENTITIES).keys()
    assert not new, f"{sorted(new)}: not in {IDENTITIES.name} yet; {REWRITE} adds them"


# ---------------------------------------------------------------- numbers


def cut(spec, train_images=24, test_images=40):
    """The same run on few images, in small batches, for two epochs.

    It learns slowly, or else the last digits, which depend on the CPU, soon become the first ones.
    """
    test_images = spec.data.test_images and test_images  # a search has none
    images = replace(spec.data, train_images=train_images, test_images=test_images)
    recipe = replace(spec.recipe, epochs=2, batch_size=8, lr=spec.recipe.lr / 200)
    return replace(spec, data=images, recipe=recipe)


@cache
def golden_specs():
    """By name, runs of about a second: each space and task, in the styles of both figures.

    Besides, segmentation, a recipe with a value of its own for each field, and searches.
    """
    found = {}
    for figure in study.GRIDS:
        grid = study.grid(figure, "smoke")
        tasks = [*grid.tasks, *(CONTROLS if figure == "fig2" else ())]
        specs = study.specs_of(grid, architectures=2, tasks=tasks, look=False)
        for spec in specs[: len(grid.spaces) * len(tasks)]:  # those of the first architectures
            found[f"{figure} {spec.space} {spec.task}"] = cut(spec)
    streets = evaluated(
        study.evaluation("table2", "smoke"),
        {"": genotypes()["imagenet_rot"]},
        widths={"": 8},
    )
    found["table2 darts seg"] = cut(streets[0], test_images=4)
    recipe = Recipe(
        epochs=2,
        batch_size=8,
        lr=0.03,
        momentum=0.8,
        nesterov=False,
        weight_decay=0.3,
        schedule="step",
        warmup_epochs=1,
        warmup_factor=0.3,
        label_smoothing=0.1,
        auxiliary_weight=0.4,
        drop_path=0.3,
        clip=1.0,
        precise_bn=24,
        test_batch_size=7,
        precision="float32",
    )
    usual = found["fig2 darts cls"]
    images = replace(usual.data, image_size=32)  # for the auxiliary head
    found["darts cls, all of a recipe"] = replace(usual, data=images, recipe=recipe, seed=1)
    for spec in study.searches("smoke", datasets=["synthetic-objects"], look=False):
        if spec.task in ("cls", "jig"):
            found[f"search {spec.task}"] = cut(spec, 40)
    second = found["search cls"]
    recipe = replace(second.recipe, epochs=1, alpha_start=0.0, order=2, held_out=0.0)
    found["search cls, second order"] = replace(second, recipe=recipe, partial_channels=2)
    return found


def golden(spec):
    """What is held of a run."""
    record = study.run(spec)
    result = record["result"]
    held = {name: record[name] for name in ("parameters", "multiply_adds", "chance")}
    held |= {name: result[name] for name in ("loss", "score")}
    if isinstance(spec, study.SearchSpec):
        return held | dict(alpha_loss=result["alpha_loss"], tables=result["tables"][-1])
    return held | dict(constant=record["constant"], untrained=record["untrained"])


def close(value, relative=1e-4, absolute=0.0):
    """`value` up to the last digits, through lists and tables."""
    if isinstance(value, dict):
        return {name: close(part, relative, absolute) for name, part in value.items()}
    if isinstance(value, list):
        return [close(part, relative, absolute) for part in value]
    return None if value is None else pytest.approx(value, rel=relative, abs=absolute)


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU draws other random numbers")
@pytest.mark.parametrize("name", read(GOLDEN))
def test_a_small_run_has_the_numbers_that_it_had(name):
    held = read(GOLDEN)[name]
    assert name in golden_specs(), "this run is gone"
    found = golden(golden_specs()[name])
    assert found.keys() == held.keys()
    for number in ("parameters", "multiply_adds"):
        assert found[number] == held[number]
    assert found["score"] == close(held["score"], absolute=3)  # an answer or two may tip over
    for curve in found.keys() - {"parameters", "multiply_adds", "score"}:
        # the tables are rounded, and Adam makes a step of any gradient, however small
        assert found[curve] == close(held[curve], absolute=2e-3 if curve == "tables" else 0.0)


def test_the_numbers_of_every_small_run_are_held():
    new = golden_specs().keys() - read(GOLDEN).keys()
    assert not new, f"{sorted(new)}: not in {GOLDEN.name} yet; {REWRITE} adds them"
    for held in read(GOLDEN).values():
        assert held["loss"] and all(map(math.isfinite, held["loss"]))


# ---------------------------------------------------------------- names


def public():
    """`__all__` of each public module, sorted; nothing for a module that has none."""
    walked = [module.name for module in pkgutil.walk_packages(unnas.__path__, "unnas.")]
    modules = [importlib.import_module(name) for name in ["unnas", *walked] if "._" not in name]
    return {module.__name__: sorted(getattr(module, "__all__", [])) for module in modules}


def flat(surface):
    """Modules, and their names with the module before them."""
    names = (f"{module}.{name}" for module, names in surface.items() for name in names)
    return {*surface, *names}


def test_public_names_are_those_that_are_held():
    held, found = flat(read(PUBLIC)), flat(public())
    gone, come = sorted(held - found), sorted(found - held)
    assert not gone and not come, (
        f"gone: {', '.join(gone) or 'none'}; new: {', '.join(come) or 'none'}. "
        f"If this is on purpose, {REWRITE} writes {PUBLIC.name} anew"
    )


def test_every_public_name_is_there():
    for module, names in public().items():
        there = importlib.import_module(module)
        assert not [name for name in names if not hasattr(there, name)]
        assert len(set(names)) == len(names), module


def rewrite():
    """Add to identities.json and golden.json what is new, and write public.json anew.

    The first two are only ever extended. What they hold was released, or shown: an entry that
    does not hold any more is a mistake in the code, not in the file.
    """
    write(PUBLIC, public())
    with without_images():
        extend(IDENTITIES, {name: digest(specs()) for name, specs in lists().items()})
    missing = golden_specs().keys() - read(GOLDEN).keys()
    extend(GOLDEN, {name: golden(golden_specs()[name]) for name in missing})


if __name__ == "__main__":
    rewrite()
