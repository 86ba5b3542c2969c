"""A Kubernetes cluster, as much of it as this library asks about; the only module that imports its client."""

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self

from kubernetes import client, config
from kubernetes.client.exceptions import ApiException
from urllib3.exceptions import HTTPError

from vilam3.errors import ClusterError, PrerequisiteError

TIMEOUT_S = 10
NOT_FOUND = 404
DEFAULT_CLASS = "storageclass.kubernetes.io/is-default-class"
IN_A_POD = "KUBERNETES_SERVICE_HOST"


class Cluster:
    """Reads; nothing here changes a cluster."""

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

    def _ask(self, call: Callable[..., Any]) -> Any:  # noqa: ANN401 - the client ships no types
        with self._translated():
            return call(_request_timeout=TIMEOUT_S)

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except ApiException as error:
            reason = f"answers with HTTP {error.status} {error.reason}"
            raise ClusterError(f"{self.address}: {reason}; ask for the right to read this, or log in again") from error
        except HTTPError as error:
            raise ClusterError(f"{self.address}: out of reach ({type(error).__name__}); check the context") from error
