"""Pictures: made smaller by a job, which here runs in the test."""

from __future__ import annotations

from collections.abc import Callable
from io import BytesIO

import pytest
from flask import Flask
from flask.testing import FlaskClient
from gazette import png
from gazette.jobs import MakeThumbnails
from gazette.png import Image
from werkzeug.test import TestResponse

from oban_sync import Oban
from oban_sync.testing import assert_enqueued, drain_queue, refute_enqueued

Post = Callable[..., TestResponse]


def picture(width: int = 40, height: int = 20) -> BytesIO:
    return BytesIO(png.encode(Image(width, height, [bytes([200, 100, 50] * width)] * height)))


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gazette.jobs.SIZES", {"large": 16, "medium": 8, "small": 4})


def test_a_picture_is_made_smaller(post: Post, client: FlaskClient, oban: Oban) -> None:
    shown = post("/pictures", picture=(picture(), "sky.png")).location
    job = assert_enqueued(worker=MakeThumbnails, queue="pictures")
    assert "in the making" in client.get("/pictures").text

    assert drain_queue("pictures")["completed"] == 1

    assert oban.get_job(job).recorded() == {"large": [16, 8], "medium": [8, 4], "small": [4, 2]}
    page = client.get(shown).text
    assert "16 × 8" in page
    told = client.get(f"{shown}/progress").json
    assert (told["done"], told["total"], told["note"]) == (3, 3, "small is made")

    small = client.get(f"/pictures/{job.args['picture_id']}/8.png")
    assert png.decode(small.data) == Image(8, 4, [bytes([200, 100, 50] * 8)] * 4)
    assert "sky.png" in client.get("/pictures").text


def test_a_picture_that_cannot_be_read_is_given_up_at_once(post: Post, client: FlaskClient) -> None:
    shown = post("/pictures", picture=(BytesIO(png.SIGNATURE + b"rubbish"), "bad.png")).location

    assert drain_queue("pictures", with_safety=True)["discarded"] == 1

    page = client.get(shown).text
    assert "discarded" in page
    assert "this is not a PNG" in page
    assert "cannot be read" in client.get("/pictures").text


@pytest.mark.parametrize("file", [(BytesIO(b"GIF89a"), "cat.gif"), (BytesIO(), ""), None])
def test_a_file_of_another_kind_is_refused(
    post: Post, client: FlaskClient, file: tuple[BytesIO, str] | None
) -> None:
    post("/pictures", **({"picture": file} if file else {}))

    assert "Choose a PNG" in client.get("/pictures").text
    refute_enqueued(worker=MakeThumbnails)


def test_a_file_that_is_too_large_is_refused(
    app: Flask, post: Post, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(app.config, "MAX_CONTENT_LENGTH", 1_000)

    answer = post("/pictures", picture=(BytesIO(png.SIGNATURE + bytes(2_000)), "large.png"))

    assert answer.status_code == 413
    refute_enqueued(worker=MakeThumbnails)


def test_there_are_no_pictures_at_first(client: FlaskClient) -> None:
    assert "There are no pictures yet" in client.get("/pictures").text
    assert client.get("/pictures/1/8.png").status_code == 404
