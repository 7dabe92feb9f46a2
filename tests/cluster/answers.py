"""What the test API server answers, as values: status, headers and the chunks of a body.

The same answers go over TLS (`cluster.server`) and to a reflector without any socket
(`cluster.memory`), where time is driven.
"""

import asyncio
import base64
import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import ClassVar, Final

from cluster import protobuf
from cluster.api_objects import BOOKMARKS, KINDS, ApiObjects, Change, Kind, Object, selector

CHUNK: Final = 2048
NAMESPACED_PATH: Final = re.compile(r"(/apis?/.*)/namespaces/([-a-z0-9]+)/([a-z]+)")
EVENTS_PATH: Final = re.compile(r"/apis/events\.k8s\.io/v1/namespaces/([-a-z0-9]+)/events")
INITIAL_EVENTS_END: Final = "k8s.io/initial-events-end"
LEAST_WAIT: Final = 1e-6
"""Seconds."""


class Cut(Exception):
    """The connection ends here, without the last chunk."""


@dataclass
class Answer:
    """An answer; its body ends cleanly unless it raises `Cut`."""

    status: int = 200
    headers: dict[str, str] = field(default_factory=lambda: {"Content-Type": "application/json"})
    body: AsyncIterator[bytes] | None = None


@dataclass(frozen=True)
class Request:
    """A GET request, or a POST."""

    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    method: str = "GET"
    body: bytes = b""

    @property
    def resource(self) -> str:
        return self.path.rpartition("/")[2]

    @property
    def verb(self) -> str:
        if self.method == "POST":
            return "create"
        return "watch" if "watch" in self.query else "list"


@dataclass
class Fault:
    """Changes the answers to some requests."""

    change: Callable[[Answer, Request], Awaitable[Answer]]
    resource: str = ""
    """Empty: any."""
    verb: str = ""
    """list, watch, create, or any."""
    times: int = 1

    def concerns(self, request: Request) -> bool:
        return (
            self.times > 0
            and self.resource in ("", request.resource)
            and self.verb in ("", request.verb)
        )


