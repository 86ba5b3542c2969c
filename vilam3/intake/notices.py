"""What other systems tell by HTTP: that an alias of MLflow moved, that an object came to S3."""

import base64
import hashlib
import hmac
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote_plus

from vilam3.errors import UserError

SIGNATURE, TIMESTAMP, DELIVERY = "x-mlflow-signature", "x-mlflow-timestamp", "x-mlflow-delivery-id"
VERSION = "v1"
FRESH_S = 300.0  # a delivery older or younger than that is not taken
CREATED = ("s3:ObjectCreated:", "ObjectCreated:")  # MinIO and AWS


@dataclass(frozen=True, slots=True, kw_only=True)
class Landed:
    """An object that was written."""

    bucket: str
    key: str

    @property
    def uri(self) -> str:
        """Of the object."""
        return f"s3://{self.bucket}/{self.key}"


def is_from_mlflow(headers: Mapping[str, str], body: bytes, *, secret: str, now_s: float) -> bool:
    """Whether MLflow signed this, lately, with the secret of its webhook (``mlflow/webhooks/delivery.py``).

    Args:
        headers: With lower-case names.
        body: As it came.
        secret: Shared.
        now_s: Unix time.
    """
    stamp, delivery = headers.get(TIMESTAMP, ""), headers.get(DELIVERY, "")
    if not stamp.isdecimal() or abs(now_s - int(stamp)) > FRESH_S:
        return False
    signed = f"{delivery}.{stamp}.".encode() + body
    wanted = base64.b64encode(hmac.new(secret.encode(), signed, hashlib.sha256).digest()).decode()
    return hmac.compare_digest(headers.get(SIGNATURE, "").encode(), f"{VERSION},{wanted}".encode())


def moved_alias(body: bytes) -> str | None:
    """``models:/name@alias`` where MLflow tells that a version got an alias; None for all else that it tells.

    Raises:
        UserError: it is none of MLflow's messages.
    """
    told = _object(body)
    if (told.get("entity"), told.get("action")) != ("model_version_alias", "created"):
        return None
    data = told.get("data")
    if not isinstance(data, dict) or not data.get("name") or not data.get("alias"):
        raise UserError("webhook: data names no model and alias; send what MLflow sends")
    return f"models:/{data['name']}@{data['alias']}"


def landed(body: bytes) -> list[Landed]:
    """Objects that S3 tells were written: by MinIO or AWS as ``Records``, or by AWS's EventBridge.

    Raises:
        UserError: it is neither.
    """
    told = _object(body)
    try:
        if told.get("source") == "aws.s3":
            return list(_from_bridge(told))
        return list(_from_records(told["Records"]))
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"notification: not of S3's form ({type(error).__name__} at {error}); send Records, or EventBridge's event"
        ) from error


def _from_records(records: Any) -> Iterator[Landed]:  # noqa: ANN401 - whatever came
    for record in records or ():
        if record["eventName"].startswith(CREATED):
            place = record["s3"]
            yield Landed(bucket=str(place["bucket"]["name"]), key=unquote_plus(str(place["object"]["key"])))


def _from_bridge(told: Mapping[str, Any]) -> Iterator[Landed]:
    if told["detail-type"] == "Object Created":
        detail = told["detail"]
        yield Landed(bucket=str(detail["bucket"]["name"]), key=str(detail["object"]["key"]))


def _object(body: bytes) -> dict[str, Any]:
    try:
        told = json.loads(body)
    except ValueError as error:
        raise UserError("body: is no JSON; send the message as it comes") from error
    if not isinstance(told, dict):
        raise UserError("body: is no JSON object; send the message as it comes")
    return told
