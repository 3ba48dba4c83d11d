"""Resolve pyproject.toml in one joint pip resolution and write requirements.lock (`make lock`)."""

import json
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
HEADER = "# Every package of the environment, resolved together for Linux x86_64 by `make lock`.\n"


def main() -> None:
    """Ask pip for the resolution without installing it; pin what it answers."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    extras = project["project"]["optional-dependencies"].values()
    groups = [project["project"]["dependencies"], *extras, project["dependency-groups"]["dev"]]
    wanted = [package for group in groups for package in group]
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--ignore-installed"]
        subprocess.run([*pip, "--report", str(report), *wanted], check=True)
        found = [item["metadata"] for item in json.loads(report.read_text())["install"]]
    pins = sorted(f"{item['name'].lower()}=={item['version']}" for item in found)
    (ROOT / "requirements.lock").write_text(HEADER + "\n".join(pins) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
