"""The campaigns API for a run: the sandbox on a port, in a process that nobody kills. Ends with its standard input."""

import asyncio
import json
import socket
import sys

import uvicorn

from agent.sandbox.api import create_app


async def serve() -> None:
    app = create_app(":memory:", rate_limit=1_000_000)
    listening = socket.socket()
    listening.bind(("127.0.0.1", 0))
    # Before anybody is told: whoever comes early waits, and isn't refused.
    listening.listen(1024)
    server = uvicorn.Server(uvicorn.Config(app, log_level="critical", lifespan="off", ws="none"))
    print(json.dumps({"url": f"http://127.0.0.1:{listening.getsockname()[1]}"}), flush=True)
    ended = asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    ended.add_done_callback(lambda _: setattr(server, "should_exit", True))
    await server.serve([listening])


if __name__ == "__main__":
    asyncio.run(serve())
