"""Rules of notices: MLflow's own signature is taken and no other; S3 is understood as MinIO and AWS send it."""

import json
from typing import Any

import pytest
from mlflow.webhooks.delivery import _generate_hmac_signature

from vilam3.errors import UserError
from vilam3.intake.notices import Landed, is_from_mlflow, landed, moved_alias

SECRET, OTHER, NOW_S = "a-shared-secret", "another", 1_790_000_000
BODY = json.dumps({"entity": "model_version_alias", "action": "created", "data": {"name": "vilam3", "alias": "base"}})


def _headers(*, secret: str = SECRET, stamp: int = NOW_S, body: str = BODY) -> dict[str, str]:
    signature = _generate_hmac_signature(secret, "delivery-1", str(stamp), body)
    return {
        "x-mlflow-signature": signature,
        "x-mlflow-timestamp": str(stamp),
        "x-mlflow-delivery-id": "delivery-1",
    }


def test_what_mlflow_signs_is_taken() -> None:
    """By the function that MLflow itself signs with."""
    assert is_from_mlflow(_headers(), BODY.encode(), secret=SECRET, now_s=NOW_S + 10)


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        (_headers(secret=OTHER), BODY),
        (_headers(), BODY.replace("base", "prod")),
        (_headers(stamp=NOW_S - 301), BODY),
        (_headers(stamp=NOW_S + 301), BODY),
        (_headers() | {"x-mlflow-delivery-id": "delivery-2"}, BODY),
        (_headers() | {"x-mlflow-timestamp": "soon"}, BODY),
        ({}, BODY),
    ],
    ids=["secret", "body", "old", "early", "delivery", "no time", "nothing"],
)
def test_what_mlflow_did_not_sign_lately_is_not_taken(headers: dict[str, str], body: str) -> None:
    assert not is_from_mlflow(headers, body.encode(), secret=SECRET, now_s=NOW_S)


def test_only_a_new_alias_counts() -> None:
    assert moved_alias(BODY.encode()) == "models:/vilam3@base"
    for entity, action in (("model_version_alias", "deleted"), ("model_version", "created"), ("prompt", "created")):
        assert moved_alias(json.dumps({"entity": entity, "action": action, "data": {}}).encode()) is None
    with pytest.raises(UserError, match="names no model and alias"):
        moved_alias(json.dumps({"entity": "model_version_alias", "action": "created"}).encode())


def _record(event: str, key: str) -> dict[str, Any]:
    return {"eventName": event, "s3": {"bucket": {"name": "data"}, "object": {"key": key, "size": 3}}}


def test_objects_are_read_from_records_and_from_the_bridge() -> None:
    """Keys in records are encoded as in a query, those of EventBridge are not (AWS, S3 event message structure)."""
    minio = {
        "EventName": "s3:ObjectCreated:Put",
        "Key": "data/corpora/a b/corpus.json",
        "Records": [
            _record("s3:ObjectCreated:Put", "corpora/a+b/corpus.json"),
            _record("s3:ObjectRemoved:Delete", "x"),
        ],
    }
    assert landed(json.dumps(minio).encode()) == [Landed(bucket="data", key="corpora/a b/corpus.json")]
    aws = {"Records": [_record("ObjectCreated:CompleteMultipartUpload", "corpora/a%2Bb/corpus.json")]}
    assert landed(json.dumps(aws).encode()) == [Landed(bucket="data", key="corpora/a+b/corpus.json")]
    detail = {"bucket": {"name": "data"}, "object": {"key": "corpora/a+b/corpus.json"}}
    bridge = {"source": "aws.s3", "detail-type": "Object Created", "detail": detail}
    assert [one.uri for one in landed(json.dumps(bridge).encode())] == ["s3://data/corpora/a+b/corpus.json"]
    assert landed(json.dumps({**bridge, "detail-type": "Object Deleted"}).encode()) == []


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'{"Records": [1]}', b'{"Records": 1}', b'{"source": "aws.s3"}'])
def test_what_is_no_notice_is_the_senders_mistake(body: bytes) -> None:
    with pytest.raises(UserError):
        landed(body)
