"""Who may use the service, and what its answers allow a browser to do."""

import hmac
from http.cookies import CookieError, SimpleCookie
from urllib.parse import parse_qs, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse, RedirectResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_COOKIE = "wsicl_token"

_LOCAL = ("localhost", "127.0.0.1", "[::1]")

_HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}


class Guard:
    """Refuses requests without the token, from other pages, or for other names of the host.

    Without a token only names of this machine are accepted, so that no page elsewhere reaches the
    service by a name of its own.
    """

    def __init__(self, app: ASGIApp, token: str | None):
        self._app, self._token = app, token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers[name] = value
                headers.setdefault("cache-control", "no-store")
            await send(message)

        headers = Headers(scope=scope)
        answer = self._refusal(scope, headers) or self._sign_in(scope)
        await (answer or self._app)(scope, receive, send_with_headers)

    def _refusal(self, scope: Scope, headers: Headers) -> JSONResponse | None:
        host = headers.get("host", "")
        if self._token is None and host.rsplit(":", 1)[0] not in _LOCAL and host not in _LOCAL:
            return _refused(400, "this service answers to localhost only")
        origin = headers.get("origin")
        if origin is not None and urlsplit(origin).netloc != host:
            return _refused(403, "requests of other pages are not answered")
        if self._token is None or self._signs_in(scope) or self._is_signed_in(headers):
            return None
        return _refused(401, "the token is missing or wrong; open the address that was printed")

    def _signs_in(self, scope: Scope) -> bool:
        given = parse_qs(scope["query_string"].decode("latin-1")).get("token", [""])[0]
        return scope["path"] == "/" and scope["method"] == "GET" and self._is_token(given)

    def _sign_in(self, scope: Scope) -> RedirectResponse | None:
        """Exchange the token in the page's address for a cookie, so that no history keeps it."""
        if self._token is None or not self._signs_in(scope):
            return None
        answer = RedirectResponse("/", 303)
        answer.set_cookie(_COOKIE, self._token, httponly=True, samesite="strict")
        return answer

    def _is_signed_in(self, headers: Headers) -> bool:
        scheme, _, given = headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer" and self._is_token(given):
            return True
        try:
            cookie = SimpleCookie(headers.get("cookie", "")).get(_COOKIE)
        except CookieError:
            return False
        return cookie is not None and self._is_token(cookie.value)

    def _is_token(self, given: str) -> bool:
        """Compares in a time that does not depend on how much is right."""
        return hmac.compare_digest(given.encode(), (self._token or "").encode())


def _refused(status: int, message: str) -> JSONResponse:
    return JSONResponse({"error": message}, status)
