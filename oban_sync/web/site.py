"""One mounted dashboard: whose it is, who looks at it, and what a request may do."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
import re
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias, cast
from weakref import WeakKeyDictionary

from flask import Response, abort, current_app, g, request, url_for
from flask.typing import ResponseReturnValue

from oban_sync import telemetry
from oban_sync.control import audit
from oban_sync.core.errors import ConfigError, shown
from oban_sync.engine.session import Db, Tx
from oban_sync.oban import Oban
from oban_sync.web import security
from oban_sync.web.actions import Action, Allowed, Rights, rights_of
from oban_sync.web.hiding import Hider

#: Seconds that a page refreshes itself after; 0 for never.
REFRESHES = (1, 2, 5, 15, 0)

THEMES = ("auto", "light", "dark")

#: Seconds that counts are kept for, whoever looks.
KEPT = 1.0

#: What no words for somebody have in them, but lists of fields and addresses of objects do.
_LISTING = re.compile(r"\w\s*=\s*[^\s=]|[{}]|\b0x[0-9a-f]{4,}", re.I)

#: Characters of who did something; more would be no name of a queue, whose check is the same.
_MOST_WHO = 127
_MOST_SAID = 1_000


class Holder(Protocol):
    """Knows which Oban is meant, as a FlaskOban does."""

    def get(self) -> Oban:
        """The one."""
        ...


#: Whose dashboard it is.
Owner: TypeAlias = Oban | Holder | Callable[[], Oban]

#: Where people go who are not let in.
Login: TypeAlias = str | Callable[[], ResponseReturnValue] | None


@dataclass(slots=True)
class Site:
    """One mounted dashboard.

    Attributes:
        owner: Whose it is.
        name: The name of its blueprint.
        title: What stands above its pages; by default the name of the Oban.
        access: What a user may do; None for everybody everything.
        user: Who asks; None for what the application itself knows.
        login: Where people go who are not let in.
        origins: Origins that are ours, besides the one that is asked.
        hider: What is shown of args and meta.
        refresh: Seconds between refreshes, for who has not chosen.
    """

    owner: Owner
    name: str
    title: str | None = None
    access: Callable[[Any], Allowed] | None = None
    user: Callable[[], Any] | None = None
    login: Login = None
    origins: Collection[str] = ()
    hider: Hider = field(default_factory=Hider)
    refresh: int = 2
    _kept: WeakKeyDictionary[Oban, dict[str, tuple[float, Any]]] = field(
        default_factory=WeakKeyDictionary
    )

    @property
    def oban(self) -> Oban:
        """The Oban.

        Raises:
            ConfigError: What was given for it is none, and gives none.
        """
        if isinstance(self.owner, Oban):
            return self.owner

        get = getattr(self.owner, "get", self.owner)
        found = get() if callable(get) else None

        if not isinstance(found, Oban):
            raise ConfigError("oban", f"{shown(self.owner)} gave {shown(found)}, which is no Oban")

        return found

    @property
    def db(self) -> Db:
        """Where its tables are."""
        return self.oban.db

    def kept(self, what: str, look: Callable[[], Any], seconds: float = KEPT) -> Any:
        """What was found a moment ago, so that many who look cost no more than one.

        Two who come at once both look, which does no harm.

        Args:
            what: Names it; nothing that visitors choose, for it is forgotten with the Oban only.
            look: Finds it.
            seconds: How old it may be.
        """
        # Of one blueprint in several applications, each has an Oban of its own.
        kept = self._kept.setdefault(self.oban, {})
        now = time.monotonic()
        found = kept.get(what)

        if found is None or now - found[0] >= seconds:
            found = kept[what] = (now, look())

        return found[1]


@dataclass(slots=True)
class Visit:
    """One request to a dashboard.

    Attributes:
        site: The dashboard.
        user: Who asks, as the application knows it.
        who: The same in words, for the audit; None where nobody knows.
        rights: What it may do.
        visitor: The value of the cookie that tells visitors apart; "" for a new one.
        said: What the last action came to, as (kind, text).
    """

    site: Site
    user: Any
    who: str | None
    rights: Rights
    visitor: str
    said: tuple[str, str] | None = None
    is_new: bool = False

    @property
    def key(self) -> bytes:
        """What its tokens are made with."""
        return security.key_of(current_app.secret_key)

    @property
    def token(self) -> str:
        """The token that forms bring along. Asking for it gives a new visitor a cookie."""
        if not self.visitor:
            self.visitor = security.new_visitor(self.key)
            self.is_new = True

        return security.token(self.key, self.visitor, self.who or "")

    def check_origin(self) -> None:
        """See that a change is asked for by a form of ours.

        Raises:
            Forbidden: It is not.
        """
        if (why := security.stranger(request, self.site.origins)) is not None:
            abort(403, f"This was refused, because {why}.")

        given = request.headers.get(security.TOKEN_HEADER) or request.form.get(
            security.TOKEN_FIELD, ""
        )

        if not security.is_token(self.key, self.visitor, self.who or "", given):
            abort(
                403,
                "This was refused, because the page it came from is too old, or not ours. "
                "Reload that page, and try again.",
            )


def visit() -> Visit:
    """The request at hand."""
    return cast(Visit, g.oban_visit)


def here() -> Site:
    """The dashboard at hand."""
    return cast(Site, g.oban_site)


def begin(site: Site) -> Visit:
    """Find out who asks, and what they may do. Raises whatever the application's functions do."""
    user = _user(site)
    rights = rights_of("all" if site.access is None else site.access(user))
    given = request.cookies.get(_visitor_cookie(site), "")
    made = Visit(site, user, words_for(user), rights, "")

    # One that was made up, or put there by somebody else's page, is none.
    if security.is_visitor(made.key, given):
        made.visitor = given

    made.said = _heard(made)
    g.oban_visit = made

    return made


