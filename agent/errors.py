"""Every error the product names, and where each one goes.

AgentError                      an interface may show it: `code`, and words for it in prompts/words.*.toml
|-- InvalidCall                 back to the model: a tool call that is not one of the ten, or has bad arguments
|-- ApiError                    back to the model: the campaigns API did not do it
|   |-- ApiRefused              400, 401, 403, 404, 422 with the documented body: surely nothing was done
|   |-- ApiRateLimited          429 with the documented body: surely nothing was done
|   |-- ApiUnreachable          the request never arrived: surely nothing was done
|   `-- ApiUncertain            anything else: the server may have acted
|-- ModelError                  ends the turn: the model endpoint did not answer
|   |-- ModelKeyRejected, ModelNotFound, ModelContextTooLong, ModelRateLimited,
|   `-- ModelUnreachable, ModelBroken, ModelRejected
|-- StepLimitExceeded           ends the turn: the model kept calling tools
|-- DecisionRefused             to the person who decided: used, denied, expired, not entitled, not confirmed ...
|-- SessionBusy                 to the person: another process is working on this session
|-- DatabaseError               ends everything: DatabaseCorrupt, DatabaseFull, DatabaseNewer, DatabaseUnavailable
`-- UsageError                  to the person: a setting or a command line that makes no sense
"""

from typing import Any, ClassVar


class AgentError(Exception):
    """`code` is stable and public; `data` fills the words of that code."""

    code: str = "error"

    def __init__(self, **data: Any) -> None:
        super().__init__(self.code, data)
        self.data = data

    def __str__(self) -> str:
        return ", ".join([self.code, *(f"{key}={value}" for key, value in self.data.items())])


class InvalidCall(AgentError):
    """`problem` says in plain English what the model has to change."""

    code = "invalid_call"

    def __init__(self, problem: str) -> None:
        super().__init__(problem=problem)
        self.problem = problem


class ApiError(AgentError):
    """`status` (None without an answer), the API's own `text`, and its request id."""

    code = "api_error"
    may_have_acted: ClassVar[bool] = False

    def __init__(self, text: str, *, status: int | None = None, request_id: str | None = None) -> None:
        super().__init__(status=status, text=text, request_id=request_id)
        self.status, self.text, self.request_id = status, text, request_id


class ApiRefused(ApiError):
    """The API answered that it won't, in its documented error body."""

    code = "api_refused"

    def __init__(self, text: str, *, status: int | None = None, request_id: str | None = None) -> None:
        super().__init__(text, status=status, request_id=request_id)
        # One class, but a wrong key and an unknown campaign ask different things of a person.
        self.code = {401: "api_key_rejected", 403: "api_forbidden", 404: "api_not_found"}.get(
            status or 0, "api_refused"
        )


class ApiRateLimited(ApiError):
    """`wait` is in seconds."""

    code = "api_rate_limited"

    def __init__(self, text: str, *, wait: float, status: int | None = 429, request_id: str | None = None) -> None:
        super().__init__(text, status=status, request_id=request_id)
        self.wait = wait


class ApiUnreachable(ApiError):
    code = "api_unreachable"


class ApiUncertain(ApiError):
    code = "api_uncertain"
    may_have_acted = True


class ModelError(AgentError):
    code = "model_error"


class ModelKeyRejected(ModelError):
    code = "model_key_rejected"


class ModelNotFound(ModelError):
    code = "model_not_found"


class ModelContextTooLong(ModelError):
    code = "model_context_too_long"


class ModelRateLimited(ModelError):
    """`wait` is in seconds, None when the server named none."""

    code = "model_rate_limited"


class ModelUnreachable(ModelError):
    code = "model_unreachable"


class ModelRejected(ModelError):
    """A 4xx that isn't one of the above; `text` is the server's."""

    code = "model_rejected"


class ModelBroken(ModelError):
    """An answer that isn't a chat completion, or an error in the middle of a stream."""

    code = "model_broken"


class StepLimitExceeded(AgentError):
    code = "step_limit"


class CallNotDone(AgentError):
    """A single call, made without a model, that was not carried out; `text` states how it ended."""

    code = "call_not_done"


class DecisionRefused(AgentError):
    """`why` is one of: unknown, used, denied, expired, superseded, drifted, refused, not_entitled, confirmation,
    not_interactive, other_target, decided, waits, own_send, approved_before, unread."""

    code = "decision_refused"

    def __init__(self, why: str, **data: Any) -> None:
        super().__init__(**data)
        self.why = why
        self.code = f"approval_{why}"


class SessionBusy(AgentError):
    code = "session_busy"


class DatabaseError(AgentError):
    code = "database_error"


class DatabaseCorrupt(DatabaseError):
    code = "database_corrupt"


class DatabaseFull(DatabaseError):
    code = "database_full"


class DatabaseNewer(DatabaseError):
    code = "database_newer"


class DatabaseUnavailable(DatabaseError):
    code = "database_unavailable"


class UsageError(AgentError):
    """`what` names the kind: see the `usage_` entries of prompts/words.*.toml."""

    code = "usage"

    def __init__(self, what: str, **data: Any) -> None:
        super().__init__(**data)
        self.code = f"usage_{what}"
