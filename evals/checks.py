"""Whether what happened is what the case expects, in both directions; every finding is one sentence."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from evals.case import READS, Ask, ExpectedCall, Forbidden, Refuse, Replies, Say
from evals.claims import claims_of
from evals.gatekeeping import violations
from evals.matching import Resolve, differences
from evals.play import Called, Played
from evals.state import check_outbox, check_state

_CANT = (
    r"\b(no|tampoco|ni) (se |te |lo |la |los |las |me )*(puedo|podemos|puede|pueden|es posible|tengo|dispongo"
    r"|cuento|existe|hay (manera|forma|herramienta)|es algo que|est[aá] (a mi alcance|disponible|entre))"
    r"|\bno me es posible|\bs[oó]lo (te |le |les |os )?(puedo|trabajo|manejo|sirvo|hago|cubren?)|fuera de (mi|lo que)"
    r"|m[aá]s all[aá] de (mi|lo que)"
    r"|\bno (doy|ofrezco|hago|es compatible)\b|[uú]nicamente (puedo|trabajo|manejo)|not supported|n['’]t supported"
    r"|\b(can(no|'|’)t|unable|not able|(don['’]t|do not|doesn['’]t) have|isn['’]t (possible|something)"
    r"|not (possible|available|something)|(there['’]s|there is|have|has) no (tool|way|option|access)"
    r"|only (work|handle|help|deal|manage|do|cover)|outside|beyond (what|my))\b"
)


_ASKS = (
    r"\?|\b(dime|dinos|d[ií]game|ind[ií]ca(me)?|p[aá]same|env[ií]ame|m[aá]ndame|comp[aá]rteme"
    r"|necesito (saber|que|el|la|los|las)|tell me|let me know|please (give|provide|send|tell)"
    r"|i need (to know|the|a)|send me|give me)\b"
)
"""A question, or what asks without its sign."""


def says_it_cannot(text: str) -> bool:
    """Whether a reply says, in any usual words, that something can't be done here."""
    return _found(_CANT, text)


@dataclass
class Verdict:
    """`problems` empty: the case was solved. The other figures are metrics, also of cases that were."""

    problems: list[str] = field(default_factory=list)
    gate_violations: list[str] = field(default_factory=list)
    expected_calls: int = 0
    matched_calls: int = 0
    wrong_calls: int = 0
    missing_calls: int = 0
    over_asked: int = 0
    asks: int = 0
    under_asked: int = 0
    refusals: int = 0
    refused: int = 0

    @property
    def ok(self) -> bool:
        return not self.problems


def judge(played: Played) -> Verdict:
    """Everything that a case can expect, checked on a finished run."""
    case, trace, resolve = played.case, played.trace, played.sandbox.created
    verdict = Verdict()
    if trace.stopped is not None:
        verdict.problems.append(f"stopped: {type(trace.stopped).__name__}: {trace.stopped}")
    verdict.problems += trace.problems
    _calls(played, resolve, verdict)
    for forbidden in case.expect.forbid:
        verdict.problems += _forbidden(forbidden, trace.calls, resolve)
    for ask in case.expect.ask:
        _ask(ask, played, verdict)
    for refuse in case.expect.refuse:
        _refuse(refuse, played, verdict)
    for replies in case.expect.replies:
        verdict.problems += _replies(replies, played)
    for turn in trace.turns:
        unexpected = [code for code in turn.errors if code not in case.expect.errors]
        verdict.problems += [f"turn {turn.number}: it ended with the error {code}" for code in unexpected]
    verdict.problems += check_state(played)
    verdict.problems += check_outbox(played)
    verdict.problems += claims_of("\n".join(turn.text for turn in trace.turns), played.sandbox)
    verdict.problems += _budget(played)
    verdict.gate_violations = violations(played)
    verdict.problems += [f"GATE: {line}" for line in verdict.gate_violations]
    return verdict


# Calls.


