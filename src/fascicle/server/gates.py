"""Who may do what: block list, administrators, read-only servers, locked versions."""

from __future__ import annotations

import hmac
import re
from pathlib import Path

from fascicle.config import Settings, SettingsError
from fascicle.errors import BadRequest, Blocked
from fascicle.server.requests import Request
from fascicle.versions.model import Instance, Node


class BlockList:
    """Users and addresses that are refused."""

    def __init__(self, path: Path | None = None) -> None:
        self.path = path
        self.users: dict[str, str] = {}
        self.addresses: list[tuple[re.Pattern[str], str]] = []
        if path is not None:
            self.read()

    def __bool__(self) -> bool:
        return bool(self.users or self.addresses)

    def read(self) -> None:
        """Read the file anew. Raises SettingsError and keeps the old list if it makes no sense."""
        assert self.path is not None
        users, addresses = {}, []
        try:
            lines = self.path.read_text().splitlines()
        except OSError as error:
            raise SettingsError(f"block list {self.path} cannot be read: {error.strerror}") from None
        for number, line in enumerate(lines, 1):
            line = line.strip()
            if not line or line.startswith("#"):
                continue
            who, _, note = line.partition(",")
            kind, equals, value = who.partition("=")
            if not equals or kind not in ("u", "ip") or not value:
                raise SettingsError(f"block list {self.path}, line {number}: expected u=<user> or ip=<address>")
            if kind == "u":
                users[value] = note
            else:
                pattern = re.escape(value).replace(r"\*", r"[^.:]*")
                addresses.append((re.compile(pattern), note))
        self.users, self.addresses = users, addresses

    def check(self, request: Request) -> None:
        """Raises Blocked."""
        if request.user in self.users:
            raise Blocked(f'User "{request.user}" is blocked: {self.users[request.user]}')
        if self.addresses:
            address = request.client_address()
            for pattern, note in self.addresses:
                if pattern.fullmatch(address):
                    raise Blocked(f'IP "{address}" is blocked: {note}')


class Gates:
    """The rules of one server."""

    def __init__(self, settings: Settings) -> None:
        self.token = settings.admin_token.encode()
        self.readonly = settings.readonly
        self.full_write = settings.full_write
        path = settings.server.blockListFile
        self.blocked = BlockList(Path(path) if path else None)

    def is_admin(self, request: Request) -> bool:
        """Whether a request carries the administrators' token."""
        given = request.query.get("admintoken")
        if not given or not self.token:
            return False
        return hmac.compare_digest(given.encode("utf-8", "replace"), self.token)

    def check_mode(self, request: Request) -> None:
        """A read-only server only answers questions. Raises BadRequest."""
        if self.readonly and not request.reads and not request.admin:
            raise BadRequest("Server in read-only mode and will only accept GET and HEAD requests")

    def require_admin(self, request: Request, what: str) -> None:
        """Raises BadRequest unless the request is an administrator's."""
        if not request.admin:
            raise BadRequest(f"{what} requires admin privileges (admintoken or DSG admin)")

    def require_owner(self, request: Request, what: str) -> None:
        """For making and deleting repos: administrators only, or anybody on a server without a token."""
        if self.readonly or (self.token and not request.admin):
            raise BadRequest(
                f"{what} requires admin privileges (admintoken or DSG admin) on a server that is not read-only"
            )

    def check_node_open(self, request: Request, node: Node) -> None:
        """Raises BadRequest if a version is locked for this request."""
        if node.locked and not request.admin and not self.full_write:
            raise BadRequest(f"Cannot do {request.method.lower()} on locked node {node.uuid}")

    def check_instance_open(self, request: Request, node: Node, instance: Instance, keyword: str) -> None:
        """Raises BadRequest if an instance cannot be changed at a version by this request."""
        if node.locked and instance.versioned and not request.admin and not self.full_write:
            raise BadRequest(f'Cannot do {request.method} on endpoint "{keyword}" of locked node {node.uuid}')