@dataclass
class ApiServer:
    """The answers to requests, by the objects and the faults that are injected."""

    objects: ApiObjects = field(default_factory=ApiObjects)
    events: list[Object] = field(default_factory=list)
    """Of events.k8s.io, as they were posted."""
    faults: list[Fault] = field(default_factory=list)
    requests: list[Request] = field(default_factory=list)
    tokens: set[str] = field(default_factory=lambda: {"sound"})
    forbidden: set[tuple[str, str]] = field(default_factory=set)
    """Verb and resource of what no one may."""
    has_protobuf: ClassVar[bool] = True
    """Whether it answers in protobuf where that is asked for."""
    has_watch_list: bool = True
    bookmark_seconds: float = 60.0
    requires_token: bool = True

    async def answer(self, request: Request) -> Answer:
        self.requests.append(request)
        fault = next((each for each in self.faults if each.concerns(request)), None)
        answer = self._answer(request)
        if fault is not None:
            fault.times -= 1
            answer = await fault.change(answer, request)
        if answer.status == 201:
            self.events.append(json.loads(request.body))
        accept = request.headers.get("Accept", "")
        if not (self.has_protobuf and accept.startswith(protobuf.MEDIA_TYPE)):
            return answer
        return in_protobuf(answer, is_watch=request.verb == "watch")

    def count(self, resource: str, verb: str = "") -> int:
        return sum(each.resource == resource and verb in ("", each.verb) for each in self.requests)

    def _answer(self, request: Request) -> Answer:
        is_create = request.verb == "create"
        kind = KINDS.get(request.resource)
        namespaced = NAMESPACED_PATH.fullmatch(request.path)
        path = f"{namespaced[1]}/{namespaced[3]}" if namespaced else request.path
        if not is_create and (kind is None or kind.path != path):
            return failure(404, "NotFound", "the server could not find the requested resource")
        token = request.headers.get("Authorization", "").removeprefix("Bearer ")
        if self.requires_token and token not in self.tokens:
            return failure(401, "Unauthorized", "Unauthorized")
        if is_create:
            return self._create(request)
        assert kind is not None
        if (request.verb, kind.resource) in self.forbidden:
            group = kind.version.rpartition("/")[0]
            return failure(
                403,
                "Forbidden",
                f'{kind.resource} is forbidden: User "system:kube-proxy" cannot {request.verb}'
                f' resource "{kind.resource}" in API group "{group}" at the cluster scope',
            )
        if request.verb == "watch":
            return self._watch(request, kind)
        return self._list(request, kind, namespaced[2] if namespaced else "")

    def _create(self, request: Request) -> Answer:
        """Events are all that is ever created."""
        match = EVENTS_PATH.fullmatch(request.path)
        if match is None:
            return failure(404, "NotFound", "the server could not find the requested resource")
        namespace = match[1]
        if ("create", "events") in self.forbidden:
            return failure(
                403,
                "Forbidden",
                'events.events.k8s.io is forbidden: User "system:kube-proxy" cannot create resource'
                f' "events" in API group "events.k8s.io" in the namespace "{namespace}"',
            )
        event = json.loads(request.body)
        causes = event_causes(event, namespace)
        if causes:
            return invalid_event(event, causes)
        metadata = event["metadata"]
        if any(each["metadata"] == metadata for each in self.events):
            text = f'events.events.k8s.io "{metadata["name"]}" already exists'
            return failure(409, "AlreadyExists", text)
        return Answer(201, body=_once(json.dumps(event).encode() + b"\n"))

    def _list(self, request: Request, kind: Kind, namespace: str) -> Answer:
        query = request.query
        fields = query.get("fieldSelector", "")
        if namespace:
            fields = ",".join(filter(None, (fields, f"metadata.namespace={namespace}")))
        version, found = self.objects.listed(
            kind.resource, selector(fields, query.get("labelSelector", ""))
        )
        metadata: Object = {"resourceVersion": str(version)}
        limit = int(query.get("limit", 0)) if query.get("resourceVersion") != "0" else 0
        start = 0
        if "continue" in query:
            token = json.loads(base64.b64decode(query["continue"] + "=="))
            start, metadata["resourceVersion"] = token["start"], str(token["rv"])
            if token["rv"] < self.objects.oldest:
                return failure(410, "Expired", "The provided continue parameter is too old")
        if limit and start + limit < len(found):
            token = {"v": "meta.k8s.io/v1", "rv": version, "start": start + limit}
            encoded = base64.b64encode(json.dumps(token).encode()).decode().rstrip("=")
            metadata["continue"] = encoded
        items = found[start : start + limit] if limit else found
        heads = ("kind", "apiVersion")
        document = {
            "kind": f"{kind.name}List",
            "apiVersion": kind.version,
            "metadata": metadata,
            "items": [
                {name: value for name, value in item.items() if name not in heads} for item in items
            ],
        }
        return Answer(body=_chunked(json.dumps(document).encode() + b"\n"))

    def _watch(self, request: Request, kind: Kind) -> Answer:
        query = request.query
        is_list = query.get("sendInitialEvents") == "true"
        if is_list and not self.has_watch_list:
            return failure(
                422,
                "Invalid",
                "sendInitialEvents: Forbidden: sendInitialEvents is forbidden for watch unless"
                " the WatchList feature gate is enabled",
            )
        if is_list and query.get("resourceVersionMatch") != "NotOlderThan":
            return failure(
                422,
                "Invalid",
                "resourceVersionMatch: Forbidden: sendInitialEvents requires setting"
                " resourceVersionMatch to NotOlderThan",
            )
        version = int(query.get("resourceVersion") or 0)
        if version and version < self.objects.oldest:
            text = f"too old resource version: {version} ({self.objects.oldest})"
            return Answer(body=_once(expired_event(text)))
        if version > self.objects.version:
            # As a real server does: silence to the end.
            return Answer(body=_silence(float(query.get("timeoutSeconds", 1800))))
        return Answer(body=self._events(query, kind, is_list))

    async def _events(
        self, query: Mapping[str, str], kind: Kind, is_list: bool
    ) -> AsyncIterator[bytes]:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + float(query.get("timeoutSeconds", 1800))
        selects = selector(query.get("fieldSelector", ""), query.get("labelSelector", ""))
        changes: asyncio.Queue[Change] = asyncio.Queue()

        def tell(change: Change) -> None:
            loop.call_soon_threadsafe(changes.put_nowait, change)

        start = int(query.get("resourceVersion") or 0)
        if is_list or not start:
            version, objects = self.objects.listed(kind.resource, selects)
            start = max(start, version)
            lines = b"".join(event("ADDED", each) for each in objects)
            async for chunk in _chunked(lines):
                yield chunk
            if is_list and "allowWatchBookmarks" in query:
                yield bookmark(kind, version, is_end=True)
        with self.objects.watching(kind.resource, start, tell) as past:
            for change in past:
                if line := change_event(change, selects):
                    yield line
            due = loop.time() + self.bookmark_seconds
            while (now := loop.time()) < deadline:
                try:
                    # asyncio's timers may be early by the clock's resolution. Without a least wait
                    # the rest of one would be waited for for ever where time is driven.
                    rest = max(min(due, deadline) - now, LEAST_WAIT)
                    change = await asyncio.wait_for(changes.get(), rest)
                except TimeoutError:
                    if "allowWatchBookmarks" in query and loop.time() >= due:
                        yield bookmark(kind, self.objects.version)
                        due = loop.time() + self.bookmark_seconds
                    continue
                if line := change_event(change, selects):
                    yield line


