"""The engine in a process of its own: `python -P -m quire.engine.process`, started by `EngineClient`.

The parent writes one frame to standard input (`Startup`) and keeps the pipe open; when it closes, or the
parent dies, the engine ends. Requests and outputs travel over two ZeroMQ sockets as msgspec messages.
"""

from __future__ import annotations

import logging
import os
import shutil
import signal
import sys
import threading

import msgspec
import zmq

from quire.engine.build import LoadedEngine, load_engine
from quire.engine.loop import EngineLoop
from quire.engine.messages import Failure
from quire.engine.wire import FAILED, READY, Startup, read_startup
from quire.errors import InternalError, QuireError
from quire.observability.log_limit import LogLimit

STOP_TIMEOUT_S = 3.0
"""How long a step may go on after the parent has gone."""

LOOP_FAILED = 70
"""Exit code after an exception that the loop could not go on from; the log has it."""


def main() -> int:
    """Entry point of the process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's business; it closes the pipe
    startup = read_startup(sys.stdin.buffer)
    if startup is None:
        return 1  # the parent went before it said anything
    logging.basicConfig(level=startup.log_level, format="%(levelname)s engine: %(message)s", stream=sys.stderr)
    logging.getLogger().handlers[0].addFilter(LogLimit())
    stop, running = threading.Event(), threading.Event()
    threading.Thread(target=_watch_parent, args=(startup.socket_folder, stop, running), daemon=True).start()
    context = zmq.Context()
    requests, outputs = context.socket(zmq.PULL), context.socket(zmq.PUSH)
    for socket, address in ((requests, startup.requests_address), (outputs, startup.outputs_address)):
        socket.set_hwm(0)
        socket.connect(address)
    engine = _load(startup, outputs)
    if engine is None:
        context.destroy(linger=2000)
        return 1
    running.set()
    outputs.send_multipart([READY, msgspec.msgpack.encode(engine.limits)])
    try:
        EngineLoop(engine.core, requests, outputs, stop).run()
    except Exception:  # of whatever kind: the parent is told by the exit code, and starts another process or ends
        logging.getLogger("quire").exception("the engine cannot go on; its process ends")
        return LOOP_FAILED
    finally:
        engine.close()
        context.destroy(linger=0)
    return 0


def _load(startup: Startup, outputs: zmq.Socket[bytes]) -> LoadedEngine | None:
    """The engine; None when there is none, and the parent knows why."""
    try:
        return load_engine(startup.config)
    except QuireError as error:
        failure = Failure.of(error)
    except Exception as error:  # a bug: the parent must hear of it like of any other reason
        logging.getLogger("quire").exception("the model could not be loaded")
        failure = Failure.of(
            InternalError(
                "the model could not be loaded",
                because=f"{type(error).__name__}: {error}",
                hint="reporting it with the log",
            )
        )
    outputs.send_multipart([FAILED, msgspec.msgpack.encode(failure)])
    return None


def _watch_parent(socket_folder: str, stop: threading.Event, running: threading.Event) -> None:
    """Ends the loop when the pipe closes; ends the process when there is no loop yet, or it does not notice."""
    while os.read(0, 4096):
        pass
    stop.set()
    shutil.rmtree(socket_folder, ignore_errors=True)  # the parent may have had no time for it
    if running.is_set():
        threading.Event().wait(STOP_TIMEOUT_S)
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main())