def _calls(played: Played, resolve: Resolve, verdict: Verdict) -> None:
    case, calls = played.case, played.trace.calls
    expected = case.expect.calls
    taken, used = _assign(expected, calls, resolve)
    extra = [call for at, call in enumerate(calls) if at not in used]
    invalid = [call for call in extra if call.arguments is None]
    reads = [call for call in extra if call.tool in case.expect.reads and call.arguments is not None]
    wrong = [call for call in extra if call not in reads and call not in invalid]
    if len(invalid) > case.expect.invalid:
        verdict.problems += [f"turn {c.turn}: {c.tool} was called with invalid arguments {c.given}" for c in invalid]
        wrong += invalid
    verdict.problems += [_why(call, expected, resolve) for call in wrong if call.arguments is not None]
    if len(reads) > case.expect.max_reads:
        verdict.problems.append(f"{len(reads)} reads beside the expected calls; at most {case.expect.max_reads}")
    for want, found in zip(expected, taken, strict=True):
        if len(found) < want.times:
            verdict.missing_calls += want.times - len(found)
            verdict.problems.append(f"{_name(want)} was called {len(found)} times, not {want.times}")
    if case.expect.ordered:
        firsts = [found[0] for found in taken if found]
        if firsts != sorted(firsts):
            verdict.problems.append("the calls came in another order")
    verdict.expected_calls = sum(want.times for want in expected)
    verdict.matched_calls, verdict.wrong_calls = len(used), len(wrong)
    verdict.over_asked = _over_asked(played, taken)


def _assign(
    expected: Sequence[ExpectedCall], calls: Sequence[Called], resolve: Resolve
) -> tuple[list[list[int]], set[int]]:
    """Which calls fulfil which expectation: each call at most one, each expectation at most as often as it allows.

    An augmenting path lets an earlier choice move over, so that one loose expectation can't take what a strict one
    needs.
    """
    fits = [[at for at, call in enumerate(calls) if _fits(want, call, resolve)] for want in expected]
    holder: dict[int, int] = {}

    def place(want: int, seen: set[int]) -> bool:
        for at in fits[want]:
            if at in seen:
                continue
            seen.add(at)
            if at not in holder or place(holder[at], seen):
                holder[at] = want
                return True
        return False

    # What must be comes before what may be.
    for want, one in enumerate(expected):
        for _ in range(one.times):
            place(want, set())
    for want, one in enumerate(expected):
        for _ in range(one.most - one.times):
            place(want, set())
    taken = [sorted(at for at, want in holder.items() if want == number) for number in range(len(expected))]
    return taken, set(holder)


def _fits(want: ExpectedCall, call: Called, resolve: Resolve) -> bool:
    if call.tool != want.tool or (want.turn is not None and call.turn != want.turn):
        return False
    if want.ends is not None and call.outcome != want.ends:
        return False
    return call.arguments is not None and not differences(want.arguments, call.arguments, resolve)


def _why(call: Called, expected: Sequence[ExpectedCall], resolve: Resolve) -> str:
    """The unexpected call, and how it differs from the nearest expectation of the same tool."""
    said = f"turn {call.turn}: {call.tool} {call.arguments} was not expected"
    near = [_apart(want, call, resolve) for want in expected if want.tool == call.tool]
    closest = min(near, key=lambda lines: len(lines), default=[])
    return f"{said} ({'; '.join(closest)})" if closest else said


def _apart(want: ExpectedCall, call: Called, resolve: Resolve) -> list[str]:
    lines = differences(want.arguments, call.arguments, resolve)
    if want.turn is not None and want.turn != call.turn:
        lines.append(f"expected in turn {want.turn}")
    if want.ends is not None and want.ends != call.outcome:
        lines.append(f"it ended {call.outcome}, not {want.ends}")
    return lines


def _name(want: ExpectedCall) -> str:
    where = f" in turn {want.turn}" if want.turn is not None else ""
    ends = f" ending {want.ends}" if want.ends is not None else ""
    return f"{want.tool} {want.arguments}{where}{ends}"


