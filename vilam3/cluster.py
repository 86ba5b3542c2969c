"""A Kubernetes cluster, as much of it as this library asks about; the only module that imports its client."""

import contextlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from kubernetes import client, config
from kubernetes.client.exceptions import ApiException
from urllib3.exceptions import HTTPError

from vilam3.errors import ClusterError, ClusterOutOfReachError, PrerequisiteError

TIMEOUT_S = 10
NOT_FOUND = 404
CONFLICT = 409
PASSING = frozenset(
    {408, 410, 429}
)  # too slow, a list that has expired, too many callers; like every answer from 500 on
SERVER_FAULT = 500
UNFIT = frozenset({400, 422})  # an object that the server does not accept
WEBHOOK = "admission webhook"  # of an operator, whose refusal is no lack of a right
DEFAULT_CLASS = "storageclass.kubernetes.io/is-default-class"
IN_A_POD = "KUBERNETES_SERVICE_HOST"


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """A kind of custom resource, as addresses name it."""

    group: str
    version: str
    plural: str

    def within(self, namespace: str) -> tuple[str, str, str, str]:
        """What every call of the client about one of its objects begins with."""
        return self.group, self.version, namespace, self.plural


class Cluster:
    """Reads; what changes a cluster is `create` and `delete` of one custom resource."""

    def __init__(self, api: Any) -> None:  # noqa: ANN401 - the client ships no types
        """Ask through this client."""
        self._api = api

    @classmethod
    def connect(cls) -> Self:
        """Open the cluster this process runs in, or the current context of ``KUBECONFIG``.

        Raises:
            PrerequisiteError: neither is there.
        """
        settings = client.Configuration()
        try:
            if os.environ.get(IN_A_POD):
                config.load_incluster_config(client_configuration=settings)
            else:
                config.load_kube_config(client_configuration=settings)
        except config.ConfigException as error:
            place = os.environ.get("KUBECONFIG") or Path.home() / ".kube" / "config"
            raise PrerequisiteError(
                f"{place}: names no cluster ({error}); set KUBECONFIG to the file of yours and choose a context in it"
            ) from error
        settings.retries = False
        return cls(client.ApiClient(settings))

    @property
    def address(self) -> str:
        """Of the API server."""
        return str(self._api.configuration.host)

    def version(self) -> tuple[int, int]:
        """Major and minor version of the API server."""
        told = self._ask(client.VersionApi(self._api).get_code)
        return int(told.major), int("".join(letter for letter in told.minor if letter.isdigit()))

    def kinds(self) -> frozenset[str]:
        """Kinds that its custom resources serve, as ``group/version/Kind``."""
        listed = self._ask(client.ApiextensionsV1Api(self._api).list_custom_resource_definition)
        return frozenset(
            f"{one.spec.group}/{version.name}/{one.spec.names.kind}"
            for one in listed.items
            for version in one.spec.versions
            if version.served
        )

    def groups(self) -> frozenset[str]:
        """Groups of kinds that it serves, each with every version, as ``group/version``."""
        listed = self._ask(client.ApisApi(self._api).get_api_versions)
        return frozenset(version.group_version for group in listed.groups for version in group.versions)

    def spec_fields(self, kind: str) -> frozenset[str] | None:
        """The fields of a specification of this kind, which is ``group/version/Kind``; None where it is not served."""
        group, version, name = kind.split("/")
        told = self._found(lambda: self._raw(f"/openapi/v3/apis/{group}/{version}"))
        wanted = {"group": group, "version": version, "kind": name}
        for schema in (told or {}).get("components", {}).get("schemas", {}).values():
            if wanted in schema.get("x-kubernetes-group-version-kind", ()):
                return frozenset(schema["properties"].get("spec", {}).get("properties", {}))
        return None

    def deployments(self) -> dict[str, str]:
        """Deployments of all namespaces: name to the image of the first container; empty where it has no ready pod."""
        listed = self._ask(client.AppsV1Api(self._api).list_deployment_for_all_namespaces)
        return {
            one.metadata.name: one.spec.template.spec.containers[0].image if one.status.ready_replicas else ""
            for one in listed.items
        }

    def storage_classes(self) -> dict[str, bool]:
        """Storage classes, and whether each is the default."""
        listed = self._ask(client.StorageV1Api(self._api).list_storage_class)
        return {
            one.metadata.name: (one.metadata.annotations or {}).get(DEFAULT_CLASS) == "true" for one in listed.items
        }

    def allocatable(self, resource: str) -> int:
        """How many of an extended resource all nodes have together."""
        listed = self._ask(client.CoreV1Api(self._api).list_node)
        return sum(int((one.status.allocatable or {}).get(resource, 0)) for one in listed.items)

    def secret_keys(self, name: str, *, namespace: str) -> frozenset[str] | None:
        """The keys of a Secret, never what is in them; None where there is no such Secret."""
        with self._translated():
            try:
                found = client.CoreV1Api(self._api).read_namespaced_secret(name, namespace, _request_timeout=TIMEOUT_S)
            except ApiException as error:
                if error.status == NOT_FOUND:
                    return None
                raise
            return frozenset(found.data or {})

    def create(self, kind: Kind, manifest: Mapping[str, Any], *, namespace: str) -> bool:
        """Create an object; False where there is one of that name. A field that its kind does not know is refused."""
        call = client.CustomObjectsApi(self._api).create_namespaced_custom_object
        with self._translated():
            try:
                call(*kind.within(namespace), dict(manifest), field_validation="Strict", _request_timeout=TIMEOUT_S)
            except ApiException as error:
                if error.status == CONFLICT:
                    return False
                raise
            return True

    def read(self, kind: Kind, name: str, *, namespace: str) -> dict[str, Any] | None:
        """An object as the server has it; None where there is none."""
        call = client.CustomObjectsApi(self._api).get_namespaced_custom_object
        return self._found(lambda: call(*kind.within(namespace), name, _request_timeout=TIMEOUT_S))

    def delete(self, kind: Kind, name: str, *, namespace: str, uid: str, after_its_pods: bool = False) -> None:
        """Delete this very object, not a later one of its name; harmless where it is gone.

        Args:
            kind: Of the object.
            name: Of the object.
            namespace: Where it is.
            uid: Of the object.
            after_its_pods: It stays until all that it owns is gone.
        """
        policy = "Foreground" if after_its_pods else None  # None leaves it to the kind
        options = client.V1DeleteOptions(preconditions=client.V1Preconditions(uid=uid), propagation_policy=policy)
        call = client.CustomObjectsApi(self._api).delete_namespaced_custom_object
        with self._translated():
            try:
                call(*kind.within(namespace), name, body=options, _request_timeout=TIMEOUT_S)
            except ApiException as error:
                if error.status not in {NOT_FOUND, CONFLICT}:  # a conflict is another object of that name
                    raise

    def pod(self, name: str, *, namespace: str) -> dict[str, Any] | None:
        """A pod as the server has it; None where there is none."""
        call = client.CoreV1Api(self._api).read_namespaced_pod
        return self._found(lambda: self._plain(call(name, namespace, _request_timeout=TIMEOUT_S)))

    def pods(self, selector: str, *, namespace: str) -> list[dict[str, Any]]:
        """The pods of a label selector."""
        call = client.CoreV1Api(self._api).list_namespaced_pod
        with self._translated():
            listed = call(namespace, label_selector=selector, _request_timeout=TIMEOUT_S)
            return [self._plain(one) for one in listed.items]

    def _raw(self, path: str) -> dict[str, Any]:
        """The answer at a path that the client has no call for."""
        told: dict[str, Any] = self._api.call_api(
            path, "GET", auth_settings=["BearerToken"], response_type="object", _return_http_data_only=True,
            _request_timeout=TIMEOUT_S,
        )  # fmt: skip
        return told

    def _plain(self, found: Any) -> dict[str, Any]:  # noqa: ANN401 - the client ships no types
        plain: dict[str, Any] = self._api.sanitize_for_serialization(found)
        return plain

    def _found(self, call: Callable[[], dict[str, Any]]) -> dict[str, Any] | None:
        with self._translated():
            try:
                return call()
            except ApiException as error:
                if error.status == NOT_FOUND:
                    return None
                raise

    def _ask(self, call: Callable[..., Any]) -> Any:  # noqa: ANN401 - the client ships no types
        with self._translated():
            return call(_request_timeout=TIMEOUT_S)

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except ApiException as error:
            raise self._refusal(error) from error
        except HTTPError as error:
            where = f"{self.address}: out of reach ({type(error).__name__})"
            raise ClusterOutOfReachError(f"{where}; check the context") from error

    def _refusal(self, error: ApiException) -> ClusterError:
        answer = f"{self.address}: answers with HTTP {error.status} {error.reason}"
        if error.status in PASSING or (error.status or 0) >= SERVER_FAULT:
            return ClusterOutOfReachError(f"{answer}; try again later")
        told = _told(error)
        if error.status in UNFIT or WEBHOOK in told:
            return ClusterError(f"{answer} ({told}); render the object again with this release's chart")
        return ClusterError(f"{answer}; ask for the right to do this, or log in again")


def _told(error: ApiException) -> str:
    """The server's own sentence."""
    try:
        return str(json.loads(error.body)["message"])
    except (ValueError, KeyError, TypeError):
        return "no reason given"
