"""Where the server listens: checked before anything slow is loaded."""

import socket

from vilam3.errors import UserError


def check_free(host: str, port: int) -> None:
    """Try to bind.

    Raises:
        UserError: somebody else listens there, or the host is none of this machine.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise UserError(
                f"--port {port}: {host}:{port} cannot be bound ({error.strerror}); choose another"
            ) from error
