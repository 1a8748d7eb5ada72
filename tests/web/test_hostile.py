"""Whatever a row holds, pages show it as text, and run nothing of it."""

from __future__ import annotations

import json
import re

import pytest

from oban_sync.web.formats import STATES

#: What people try.
STRINGS = [
    "<script>alert(1)</script>",
    "</script><script>alert(1)</script>",
    "</textarea><script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    '"><svg onload=alert(1)>',
    "' onmouseover='alert(1)",
    "javascript:alert(1)",
    "{{ 7 * 7 }}{% raw %}",
    "${7*7}",
    "&lt;b&gt; &amp;",
    "\x1b[31mred\x1b[0m",
    "‮gnp.exe",
    "a\tb\r\nc",
    "é 日本 🎉 ‎",
    "`~!@#$%^&*()_+|\\:;\"'<>,.?/",
    "--><!--",
    "<base href=//evil.example/>",
    "<meta http-equiv=refresh content=0;url=//evil.example>",
    "<form action=//evil.example><input name=_csrf>",
    "../../etc/passwd",
    "%3Cscript%3E",
]

#: Attributes that run something, and elements that load something from elsewhere.
_RUNS = re.compile(r"^on|^style$|^srcdoc$|^formaction$|^hx-on|^hx-vals$|^hx-vars$")


def check(page):
    """See that a page holds nothing but what its template says."""
    assert [script.strip() for script in page.scripts if script.strip()] == []

    for name, attributes in page.elements:
        assert name not in ("style", "base", "iframe", "object", "embed", "img"), attributes

        if name == "meta":
            assert "http-equiv" not in attributes

        for attribute, value in attributes.items():
            if attribute == "formaction":
                assert value.startswith("/oban/"), value
            else:
                assert not _RUNS.match(attribute), (name, attribute, value)

            if attribute in ("href", "src", "action", "hx-get"):
                assert value.startswith(("/oban/", "/oban", "#")), (name, attribute, value)
                assert not value.startswith("//")

        if name == "script":
            assert attributes["src"].startswith("/oban/static/")


def paths(job_id):
    return ["/jobs", f"/jobs/{job_id}", "/new-job", "/jobs?q=states:available", "/jobs?q=wrong"]


@pytest.mark.parametrize("text", STRINGS, ids=range(len(STRINGS)))
def test_hostile_text_in_every_field_is_shown_harmlessly(dashboard, factory, conn, text):
    plain = text.replace("\r\n", " ").replace("\t", " ")[:100]
    job_id = factory.job(
        worker=plain,
        queue=plain,
        args={text: text, "list": [text]},
        meta={text: text, "cancel_requested_by": text, "cancel_requested_at": text},
        tags=[text[:250]],
        attempted_by=[text, text],
        attempt=1,
    )
    error = json.dumps({"at": text, "attempt": text, "error": text})
    conn.execute("UPDATE oban_jobs SET errors = array[%s::jsonb]", [error])
    conn.execute(
        "INSERT INTO oban_sync_logs (job_id, attempted_at, attempt, node, lines)"
        " VALUES (%s, now(), 1, %s, %s)",
        [job_id, text, json.dumps([[1795425447.0, text, text, text]])],
    )
    factory.node(plain, name="Oban", node=text, workers=[plain])
    site = dashboard(user=text, title=text)

    for state in STATES:
        conn.execute("UPDATE oban_jobs SET state = %s, attempted_at = now()", [state.value])

        for path in paths(job_id):
            page = site.page(path, 400 if "wrong" in path else 200)
            check(page)

    whole = site.page(f"/jobs/{job_id}")
    squeezed = re.sub(r"\s+", " ", text).strip()

    # It is there, as text.
    assert json.dumps(text, ensure_ascii=False)[1:-1].split("\\")[0] in whole.text
    assert squeezed in whole.text


@pytest.mark.parametrize("text", STRINGS, ids=range(len(STRINGS)))
def test_hostile_text_in_what_is_asked_for_is_shown_harmlessly(dashboard, text):
    site = dashboard()
    response = site.open("/jobs", query_string={"q": text, "back": text})

    from tests.web.conftest import Page

    page = Page(response.text)
    check(page)
    assert page.all("input", name="q")[0]["value"] == text.strip()

    site.post("/jobs/cancel", which="all", q=text, ids=[text], back=text)
    check(site.page("/jobs"))

    for path in ("/new-job", "/jobs/1/edit"):
        check(Page(site.post(path, worker=text, args=text, was_args="").text))


