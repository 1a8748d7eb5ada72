"""Guides that consist of files: each runs in a folder and a process, as its readers run it."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.support import pages

WITH_FILES = [page for page in pages.PAGES if pages.has_files(page)]

#: Seconds that a guide's program may take; it takes about two.
PATIENCE = 50.0


def test_there_are_guides_to_run():
    assert "quickstart" in {page.stem for page in WITH_FILES}


@pytest.mark.parametrize("page", WITH_FILES, ids=pages.title)
def test_the_files_of_a_guide_work_together(page, environment, url, tmp_path):
    pages.write_files(page, tmp_path, url)

    run([*pages.PYTHON, pages.script(page, url)], tmp_path, environment)


@pytest.mark.parametrize(
    "page", [page for page in WITH_FILES if pages.has_tests(page)], ids=pages.title
)
def test_the_tests_of_a_guide_pass(page, environment, url, tmp_path):
    pages.write_files(page, tmp_path, url)

    run([sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"], tmp_path, environment)


def run(command, folder, environment):
    done = subprocess.run(
        command,
        cwd=folder,
        env={**os.environ, **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )

    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"


@pytest.fixture
def environment(dsn, prefix, conn):
    """Variables by which a process finds the test's tables."""
    with pages.tables(dsn, prefix, conn) as environment:
        yield environment


@pytest.fixture
def url(dsn):
    """Where the test's database is, as SQLAlchemy takes it too."""
    return pages.url(dsn)
