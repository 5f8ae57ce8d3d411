"""The fake Slack in a process of its own, with threads to write in, that keeps no record of what it was asked.

python -m evals.bench.fakes THREADS      prints {"url", "threads"}; each line on its stdin is the bot's Request URL,
                                         to which it tells what the bot has posted, or empty: how much was posted
"""

import asyncio
import json
import sys
from typing import Any

from agent.interfaces.slack_manifest import manifest
from agent.prompts import words
from tests.fakeslack import Call, Delivery, FakeSlack, Message


class Forgetful(list[Any]):
    """A record of minutes at full load would be most of the process."""

    def __len__(self) -> int:
        return 0

    def append(self, value: Call | Delivery) -> None:
        pass


class BusySlack(FakeSlack):
    """`socket_url` is where another process listens for the bot's socket."""

    def __init__(self, socket_url: str) -> None:
        super().__init__(manifest(words("en", "America/Mexico_City")), echo=False)
        self.record, self.deliveries = Forgetful(), Forgetful()
        self.said = 0
        self._socket_url = socket_url

    def new_socket_url(self) -> str:
        return self._socket_url

    def post(self, channel: str, user: str, text: str, **more: Any) -> Message:
        self.said += 1
        return super().post(channel, user, text, **more)

    def thread(self, number: int) -> dict[str, str]:
        """A conversation of somebody with the bot, and in it a message to answer to."""
        user = self.add_user(f"p{number}")
        channel = self.dm(user)
        return {"user": user, "channel": channel, "thread_ts": super().post(channel, user, "hola").ts}


async def serve(threads: int, socket_url: str) -> None:
    async with BusySlack(socket_url) as slack:
        told = {"url": slack.api_url, "threads": [slack.thread(number) for number in range(threads)]}
        print(json.dumps(told), flush=True)
        loop = asyncio.get_running_loop()
        while line := await loop.run_in_executor(None, sys.stdin.readline):
            if url := line.strip():
                slack.point(url)
                slack.echo = True
            else:
                print(slack.said, flush=True)


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1]), sys.argv[2]))
