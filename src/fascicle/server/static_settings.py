"""What other web servers and buckets need to be told, so that viewers can read what they hold. Texts only.

Sources: https://nginx.org/en/docs/ (core, gzip_static, gunzip, headers), https://docs.aws.amazon.com/AmazonS3/latest/userguide/cors.html,
https://docs.aws.amazon.com/AmazonS3/latest/userguide/example-bucket-policies.html, https://cloud.google.com/storage/docs/cors-configurations
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

from fascicle.errors import BadRequest

EXPOSED = ("Content-Range", "Content-Encoding", "Content-Length", "Accept-Ranges", "ETag")
_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]", re.ASCII)
_SPAN = r"-?\d+--?\d+"

_NGINX = r"""# Serves @ROOT@ to Neuroglancer, CloudVolume and TensorStore. Written by `fascicle host --nginx`.
# Needs the modules gzip_static and gunzip, which packages of nginx have.
server {
    listen @LISTEN@;
    root "@ROOT@";
    etag on;
    gzip off;
    types { application/json json; text/html html; }
    default_type application/octet-stream;

    # On every answer, errors too: a viewer takes what it may not read for missing.
    add_header Access-Control-Allow-Origin "@ORIGIN@" always;
    add_header Access-Control-Allow-Methods "GET, HEAD, OPTIONS" always;
    add_header Access-Control-Allow-Headers "Range, Authorization, Content-Type" always;
    add_header Access-Control-Expose-Headers "@EXPOSED@" always;
    add_header Access-Control-Max-Age 86400 always;
    if ($request_method = OPTIONS) { return 204; }
    if (-d $request_filename) { return 404; }  # never a redirect to a name that ends in /

    # `X` may lie there as `X.gz`; who does not take gzip gets it unpacked.
    location / {
        gzip_static always;
        gunzip on;
    }

    # Shards and multi-resolution meshes are read by ranges: no compression around them.
    location ~ "(\.shard|/\d+)$" {
        gzip_static off;
        error_page 404 = @packed;
    }
    location @packed {
        gzip_static always;
        gunzip on;
    }

    location ~ "/(info|provenance)$" {
        default_type application/json;
        gzip_static always;
        gunzip on;
        expires -1;
    }

    # Chunks in folders: 0-64/0-64/0-64 is what 0-64_0-64_0-64 asks for.
    location ~ "/@SPAN@_@SPAN@_@SPAN@$" {
        gzip_static always;
        gunzip on;
        error_page 404 = @deep;
    }
    location @deep {
        gzip_static always;
        gunzip on;
        rewrite "^(.*)/(@SPAN@)_(@SPAN@)_(@SPAN@)$" "$1/$2/$3/$4" break;
    }

    # Manifests of meshes, which filesystems without colons name otherwise.
    location ~ "^(?<folder>.*)/(?<body>\d+):0$" {
        default_type application/json;
        try_files $uri $folder/$body.json $folder/$body =404;
    }
}
"""


def nginx(root: str, listen: str = "80", origin: str = "*") -> str:
    """A `server` block for a folder. `listen` is a port or `HOST:PORT`. Raises BadRequest for what would break it."""
    for what, text in (("the folder", root), ("the address", listen), ("the origin", origin)):
        if any(mark in text for mark in '"\n\r;{}$\\'):
            raise BadRequest(f'{what} {text!r} may have none of " ; {{ }} $ \\ in it')
    values = {"ROOT": root, "LISTEN": listen, "ORIGIN": origin, "EXPOSED": ", ".join(EXPOSED), "SPAN": _SPAN}
    return re.sub(r"@([A-Z]+)@", lambda match: values[match[1]], _NGINX)


def s3_cors(origins: Sequence[str] = ("*",)) -> str:
    """For `aws s3api put-bucket-cors --bucket BUCKET --cors-configuration file://FILE`."""
    rule = {
        "AllowedOrigins": list(origins),
        "AllowedMethods": ["GET", "HEAD"],
        "AllowedHeaders": ["*"],
        "ExposeHeaders": list(EXPOSED),
        "MaxAgeSeconds": 86400,
    }
    return _shown({"CORSRules": [rule]})


def gcs_cors(origins: Sequence[str] = ("*",)) -> str:
    """For `gcloud storage buckets update gs://BUCKET --cors-file=FILE`."""
    rule = {
        "origin": list(origins),
        "method": ["GET", "HEAD", "OPTIONS"],
        "responseHeader": [*EXPOSED, "Content-Type", "Range", "Authorization"],
        "maxAgeSeconds": 86400,
    }
    return _shown([rule])


def s3_policy(place: str) -> str:
    """For `aws s3api put-bucket-policy --bucket BUCKET --policy file://FILE`: everybody reads, nobody lists.

    `place` is `BUCKET` or `BUCKET/FOLDER`. Raises BadRequest if that is no bucket.
    """
    bucket, _, folder = place.removeprefix("s3://").strip("/").partition("/")
    if _BUCKET.fullmatch(bucket) is None:
        raise BadRequest(f"{place!r} names no bucket; it must look like my-bucket or my-bucket/folder")
    objects = f"{bucket}/{folder}/*" if folder else f"{bucket}/*"
    statement = {
        "Sid": "EverybodyReads",
        "Effect": "Allow",
        "Principal": "*",
        "Action": ["s3:GetObject"],
        "Resource": [f"arn:aws:s3:::{objects}"],
    }
    return _shown({"Version": "2012-10-17", "Statement": [statement]})


def _shown(document: Any) -> str:
    return json.dumps(document, indent=2) + "\n"
