"""The dashboard by itself: who is let in, and how it is served."""

from __future__ import annotations

import base64
import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request

import pytest

from oban_sync import ConfigError
from oban_sync.web import application
from tests.web.conftest import OURS, Page

PROGRAM = """
import sys
from oban_sync import Oban
from oban_sync.web import serve

serve(Oban(sys.argv[1], prefix=sys.argv[2]), port=0, ready=lambda at: print(at, flush=True))
print("ended")
"""


def basic(user, password):
    return {"Authorization": f"Basic {base64.b64encode(f'{user}:{password}'.encode()).decode()}"}


def test_it_is_read_only_and_for_this_machine_by_default(oban, factory):
    job_id = factory.job(worker="tests.Visible")
    client = application(oban).test_client()
    page = Page(client.get("/jobs").text)

    assert "Visible" in page.text
    assert "read only" in page.text
    assert client.post(f"/jobs/{job_id}/cancel", headers=OURS).status_code == 403
    assert oban.get_job(job_id).state == "available"


def test_it_may_be_let_change_things(oban, factory):
    job_id = factory.job()
    client = application(oban, read_only=False).test_client()
    token = Page(client.get("/jobs").text).all("input", name="_csrf")[0]["value"]

    client.post(f"/jobs/{job_id}/cancel", data={"_csrf": token}, headers=OURS)

    assert oban.get_job(job_id).state == "cancelled"


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example:4000", "192.168.0.7"])
def test_a_name_that_is_not_this_machine_s_is_refused(oban, host):
    client = application(oban).test_client()

    assert client.get("/jobs", headers={"Host": host}).status_code == 421
    assert client.get("/jobs", headers={"Host": "localhost:4000"}).status_code == 200


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"host": "0.0.0.0"}, "others can reach '0.0.0.0'"),
        ({"host": "ops.example.com"}, "others can reach"),
        ({"host": "0.0.0.0", "user": "ops"}, "password: "),
        ({"password": "x"}, "password: "),
        ({"host": "0.0.0.0", "user": "ops", "password": "short"}, "has 5 characters"),
    ],
    ids=str,
)
def test_others_are_let_in_by_a_password_only(oban, options, problem):
    with pytest.raises(ConfigError) as failure:
        application(oban, **options)

    assert problem in str(failure.value)


def test_it_may_be_opened_to_all_who_reach_it(oban):
    client = application(oban, host="0.0.0.0", insecure=True).test_client()

    assert client.get("/jobs", headers={"Host": "ops.example.com"}).status_code == 200


def test_a_user_and_a_password_are_asked_for(oban, factory):
    factory.job()
    client = application(
        oban, host="0.0.0.0", user="öps", password="correct horse", read_only=False
    ).test_client()

    for headers in (
        {},
        basic("öps", "wrong"),
        basic("anna", "correct horse"),
        basic("", ""),
        {"Authorization": "Basic !!!"},
        {"Authorization": "Bearer correct horse"},
    ):
        for path in ("/", "/jobs", "/static/app.css", "/metrics"):
            response = client.get(path, headers=headers)

            assert response.status_code == 401, (path, headers)
            assert response.headers["WWW-Authenticate"].startswith("Basic")
            assert response.headers["Content-Security-Policy"]

    page = Page(client.get("/jobs", headers=basic("öps", "correct horse")).text)

    assert "öps" in page.text
    assert client.get("/healthz").status_code in (200, 503)


def test_it_is_served_until_it_is_interrupted(dsn, prefix, factory):
    factory.job(worker="tests.Visible")
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, dsn, prefix],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )

    try:
        address = process.stdout.readline().strip()
        assert address.startswith("http://127.0.0.1:"), process.stderr.read()

        with urllib.request.urlopen(f"{address}jobs", timeout=10) as response:
            assert "Visible" in response.read().decode()
            assert "Server" not in response.headers or "waitress" not in response.headers["Server"]

        with pytest.raises(urllib.error.HTTPError) as failure:
            urllib.request.urlopen(
                urllib.request.Request(f"{address}jobs", headers={"Host": "evil.example"}),
                timeout=10,
            )

        assert failure.value.code == 421
        failure.value.close()
        process.send_signal(signal.SIGINT)
        out, error = process.communicate(timeout=20)
    finally:
        process.kill()
        process.communicate()

    assert (process.returncode, out.strip()) == (0, "ended"), error
    assert "Traceback" not in error


def test_a_probe_gets_an_answer_and_no_details(dashboard):
    site = dashboard(access=lambda user: user)
    health = site.oban.health()
    response = site.open("/healthz")

    assert response.status_code == (200 if health.ok else 503)
    assert response.json == {"ok": health.ok}
    assert site.open("/healthz?why").status_code == 403

    site.user = "all"

    assert site.open("/healthz?why").json == {"ok": health.ok, "problems": list(health.problems)}


def test_a_probe_is_answered_whatever_the_application_s_users_are(dashboard):
    def nobody(user):
        raise RuntimeError("the table of users is gone")

    assert dashboard(access=nobody).app.test_client().get("/oban/healthz").status_code in (200, 503)


def test_a_running_node_is_well(make_oban, dashboard):
    oban = make_oban(queues={"alpha": 1}).start()

    assert dashboard(oban=oban).open("/healthz").status_code == 200


def test_numbers_are_given_where_the_application_wants_it(dashboard):
    assert dashboard().open("/metrics").status_code == 404

    site = dashboard(metrics=lambda accept: (f"accepts {accept}".encode(), "text/plain; x=1"))
    response = site.open("/metrics", headers={"Accept": "text/plain"})

    assert (response.text, response.headers["Content-Type"]) == (
        "accepts text/plain",
        "text/plain; x=1",
    )


def test_what_is_wrong_is_told_to_who_has_the_password(make_oban):
    oban = make_oban(queues={"payroll": 1})
    options = {"host": "0.0.0.0", "user": "ops", "password": "correct horse"}
    client = application(oban, **options).test_client()

    for query in ("why", "why=1", "x=1&why"):
        response = client.get(f"/healthz?{query}")

        assert response.status_code == 401
        assert "problems" not in response.text

    assert client.get("/healthz").json == {"ok": False}
    assert client.get("/healthz?why", headers=basic("ops", "correct horse")).json["problems"]
    # Without a password there is nobody to tell apart.
    assert application(oban).test_client().get("/healthz?why").json["problems"]
