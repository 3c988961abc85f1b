"""What the README shows works as it is printed."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from ampflow.demo import write_demo

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def code_with(word: str) -> str:
    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    (block,) = [block for block in blocks if word in block]
    return str(block)


@pytest.mark.slow
def test_the_python_examples(environment: dict[str, str], tmp_path: Path) -> None:
    # The flow as a script, with no server running; then the calculator relaxes with its model.
    write_demo(tmp_path / "structures.traj", count=40, seed=4)
    script = tmp_path / "run.py"
    smooth = "fingerprints={'switch_width': 1, 'square': True}, "
    small = f"Experiment(tuning={{'trials': 2}}, training={{'epochs': 20}}, {smooth}data=data,"
    text = code_with("prefect_engine").replace("/data/", f"{tmp_path}/")
    script.write_text(text.replace("Experiment(data=data,", small))
    assert small in script.read_text()
    run = {"env": environment, "cwd": tmp_path, "capture_output": True, "text": True}
    done = subprocess.run([sys.executable, script], **run)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(tmp_path / "results" / "report.html")
    done = subprocess.run([sys.executable, "-c", code_with("ampflow.load")], **run)
    assert done.returncode == 0, done.stderr
    before, converged, after = done.stdout.split()
    assert converged == "True"
    assert -1000 < float(after) < float(before) < 1000  # eV


def test_links_lead_somewhere() -> None:
    # Every file that a page names is there.
    for page in [ROOT / "README.md", *ROOT.glob("docs/*.md"), *ROOT.glob("benchmarks/*.md")]:
        for link in re.findall(r"\]\(([^)#:]+)[^):]*\)", page.read_text()):
            assert (page.parent / link).exists(), f"{page.name}: {link}"
