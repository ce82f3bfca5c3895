"""The ASGI application: finds what answers a request, runs it where it belongs, sends the answer.

Small reads run in the event loop, and so do heavy ones whose answer is in memory (`Route.at_once`). Other heavy ones,
and answers that are streamed, run in a few threads that yield to it. Changes go to the store's writer thread, which
commits all that is waiting together; the loop is woken once for all of them.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import Executor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from fascicle.config import Settings
from fascicle.datatypes.base import Answer, Call, Commit, Reply, Route, Work
from fascicle.datatypes.change import MIN_MUTATION_ID, StoreChange
from fascicle.datatypes.elsewhere import SETTING, Elsewhere, is_elsewhere
from fascicle.errors import BadRequest, FascicleError, Unavailable
from fascicle.server import (
    answers,
    catalog_dispatch,
    instance_creation,
    instance_routes,
    precomputed_views,
    server_routes,
)
from fascicle.server.access_log import AccessLog
from fascicle.server.admission import ColdPages, Pools, Throttle
from fascicle.server.bodies import BodyBridge, BodyLimits, Receive
from fascicle.server.catalog_calls import Edit
from fascicle.server.connection import PARTS, Exchange
from fascicle.server.gates import Gates
from fascicle.server.handover import Handover
from fascicle.server.metrics import Metrics
from fascicle.server.pooled import Pooled, Rest, begun, stream
from fascicle.server.requests import Request
from fascicle.server.sweeper import Sweeper
from fascicle.server.volume_instances import VolumeInstances
from fascicle.store.base import Outcome, ReadTransaction, Store, WriteTransaction
from fascicle.versions.catalog import Catalog, CatalogCache, CatalogEditor
from fascicle.versions.model import Instance, Node, Repo
from fascicle.versions.resolution import Ancestry

Send = Callable[[dict[str, Any]], Awaitable[None]]
Reading = AbstractContextManager[ReadTransaction]

log = logging.getLogger(__name__)

CHANGING = frozenset({"POST", "PUT", "DELETE", "PATCH"})


KNOWN_PLANS = 4096


@dataclass(slots=True)
class Plan:
    """What will answer a request on an instance."""

    catalog: Catalog
    sequence: int
    """That of the catalog when the plan was made."""
    node: Node
    instance: Instance
    ancestry: Ancestry
    route: Route
    handler: Callable[[Call], Reply]
    changes: bool
    """The instance must be open for this request."""


class Application:
    """One server process over one store."""

    def __init__(self, store: Store, settings: Settings) -> None:
        self.store = store
        self.settings = settings
        self.catalogs = CatalogCache(store)
        self.gates = Gates(settings)
        self.pools = Pools(settings.server.threads)
        self.cold = ColdPages()
        self.throttle = Throttle(settings.server.maxThrottledOps)
        self.metrics = Metrics()
        self.access_log = AccessLog(settings.logging.requests)
        self.limits = BodyLimits(settings.server.maxBodyBytes, settings.server.bodyTimeoutSeconds)
        self.headers = answers.CommonHeaders(settings.server.corsDomains, settings.server.allowTiming)
        host, port = settings.address()
        self.host = settings.server.host or f"{host}:{port}"
        kept = settings.volume_cache
        folder = Path(kept.path) if kept.path else store.path and store.path / "chunks"
        self.elsewhere = Elsewhere(settings.grid_stores, folder, kept.size << 20)
        self.datatype_settings: dict[str, Any] = {
            "allow_labelmap_split": settings.server.allowLabelmapSplit,
            "admin_configured": bool(settings.admin_token),
            "readonly": settings.readonly,
            "full_write": settings.full_write,
            MIN_MUTATION_ID: settings.server.min_mutation_id_start,
            SETTING: self.elsewhere,
            **instance_creation.server_settings(settings),
        }
        self.closing = False
        self.kernels_ready = True
        """False while kernels may have to be compiled first, which is nothing for the event loop."""
        self.handover = Handover(store)
        self._sweeper = Sweeper(store, self.catalogs)
        self._volumes = VolumeInstances(store, self.catalogs, self.elsewhere, self.datatype_settings)
        self._plans: dict[tuple[str, str, str, str], Plan] = {}
        self._precomputed = precomputed_views.PrecomputedViews(self)
        self._pooled = Pooled(self)

    # -- ASGI

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await self._http(scope, receive, send)
        elif scope["type"] == "lifespan":
            await self._lifespan(receive, send)
        else:
            raise RuntimeError(f"connections of type {scope['type']!r} are not served")

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        while True:
            message = await receive()
            if message["type"] == "lifespan.startup":
                if not self.settings.readonly:
                    self.start_sweeping()
                    self._volumes.start()
                await send({"type": "lifespan.startup.complete"})
            else:
                await self.close()
                await send({"type": "lifespan.shutdown.complete"})
                return

    async def close(self) -> None:
        """Stop background work and let go of the threads."""
        self.closing = True
        self._sweeper.close()
        self._volumes.close()
        self.pools.close()
        self.elsewhere.close()
        self.access_log.flush()

    async def _http(self, scope: Any, receive: Receive, send: Send) -> None:
        request = Request.of_scope(scope)
        sending = answers.Sending(send, request, self.headers, PARTS in scope.get("extensions", ()))
        self.metrics.running += 1
        kind = keyword = ""
        try:
            segments = request.segments
            if len(segments) > 3 and segments[0] == precomputed_views.ROOT:
                kind = precomputed_views.ROOT
                if request.method == "OPTIONS":
                    await sending.options()
                else:
                    self._pass_gates(request)
                    await self._precomputed.answer(request, sending)
            elif not segments or segments[0] != "api":
                kind = "static"
                await self._static(request, sending)
            elif request.method == "OPTIONS":
                kind = "options"
                await sending.options()
            else:
                kind = segments[1] if len(segments) > 1 else ""
                if kind not in server_routes.SILENT:
                    self._pass_gates(request)
                if kind == "node" and len(segments) > 4:
                    keyword = segments[4]
                    await self._instance_request(request, receive, sending)
                elif kind in ("node", "repo", "repos"):
                    keyword = segments[3] if len(segments) > 3 else ""
                    await self._catalog_request(request, receive, sending)
                else:
                    keyword = segments[2] if kind == "server" and len(segments) > 2 else ""
                    await self._server_request(request, receive, sending)
        except FascicleError as error:
            await sending.error(error)
        except asyncio.CancelledError:
            raise
        except Exception:
            log.exception("%s %s failed", request.method, request.path)
            await sending.failure()
        finally:
            self.metrics.running -= 1
            self.account(kind, keyword, request, sending.status, sending.size)

    def account(self, kind: str, keyword: str, request: Request, status: int, size: int) -> None:
        """Count an answered request and log it."""
        seconds = time.perf_counter() - request.started
        if status in (400, 404):
            keyword = ""  # what clients make up must not become a name of a metric
        self.metrics.count(kind, keyword, request.method, status, seconds, size)
        if request.user:
            self.metrics.count_user(request.user, seconds)
        self.access_log.add(request, status, seconds, size)

    # -- answers without a task

    def quick(self, request: Request, body: bytes, exchange: Exchange) -> bool:
        """Answer a request on an instance or version at once, start the change it asks for, or let a thread answer it.

        False if it needs a task.
        """
        segments = request.segments
        if len(segments) < 4 or segments[1] != "node" or segments[0] != "api" or request.method == "OPTIONS":
            return False
        if self.cold.now(request.started):
            return False
        try:
            self._pass_gates(request)
            if len(segments) == 4:
                return self._quick_on_version(request, body, exchange)
            with self.store.read() as txn:
                plan = self.plan(request, txn)
                route = plan.route
                if (route.streams_body and request.has_body) or (route.throttled and "throttle" in request.query):
                    return False
                reply = self._reply_now(request, plan, txn, body)
            if reply is None:
                self._pooled.begin(request, plan, body, exchange)
                return True
            if isinstance(reply, Commit):
                self.submit_quick(request, plan, reply, exchange)
                return True
            if not isinstance(reply.body, (bytes, memoryview)):
                return False
        except Exception as error:
            reply = answers.of_raised(error, request)
        self.write_quick(request, reply, exchange)
        self.cold.watch(request.started)
        return True

    def _reply_now(self, request: Request, plan: Plan, txn: ReadTransaction, body: bytes) -> Reply | None:
        """What the event loop itself can reply to a request, or None."""
        route = plan.route
        if route.work is Work.SMALL:
            return plan.handler(self._call(request, plan, txn, body))
        if route.at_once is None or request.method != "GET" or not self.kernels_ready:
            return None
        if is_elsewhere(plan.instance.properties):
            return None
        return route.at_once(self._call(request, plan, txn, body))

    def write_quick(self, request: Request, answer: Answer, exchange: Exchange) -> None:
        body: Any = answer.body
        size = sum(map(len, body)) if type(body) is list else memoryview(body).nbytes
        head = answers.whole_head(request, answer, self.headers, size)
        exchange.write(answer.status, head, b"" if request.method == "HEAD" else body)
        segments = request.segments
        self.account("node", segments[4] if len(segments) > 4 else segments[3], request, answer.status, size)

    def _quick_on_version(self, request: Request, body: bytes, exchange: Exchange) -> bool:
        self.limits.check_size(len(body))
        reply = self._run_catalog(request, body)
        if isinstance(reply, Edit):
            finish = partial(self._finish_quick, request, reply.answer, exchange)
            self.handover.submit(exchange.loop, self._edit_of(reply), finish)
        else:
            self.write_quick(request, reply, exchange)
        return True

    def submit_quick(self, request: Request, plan: Plan, commit: Commit, exchange: Exchange) -> None:
        """Make a change, and answer once it is durable."""
        finish = partial(self._finish_quick, request, commit.answer, exchange)
        self.handover.submit(exchange.loop, self._change(request, plan, commit), finish)

    def _finish_quick(
        self, request: Request, answered: Callable[[Any], Answer], exchange: Exchange, outcome: Outcome
    ) -> None:
        error = outcome.error
        if error is None:
            try:
                answer = answered(outcome.result)
                if not isinstance(answer.body, (bytes, memoryview)):
                    answer.body = b"".join(answer.body)
            except Exception as raised:
                error = raised
        if error is not None:
            answer = answers.of_raised(error, request)
        self.write_quick(request, answer, exchange)

    def _pass_gates(self, request: Request) -> None:
        """The checks that come before all others."""
        if self.closing:
            raise Unavailable("DVID server is unavailable.")
        gates = self.gates
        if gates.blocked:
            gates.blocked.check(request)
        if request.query and "admintoken" in request.query:
            request.admin = gates.is_admin(request)
            if request.admin:
                log.info("admin request from %s: %s %s", request.client_address(), request.method, request.path)

    async def _static(self, request: Request, sending: answers.Sending) -> None:
        if request.path == "/metrics" and request.reads:
            with self.store.read() as txn:
                number = txn.number
            statistics = await self._in_pool(self.store.statistics)
            text = self.metrics.text(statistics, number, self.elsewhere.figures())
            await sending.answer(Answer(text.encode(), "text/plain; version=0.0.4; charset=utf-8"))
            return
        answer = await self._in_pool(answers.page, request.path) if request.reads else None
        await sending.answer(answer or Answer.text("404 page not found\n", 404))

    # -- requests on instances

    def plan(self, request: Request, txn: ReadTransaction) -> Plan:
        """Find what answers a request, and check that it may. Raises BadRequest."""
        segments = request.segments
        catalog = self.catalogs.at(txn)
        key = (segments[2], segments[3], segments[4], request.method)
        plan = self._plans.get(key)
        if plan is None or plan.sequence != catalog.sequence:
            return self._made_plan(request, catalog, key)
        if plan.changes:
            self._check_open(request, plan.node, plan.instance)
        return plan

    def _made_plan(self, request: Request, catalog: Catalog, key: tuple[str, str, str, str]) -> Plan:
        sequence = catalog.sequence  # taken first: whoever brings the catalog up to date meanwhile raises it last
        reference, name, keyword, method = key
        node = catalog.resolve(reference)
        instance = catalog.instance(node.repo_id, name)
        route = instance_routes.table(instance.typename).get(keyword)
        asks = route is not None and route.reads_by_post and method == "POST"
        changes = method in CHANGING and not asks
        if changes:
            self._check_open(request, node, instance)
        if route is None:
            raise instance_routes.unknown_keyword(request.path, instance.name, instance.typename, self.host)
        version = node.id if instance.versioned else catalog.repo(node.repo_id).root_version
        handler = instance_routes.handler(route, method)
        plan = Plan(catalog, sequence, node, instance, catalog.ancestry(version), route, handler, changes)
        if len(self._plans) >= KNOWN_PLANS:
            self._plans = {}
        self._plans[key] = plan
        return plan

    def _check_open(self, request: Request, node: Node, instance: Instance) -> None:
        """The checks before a change. Raises BadRequest."""
        keyword = request.segments[4]
        if self.gates.readonly:
            self.gates.check_mode(request)
        if keyword != "blobstore":
            self.gates.check_instance_open(request, node, instance, keyword)

    def _call(self, request: Request, plan: Plan, txn: ReadTransaction, body: bytes, pieces: Any = None) -> Call:
        segments = request.segments
        return Call(
            request.method,
            segments[4],
            segments[5:],
            request.query,
            request.headers,
            request.path,
            self.store,
            txn,
            plan.catalog,
            plan.instance,
            plan.node,
            plan.ancestry,
            body,
            request.user,
            request.app,
            request.admin,
            self.datatype_settings,
            pieces,
        )

    async def _instance_request(self, request: Request, receive: Receive, sending: answers.Sending) -> None:
        with self.store.read() as txn:
            plan = self.plan(request, txn)
        route = plan.route
        pool = self.pools.elsewhere if is_elsewhere(plan.instance.properties) else self.pools.heavy
        slot = self.throttle.slot(request) if route.throttled else None
        with slot or nullcontext():
            await self._answer_instance(request, route, pool, receive, sending)

    async def _answer_instance(
        self, request: Request, route: Route, pool: Executor, receive: Receive, sending: answers.Sending
    ) -> None:
        """Read the body, or let a thread read it; run the handler; send its answer or make its change.

        `pool` has the threads for what takes time.
        """
        loop = asyncio.get_running_loop()
        if route.streams_body and request.has_body:
            bridge = BodyBridge(self.limits, receive)
            feeding = asyncio.create_task(bridge.feed())
            work = partial(self.begun, request, b"", bridge.pieces())
            try:
                plan, reply, rest = await loop.run_in_executor(self.pools.uploads, work)
            finally:
                feeding.cancel()
        else:
            body = await self.limits.read(receive, request.content_length) if request.has_body else b""
            cold = self.cold.now(time.perf_counter())
            if route.work is Work.SMALL and not cold:
                plan, reply, reading = self._run(request, body, None)
                rest = None
                if reading is not None:
                    assert isinstance(reply, Answer)
                    rest = await loop.run_in_executor(pool, begun, reply, reading)
            else:
                work = partial(self.begun, request, body, None)
                chosen = self.pools.cold if route.work is Work.SMALL else pool
                plan, reply, rest = await loop.run_in_executor(chosen, work)
        if isinstance(reply, Commit):
            result = await self.submit(self._change(request, plan, reply))
            await sending.answer(reply.answer(result))
        elif rest is not None:
            await stream(reply, rest, loop.run_in_executor, pool, sending)
        else:
            await sending.answer(reply)

    def _run(self, request: Request, body: bytes, pieces: Iterator[bytes] | None) -> tuple[Plan, Reply, Reading | None]:
        """In a thread: the reply, and the snapshot if it is still needed for a streamed answer."""
        reading: Reading | None = self.store.read()
        assert reading is not None
        txn = reading.__enter__()
        try:
            plan = self.plan(request, txn)
            call = self._call(request, plan, txn, body, pieces)
            call._commit = lambda apply: self.store.write(self._change(request, plan, Commit(apply)))
            reply = plan.handler(call)
            if isinstance(reply, Answer) and not isinstance(reply.body, (bytes, memoryview)):
                kept, reading = reading, None
                return plan, reply, kept
            return plan, reply, None
        finally:
            if reading is not None:
                reading.__exit__(None, None, None)

    def begun(self, request: Request, body: bytes, pieces: Iterator[bytes] | None) -> tuple[Plan, Reply, Rest | None]:
        """In a thread: the reply, and what is still to come of it."""
        plan, reply, reading = self._run(request, body, pieces)
        if reading is None:
            return plan, reply, None
        assert isinstance(reply, Answer)
        return plan, reply, begun(reply, reading)

    def _in_pool(self, work: Callable[..., Any], *args: Any) -> asyncio.Future[Any]:
        return asyncio.get_running_loop().run_in_executor(self.pools.heavy, work, *args)

    # -- changes

    def _change(self, request: Request, plan: Plan, commit: Commit) -> Callable[[WriteTransaction], Any]:
        """A change for the store; that it is allowed is checked again inside of the transaction."""
        keyword = request.segments[4]
        gated = keyword != "blobstore" and not (plan.route.reads_by_post and request.method == "POST")
        instance_id, version = plan.instance.id, plan.node.id

        def change(txn: WriteTransaction) -> Any:
            editor = CatalogEditor(txn, self.catalogs)
            node = editor.catalog.node(version)
            instance = editor.catalog.instance_by_id(instance_id)
            if gated:
                self.gates.check_instance_open(request, node, instance, keyword)
            return commit.apply(
                StoreChange(editor, instance, node, user=request.user, app=request.app, settings=self.datatype_settings)
            )

        return change

    def _edit_of(self, edit: Edit) -> Callable[[WriteTransaction], Any]:
        return lambda txn: edit.apply(CatalogEditor(txn, self.catalogs))

    async def edit(self, edit: Edit) -> Answer:
        """Change the catalog and answer once that is durable."""
        result = await self.submit(self._edit_of(edit))
        if isinstance(result, Repo):
            self._volumes.start()
        return edit.answer(result)

    def submit(self, change: Callable[[WriteTransaction], Any]) -> asyncio.Future[Any]:
        """Run a change in a write transaction; the future is done once it is durable."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Any] = loop.create_future()
        self.handover.submit(loop, change, partial(_settle, future))
        return future

    def start_sweeping(self, _: Any = None) -> Answer:
        """Remove the data of deleted instances in the background."""
        self._sweeper.start()
        return Answer()

    # -- requests on repos, versions and the server

    async def _catalog_request(self, request: Request, receive: Receive, sending: answers.Sending) -> None:
        body = await self.limits.read(receive, request.content_length) if request.has_body else b""
        if catalog_dispatch.is_heavy(request):
            reply = await self._in_pool(self._run_catalog, request, body)
        else:
            reply = self._run_catalog(request, body)
        await sending.answer(await self.edit(reply) if isinstance(reply, Edit) else reply)

    def _run_catalog(self, request: Request, body: bytes) -> Answer | Edit:
        with self.store.read() as txn:
            return catalog_dispatch.reply(self, request, txn, body)

    async def _server_request(self, request: Request, receive: Receive, sending: answers.Sending) -> None:
        handlers = server_routes.handlers(request.segments)
        if handlers is None:
            await sending.answer(Answer.text("404 page not found\n", 404))
            return
        handler = handlers.get("GET" if request.method == "HEAD" else request.method)
        if handler is None:
            raise BadRequest(f"{request.method} is not supported here, only {' and '.join(handlers)}")
        body = await self.limits.read(receive, request.content_length) if request.has_body else b""
        await sending.answer(handler(self, request, body))


def _settle(future: asyncio.Future[Any], outcome: Outcome) -> None:
    if not future.cancelled():
        if outcome.error is not None:
            future.set_exception(outcome.error)
        else:
            future.set_result(outcome.result)
