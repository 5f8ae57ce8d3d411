"""The end state: what the agent changed of the sandbox and put into the outbox, against what a case expects."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime

from agent.domain import Json
from agent.sandbox.seed import template_fields
from agent.sandbox.store import Store
from evals.case import AddedCampaign, AudienceDiff, Messages
from evals.matching import differences
from evals.play import Played
from evals.world import Sandbox, Snapshot, snapshot


def check_state(played: Played) -> list[str]:
    now, base = snapshot(played.sandbox.store), played.sandbox.base()
    added = {one: record for one, record in now.campaigns.items() if one not in base.campaigns}
    explained = dict(played.case.expect.state.renamed)
    lines = _added(played, added, now, explained)
    lines += _kept(played, now, base)
    lines += _removed(played, now, base)
    for campaign, before in base.audience.items():
        if campaign in now.campaigns:
            diff = played.case.expect.state.audience.get(campaign, AudienceDiff())
            lines += _audience(campaign, before, now.audience.get(campaign, {}), diff)
            explained |= diff.added
    unknown = [one for one in played.case.expect.state.audience if one not in base.campaigns]
    lines += [f"state: {one} is expected to change, but is no campaign of this world" for one in unknown]
    return lines + _names(played, now, base, explained)


def _added(
    played: Played, added: Mapping[str, Mapping[str, Json]], now: Snapshot, explained: dict[str, str]
) -> list[str]:
    left, lines = dict(added), []
    for want in played.case.expect.state.campaigns.added:
        apart = {one: _against(want, one, record, now, played) for one, record in left.items()}
        best = min(apart, key=lambda one: len(apart[one]), default=None)
        explained |= want.audience
        if best is None:
            lines.append(f"state: no campaign {want.title!r} was created")
            continue
        lines += [f"state: created campaign {want.title!r}: {line}" for line in apart[best]]
        del left[best]
    return lines + [f"state: a campaign {record['title']!r} was created" for record in left.values()]


def _against(
    want: AddedCampaign, campaign: str, record: Mapping[str, Json], now: Snapshot, played: Played
) -> list[str]:
    given = want.model_dump(exclude={"audience"})
    expected = {name: value for name, value in given.items() if value is not None}
    implied = _implied(played.sandbox.store, now.workspace[campaign], record) if want.templateName else {}
    actual = {name: value for name, value in record.items() if name != "id"}
    lines = differences({**implied, **expected}, actual, played.sandbox.created)
    diff = AudienceDiff(added=want.audience)
    return lines + _audience(campaign, {}, now.audience.get(campaign, {}), diff)


def _implied(store: Store, workspace: str, record: Mapping[str, Json]) -> Json:
    """What the API fills in for the record's template."""
    found = store.resources(workspace, "templates", record["templateName"]) if record.get("templateName") else []
    return template_fields(found[0], store.waba_id(workspace)) if found else {}


def _kept(played: Played, now: Snapshot, base: Snapshot) -> list[str]:
    lines, expected = [], dict(played.case.expect.state.campaigns.changed)
    for campaign, before in base.campaigns.items():
        if campaign not in now.campaigns:
            continue
        after = now.campaigns[campaign]
        changed = {name: after.get(name) for name in {*before, *after} if before.get(name) != after.get(name)}
        want = expected.pop(campaign, {})
        if "templateName" in want:
            implied = _implied(played.sandbox.store, now.workspace[campaign], after)
            changed = {name: v for name, v in changed.items() if name in want or implied.get(name) != v}
        found = differences(want, changed, played.sandbox.created)
        lines += [f"state: campaign {campaign}: {line}" for line in found]
    return lines + [f"state: {one} is expected to change, but isn't there" for one in expected]


def _removed(played: Played, now: Snapshot, base: Snapshot) -> list[str]:
    gone = {one for one in base.campaigns if one not in now.campaigns}
    expected = set(played.case.expect.state.campaigns.removed)
    lines = [f"state: campaign {one} was deleted" for one in sorted(gone - expected)]
    return lines + [f"state: campaign {one} was not deleted" for one in sorted(expected - gone)]


