"""``embedded:PATH`` wherever a conninfo may stand."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import pytest
from click.testing import CliRunner

from oban_sync import EmbeddedServerError, Oban, schema, worker
from oban_sync.cli.main import main


@worker(queue="alpha")
class Echo:
    def process(self, job):
        return None


@pytest.fixture
def folder():
    path = Path(tempfile.mkdtemp(prefix="oban-sync-test-")) / "postgres"
    path.parent.chmod(0o755)

    yield path

    shutil.rmtree(path.parent, ignore_errors=True)


def test_an_oban_on_an_embedded_database_comes_with_its_tables_and_keeps_its_jobs(folder):
    first = Oban(f"embedded:{folder}")
    job = Echo.enqueue({"n": 1})
    first.stop()

    with Oban(f"embedded:{folder}") as second:
        assert second.get_job(job.id).args == {"n": 1}
        assert second.drain_queue("alpha")["completed"] == 1


def test_a_check_makes_no_database(folder):
    with pytest.raises(EmbeddedServerError, match="no database"):
        schema.verify(f"embedded:{folder}")

    assert not folder.exists()


def test_the_commands_take_it_too(folder):
    def run(*arguments):
        return CliRunner().invoke(main, [*arguments, "--dsn", f"embedded:{folder}"])

    assert "Installed version" in run("install").output
    assert "as it should be" in run("verify").output
    assert "Removed" in run("uninstall", "--yes").output


def test_a_conninfo_without_a_folder_says_so():
    with pytest.raises(EmbeddedServerError, match="embedded:PATH"):
        schema.install("embedded:")
