"""One server from start to end: the listening socket, the engine process, uvicorn, and signals."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
from typing import TYPE_CHECKING

from quire.async_llm import AsyncLLM
from quire.engine.config import EngineConfig
from quire.errors import BackendError, ConfigError
from quire.server.config import ServerConfig

if TYPE_CHECKING:
    import uvicorn

logger = logging.getLogger("quire")

ENGINE_ENDED = 1
"""Exit code when the engine is gone for good."""


def run_server(config: EngineConfig, server_config: ServerConfig) -> int:
    """Serves until SIGINT or SIGTERM; returns 128 + the signal's number, as a shell counts; 1 when the engine is gone.

    On a signal running requests end with an error at once, then the engine process ends. Port 0 = any free one.
    Raises: ConfigError when the address cannot be used, any QuireError that loading the model raises.
    """
    with contextlib.closing(_listener(server_config.host, server_config.port)) as listener:
        return asyncio.run(_serve(config, server_config, listener))


async def _serve(config: EngineConfig, server_config: ServerConfig, listener: socket.socket) -> int:
    signals: asyncio.Queue[int] = asyncio.Queue()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, signals.put_nowait, int(number))
    received = asyncio.create_task(signals.get())
    engine = AsyncLLM(
        config,
        supervision=server_config.supervision,
        num_text_workers=server_config.num_text_workers,
        text_timeout_s=server_config.text_timeout_s,
    )
    try:
        starting = asyncio.create_task(engine.start())
        from quire.server.http_server import http_server  # imported while the engine process loads the model

        await asyncio.wait({starting, received}, return_when=asyncio.FIRST_COMPLETED)
        if not starting.done():
            starting.cancel()
            return 128 + received.result()
        starting.result()
        server = http_server(engine, server_config)
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        ended = asyncio.create_task(engine.wait_ended())
        await asyncio.wait({serving, received, ended}, return_when=asyncio.FIRST_COMPLETED)
        if received.done():
            engine.end_all(
                BackendError("the server is shutting down", because="it was told to", hint="the request again, later")
            )
            await _stop(server, serving, signals)
            return 128 + received.result()
        if ended.done():
            logger.error("the server ends, since its engine has: %s", " ".join(str(ended.result()).split()))
            received.cancel()  # the next signal is for _stop
            await _stop(server, serving, signals)
            return ENGINE_ENDED
        serving.result()
        raise BackendError("the HTTP server ended by itself", because="its own messages say", hint="starting it again")
    finally:
        engine.close()


async def _stop(server: uvicorn.Server, serving: asyncio.Task[None], signals: asyncio.Queue[int]) -> None:
    """Lets clients read the end of their answers; a signal meanwhile waits for nobody."""
    server.should_exit = True
    impatient = asyncio.create_task(signals.get())
    await asyncio.wait({serving, impatient}, return_when=asyncio.FIRST_COMPLETED)
    server.force_exit = True
    await serving


def _listener(host: str, port: int) -> socket.socket:
    """A bound socket. It refuses connections until the server listens on it, so nobody waits for a loading model."""
    listener = None
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        return listener
    except OSError as error:
        if listener is not None:
            listener.close()
        raise ConfigError(
            f"cannot listen on {host}:{port}",
            because=str(error.strerror or error),
            hint="another --port, or an address of this machine as --host",
        ) from error
