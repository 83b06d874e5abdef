"""The scripts for many machines: bash can read them, and the jobs of the array compute all runs of
a figure, each once.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from small import shrink

from tools.readme import ROOT
from unnas import study

SCRIPTS = {
    path.name: path.read_text(encoding="utf-8") for path in (ROOT / "tools").glob("*.sbatch")
}


def test_bash_can_read_the_scripts_and_those_in_the_tutorial():
    cells = json.loads((ROOT / "nbs/tutorial_cluster.ipynb").read_text(encoding="utf-8"))["cells"]
    prose = "\n\n".join(
        "".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown"
    )
    assert SCRIPTS.keys() == {"array.sbatch", "ray.sbatch"} and all(
        script.startswith("#!/bin/bash\n#SBATCH ") for script in SCRIPTS.values()
    )
    for script in [*SCRIPTS.values(), *re.findall(r"```bash\n(.*?)```", prose, re.S)]:
        assert (
            subprocess.run(["bash", "-n"], input=script, text=True, capture_output=True).stderr
            == ""
        )


SHORTER = """
from unnas import study

grids = study.GRIDS["fig2"]
grids["smoke"] = study.lists.shorter(grids["smoke"], 0.1, 0.4)
"""


@pytest.mark.slow
def test_the_jobs_of_the_array_compute_all_runs_once_and_draw_nothing(tmp_path, monkeypatch):
    shrink(monkeypatch)
    (tmp_path / "shorter.py").write_text(SHORTER)
    script = SCRIPTS["array.sbatch"]
    small = "smoke -p architectures 2 -p engine serial -p use shorter.py"
    small += " -y '{tasks: [rot], spaces: [nasbench101]}'"
    for old, new in (
        ("scale paper", f"scale {small}"),
        ("ID/16", "ID/2"),
        ("nbs/", f"{ROOT}/nbs/"),
    ):
        assert old in script
        script = script.replace(old, new)
    made = []
    for job in "12":
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        environment = os.environ | {
            "SLURM_ARRAY_TASK_ID": job,
            "SLURM_CPUS_PER_TASK": "1",
            "UNNAS_HOME": str(tmp_path),
            "PATH": path,
        }
        done = subprocess.run(
            ["bash", "-e"],
            input=script,
            text=True,
            capture_output=True,
            cwd=tmp_path,
            env=environment,
        )
        assert done.returncode == 0, done.stderr
        assert f"Slice {job}/2 is complete: 2 runs" in (
            tmp_path / f"slices/fig2_{job}.ipynb"
        ).read_text(encoding="utf-8")
        made.append({file.stem for file in (tmp_path / "data/records").glob("*.json")})
    specs = study.specs_of(
        study.grid("fig2", "smoke"), architectures=2, tasks=["cls", "rot"], spaces=["nasbench101"]
    )
    assert len(made[0]) == 2 and made[0] < made[1] == {spec.id for spec in specs}
    assert not list((tmp_path / "figures/smoke").iterdir())
