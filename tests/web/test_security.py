"""Other people's pages, and what they cannot do; headers, tokens, cookies."""

from __future__ import annotations

import re
import socket

import pytest
from flask import Flask, Request

from oban_sync.web import blueprint, security
from tests.web.conftest import OURS, Dashboard


@pytest.fixture
def site(dashboard):
    return dashboard()


def cancelled(site, job_id):
    return site.oban.get_job(job_id).state == "cancelled"


def test_a_form_of_the_dashboard_is_obeyed(site, factory):
    job_id = factory.job()

    assert site.post(f"/jobs/{job_id}/cancel").status_code == 303
    assert cancelled(site, job_id)


@pytest.mark.parametrize(
    "headers",
    [
        {"Sec-Fetch-Site": "cross-site", "Origin": "http://localhost"},
        {"Sec-Fetch-Site": "same-site", "Origin": "http://localhost"},
        {"Sec-Fetch-Site": "same-origin", "Origin": "https://evil.example"},
        {"Origin": "https://evil.example"},
        {"Origin": "http://localhost:81"},
        {"Origin": "null"},
        {"Origin": ""},
    ],
    ids=str,
)
def test_a_form_of_another_site_is_refused_though_its_token_is_right(site, factory, headers):
    job_id = factory.job()

    assert site.post(f"/jobs/{job_id}/cancel", headers=headers).status_code == 403
    assert not cancelled(site, job_id)


@pytest.mark.parametrize("token", ["", "x", "é", "a" * 43])
def test_a_form_without_the_right_token_is_refused(site, factory, token):
    job_id = factory.job()

    assert site.token
    assert site.post(f"/jobs/{job_id}/cancel", token=token).status_code == 403
    assert not cancelled(site, job_id)


def test_the_token_of_another_visitor_is_refused(site, factory):
    job_id = factory.job()
    other = Dashboard(site.oban)

    assert site.token != other.token
    assert site.post(f"/jobs/{job_id}/cancel", token=other.token).status_code == 403
    assert site.post(f"/jobs/{job_id}/cancel", token=site.token).status_code == 303


def test_the_token_of_before_a_login_is_refused(site, factory):
    job_id = factory.job()
    before = site.token
    site.user = "anna"

    assert site.post(f"/jobs/{job_id}/cancel", token=before).status_code == 403
    assert site.post(f"/jobs/{job_id}/cancel").status_code == 303


def test_a_token_without_its_cookie_is_refused(site, factory):
    job_id = factory.job()
    token = site.token
    site.client.delete_cookie("oban_visitor", path="/oban/")

    assert site.post(f"/jobs/{job_id}/cancel", token=token).status_code == 403


def test_browsers_that_send_no_such_headers_are_served_by_their_token(site, factory):
    job_id = factory.job()

    assert site.post(f"/jobs/{job_id}/cancel", headers={}).status_code == 303


def test_an_origin_that_was_named_is_ours(dashboard, factory):
    job_id = factory.job()
    site = dashboard(origins=["https://ops.example.com"])

    assert (
        site.post(f"/jobs/{job_id}/cancel", headers={"Origin": "https://ops.example.com"})
    ).status_code == 303


def test_without_a_secret_key_a_process_has_one_of_its_own(oban, factory):
    job_id = factory.job()
    app = Flask("site")
    app.register_blueprint(blueprint(oban, insecure=True), url_prefix="/oban")
    client = app.test_client()
    token = re.search(r'name="_csrf" value="([^"]+)"', client.get("/oban/jobs").text)[1]

    response = client.post(f"/oban/jobs/{job_id}/cancel", data={"_csrf": token}, headers=OURS)

    assert response.status_code == 303


def test_keys_of_other_secrets_are_others():
    assert security.key_of("a") != security.key_of("b")
    assert security.key_of(b"a") == security.key_of("a")
    assert security.key_of(None) == security.key_of("")


def test_every_response_has_the_headers(site, factory):
    factory.job()

    for path in ("/jobs", "/jobs/1", "/jobs/999", "/static/app.css", "/", "/jobs?q=wrong"):
        response = site.open(path)

        for name, value in security.HEADERS.items():
            assert response.headers[name] == value, (path, name)

    assert site.post("/jobs/cancel", token="").headers["Content-Security-Policy"]