def _forbidden(forbidden: Forbidden, calls: Sequence[Called], resolve: Resolve) -> list[str]:
    found = [call for call in calls if call.tool == forbidden.tool and _has(forbidden, call, resolve)]
    return [f"turn {call.turn}: {call.tool} {call.given} is forbidden" for call in found]


def _has(forbidden: Forbidden, call: Called, resolve: Resolve) -> bool:
    # A call that can't be understood has still been tried.
    arguments = call.arguments if call.arguments is not None else call.given
    if not isinstance(arguments, Mapping):
        return not forbidden.arguments
    return all(
        name in arguments and not differences(want, arguments[name], resolve)
        for name, want in forbidden.arguments.items()
    )


# Asking, refusing, saying.


def _acted(played: Played, turn: int) -> list[str]:
    return [call.tool for call in played.trace.calls if call.turn == turn and call.tool not in READS]


def _ask(ask: Ask, played: Played, verdict: Verdict) -> None:
    text, acted = played.trace.turn(ask.turn).text, _acted(played, ask.turn)
    lines = [f"turn {ask.turn}: {tool} was called where the person must be asked" for tool in acted]
    if not _found(_ASKS, text):
        lines.append(f"turn {ask.turn}: nothing was asked")
    lines += [f"turn {ask.turn}: not asked about {one!r}" for one in ask.about if not _found(one, text)]
    verdict.asks += 1
    verdict.under_asked += bool(lines)
    verdict.problems += lines


def _refuse(refuse: Refuse, played: Played, verdict: Verdict) -> None:
    text, acted = played.trace.turn(refuse.turn).text, _acted(played, refuse.turn)
    lines = [f"turn {refuse.turn}: {tool} was called for what must be refused" for tool in acted]
    if not says_it_cannot(text):
        lines.append(f"turn {refuse.turn}: it isn't said that this can't be done")
    lines += [f"turn {refuse.turn}: not refused with {one!r}" for one in refuse.about if not _found(one, text)]
    verdict.refusals += 1
    verdict.refused += not lines
    verdict.problems += lines


def _over_asked(played: Played, taken: Sequence[Sequence[int]]) -> int:
    """Turns that ended with a question that the case doesn't call for, instead of the calls that were due in them."""
    case, calls = played.case, played.trace.calls
    said = [number for number, turn in enumerate(case.turns, start=1) if isinstance(turn, Say)]
    asked = 0
    for number in said:
        if number in {one.turn for one in case.expect.ask} or not _found(_ASKS, played.trace.turn(number).text):
            continue
        due = [
            want.times > sum(calls[at].turn <= number for at in found)
            for want, found in zip(case.expect.calls, taken, strict=True)
            if want.tool not in READS and (want.turn or said[-1]) == number
        ]
        asked += any(due) and not _acted(played, number)
    return asked


def _replies(replies: Replies, played: Played) -> list[str]:
    text = _text(replies.turn, played)
    lines = [f"turn {replies.turn}: the reply lacks {one!r}" for one in replies.says if not _found(one, text)]
    return lines + [f"turn {replies.turn}: the reply holds {one!r}" for one in replies.never if _found(one, text)]


def _text(turn: int | str, played: Played) -> str:
    if turn == "any":
        return "\n".join(one.text for one in played.trace.turns)
    if turn == "last":
        return next((one.text for one in reversed(played.trace.turns) if one.text), "")
    return played.trace.turn(int(turn)).text


def _found(pattern: str, text: str) -> bool:
    return re.search(pattern, text, re.IGNORECASE) is not None


def _budget(played: Played) -> list[str]:
    budget, trace = played.case.expect.budget, played.trace
    tokens = trace.usage.get("prompt_tokens", 0) + trace.usage.get("completion_tokens", 0)
    lines = []
    if trace.model_calls > budget.model_calls:
        lines.append(f"{trace.model_calls} model calls; the budget is {budget.model_calls}")
    if tokens > budget.tokens:
        lines.append(f"{tokens} tokens; the budget is {budget.tokens}")
    return lines
