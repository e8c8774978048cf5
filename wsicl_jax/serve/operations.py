"""The addresses of the service: what each takes, does and answers."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from starlette.responses import FileResponse, JSONResponse, Response

from wsicl_jax.data.layouts.layout import stem_of
from wsicl_jax.serve.documents import (
    NewRole,
    NewSession,
    Prompt,
    SaveRequest,
    SegmentRequest,
    Structures,
)
from wsicl_jax.serve.service import Service, Voxels

Parts = Mapping[str, Any]
"""The variable parts of an address."""


@dataclass(frozen=True)
class Operation:
    """One method of one address."""

    method: str
    path: str
    summary: str
    run: Callable[..., Any]
    """Called with the service, the parts of the address, and the body if there is one."""
    body: type[BaseModel] | None = None
    status: int = 200

    @property
    def name(self) -> str:
        return self.run.__name__


def api(service: Service, path: Parts) -> dict:
    return service.handshake()


def list_images(service: Service, path: Parts) -> dict:
    return service.listed_images()


def scan(service: Service, path: Parts) -> dict:
    service.folder.scan()
    return service.listed_images()


def geometry(service: Service, path: Parts) -> dict:
    return service.geometry(path["image"])


def voxels(service: Service, path: Parts) -> Response:
    return _voxels(service.voxels(path["image"]))


def thumbnail(service: Service, path: Parts) -> Response:
    content = service.thumbnail(path["image"])
    return Response(content, media_type="image/png", headers={"cache-control": "max-age=60"})


def list_sessions(service: Service, path: Parts) -> dict:
    return {"sessions": service.sessions.listed()}


def new_session(service: Service, path: Parts, body: NewSession) -> dict:
    return service.sessions.new(body.name).described()


def session(service: Service, path: Parts) -> dict:
    found = service.sessions[path["session"]]
    jobs = [job.described() for job in service.queue.active(found)]
    return {**found.described(), "jobs": jobs}


def rename(service: Service, path: Parts, body: NewSession) -> dict:
    found = service.sessions[path["session"]]
    found.rename(body.name)
    return found.described()


def delete_session(service: Service, path: Parts) -> dict:
    service.queue.cancel_all(service.sessions[path["session"]])
    service.sessions.delete(path["session"])
    return {}


def set_structures(service: Service, path: Parts, body: Structures) -> dict:
    found = service.sessions[path["session"]]
    found.set_structures(body.structures)
    return found.described()


def set_role(service: Service, path: Parts, body: NewRole) -> dict:
    found = service.sessions[path["session"]]
    found.set_role(service.image(path["image"]).id, body.role)
    return found.described()


def add_prompt(service: Service, path: Parts, body: Prompt) -> dict:
    found = service.sessions[path["session"]]
    image = service.image(path["image"]).id
    service.engine.check_prompt(image, body)
    number = found.add_prompt(image, body)
    return {"number": number, "session": found.described()}


def remove_prompt(service: Service, path: Parts) -> dict:
    found = service.sessions[path["session"]]
    found.remove_prompt(path["image"], path["number"])
    return found.described()


def undo(service: Service, path: Parts) -> dict:
    found = service.sessions[path["session"]]
    found.undo()
    return found.described()


def redo(service: Service, path: Parts) -> dict:
    found = service.sessions[path["session"]]
    found.redo()
    return found.described()


def use_as_example(service: Service, path: Parts) -> dict:
    found = service.sessions[path["session"]]
    found.accept(path["image"])
    return found.described()


def segment(service: Service, path: Parts, body: SegmentRequest) -> dict:
    return service.segment(service.sessions[path["session"]], body).described()


def job(service: Service, path: Parts) -> dict:
    found = service.sessions[path["session"]]
    return service.queue.of(found, path["job"]).described()


def cancel(service: Service, path: Parts) -> dict:
    found = service.queue.of(service.sessions[path["session"]], path["job"])
    service.queue.cancel(found)
    return found.described()


def result_voxels(service: Service, path: Parts) -> Response:
    found = service.sessions[path["session"]]
    return _voxels(service.result_voxels(found, path["image"]))


def accepted_voxels(service: Service, path: Parts) -> Response:
    found = service.sessions[path["session"]]
    return _voxels(service.accepted_voxels(found, path["image"]))


def result_file(service: Service, path: Parts) -> Response:
    file = service.result_file(service.sessions[path["session"]], path["image"])
    name = f"{stem_of(Path(path['image']))}_mask.nii.gz"
    return FileResponse(file, media_type="application/gzip", filename=name)


def task(service: Service, path: Parts) -> Response:
    document = service.task(service.sessions[path["session"]])
    headers = {"content-disposition": 'attachment; filename="task.json"'}
    return JSONResponse(document, headers=headers)


def save(service: Service, path: Parts, body: SaveRequest) -> dict:
    return service.save(service.sessions[path["session"]], body)


def _voxels(voxels: Voxels) -> Response:
    return Response(
        voxels.content,
        media_type="application/octet-stream",
        headers={"x-voxel-type": voxels.kind},
    )


_S = "/api/sessions/{session}"
_I = f"{_S}/images/{{image}}"

OPERATIONS = (
    Operation("GET", "/api", "Versions, network and folder", api),
    Operation("GET", "/api/images", "The images of the folder", list_images),
    Operation("POST", "/api/scan", "Find the images of the folder again", scan),
    Operation("GET", "/api/images/{image}", "Shape, orientation and values of an image", geometry),
    Operation("GET", "/api/images/{image}/voxels", "Voxels: uint16, first axis fastest", voxels),
    Operation("GET", "/api/images/{image}/thumbnail", "A small picture, PNG", thumbnail),
    Operation("GET", "/api/sessions", "All sessions, the latest first", list_sessions),
    Operation("POST", "/api/sessions", "A new session", new_session, NewSession, 201),
    Operation("GET", _S, "A session, and its jobs that have not ended", session),
    Operation("PATCH", _S, "Rename a session", rename, NewSession),
    Operation("DELETE", _S, "Delete a session with its results", delete_session),
    Operation("PUT", f"{_S}/structures", "Replace the structures", set_structures, Structures),
    Operation("PUT", f"{_I}/role", "Use an image as context, target, or not", set_role, NewRole),
    Operation("POST", f"{_I}/prompts", "Add a prompt", add_prompt, Prompt, 201),
    Operation("DELETE", f"{_I}/prompts/{{number:int}}", "Remove a prompt", remove_prompt),
    Operation("POST", f"{_S}/undo", "Take back the last change of prompts", undo),
    Operation("POST", f"{_S}/redo", "Repeat what undo took back", redo),
    Operation("POST", f"{_I}/example", "Use a result as a context mask", use_as_example),
    Operation("POST", f"{_S}/jobs", "Segment targets", segment, SegmentRequest, 202),
    Operation("GET", f"{_S}/jobs/{{job}}", "Progress of a job", job),
    Operation("DELETE", f"{_S}/jobs/{{job}}", "Cancel a job", cancel),
    Operation("GET", f"{_I}/result", "Label map of a target, NIfTI", result_file),
    Operation("GET", f"{_I}/result/voxels", "Its voxels, first axis fastest", result_voxels),
    Operation("GET", f"{_I}/example/voxels", "Voxels of an accepted mask", accepted_voxels),
    Operation("GET", f"{_S}/task", "The JSON that wsicl predict takes", task),
    Operation("POST", f"{_S}/save", "Write results and task to the folder", save, SaveRequest),
)
"""All addresses besides adding a file (POST /api/images?name=...) and the page itself."""