def test_pages_are_kept_by_no_cache(site):
    assert site.open("/jobs").headers["Cache-Control"] == "private, no-store"
    assert "no-store" not in site.open("/static/app.css").headers["Cache-Control"]


def test_the_policy_allows_nothing_within_pages():
    assert "unsafe" not in security.POLICY
    assert "default-src 'none'" in security.POLICY


def test_cookies_are_for_the_dashboard_alone(site):
    site.open("/jobs")
    cookie = site.client.get_cookie("oban_visitor", path="/oban/")

    assert cookie.http_only
    assert cookie.same_site == "Lax"
    assert not cookie.secure

    response = Dashboard(site.oban).open("/jobs", base_url="https://localhost")

    assert "Secure" in response.headers["Set-Cookie"]


def test_who_may_only_look_gets_no_cookie(dashboard):
    site = dashboard(access=lambda user: "read_only")

    assert "Set-Cookie" not in site.open("/jobs").headers


@pytest.mark.parametrize(
    "back",
    [
        "https://evil.example/",
        "//evil.example/",
        "/\\evil.example",
        "/elsewhere",
        "/oban\\..\\x",
        "/oban/\n/evil",
        "javascript:alert(1)",
        "",
    ],
)
def test_a_form_leads_nowhere_else(site, factory, back):
    job_id = factory.job()

    assert site.post(f"/jobs/{job_id}/cancel", back=back).location == "/oban/"
    assert site.open("/preferences", query_string={"back": back}).location == "/oban/"


def test_a_form_leads_back_to_where_it_was(site, factory):
    job_id = factory.job()
    back = "/oban/jobs?q=states%3Aavailable"

    assert site.post(f"/jobs/{job_id}/cancel", back=back).location == back


def test_what_is_said_after_a_form_cannot_be_forged(site, factory):
    job_id = factory.job()
    response = site.post(f"/jobs/{job_id}/cancel")
    said = re.search(r"oban_said=([^;]+)", response.headers["Set-Cookie"])[1]

    assert "cancelled" in site.page("/jobs").text.partition("States")[0]
    # Once is enough.
    assert 'role="status">The job' not in site.open("/jobs").text

    site.client.set_cookie("oban_said", f"x{said}", path="/oban/")

    assert "The job was" not in site.open("/jobs").text


@pytest.mark.parametrize("value", ["", ".", "x", "x.y", "W10.", "é.é"])
def test_a_broken_cookie_is_nobody_s_trouble(site, value):
    for name in ("oban_said", "oban_visitor", "oban_theme", "oban_refresh"):
        site.client.set_cookie(name, value, path="/oban/")

    assert site.open("/jobs").status_code == 200


@pytest.mark.parametrize(
    ("host", "hosted"),
    [
        ("localhost", True),
        ("127.0.0.1:4000", True),
        ("[::1]:4000", True),
        ("LOCALHOST:4000", True),
        ("evil.example", False),
        ("localhost.evil.example", False),
        ("127.0.0.1.evil.example:4000", False),
        ("localhost@evil.example", False),
        ("", False),
        ("[::1", False),
    ],
)
def test_a_host_is_known_by_its_whole_name(host, hosted):
    assert security.is_hosted(host, ("localhost", "127.0.0.1", "::1")) == hosted


def test_another_host_s_origin_is_a_stranger():
    request = Request.from_values(
        base_url="http://ops.example.com", headers={"Origin": "http://OPS.example.com"}
    )

    assert security.stranger(request) is None


def cookie_of(response):
    """The visitor's cookie that a response sets: its name, its value, and what follows."""
    [found] = [each for each in response.headers.getlist("Set-Cookie") if "oban_visitor" in each]
    name, _, rest = found.partition("=")
    value, _, options = rest.partition(";")

    return name, value, options


@pytest.mark.parametrize("planted", ["planted", "planted.", "a\nanna", ".x", "planted.é"])
def test_a_visitor_that_the_dashboard_did_not_make_is_none(site, factory, planted):
    job_id = factory.job()
    site.client.set_cookie("oban_visitor", planted, path="/oban/")
    token = security.token(security.key_of("for tests"), planted, "")

    assert site.post(f"/jobs/{job_id}/cancel", token=token, headers={}).status_code == 403
    assert not cancelled(site, job_id)
    # The next page gives another one, whose form is obeyed.
    assert cookie_of(site.open("/jobs"))[1] != planted
    assert site.post(f"/jobs/{job_id}/cancel", headers={}).status_code == 303


