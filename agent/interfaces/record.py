"""The record of what was said, asked, decided and run, as one list in the order of time."""

from collections.abc import Mapping
from typing import Any

from pydantic_core import from_json

from agent.journal import Event, Transaction
from agent.visible import visible


def record(tx: Transaction, session: str | None, limit: int) -> list[dict[str, Any]]:
    """The newest `limit` rows: `{"at", "session", "what", "by", "text"}`, oldest first. `at` is Unix seconds."""
    rows: list[dict[str, Any]] = []
    names = [session] if session is not None else [known.id for known in tx.conversations(50)]
    for name in names:
        rows += [_said(name, event) for event in tx.events(name) if event.kind != "context"]
    for approval in tx.approvals(conversation=session, limit=limit):
        about = f"{approval.tool} {approval.id} ({approval.state})"
        rows.append(_row(approval.requested_at, approval.conversation, "card", approval.requested_by, about))
        for decision in tx.decisions(approval.id):
            how = "" if decision.interactive else " (without a terminal)"
            text = f"{decision.decision} {approval.id}{how} {decision.reason or ''}".strip()
            rows.append(_row(decision.at, approval.conversation, "decision", decision.identity, text))
    for attempt in tx.attempts(conversation=session, limit=limit):
        text = f"{attempt.tool} {attempt.id}"
        rows.append(_row(attempt.started_at, attempt.conversation, "attempt", attempt.by, text + " started"))
        if attempt.ended_at is not None:
            rows.append(_row(attempt.ended_at, attempt.conversation, "attempt", attempt.by, f"{text} {attempt.state}"))
    return sorted(rows, key=lambda row: row["at"])[-limit:]


def _row(at: float, session: str, what: str, by: str | None, text: str) -> dict[str, Any]:
    return {"at": at, "session": session, "what": what, "by": by, "text": visible(text)}


def _said(session: str, event: Event) -> dict[str, Any]:
    message: Mapping[str, Any] = from_json(event.body)
    text = str(message.get("content") or "")
    if event.kind == "aside":
        text += f" -> {message['answer']}"
    for called in message.get("tool_calls") or []:
        text += f" -> {called['function']['name']} {called['function']['arguments']}"
    return _row(event.at, session, event.kind, event.by, text if len(text) <= 300 else text[:299] + "…")
