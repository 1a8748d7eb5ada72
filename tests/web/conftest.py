"""A dashboard on the test's tables: asked by Flask's own client, and looked at by a browser."""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from flask import Flask, g
from werkzeug.serving import make_server
from werkzeug.test import TestResponse

from oban_sync import Oban
from oban_sync.web import blueprint

CHROMIUM = Path("/usr/bin/chromium")

#: "required" where a missing browser is a failure and not a reason to skip.
BROWSER = os.environ.get("OBAN_SYNC_BROWSER", "")

#: What a browser sends along with a form of the page itself.
OURS = {"Sec-Fetch-Site": "same-origin", "Origin": "http://localhost"}

#: Elements that have no end, so that none is waited for.
VOID = {
    "meta",
    "link",
    "input",
    "br",
    "hr",
    "img",
    "wbr",
    "circle",
    "path",
    "rect",
    "line",
    "option",
}


class Page(HTMLParser):
    """A page taken apart: its elements, and its text.

    Attributes:
        elements: Each element's name and attributes.
        text: All text that is shown.
        forms: For each form its address and its fields; of buttons those without a value.
    """

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.html = html
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.scripts: list[str] = []
        self.parts: list[str] = []
        self.forms: list[tuple[str, dict[str, str]]] = []
        self._inside: list[str] = []
        self._area: str | None = None
        self.feed(html)
        self.close()

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.parts)).strip()

    def all(self, name: str, /, **attributes: str) -> list[dict[str, str]]:
        """The attributes of all elements of a name that have these."""
        return [
            found
            for tag, found in self.elements
            if tag == name and all(found.get(key) == value for key, value in attributes.items())
        ]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {name: value or "" for name, value in attrs}
        self.elements.append((tag, found))

        if tag not in VOID:
            self._inside.append(tag)

        if tag == "form":
            self.forms.append((found.get("action", ""), {}))
        elif tag == "input" and self.forms and "name" in found and found.get("type") != "checkbox":
            self.forms[-1][1][found["name"]] = found.get("value", "")
        elif tag == "textarea" and self.forms:
            self._area = found.get("name", "")
            self.forms[-1][1][self._area] = ""

    def handle_endtag(self, tag: str) -> None:
        if tag == "textarea":
            self._area = None

        if tag in self._inside:
            while self._inside.pop() != tag:
                pass

    def handle_data(self, data: str) -> None:
        if self._area is not None:
            # The first end of a line is not part of it.
            area = self.forms[-1][1]
            area[self._area] += data.removeprefix("\n") if not area[self._area] else data
        elif "script" in self._inside or "style" in self._inside:
            self.scripts.append(data)
        else:
            self.parts.append(data)


class Dashboard:
    """A dashboard in an application, and a visitor of it.

    Attributes:
        oban: Its Oban.
        app: The application.
        at: Where it is mounted.
        user: Who visits; change it at will.
    """

    def __init__(self, oban: Oban, *, at: str = "/oban", user: Any = None, **options: Any) -> None:
        self.oban = oban
        self.at = at
        self.user = user
        self.app = Flask("site")
        self.app.secret_key = "for tests"

        if "access" not in options:
            options.setdefault("insecure", True)

        @self.app.before_request
        def log_in() -> None:
            g.user = self.user

        self.app.register_blueprint(blueprint(oban, **options), url_prefix=at)
        self.client = self.app.test_client()

    def open(self, path: str, **options: Any) -> TestResponse:
        """The response to a GET of a path below the dashboard's own."""
        # So that files that are sent are closed.
        options.setdefault("buffered", True)

        return self.client.get(f"{self.at}{path}", **options)

    def page(self, path: str, status: int = 200, **options: Any) -> Page:
        """A page, taken apart."""
        response = self.open(path, **options)
        assert response.status_code == status, (path, response.status_code, response.text[:2000])

        return Page(response.text)

    @property
    def token(self) -> str:
        """The token of a form, as a visitor finds it on a page; "" where there are no forms."""
        found = re.search(r'name="_csrf" value="([^"]+)"', self.open("/jobs").text)

        return "" if found is None else found[1]

    def post(
        self,
        path: str,
        *,
        token: str | None = None,
        headers: dict[str, str] | None = None,
        follow: bool = False,
        **fields: Any,
    ) -> TestResponse:
        """Send a form as a browser does, with the token of a page and the headers of our own."""
        token = self.token if token is None else token

        return self.client.post(
            f"{self.at}{path}",
            data={"_csrf": token, **fields},
            headers=OURS if headers is None else headers,
            follow_redirects=follow,
        )

    def told(self, path: str, **fields: Any) -> str:
        """What the next page says about a form that was sent."""
        response = self.post(path, **fields)
        assert response.status_code == 303, (response.status_code, response.text[:2000])
        page = Page(self.client.get(response.location, follow_redirects=True).text)
        notice = re.search(
            r'<p class="notice (?:done|failed)" role=[^>]*>(.*?)</p>', page.html, re.S
        )
        assert notice is not None, page.text[:2000]

        return Page(notice[1]).text


@pytest.fixture
def dashboard(make_oban: Any) -> Callable[..., Dashboard]:
    """Makes dashboards; options are the blueprint's, and those of `Dashboard`."""
    oban = make_oban()

    def make(**options: Any) -> Dashboard:
        return Dashboard(options.pop("oban", oban), **options)

    return make


@pytest.fixture
def served() -> Iterator[Callable[[Flask], str]]:
    """Serves applications on threads of their own; gives their addresses."""
    servers: list[tuple[Any, threading.Thread]] = []

    def serve(app: Flask) -> str:
        server = make_server("127.0.0.1", 0, app, threaded=True)
        thread = threading.Thread(target=server.serve_forever, name="test-web")
        thread.start()
        servers.append((server, thread))

        return f"http://127.0.0.1:{server.server_port}"

    yield serve

    for server, thread in servers:
        server.shutdown()
        thread.join(10.0)
        server.server_close()


# Not for the session: playwright keeps an event loop going on this thread, beside which Django and
# asyncio.run refuse to work in tests of others.
@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    """A browser; without one, tests that need it are skipped, unless they may not be."""
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        _no_browser("playwright is not installed")

    if not CHROMIUM.exists():
        _no_browser(f"there is no {CHROMIUM}")

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=str(CHROMIUM), args=["--no-sandbox", "--disable-gpu"]
        )

        yield browser

        browser.close()


@pytest.fixture
def browser(chromium: Any) -> Iterator[Callable[..., Any]]:
    """Opens pages in a browser; what goes wrong in them fails the test.

    Options are those of playwright's `new_context`: ``java_script_enabled=False``, ``viewport=``.
    """
    contexts: list[Any] = []
    wrong: list[str] = []

    def open_page(**options: Any) -> Any:
        context = chromium.new_context(**options)
        context.set_default_timeout(10_000)
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on(
            "console",
            lambda message: (
                wrong.append(message.text)
                # Also what the policy of the pages refused.
                if message.type == "error"
                # What htmx says of a lost connection is what tests ask for.
                and not message.text.startswith(("Failed to load resource", "htmx:"))
                else None
            ),
        )

        return page

    yield open_page

    for context in contexts:
        context.close()

    assert wrong == []


def _no_browser(why: str) -> None:
    if BROWSER == "required":
        pytest.fail(f"OBAN_SYNC_BROWSER=required, and {why}")

    pytest.skip(why)