def test_a_seal_is_of_its_texts_one_by_one():
    assert security.seal(b"key", "said", "ab", "c") != security.seal(b"key", "said", "a", "bc")
    assert security.token(b"key", "a\nb", "c") != security.token(b"key", "a", "b\nc")


def test_a_page_read_without_tls_is_a_stranger_to_one_with_it():
    def of(base, origin):
        return security.stranger(
            Request.from_values(base_url=base, headers={"Origin": origin}), ["http://old.example"]
        )

    assert "TLS" in of("https://ops.example.com", "http://ops.example.com")
    assert of("https://ops.example.com", "https://ops.example.com") is None
    assert of("https://ops.example.com", "http://old.example") is None
    # A proxy may end TLS and say nothing of it.
    assert of("http://ops.example.com", "https://ops.example.com") is None
    assert of("http://ops.example.com", "ftp://ops.example.com") is not None


def test_over_tls_the_visitor_s_cookie_is_taken_from_this_host_alone(oban, factory):
    site, other = Dashboard(oban), Dashboard(oban, at="/elsewhere")
    base = "https://localhost"
    name, value, options = cookie_of(site.open("/jobs", base_url=base))

    assert name.startswith("__Host-oban_visitor_")
    assert "Secure" in options
    assert "Path=/;" in f"{options};"
    assert "Domain" not in options
    # Two on one host do not take each other's.
    assert cookie_of(other.open("/jobs", base_url=base))[0] != name

    job_id = factory.job()
    token = re.search(r'name="_csrf" value="([^"]+)"', site.open("/jobs", base_url=base).text)[1]
    sent = {"data": {"_csrf": token}, "headers": {"Origin": base}, "base_url": base}

    assert site.client.post(f"/oban/jobs/{job_id}/cancel", **sent).status_code == 303
    assert cancelled(site, job_id)

    # What was planted under the name that it has without TLS is of no use.
    planted = Dashboard(oban)
    planted.client.set_cookie("oban_visitor", value, path="/oban/", secure=True)

    assert planted.client.post(f"/oban/jobs/{job_id}/retry", **sent).status_code == 403


@pytest.mark.parametrize(
    ("host", "near"),
    [
        ("localhost:5000", True),
        ("app.localhost", True),
        ("127.0.0.1:5000", True),
        ("[::1]:5000", True),
        ("192.168.0.7:5000", True),
        (f"{socket.gethostname()}:5000", True),
        ("OPS.example.com", True),
        ("ops.example.com:81", False),
        ("evil.example:5000", False),
        ("127.0.0.1.evil.example", False),
        ("localhost.evil.example", False),
        ("evillocalhost", False),
        ("127.0.0.1@evil.example", False),
        ("[::1", False),
        ("", False),
    ],
)
def test_names_that_no_page_of_elsewhere_can_have_are_near(host, near):
    assert security.is_near(host, ["https://ops.example.com"]) is near


def test_a_dashboard_for_everybody_is_not_shown_under_a_stranger_s_name(dashboard, factory):
    job_id = factory.job(worker="tests.Visible")
    site = dashboard()
    strange = {"Host": "evil.example:5000"}
    response = site.open("/jobs", headers=strange)

    assert response.status_code == 421
    assert 'origins=["http://evil.example:5000"]' in response.text
    assert "Visible" not in response.text
    assert "Set-Cookie" not in response.headers
    assert response.headers["Content-Security-Policy"]
    assert site.open("/healthz?why", headers=strange).status_code == 421
    # Probes ask by whatever name.
    assert site.open("/healthz", headers=strange).status_code in (200, 503)

    sent = {**strange, "Origin": "http://evil.example:5000", "Sec-Fetch-Site": "same-origin"}

    assert site.post(f"/jobs/{job_id}/cancel", headers=sent).status_code == 421
    assert not cancelled(site, job_id)


def test_a_dashboard_that_knows_who_may_do_what_has_any_name(dashboard):
    ours = {"Host": "ops.example.com"}

    assert dashboard(access=lambda user: "all").open("/jobs", headers=ours).status_code == 200
    assert dashboard().open("/jobs", headers=ours).status_code == 421
    assert (
        dashboard(origins=["https://ops.example.com"]).open("/jobs", headers=ours).status_code
        == 200
    )