def cookie(site: Site, what: str = "visitor") -> str:
    """The name of one of the dashboard's cookies."""
    return f"oban_{what}" if site.name == "oban" else f"oban_{what}_{site.name}"


def _visitor_cookie(site: Site) -> str:
    """Over TLS a name under which browsers take a cookie from nobody but this very host.

    Such a cookie is for the whole host, so the name tells dashboards of several places apart.
    """
    name = cookie(site)

    if not request.is_secure:
        return name

    return f"__Host-{name}_{hashlib.sha256(root().encode()).hexdigest()[:8]}"


def root() -> str:
    """The path that the dashboard is mounted under, with a slash at the end."""
    path = url_for(".healthz").removesuffix("healthz")

    return path if path.endswith("/") else f"{path}/"


def say(response: Response, kind: str, text: str) -> None:
    """Let the next page tell what an action came to; `kind` is ``done`` or ``failed``."""
    made = visit()
    body = base64.urlsafe_b64encode(json.dumps([kind, text[:_MOST_SAID]]).encode()).decode()
    sealed = f"{body}.{security.seal(made.key, 'said', made.visitor, body)}"
    _set_cookie(response, cookie(made.site, "said"), sealed, max_age=30, hidden=True)


def finish(response: Response) -> Response:
    """Give a response the dashboard's headers and cookies."""
    made: Visit | None = g.get("oban_visit")

    if made is not None:
        if made.is_new:
            _set_cookie(
                response,
                _visitor_cookie(made.site),
                made.visitor,
                path="/" if request.is_secure else None,
                hidden=True,
            )

        # Not by a part of a page, nor on the way to one: neither shows it.
        told = response.status_code not in (302, 303) and "HX-Request" not in request.headers

        if made.said is not None and told:
            response.delete_cookie(cookie(made.site, "said"), path=root())

    if request.endpoint is not None and not request.endpoint.endswith(".static"):
        response.headers["Cache-Control"] = "private, no-store"

    return security.with_headers(response)


def remember(response: Response, what: str, value: str) -> None:
    """Keep a choice of the visitor's in a cookie, for a year."""
    _set_cookie(response, cookie(here(), what), value, max_age=365 * 86_400)


