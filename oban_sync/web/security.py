"""What stands between the dashboard and other people's pages.

A change is made only by a form of the dashboard's own: it comes from the same origin, as far as the
browser says, and brings a token that belongs to the visitor's cookie. Pages run no code but the
dashboard's own files, whatever text a row holds.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import ipaddress
import json
import secrets
import socket
from collections.abc import Collection
from urllib.parse import urlsplit

from flask import Request, Response

#: Nothing from elsewhere, and nothing within the page itself.
POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' data:",
        "connect-src 'self'",
        "form-action 'self'",
        "base-uri 'none'",
        "frame-ancestors 'none'",
    )
)

HEADERS = {
    "Content-Security-Policy": POLICY,
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    # With less, browsers would send no Origin along with forms.
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}

#: Methods that change nothing.
SAFE = frozenset(("GET", "HEAD", "OPTIONS"))

#: The field of a form, and the header, that bring the token.
TOKEN_FIELD = "_csrf"  # noqa: S105 - a name
TOKEN_HEADER = "X-CSRF-Token"  # noqa: S105 - likewise

#: Where there is no secret key: forms of another process, or from before a restart, are refused.
_PROCESS_KEY = secrets.token_bytes(32)


def key_of(secret: str | bytes | None) -> bytes:
    """The key that tokens are made with, of an application's secret key."""
    if not secret:
        return _PROCESS_KEY

    whole = secret.encode() if isinstance(secret, str) else secret

    return hmac.digest(whole, b"oban_sync.web", "sha256")


def new_visitor(key: bytes) -> str:
    """The value of a cookie that tells visitors apart, without saying who they are."""
    drawn = secrets.token_urlsafe(24)

    return f"{drawn}.{seal(key, 'visitor', drawn)}"


def is_visitor(key: bytes, given: str) -> bool:
    """Whether a cookie's value was made by `new_visitor`."""
    drawn, _, sealed = given.partition(".")
    right = seal(key, "visitor", drawn)

    return bool(drawn) and hmac.compare_digest(sealed.encode("utf-8", "replace"), right.encode())


def token(key: bytes, visitor: str, who: str) -> str:
    """The token of a visitor; another one after logging in as somebody else."""
    return seal(key, "csrf", visitor, who)


def is_token(key: bytes, visitor: str, who: str, given: str) -> bool:
    """Whether a token is that of a visitor."""
    return bool(visitor) and hmac.compare_digest(
        token(key, visitor, who).encode(), given.encode("utf-8", "replace")
    )


def seal(key: bytes, *texts: str) -> str:
    """What only who has the key can make of some texts: the first says what for."""
    # As JSON, so that the end of one is not taken for the beginning of the next.
    made = hmac.digest(key, json.dumps(texts).encode(), hashlib.sha256)

    return base64.urlsafe_b64encode(made).decode().rstrip("=")


def stranger(request: Request, origins: Collection[str] = ()) -> str | None:
    """Why a request that changes something is not from a page of ours; None if it may be.

    Old browsers send neither header. For them the cookie's SameSite and the token stand.

    Args:
        request: The request.
        origins: Origins that are ours as well, where a proxy calls us by another name.
    """
    site = request.headers.get("Sec-Fetch-Site")

    if site is not None and site not in ("same-origin", "none"):
        return "your browser says that another site sent this"

    origin = request.headers.get("Origin")

    if origin is None or origin in origins:
        return None

    scheme, netloc = _split(origin)

    if netloc != request.host.lower():
        return (
            f"it was sent from a page of {origin}, and this is {request.host}; behind a proxy that "
            "changes the Host header, use werkzeug's ProxyFix or give origins="
        )

    # The other way round it may be a proxy that ends TLS and does not say so.
    if scheme not in (("https",) if request.is_secure else ("http", "https")):
        return f"it was sent from a page of {origin}, which is not this one: that is read over TLS"

    return None


def with_headers(response: Response) -> Response:
    """A response with the headers that every page has."""
    for name, value in HEADERS.items():
        response.headers[name] = value

    return response


def is_near(host: str, origins: Collection[str] = ()) -> bool:
    """Whether a Host header names what no page of elsewhere can be behind.

    That is this machine by a name of its own, or any machine by its address: a page whose name was
    made to point here comes with that name. Or it is the host of an origin that is ours.

    Args:
        host: The header.
        origins: Origins that are ours as well.
    """
    if host.lower() in {_split(origin)[1] for origin in origins}:
        return True

    try:
        name = urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return False

    if "@" in host:
        return False

    try:
        ipaddress.ip_address(name)
    except ValueError:
        # Names below localhost are nobody else's either.
        own = name in ("localhost", socket.gethostname().lower())

        return own or name.endswith(".localhost")

    return True


def is_hosted(host: str, allowed: Collection[str]) -> bool:
    """Whether a Host header names one of these hosts, with any port.

    A page of elsewhere whose name was made to point at this machine comes with its own.
    """
    try:
        name = urlsplit(f"//{host}").hostname
    except ValueError:
        return False

    return name in allowed and "@" not in host


def _split(origin: str) -> tuple[str, str]:
    try:
        parts = urlsplit(origin)
    except ValueError:
        return "", ""

    return parts.scheme.lower(), parts.netloc.lower()
