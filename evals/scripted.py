"""A case's own solution as a model: its answers in order."""

from collections.abc import AsyncIterator, Callable, Mapping, Sequence

from pydantic_core import to_json

from agent.domain import Json
from agent.model import Call, Completion
from evals.case import Answer, CaseError, SolutionReply


class Scripted:
    """`created` gives the id of a campaign that this run created; it is set when the world is there."""

    name = "solution"

    def __init__(self, answers: Sequence[Answer]) -> None:
        self.left, self._number = list(answers), 0
        self.created: Callable[[str], str | None] = lambda title: None

    async def complete(self, messages: Sequence[bytes]) -> AsyncIterator[str | Completion]:
        if not self.left:
            raise CaseError("the solution has no answer left")
        answer = self.left.pop(0)
        self._number += 1
        if isinstance(answer, SolutionReply):
            yield answer.reply
            yield Completion(answer.reply)
            return
        if answer.text:
            yield answer.text
        calls = [
            Call(f"call_{self._number}_{at}", call.tool, self._json(call.arguments))
            for at, call in enumerate(answer.calls)
        ]
        yield Completion(answer.text, tuple(calls))

    async def aclose(self) -> None:
        pass

    def _json(self, arguments: Json) -> str:
        return arguments if isinstance(arguments, str) else to_json(self._filled(arguments)).decode()

    def _filled(self, value: Json) -> Json:
        if isinstance(value, Mapping):
            if list(value) == ["created"]:
                if (found := self.created(value["created"])) is None:
                    raise CaseError(f"the solution names a campaign that wasn't created: {value['created']!r}")
                return found
            return {name: self._filled(item) for name, item in value.items()}
        return [self._filled(item) for item in value] if isinstance(value, list) else value
