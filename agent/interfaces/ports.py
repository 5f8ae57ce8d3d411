"""A port to listen on, or what is wrong with it in words."""

import socket

from agent.errors import UsageError


def listen(host: str, port: int) -> socket.socket:
    """A bound socket; port 0 is any that is free. Raises UsageError."""
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except (OSError, OverflowError) as error:
        listener.close()
        raise UsageError("port", host=host, port=port, text=getattr(error, "strerror", None) or str(error)) from None
    return listener
