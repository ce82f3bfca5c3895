"""Objects in buckets: Google Cloud Storage, S3 and what speaks its protocol, through the package obstore.

Credentials are those of the environment (`AWS_ACCESS_KEY_ID` and its like, `GOOGLE_APPLICATION_CREDENTIALS`, the login
of Google's tools). Without any, requests go unsigned, as public buckets want it.
"""

from __future__ import annotations

import os
import posixpath
import re
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import obstore
from obstore import exceptions
from obstore.store import GCSStore, S3Store

from fascicle.volumes.base import VolumeError
from fascicle.volumes.objects import Access, Forbidden, ObjectFolder, Piece, Span, TooShort, gunzipped
from fascicle.volumes.persistence import Passing, RefusalJudge, Refused, persistently

CONNECT_TIMEOUT_S = 10.0
DEFAULT_REGION = "us-east-1"
S3_HOST = "https://{bucket}.s3.amazonaws.com"
_AWS_SIGNS = (
    "AWS_ACCESS_KEY_ID", "AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
)  # fmt: skip
_GOOGLE_SIGNS = (
    "GOOGLE_APPLICATION_CREDENTIALS", "GOOGLE_SERVICE_ACCOUNT", "GOOGLE_SERVICE_ACCOUNT_PATH",
    "GOOGLE_SERVICE_ACCOUNT_KEY",
)  # fmt: skip
_GOOGLE_LOGIN = Path(".config/gcloud/application_default_credentials.json")
_STATUS = re.compile(r"status code: (\d{3})\b")


