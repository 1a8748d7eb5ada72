"""A script whose workers are imported a second time under their module's name."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path


def test_a_script_that_is_imported_as_a_module_too_is_told_what_to_do(tmp_path):
    (tmp_path / "app.py").write_text(
        "from oban_sync import job\n"
        "@job()\n"
        "def pack(): pass\n"
        "if __name__ == '__main__':\n"
        "    import app\n"
    )
    done = subprocess.run(
        [sys.executable, "app.py"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
    )

    assert "move the workers into a module of their own" in done.stderr