def in_protobuf(answer: Answer, is_watch: bool) -> Answer:
    """The same answer in protobuf. What is no whole JSON is no whole protobuf either: the body ends
    within an event, or within the list.
    """
    if answer.headers.get("Content-Type") != "application/json":
        return answer
    is_stream = is_watch and answer.status == 200
    kind = protobuf.MEDIA_TYPE + (";stream=watch" if is_stream else "")
    headers = {**answer.headers, "Content-Type": kind}
    return replace(answer, headers=headers, body=_reencoded(answer, is_stream))


async def _reencoded(answer: Answer, is_stream: bool) -> AsyncIterator[bytes]:
    assert answer.body is not None
    rest, cut = b"", None
    try:
        async for chunk in answer.body:
            rest += chunk
            if is_stream:
                *lines, rest = rest.split(b"\n")
                yield b"".join(protobuf.event_of(line) for line in lines)
    except Cut as error:
        cut = error
    tail = protobuf.part_of_event(rest) if is_stream else protobuf.answer_of(rest)
    async for chunk in _chunked(tail):
        yield chunk
    if cut is not None:
        raise cut


def event(kind: str, value: Object) -> bytes:
    return json.dumps({"type": kind, "object": value}).encode() + b"\n"


def change_event(change: Change, selects: Callable[[Object], bool]) -> bytes:
    """The event of a change for a watch with a selection; empty when it sees none."""
    before = change.before is not None and selects(change.before)
    after = change.after is not None and selects(change.after)
    if after and change.after is not None:
        return event("MODIFIED" if before else "ADDED", change.after)
    if before and change.before is not None:
        # The old content, with the version of the change.
        metadata = {**change.before["metadata"], "resourceVersion": str(change.version)}
        return event("DELETED", {**change.before, "metadata": metadata})
    return b""


def bookmark(kind: Kind, version: int, *, is_end: bool = False) -> bytes:
    metadata: Object = {"resourceVersion": str(version)}
    if is_end:
        metadata["annotations"] = {INITIAL_EVENTS_END: "true"}
    head = {"kind": kind.name, "apiVersion": kind.version, "metadata": metadata}
    return event("BOOKMARK", {**head, **BOOKMARKS[kind.resource]})


def status_of(code: int, reason: str, message: str) -> Object:
    return {
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Failure",
        "message": message,
        "reason": reason,
        "code": code,
    }


def event_causes(event: Object, namespace: str) -> list[Object]:
    """Why the server does not take an Event, as its validation says."""
    causes = [
        {"reason": "FieldValueRequired", "message": "Required value", "field": name}
        for name in ("eventTime",)
        if not event.get(name)
    ]
    kind = event.get("type", "")
    if kind not in ("Normal", "Warning"):
        message = f'Invalid value: "{kind}": has invalid value: {kind}'
        causes.append({"reason": "FieldValueInvalid", "message": message, "field": "type"})
    if causes:
        return causes
    words = ("reportingController", "reportingInstance", "action", "reason")
    causes += [
        {"reason": "FieldValueRequired", "message": "Required value", "field": name}
        for name in words
        if not event.get(name)
    ]
    for name, most in (*((word, 128) for word in words), ("note", 1024)):
        if len(event.get(name, "").encode()) > most:
            message = f"Invalid value: can have at most {most} characters"
            causes.append({"reason": "FieldValueInvalid", "message": message, "field": name})
    regarding = event.get("regarding", {}).get("namespace") or "default"
    if not event["metadata"].get("namespace") == regarding == namespace:
        message = "Invalid value: does not match event.namespace"
        causes.append(
            {"reason": "FieldValueInvalid", "message": message, "field": "regarding.namespace"}
        )
    if not re.fullmatch(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?", event["metadata"]["name"]):
        message = "Invalid value: a lowercase RFC 1123 subdomain"
        causes.append({"reason": "FieldValueInvalid", "message": message, "field": "metadata.name"})
    return causes


def invalid_event(event: Object, causes: list[Object]) -> Answer:
    name = event["metadata"]["name"]
    reasons = ", ".join(f"{cause['field']}: {cause['message']}" for cause in causes)
    status = status_of(422, "Invalid", f'Event "{name}" is invalid: [{reasons}]')
    status["details"] = {"name": name, "kind": "Event", "causes": causes}
    return Answer(422, body=_once(json.dumps(status).encode() + b"\n"))


def expired_event(message: str) -> bytes:
    return event("ERROR", status_of(410, "Expired", message))


def failure(code: int, reason: str, message: str) -> Answer:
    body = json.dumps(status_of(code, reason, message)).encode() + b"\n"
    return Answer(code, body=_once(body))


def with_body(answer: Answer, body: AsyncIterator[bytes]) -> Answer:
    return replace(answer, body=body)


async def _once(body: bytes) -> AsyncIterator[bytes]:
    yield body


async def _silence(seconds: float) -> AsyncIterator[bytes]:
    await asyncio.sleep(seconds)
    return
    yield b""


async def _chunked(body: bytes) -> AsyncIterator[bytes]:
    """Chunk borders fall anywhere, as the server's do."""
    for start in range(0, len(body), CHUNK):
        yield body[start : start + CHUNK]