def _audience(
    campaign: str, before: Mapping[str, Sequence[str]], after: Mapping[str, Sequence[str]], diff: AudienceDiff
) -> list[str]:
    joined, left = set(after) - set(before), set(before) - set(after)
    leaving = set(before) if diff.removed == "all" else set(diff.removed)
    where = f"state: audience of {campaign}:"
    lines = [f"{where} {phone} was added" for phone in sorted(joined - set(diff.added))]
    lines += [f"{where} {phone} was not added" for phone in sorted(set(diff.added) - joined)]
    lines += _few(f"{where} {phone} was removed" for phone in sorted(left - leaving))
    lines += _few(f"{where} {phone} was not removed" for phone in sorted(leaving - left))
    for phone, name in diff.added.items():
        if phone in after and name not in after[phone]:
            lines.append(f"{where} {phone} is called {', '.join(after[phone])}, not {name}")
    return lines


def _names(played: Played, now: Snapshot, base: Snapshot, explained: Mapping[str, str]) -> list[str]:
    lines = []
    for phone, names in now.names.items():
        before = base.names.get(phone, ())
        new = [name for name in names if name not in before]
        lines += [f"state: {phone} is now called {name}" for name in new if explained.get(phone) != name]
    for phone, name in played.case.expect.state.renamed.items():
        if name not in now.names.get(phone, ()):
            lines.append(f"state: {phone} was not renamed to {name}")
    return lines


def check_outbox(played: Played) -> list[str]:
    """Every message that would go out, by recipient, date, channel, template and text."""
    rows, lines = played.sandbox.store.outbox(), []
    if len(rows) != played.case.expect.sends:
        lines.append(f"outbox: {len(rows)} messages, expected {played.case.expect.sends}")
    left = list(rows)
    for want in played.case.expect.outbox:
        campaign = _campaign(want.campaign, played.sandbox)
        phones = _phones(want, played.sandbox, lines)
        for date in want.dates:
            left = _taken(want, campaign, phones, date, left, played, lines)
    return lines + _few(
        f"outbox: not expected: {row['campaign']} to {row['phone']} at {row['due_at']} through {row['channel']}, "
        f"{row['template']}: {row['text']}"
        for row in left
    )


def _taken(
    want: Messages, campaign: str, phones: Sequence[str], date: str, rows: Sequence[Json], played: Played,
    lines: list[str],
) -> list[Json]:  # fmt: skip
    """The rows less those that `want` describes for one date; what it lacks goes into `lines`."""
    missing, left = Counter(phones), []
    for row in rows:
        mine = (row["campaign"], row["channel"], row["template"]) == (campaign, want.channel, want.template)
        due = datetime.fromisoformat(row["at"] if date == "now" else date) == datetime.fromisoformat(row["due_at"])
        text = not differences(want.text, row["text"], played.sandbox.created)
        if mine and due and text and missing[row["phone"]] > 0:
            missing[row["phone"]] -= 1
        else:
            left.append(row)
    lines += _few(f"outbox: no such message of {campaign} to {phone} at {date}" for phone in (+missing).elements())
    return left


def _campaign(name: str, sandbox: Sandbox) -> str:
    return sandbox.created(name) or name


def _phones(want: Messages, sandbox: Sandbox, lines: list[str]) -> list[str]:
    if not isinstance(want.to, list):
        members = snapshot(sandbox.store).audience.get(_campaign(want.to.audience, sandbox), {})
        phones = [phone for phone, names in members.items() for _ in names if phone not in want.to.without]
        if len(phones) != want.to.count:
            lines.append(f"outbox: the audience of {want.to.audience} has {len(phones)} such, not {want.to.count}")
        return phones
    return list(want.to)


def _few(lines: Iterable[str], most: int = 3) -> list[str]:
    """The first of many alike, and how many more there are."""
    found = list(lines)
    more = [f"... and {len(found) - most} more like it"] if len(found) > most else []
    return found[:most] + more