class BucketFolder(ObjectFolder):
    """Objects under `gs://bucket/...`, `s3://bucket/...`, `vast://host/bucket/...` or `vast+http://host/bucket/...`."""

    def __init__(self, address: str, access: Access) -> None:
        self.address = address.rstrip("/")
        self._access = access
        self._judge = RefusalJudge()
        scheme, _, rest = self.address.partition("://")
        host = ""
        if scheme in ("vast", "vast+http"):
            host, _, rest = rest.partition("/")
        bucket, _, self._prefix = rest.partition("/")
        if not bucket:
            raise VolumeError(f"{address} names no bucket")
        try:
            self.store = self._google(bucket) if scheme == "gs" else self._s3(bucket, scheme, host)
        except Exception as error:
            raise VolumeError(f"{address} cannot be opened: {error}") from None

    def fetch(self, name: str, span: Span | None = None) -> Piece | None:
        if span is not None and span[0] >= span[1]:
            raise VolumeError(f"bytes {span[0]} to {span[1]} of {self.path(name)} are none")
        try:
            piece = persistently(self._access.attempts, self.path(name), lambda: self._try(name, span))
        except Refused as refusal:
            if self._judge.is_absent(self._can_read):
                return None
            raise Forbidden(f"{self.path(name)} cannot be read: {refusal}") from None
        if piece is not None:
            self._judge.saw(name)
        return piece

    def exists(self, name: str) -> bool:
        def head() -> bool:
            try:
                obstore.head(self.store, self.key(name))
            except (FileNotFoundError, exceptions.NotFoundError):
                return False
            except Exception as error:
                raise self.judged(error, name) from None
            return True

        try:
            return persistently(self._access.attempts, self.path(name), head)
        except Refused as refusal:
            if self._judge.is_absent(self._can_read):
                return False
            raise Forbidden(f"{self.path(name)} cannot be read: {refusal}") from None

    def measure(self, name: str) -> tuple[int, str] | None:
        def head() -> tuple[int, str] | None:
            try:
                meta = obstore.head(self.store, self.key(name))
            except (FileNotFoundError, exceptions.NotFoundError):
                return None
            except Exception as error:
                raise self.judged(error, name) from None
            return int(meta["size"]), str(meta.get("version") or meta.get("e_tag") or "")

        try:
            return persistently(self._access.attempts, self.path(name), head)
        except Refused as refusal:
            if self._judge.is_absent(self._can_read):
                return None
            raise Forbidden(f"{self.path(name)} cannot be read: {refusal}") from None

    def names(self, prefix: str = "") -> Iterator[str]:
        # stores list by whole parts of a path, so what is asked for is the folder of the prefix
        folder = f"{self._prefix}/{prefix}".rpartition("/")[0].strip("/")
        start = f"{self._prefix}/" if self._prefix else ""
        batches: Iterator[Any] | None = None
        last: str | None = None

        def more() -> Any:
            """The next names; after an error those that follow the last one."""
            nonlocal batches
            try:
                if batches is None:
                    batches = iter(obstore.list(self.store, folder or None, offset=last))
                return next(batches, None)
            except exceptions.BaseError as error:
                batches = None
                raise self.judged(error, prefix) from None

        while True:
            try:
                batch = persistently(self._access.attempts, self.path(prefix), more, "listed")
            except Refused as refusal:
                raise VolumeError(f"{self.path(prefix)} cannot be listed: {refusal}") from None
            if batch is None:
                return
            for item in batch:
                last = str(item["path"])
                name = last.removeprefix(start)
                if name.startswith(prefix):
                    yield name

    def _try(self, name: str, span: Span | None) -> Piece | None:
        try:
            options: Any = {} if span is None else {"range": span}
            answer = obstore.get(self.store, self.key(name), options=options)
            data = bytes(answer.bytes())
            meta = answer.meta
            coding = answer.attributes.get("Content-Encoding", "")
        except (FileNotFoundError, exceptions.NotFoundError):
            return None
        except Exception as error:
            raise self.judged(error, name) from None
        stamp = str(meta.get("version") or meta.get("e_tag") or "")
        if span is not None:
            if len(data) != span[1] - span[0]:
                raise TooShort(f"{self.path(name)} ends before byte {span[1]}")
        elif str(coding).lower() == "gzip" and data[:2] == b"\x1f\x8b":
            try:
                data = gunzipped(data)
            except Exception as error:
                raise Passing(f"the answer is damaged: {error}") from None
        return Piece(data, stamp)

    def judged(self, error: Exception, name: str) -> Exception:
        """What an error of the store means."""
        text = _reason(error)
        if isinstance(error, (exceptions.PermissionDeniedError, exceptions.UnauthenticatedError, PermissionError)):
            return Refused(text)
        found = _STATUS.search(text)
        status = int(found[1]) if found else 0
        if status == 416:
            return TooShort(f"{self.path(name)} ends before the bytes that were asked for")
        final = 300 <= status < 500 and status not in (408, 429)
        if final or isinstance(error, (exceptions.InvalidPathError, exceptions.NotSupportedError, ValueError)):
            return VolumeError(f"{self.path(name)} cannot be read: {text}")
        return Passing(text)

    def _can_read(self, name: str) -> bool:
        try:
            return self._try(name, None) is not None
        except (Passing, Refused, VolumeError):
            return False

    def key(self, name: str) -> str:
        """An object's name in the bucket."""
        return posixpath.normpath(f"{self._prefix}/{name}").lstrip("/")

    # -- opening

    def _options(self, endpoint: str) -> dict[str, Any]:
        timeout = timedelta(seconds=self._access.timeout_s)
        connect = min(timeout, timedelta(seconds=CONNECT_TIMEOUT_S))
        client: dict[str, Any] = {"timeout": timeout, "connect_timeout": connect, "user_agent": "fascicle"}
        if endpoint.startswith("http://"):
            client["allow_http"] = True
        # tries are counted here, so that one rule holds for all kinds of stores
        return {"client_options": client, "retry_config": {"max_retries": 0, "retry_timeout": timeout}}

    def _google(self, bucket: str) -> Any:
        signed = any(os.environ.get(sign) for sign in _GOOGLE_SIGNS) or (Path.home() / _GOOGLE_LOGIN).is_file()
        anonymous = not signed if self._access.anonymous is None else self._access.anonymous
        config: dict[str, Any] = {"skip_signature": True} if anonymous else {}
        endpoint = self._access.endpoint
        if endpoint:
            config["base_url"] = endpoint
        return GCSStore(bucket, config=config, **self._options(endpoint))  # type: ignore[arg-type]

    def _s3(self, bucket: str, scheme: str, host: str) -> Any:
        endpoint = self._access.endpoint or os.environ.get("AWS_ENDPOINT_URL") or os.environ.get("AWS_ENDPOINT") or ""
        if host:
            endpoint = f"{'http' if scheme == 'vast+http' else 'https'}://{host}"
        signed = any(os.environ.get(sign) for sign in _AWS_SIGNS)
        anonymous = not signed if self._access.anonymous is None else self._access.anonymous
        region = self._access.region or os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or ""
        if not region:
            region = DEFAULT_REGION if endpoint else self._region_of(bucket)
        config: dict[str, Any] = {"region": region, "virtual_hosted_style_request": not endpoint}
        if anonymous:
            config["skip_signature"] = True
        if endpoint:
            config["endpoint"] = endpoint
        return S3Store(bucket, config=config, **self._options(endpoint))  # type: ignore[arg-type]

    def _region_of(self, bucket: str) -> str:
        """Where a bucket says that it is; requests to another region are turned away."""
        import urllib3

        url = (S3_HOST if "." not in bucket else "https://s3.amazonaws.com/{bucket}").format(bucket=bucket)
        timeout = min(CONNECT_TIMEOUT_S, self._access.timeout_s)
        try:
            answer = urllib3.request("HEAD", url, retries=False, timeout=timeout, redirect=False)
        except urllib3.exceptions.HTTPError:
            return DEFAULT_REGION
        return str(answer.headers.get("x-amz-bucket-region") or DEFAULT_REGION)


def _reason(error: Exception) -> str:
    """The first line of what a store says, without the address of the service."""
    lines = str(error).strip().splitlines()
    return (lines[0] if lines else type(error).__name__)[:300]
