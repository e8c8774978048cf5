"""The description of the service's addresses: OpenAPI 3.1, and a page for people."""

import html
import re
from collections.abc import Sequence
from typing import Any

from pydantic.json_schema import models_json_schema

from wsicl_jax import __version__
from wsicl_jax.serve.operations import Operation

_UPLOAD = {
    "summary": "Add an image to the folder: one file as the body, its name as ?name=",
    "operationId": "add_image",
    "parameters": [{"name": "name", "in": "query", "required": True, "schema": {"type": "string"}}],
    "requestBody": {"content": {"application/octet-stream": {}}, "required": True},
    "responses": {"201": {"description": "Its identifier"}},
}


def openapi(operations: Sequence[Operation]) -> dict[str, Any]:
    """The description, from the operations and the types of their bodies."""
    kinds = [(o.body, "validation") for o in operations if o.body is not None]
    refs, schemas = models_json_schema(kinds, ref_template="#/components/schemas/{model}")
    paths: dict[str, dict[str, Any]] = {"/api/images": {"post": _UPLOAD}}
    for operation in operations:
        path = re.sub(r":\w+}", "}", operation.path)
        names = re.findall(r"{(\w+)}", path)
        content: dict[str, Any] = {
            "summary": operation.summary,
            "operationId": operation.name,
            "parameters": [
                {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
                for name in names
            ],
            "responses": {
                str(operation.status): {"description": operation.summary},
                "4XX": {"description": 'The reason, as {"error": "..."}'},
            },
        }
        if operation.body is not None:
            schema = refs[operation.body, "validation"]
            content["requestBody"] = {
                "required": True,
                "content": {"application/json": {"schema": schema}},
            }
        paths.setdefault(path, {})[operation.method.lower()] = content
    return {
        "openapi": "3.1.0",
        "info": {"title": "wsicl serve", "version": __version__},
        "paths": paths,
        "components": {"schemas": schemas["$defs"]},
    }


def as_html(description: dict[str, Any]) -> str:
    """The addresses as a table, and the types of bodies."""
    rows = [
        f"<tr><td>{method.upper()}</td><td><code>{html.escape(path)}</code></td>"
        f"<td>{html.escape(each['summary'])}</td><td>{_body_of(each)}</td></tr>"
        for path, methods in sorted(description["paths"].items())
        for method, each in methods.items()
    ]
    kinds = [
        f"<h2 id='{name}'>{name}</h2><p>{html.escape(schema.get('description', ''))}</p><ul>"
        + "".join(
            f"<li><code>{key}</code> {html.escape(value.get('description', ''))}</li>"
            for key, value in schema.get("properties", {}).items()
        )
        + "</ul>"
        for name, schema in description["components"]["schemas"].items()
    ]
    title = f"{description['info']['title']} {description['info']['version']}"
    return (
        f"<!doctype html><html lang='en'><meta charset='utf-8'><title>{title}</title>"
        "<link rel='stylesheet' href='/page/style.css'><body class='reference'>"
        f"<h1>{title}</h1><p>The same as <a href='/openapi.json'>OpenAPI</a>.</p>"
        "<table><tr><th>Method</th><th>Address</th><th>What it does</th><th>Body</th></tr>"
        f"{''.join(rows)}</table>{''.join(kinds)}</body></html>"
    )


def _body_of(operation: dict[str, Any]) -> str:
    content = operation.get("requestBody", {}).get("content", {})
    schema = content.get("application/json", {}).get("schema")
    if schema is None:
        return "the file" if content else ""
    name = schema["$ref"].rpartition("/")[2]
    return f"<a href='#{name}'>{name}</a>"
