"""The engine `ray`: the records of the serial engine, whatever dies, each of them once; and what is
told before anything begins.
"""

import os
import signal
import sys
import time
from dataclasses import replace

import pytest
from small import specs

from unnas import study, tasks
from unnas.study import Data

ray = pytest.importorskip("ray")
pytestmark = pytest.mark.slow


class CountingStore(study.Store):
    """A store that knows how often each record was written."""

    def __init__(self, folder):
        super().__init__(folder / "records", released=folder / "released")
        self.puts = []

    def put(self, record):
        super().put(record)
        self.puts.append(record["id"])


@pytest.fixture
def no_cluster(monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert not ray.is_initialized()


@pytest.fixture(scope="module")
def cluster():
    """Two workers on this machine."""
    options = dict(num_cpus=2, include_dashboard=False, object_store_memory=80 * 2**20)
    for left in (3, 2, 1, 0):
        try:
            ray.init("local", log_to_driver=False, logging_level="ERROR", **options)
            break
        except Exception as error:  # on a busy machine, for Ray waits for half a minute only
            ray.shutdown()
            if "timed out during startup" not in str(error):
                raise
            if not left:
                pytest.skip(f"Ray does not start on a machine as busy as this: {error}")
    yield
    ray.shutdown()


def test_an_address_where_no_cluster_answers_is_told_at_once(no_cluster, monkeypatch, tmp_path):
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:9")
    start = time.monotonic()
    with pytest.raises(ConnectionError, match="RAY_ADDRESS='127.0.0.1:9'.*ray start"):
        study.collect(specs(1), engine="ray", store=CountingStore(tmp_path))
    assert time.monotonic() - start < 60


@pytest.mark.parametrize(
    "options, words",
    [
        (dict(gpus=2), ["gpus=2", "from 0 to 1"]),
        (dict(gpus=-1), ["gpus=-1"]),
        (dict(gpus=0.5, engine="processes"), ["gpus=0.5", "engine='ray'"]),
        (dict(workers=0), ["workers=0"]),
    ],
)
def test_impossible_options_are_refused(options, words, tmp_path):
    with pytest.raises(ValueError) as error:
        study.collect(specs(1), store=CountingStore(tmp_path), **dict(engine="ray") | options)
    assert all(word in str(error.value) for word in words)


def test_without_ray_the_remedy_is_named(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ImportError, match=r"pip install unnas\[ray\]"):
        study.check_engine("ray", None)


def test_workers_may_die_and_every_record_arrives_once(cluster, tmp_path):
    flag, steps = tmp_path / "died once", tmp_path / "steps"

    class Shaky(tasks.rotation):
        """Rotation prediction; the first process that comes to the fifth step, in the second of two
        epochs, is killed.
        """

        def batch(self, images, labels, train, generator):
            if train:
                with open(steps, "a") as file:
                    file.write(".")
                if len(steps.read_text()) >= 5 and not flag.exists():
                    flag.touch()
                    os.kill(os.getpid(), signal.SIGKILL)
            return super().batch(images, labels, train, generator)

    tasks.register("shaky", Shaky)
    # whose images are nowhere
    elsewhere = replace(specs(1)[0], data=Data("imagenet", 16, labels=False))
    wanted, store = [*specs(2), *specs(1, "shaky"), elsewhere], CountingStore(tmp_path)
    with pytest.warns(UserWarning, match="1 of 4 runs failed"):
        table = study.collect(wanted, engine="ray", store=store)
    assert list(table.status) == ["done"] * 3 + ["failed"] and "FileNotFoundError" in table.error[3]
    assert flag.exists() and sorted(store.puts) == sorted(spec.id for spec in wanted[:3])
    assert ray.is_initialized()  # who had a cluster has it still
    serial = CountingStore(tmp_path / "serial")
    study.collect(wanted[:3], store=serial)
    for ours, theirs in zip(
        study.records_of(wanted[:3], store), study.records_of(wanted[:3], serial)
    ):
        own = ("seconds", "provenance")
        assert {key: value for key, value in ours.items() if key not in own} == {
            key: value for key, value in theirs.items() if key not in own
        }


def test_a_machine_that_does_not_see_the_folder_of_records_runs_without_checkpoints(
    cluster, tmp_path
):
    work = study.engines._Run(None, tmp_path / "elsewhere", 0, False)
    ((spec, record, error),) = study.engines.on_ray(specs(1), work, 1, lambda running: None)
    assert (
        error == ""
        and record["result"] == study.run(spec)["result"]
        and not (tmp_path / "elsewhere").exists()
    )


def test_gpus_that_no_machine_has_are_refused(cluster, tmp_path):
    if ray.cluster_resources().get("GPU"):
        pytest.skip("this machine has a GPU")
    with pytest.raises(ValueError, match="gpus=0.5: no machine"):
        study.collect(specs(1), engine="ray", gpus=0.5, store=CountingStore(tmp_path))


def test_no_more_runs_at_a_time_than_asked_for(cluster):
    def work(spec):
        start = time.time()
        time.sleep(0.3)
        return start, time.time()

    times = sorted(
        record for _, record, _ in study.engines.on_ray(specs(3), work, 1, lambda running: None)
    )
    # the cluster could run two
    assert len(times) == 3 and all(end <= start for (_, end), (start, _) in zip(times, times[1:]))