def chosen(what: str, among: Collection[str], otherwise: str) -> str:
    """What the visitor chose once, if it is still to be had."""
    value = request.cookies.get(cookie(here(), what), "")

    return value if value in among else otherwise


def note(where: Tx | Db, action: Action, subject: str, **detail: Any) -> None:
    """Write down who did what: in the action's own transaction, where it is given.

    Args:
        where: The transaction, or the tables where the action was one of its own.
        action: What was done.
        subject: To what: ``job 7``, ``queue mailers``.
        detail: What else should be known of it; JSON, and no args of jobs.
    """
    made = visit()
    name = made.site.oban.name
    audit.record(
        where, name, via="dashboard", who=made.who, action=action.value, subject=subject,
        detail=detail,
    )  # fmt: skip
    telemetry.emit(
        "oban.dashboard.action",
        {
            "name": name,
            "who": made.who,
            "action": action.value,
            "subject": subject,
            "detail": detail,
        },
    )


def _user(site: Site) -> Any:
    if site.user is not None:
        return site.user()

    if hasattr(current_app, "login_manager"):
        from flask_login import current_user  # type: ignore[import-untyped]

        # The object itself: what stands for it is found anew wherever it is used.
        found = current_user._get_current_object()  # noqa: SLF001

        return found if getattr(found, "is_authenticated", False) else None

    return g.get("user")


def words_for(user: Any) -> str | None:
    """Who somebody is, in words that stay the same and tell nothing else of them.

    Those are an email, a username, a name or an id, of an object or of a mapping. Where there is
    none, and the class has no words for its objects, it is the name of the class: what Python says
    of an object by itself may be all that it holds, or another address at each request.
    """
    if user is None:
        return None

    if isinstance(user, (str, int)):
        return _clean(str(user))

    for name in ("email", "username", "name"):
        if isinstance(found := _part(user, name), str) and found.strip():
            return _clean(found)

    get_id = getattr(user, "get_id", None)
    found = get_id() if callable(get_id) else _part(user, "id")

    return _clean(_told(user if found is None else found))


def _part(user: Any, name: str) -> Any:
    """What an object has under a name, or a mapping, or a row that is read by names."""
    if callable(getattr(user, "keys", None)):
        try:
            return user[name]
        except (LookupError, TypeError):
            pass

    return getattr(user, name, None)


def _told(value: Any) -> str:
    if isinstance(value, (str, int, float)):
        return str(value)

    # Not of the type: what stands for an object says it is of the object's class.
    kind = value.__class__

    if kind.__str__ in (object.__str__, kind.__repr__):
        return str(kind.__name__)

    text = str(value)

    # Some classes write down all their fields, as user_id=7 password='...', or where they are.
    return str(kind.__name__) if _LISTING.search(text) else text


def _clean(text: str) -> str | None:
    kept = "".join(char if char.isprintable() else " " for char in text)[:_MOST_WHO].strip()

    return kept or None


def _heard(made: Visit) -> tuple[str, str] | None:
    body, _, sealed = request.cookies.get(cookie(made.site, "said"), "").partition(".")
    right = security.seal(made.key, "said", made.visitor, body)

    if not body or not hmac.compare_digest(sealed.encode("utf-8", "replace"), right.encode()):
        return None

    try:
        kind, text = json.loads(base64.urlsafe_b64decode(body))
    except (ValueError, binascii.Error):
        return None

    return ("done" if kind == "done" else "failed", str(text))


def _set_cookie(
    response: Response,
    name: str,
    value: str,
    *,
    max_age: int | None = None,
    path: str | None = None,
    hidden: bool = False,
) -> None:
    response.set_cookie(
        name,
        value,
        max_age=max_age,
        path=root() if path is None else path,
        secure=request.is_secure,
        httponly=hidden,
        # Not Strict: who follows a link from a chat would come as a new visitor.
        samesite="Lax",
    )
