"""The OpenAPI document, and a page of it for people that loads nothing from elsewhere.

The one invariant: every status and every field that a client can meet stands in the document.
"""

from __future__ import annotations

import html
import json
from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel

REF = "#/components/schemas/{model}"
ABOUT = (
    "OpenAI's Videos API, with what a film may be asked for beyond it. The openai SDK works unchanged: "
    "`OpenAI(base_url='http://127.0.0.1:8000/v1', api_key='...')`. Numbers in forms are text; objects in forms are "
    "JSON or brackets (`keyframes[48]`). A film is asked for, waited for and fetched; or it is watched while it is "
    "made: `GET /v1/videos/{id}/stream`. Fields of SGLang's, vLLM-Omni's and FastVideo's clients are taken where they "
    "mean something here, and at defaults that ask for nothing."
)
ENDLESS = (
    " Films that are asked for without a length are endless here: they go on until they are cancelled or their owner's "
    "quota is used up, unless they have an end of their own (`loop`, `end_image`, a film to go on with). "
    "`endless: false` is the model's usual length."
)
"""What is said beside it where the server has it so."""
_EMPTY = {"type": "string", "maxLength": 0}
_METHODS = ("get", "post", "delete", "head", "put", "patch")


def body_of(model: type[BaseModel], example: Mapping[str, Any], *, json_too: bool = True) -> dict[str, Any]:
    """What a route that reads its body itself says of it: `openapi_extra`."""
    schema = model.model_json_schema(ref_template=REF)
    form = {"schema": _with_empty(schema), "example": dict(example)}
    content = {"multipart/form-data": form}
    if json_too:
        content = {"application/json": {"schema": _without_files(schema), "example": dict(example)}, **content}
    return {"requestBody": {"required": True, "content": content}}


def describe(app: FastAPI, needs_key: Any) -> None:  # noqa: ANN401 -- a callable
    """Let the app's document be complete; `needs_key` tells whether requests need one."""
    make = app.openapi

    def openapi() -> dict[str, Any]:
        found: dict[str, Any] = json.loads(json.dumps(make()))
        schemas = found.setdefault("components", {}).setdefault("schemas", {})
        for path, routes in found["paths"].items():
            for method, route in routes.items():
                if method in _METHODS:
                    route.get("responses", {}).pop("422", None)
                    _lift(route, schemas)
                    if needs_key() and path.startswith(("/v1", "/metrics")):
                        route["security"] = [{"key": []}]
        for name in ("HTTPValidationError", "ValidationError"):
            schemas.pop(name, None)
        if needs_key():
            found["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
        return found

    app.openapi = openapi  # type: ignore[method-assign]


def page(document: Mapping[str, Any]) -> str:
    """The document for people."""
    parts = [_HEAD.format(title=html.escape(document["info"]["title"]), about=_text(document["info"]["description"]))]
    for path, routes in document["paths"].items():
        for method, route in routes.items():
            if method in _METHODS:
                parts.append(_operation(path, method, route, document))
    return "".join(parts)


def _operation(path: str, method: str, route: Mapping[str, Any], document: Mapping[str, Any]) -> str:
    said = [f"<h2><b>{method.upper()}</b> {html.escape(path)}</h2><p>{_text(route.get('summary', ''))}</p>"]
    if route.get("description"):
        said.append(f"<p>{_text(route['description'])}</p>")
    rows = [(one["name"], one.get("description", ""), one.get("required")) for one in route.get("parameters", ())]
    kinds = route.get("requestBody", {}).get("content", {})
    body: Mapping[str, Any] = next(iter(kinds.values()), {})
    schema = _resolved(body.get("schema", {}), document)
    needed = schema.get("required", ())
    rows += [(name, one.get("description", ""), name in needed) for name, one in schema.get("properties", {}).items()]
    if rows:
        cells = (f"<tr><td>{html.escape(n)}{' *' if must else ''}<td>{_text(text)}" for n, text, must in rows)
        said.append(f"<table>{''.join(cells)}</table>")
    if "example" in body:
        example = json.dumps(body["example"])
        said.append(f"<pre>{' or '.join(kinds)}\n{html.escape(example)}</pre>")
    answers = ", ".join(route.get("responses", {}))
    return f"{''.join(said)}<p>Answers: {answers}</p>"


def _resolved(schema: Mapping[str, Any], document: Mapping[str, Any]) -> Mapping[str, Any]:
    name = str(schema.get("$ref", "")).rpartition("/")[2]
    found: Mapping[str, Any] = document["components"]["schemas"].get(name, schema)
    return found


def _text(said: str) -> str:
    return html.escape(" ".join(said.split()))


def _lift(route: dict[str, Any], schemas: dict[str, Any]) -> None:
    """Models within a body's schema go to where references look for them."""
    for kind, content in route.get("requestBody", {}).get("content", {}).items():
        for name, inner in content["schema"].pop("$defs", {}).items():
            schemas.setdefault(name, inner)
        name = content["schema"]["title"] + ("Form" if kind.startswith("multipart") else "")
        schemas[name] = content["schema"] | {"title": name}
        content["schema"] = {"$ref": REF.format(model=name)}


def _with_empty(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema of a form, in which a field that may be left out may be empty instead."""
    needed = schema.get("required", ())
    told = {
        name: one if name in needed else {"anyOf": [one, _EMPTY], "description": one.get("description", "")}
        for name, one in schema.get("properties", {}).items()
    }
    return schema | {"properties": told}


def _without_files(schema: Any) -> Any:  # noqa: ANN401 -- a piece of JSON Schema
    """The schema of a body that can hold no files."""
    if isinstance(schema, dict):
        return {name: _without_files(inner) for name, inner in schema.items()}
    if isinstance(schema, list):
        return [_without_files(one) for one in schema if not (isinstance(one, dict) and one.get("format") == "binary")]
    return schema


_HEAD = """<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title>
<meta name="viewport" content="width=device-width, initial-scale=1"><style>
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #222 }}
h2 {{ font: 600 1rem ui-monospace, monospace; margin-top: 2.5rem; border-top: 1px solid #ddd; padding-top: 1rem }}
td {{ padding: .1rem .8rem .1rem 0; vertical-align: top }} td:first-child {{ font-family: ui-monospace, monospace }}
pre {{ background: #f4f4f4; padding: .6rem; white-space: pre-wrap }}
@media (prefers-color-scheme: dark) {{ body {{ background: #181818; color: #ddd }} pre {{ background: #262626 }} }}
</style><h1>{title}</h1><p>{about}</p><p>The same for programs: <a href="openapi.json">openapi.json</a></p>
"""