HIDES = "\u202egnp.exe\x1b[2J\u200b"


def test_what_could_make_a_text_look_like_another_is_written_out(dashboard, factory, conn):
    text, plain = HIDES, re.compile("[\u202e\x1b\u200b]")
    job_id = factory.job(
        state="discarded",
        worker=text,
        queue=text,
        args={text: text},
        meta={text: text},
        tags=[text],
        attempted_by=[text],
        attempt=1,
    )
    conn.execute(
        "UPDATE oban_jobs SET errors = array[%s::jsonb]",
        [json.dumps({"at": "2026-01-01T00:00:00Z", "attempt": 1, "error": f"{text}\n{text}"})],
    )
    conn.execute(
        "INSERT INTO oban_sync_logs (job_id, attempted_at, attempt, node, lines)"
        " VALUES (%s, now(), 1, %s, %s)",
        [job_id, text, json.dumps([[1795425447.0, "info", text, text]])],
    )
    factory.node(text, name="Oban", node=text, workers=[text])
    site = dashboard()

    for path in ("/jobs", f"/jobs/{job_id}", "/overview", "/queues", "/nodes"):
        page = site.page(path)

        assert not plain.search(page.text), path
        assert "\\u202egnp.exe\\u001b[2J\\u200b" in page.text, path
        assert not [
            attributes
            for _, attributes in page.elements
            if plain.search(attributes.get("title", "") + attributes.get("aria-label", ""))
        ]

    # What is edited is what there is.
    fields = dict(next(fields for to, fields in site.page(f"/jobs/{job_id}").forms if "edit" in to))
    assert fields["worker"] == fields["tags"] == text
    # A control character in JSON is written out by JSON itself.
    assert json.loads(fields["args"]) == {text: text}
    assert "\u202e" in fields["args"]


@pytest.mark.parametrize(
    "columns",
    [
        {"args": "[1]"},
        {"args": '"text"'},
        {"args": "null"},
        {"meta": "[1]"},
        {"meta": '{"recorded": true, "return": "x"}'},
        {"meta": '{"recorded": true}'},
        {"meta": '{"oban_sync": 7, "cancel_requested_by": {"a": 1}}'},
        {"meta": '{"oban_sync": {"progress": {"done": "x"}}}'},
        {"scheduled_at": "infinity"},
        {"scheduled_at": "-infinity", "attempted_at": "10000-01-01 00:00"},
        {"inserted_at": "0044-03-15 00:00 BC"},
        {"attempted_by": []},
        {"attempt": 0, "max_attempts": 1, "priority": 9},
        {"args": json.dumps({"big": "x" * 400_000})},
        {"args": "[" * 90 + "]" * 90},
    ],
    ids=lambda columns: str(columns)[:60],
)
@pytest.mark.parametrize("state", [state.value for state in STATES])
def test_a_row_that_cannot_be_read_can_be_looked_at(dashboard, factory, columns, state):
    job_id = factory.job(state=state, **columns)
    site = dashboard()

    check(site.page("/jobs"))
    check(site.page(f"/jobs/{job_id}"))


def test_errors_that_are_none_can_be_looked_at(dashboard, factory, conn):
    job_id = factory.job(state="discarded")
    odd = [7, "text", None, [], {}, {"at": 7, "error": None}, {"error": {"a": 1}}]
    conn.execute("UPDATE oban_jobs SET errors = %s::jsonb[]", [[json.dumps(each) for each in odd]])

    check(dashboard().page(f"/jobs/{job_id}"))


def test_a_planted_violation_is_found():
    from tests.web.conftest import Page

    for html in (
        "<script>alert(1)</script>",
        "<p onclick=x>",
        "<p style=x>",
        "<a href='javascript:x'>",
        "<script src='//evil.example/x.js'></script>",
        "<form action='https://evil.example'>",
    ):
        with pytest.raises(AssertionError):
            check(Page(html))
