"""What other servers are told."""

from __future__ import annotations

import json
import re

import pytest

from fascicle.errors import BadRequest
from fascicle.server import static_settings


def test_nginx() -> None:
    text = static_settings.nginx("/data/public", "0.0.0.0:8080")
    assert 'root "/data/public";' in text
    assert "listen 0.0.0.0:8080;" in text
    assert text.count("{") == text.count("}")
    assert "@" not in re.sub(r"@(packed|deep)\b", "", text)
    patterns = re.findall(r'location ~ "([^"]+)"', text)
    matching = {
        "/seg/8_8_8/0f.shard": 0,
        "/meshes/17": 0,
        "/seg/info": 1,
        "/seg/8_8_8/-64-0_0-64_64-100": 2,
        "/meshes/17:0": 3,
    }
    for path, expected in matching.items():
        found = [i for i, pattern in enumerate(patterns) if re.search(pattern.replace("?<", "?P<"), path)]
        assert found[0] == expected, path
    for wrong in ('/data"; }', "/data\n", "/da$ta"):
        with pytest.raises(BadRequest):
            static_settings.nginx(wrong)


def test_buckets() -> None:
    rule = json.loads(static_settings.s3_cors(["https://a.org"]))["CORSRules"][0]
    assert rule["AllowedOrigins"] == ["https://a.org"]
    assert {"GET", "HEAD"} == set(rule["AllowedMethods"])
    assert "Content-Range" in rule["ExposeHeaders"]
    assert json.loads(static_settings.gcs_cors())[0]["origin"] == ["*"]
    statement = json.loads(static_settings.s3_policy("s3://my-bucket/em/"))["Statement"][0]
    assert statement["Resource"] == ["arn:aws:s3:::my-bucket/em/*"]
    assert statement["Action"] == ["s3:GetObject"]
    assert "my-bucket/*" in static_settings.s3_policy("my-bucket")
    for wrong in ("", "A_B", "../x"):
        with pytest.raises(BadRequest, match="names no bucket"):
            static_settings.s3_policy(wrong)
