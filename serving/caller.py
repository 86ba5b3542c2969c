"""Who calls, and the service they call: what every public route depends on."""

from typing import Annotated

from fastapi import Depends, Request

from serving.answer import Service


def service_of(request: Request) -> Service:
    """The service behind the application."""
    service: Service = request.app.state.vilam3
    return service


def tenant_of(request: Request) -> str:
    """The tenant of a request.

    Raises:
        UnauthorizedError: the key is missing or unknown.
    """
    return service_of(request).tenants.of(request.headers)


Served = Annotated[Service, Depends(service_of)]
Tenant = Annotated[str, Depends(tenant_of)]
