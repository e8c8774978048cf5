"""The service as an ASGI application: addresses, limits and errors."""

import contextlib
import traceback
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, HTMLResponse, JSONResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp

from wsicl_jax.errors import WsiclError
from wsicl_jax.serve.folder import ExistsError, TooLargeError, TooManyError
from wsicl_jax.serve.openapi import as_html, openapi
from wsicl_jax.serve.operations import OPERATIONS, Operation
from wsicl_jax.serve.security import Guard
from wsicl_jax.serve.service import Service
from wsicl_jax.serve.session import MissingError

_PAGE = Path(__file__).parent / "page"

_LARGEST_BODY = 4 * 10**6
"""Of a request other than an added file, in bytes; the longest scribble has less."""

_STATUS = {MissingError: 404, ExistsError: 409, TooLargeError: 413, TooManyError: 429}
"""Of errors in requests; of all others 422."""


def make_app(service: Service, token: str | None = None) -> ASGIApp:
    """The application; with a token, requests without it are refused."""
    by_path: dict[str, list[Operation]] = {}
    for operation in OPERATIONS:
        by_path.setdefault(operation.path, []).append(operation)
    documentation = openapi(OPERATIONS)

    async def page(_: Request) -> Response:
        return FileResponse(_PAGE / "index.html")

    async def described(_: Request) -> Response:
        return JSONResponse(documentation)

    async def described_for_people(_: Request) -> Response:
        return HTMLResponse(as_html(documentation))

    async def add_image(request: Request) -> Response:
        name = request.query_params.get("name", "")
        identifier = await service.folder.add(name, request.stream(), service.reading)
        return JSONResponse({"id": identifier}, 201)

    endpoints = {path: _endpoint(service, each) for path, each in by_path.items()}

    async def images(request: Request) -> Response:
        if request.method == "POST":
            return await add_image(request)
        return await endpoints["/api/images"](request)

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        yield
        await run_in_threadpool(service.stop)

    methods = {path: [one.method for one in each] for path, each in by_path.items()}
    methods["/api/images"].append("POST")
    routes = [
        Route("/", page),
        Route("/docs", described_for_people),
        Route("/openapi.json", described),
        *(
            Route(path, images if path == "/api/images" else endpoint, methods=methods[path])
            for path, endpoint in endpoints.items()
        ),
        Mount("/page", StaticFiles(directory=_PAGE)),
    ]
    app = Starlette(
        routes=routes,
        lifespan=lifespan,
        exception_handlers={
            WsiclError: _explain,
            OSError: _explain_os,
            HTTPException: _explain_http,
            Exception: _explain_defect,
        },
    )
    return Guard(app, token)


def _endpoint(service: Service, operations: list[Operation]) -> Any:
    by_method = {operation.method: operation for operation in operations}

    async def endpoint(request: Request) -> Response:
        operation = by_method.get("GET" if request.method == "HEAD" else request.method)
        if operation is None:
            raise HTTPException(405)
        arguments: list[Any] = [service, request.path_params]
        if operation.body is not None:
            arguments.append(await _body(request, operation.body))
        answer = await run_in_threadpool(operation.run, *arguments)
        if isinstance(answer, Response):
            return answer
        return JSONResponse(answer, operation.status)

    return endpoint


async def _body(request: Request, kind: type[BaseModel]) -> BaseModel:
    """The checked body of a request."""
    media = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media != "application/json":
        raise HTTPException(415, "expected content-type application/json")
    content = bytearray()
    async for part in request.stream():
        content += part
        if len(content) > _LARGEST_BODY:
            raise HTTPException(413, f"the request has more than {_LARGEST_BODY:,} bytes")
    try:
        return kind.model_validate_json(bytes(content))
    except ValidationError as error:
        problem = error.errors(include_url=False, include_input=False, include_context=False)[0]
        where = ".".join(map(str, problem["loc"]))[:100]
        raise HTTPException(422, f"{where}: {problem['msg']}"[:400].removeprefix(": ")) from None


async def _explain(_: Request, error: Exception) -> Response:
    status = next((code for kind, code in _STATUS.items() if isinstance(error, kind)), 422)
    return JSONResponse({"error": str(error)}, status)


async def _explain_os(_: Request, error: Exception) -> Response:
    return JSONResponse({"error": f"the folder cannot be used: {error}"}, 507)


async def _explain_http(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return JSONResponse({"error": error.detail}, error.status_code, headers=error.headers)


async def _explain_defect(_: Request, error: Exception) -> Response:
    if not isinstance(error, ClientDisconnect):
        traceback.print_exception(error)
    return JSONResponse({"error": f"internal error: {type(error).__name__}"}, 500)
