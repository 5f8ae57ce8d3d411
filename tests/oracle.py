"""What the gate must do, said a second time and without the gate: who was shown what, who decided, what left, and when.

It reads the cards, the decisions as people make them, the requests as they leave and the sandbox's store; nothing of
`agent.gate`. Order is by sequence number, never by the clock, which stands still for whole sequences here.
"""

import asyncio
import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import httpx
from pydantic_core import from_json

from agent.sandbox.api import SandboxTransport
from agent.sandbox.store import Page, Store
from tests.support import Clock

HOUR, WEEK, START_WITHIN = 3600.0, 7 * 86400.0, 120.0
WORKSPACE = "ws_norte"
Call = tuple[str, Mapping[str, Any]]


class Killed(BaseException):
    """The process is gone: nothing after this runs, and nobody may catch it as an error."""


@dataclass(frozen=True)
class Place:
    """What an approval holds for besides its arguments."""

    host: str
    workspace: str | None
    key: str


@dataclass(frozen=True)
class Rules:
    """The settings that policy depends on."""

    confirm: str = "risky"
    audience_over: int = 3
    typed_over: int = 2
    noninteractive: bool = False


@dataclass(frozen=True)
class State:
    """What a campaign was at one moment, as anybody could read it."""

    record: Any
    members: tuple[tuple[str, str, str], ...]
    templates: Any
    channels: Any
    sends: int


@dataclass(eq=False)
class Departure:
    """A request that isn't a read, as it left one agent. `fate`: "nothing", "maybe" or "did"."""

    number: int
    agent: "Wiretap"
    method: str
    path: str
    place: Place
    body: Any
    state: State
    at: float
    fate: str = "maybe"

    @property
    def campaign(self) -> str:
        return _campaign(self.path)

    @property
    def kind(self) -> str:
        """The tool whose request this is, by method and path alone."""
        rest = self.path.split("/")[4:]
        if self.method == "DELETE":
            tools = ("delete_campaign", "clear_campaign_audience", "remove_campaign_audience_client")
            return tools[len(rest)]
        if self.method == "PATCH":
            return "update_campaign"
        return {"send": "send_campaign", "audience": "add_campaign_audience"}.get("".join(rest), "create_campaign")

    @property
    def gated(self) -> bool:
        return self.method == "DELETE" or self.kind == "send_campaign"

    @property
    def dates(self) -> list[float]:
        given = ((self.body or {}).get("template") or {}).get("scheduledDates") or []
        return [datetime.fromisoformat(date).timestamp() for date in given]


@dataclass(eq=False)
class Shown:
    """A card, as a person saw it, and what has become of it by the rules. `granted` is the clock of a good approval."""

    id: str
    tool: str
    calls: Sequence[Mapping[str, Any]]
    session: str
    by: str
    kinds: frozenset[str]
    place: Place
    at: float
    expires: float
    state: State
    wanted: frozenset[str] | None
    certain: bool
    granted: float | None = None
    closed: str = ""
    used: dict[int, list[Departure]] = field(default_factory=dict)

    @property
    def campaign(self) -> str:
        return str(self.calls[0].get("campaignId", ""))

    def ran(self) -> list[Departure]:
        return [departure for tries in self.used.values() for departure in tries]


def wire(tool: str, arguments: Mapping[str, Any]) -> tuple[str, str, Any]:
    """The one request that a call means, by the API's own page."""
    rest = dict(arguments)
    path = f"/v1/campaigns/{rest.pop('campaignId', '')}".rstrip("/")
    match tool:
        case "send_campaign":
            return "POST", path + "/send", rest
        case "delete_campaign":
            return "DELETE", path, None
        case "clear_campaign_audience":
            return "DELETE", path + "/audience", None
        case "remove_campaign_audience_client":
            return "DELETE", f"{path}/audience/{rest['phoneNumber'].lstrip('+')}", None
        case "add_campaign_audience":
            clients = [{**client, "phoneNumber": client["phoneNumber"].lstrip("+")} for client in rest["clients"]]
            return "POST", path + "/audience", {"clients": clients}
        case "update_campaign":
            return "PATCH", path, rest
    return "POST", path, rest


def fold(text: str) -> str:
    return re.sub(r"\s+", " ", unicodedata.normalize("NFKC", text)).strip().casefold()


class Oracle:
    """Every rule of the gate, judged from outside; `violations` is what must stay empty.

    `record` gives the approvals whose attempts on a campaign are on record as started. That tells which approval a
    request claims, since two may ask for the same one; whether that approval is any good is judged here.
    """

    def __init__(self, store: Store, clock: Clock, rules: Rules, record: Callable[[str], Sequence[str]]) -> None:
        self.store, self.clock, self.rules, self.record = store, clock, rules, record
        self.cards: list[Shown] = []
        self.left: list[Departure] = []
        self.violations: list[str] = []
        self.running: dict[str, Departure] = {}

    # What there is.

    def state(self, campaign: str) -> State:
        record = self.store.campaign(WORKSPACE, campaign)
        clients = self.store.audience(WORKSPACE, campaign, Page(limit=1000)) if campaign else []
        members = tuple(sorted((c["id"], c["phoneNumber"], c["name"]) for c in clients))
        templates, channels = (self.store.resources(WORKSPACE, kind) for kind in ("templates", "channels"))
        sends = sum(
            1 for d in self.left if d.campaign == campaign and d.kind == "send_campaign" and d.fate != "nothing"
        )
        return State(record, members, templates, channels, sends)

    def relevant(self, card: Shown, state: State) -> Any:
        """What of it the card showed, so that it must not have changed. People that it removed itself are gone."""
        gone = {d.path.rpartition("/")[2] for d in card.ran() if d.kind == "remove_campaign_audience_client"}
        members = [member for member in state.members if member[1] not in gone]
        about = [state.record, state.sends]
        if card.tool in ("update_campaign", "add_campaign_audience"):
            return about
        if card.tool == "create_campaign":
            return None
        if card.tool == "remove_campaign_audience_client":
            return [*about, members]
        about.append([member[:2] for member in members])
        if card.tool == "send_campaign":
            call = card.calls[0]
            name = (call.get("template") or {}).get("name") or (state.record or {}).get("templateName")
            about.append([template for template in state.templates if template["name"] == name])
            about.append([channel for channel in state.channels if channel["prefixedChannelId"] == call["channelId"]])
        return about

    def holds(self, card: Shown) -> bool:
        return bool(self.relevant(card, self.state(card.campaign)) == self.relevant(card, card.state))

    # People.

    def show(self, event: Any, *, session: str, by: Any, place: Place, certain: bool) -> Shown:
        calls = event.arguments if isinstance(event.arguments, list) else [event.arguments]
        card = Shown(
            event.id, event.tool, calls, session, by.key,
            frozenset({by.kind, "os"}), place, self.clock(), event.expires_at,
            self.state(str(calls[0].get("campaignId", ""))), None, certain,
        )  # fmt: skip
        card.wanted = self._wanted(card)
        self.cards.append(card)
        return card

    def _wanted(self, card: Shown) -> frozenset[str] | None:
        """What has to be typed to approve it; None where a yes is enough."""
        title = str((card.state.record or {}).get("title"))
        size = len(card.state.members)
        match card.tool:
            case "delete_campaign" | "clear_campaign_audience":
                return frozenset({title, str(size)})
            case "remove_campaign_audience_client":
                return None if len(card.calls) == 1 else frozenset({title, str(len(card.calls))})
            case "send_campaign":
                if self._doubtful(card):
                    return frozenset({title})
                unique = len({phone for _, phone, _ in card.state.members})
                return frozenset({title, str(unique)}) if size > self.rules.typed_over else None
        return None

    def _doubtful(self, card: Shown) -> bool:
        """Another template than the campaign's own; or sent before, here or with the same words to the same people."""
        own = card.state.record.get("templateName")
        used = (card.calls[0].get("template") or {}).get("name") or own
        if own and used != own:
            return True
        phones = {phone for _, phone, _ in card.state.members}
        for sent in self.left:
            if sent.kind != "send_campaign" or sent.fate == "nothing":
                continue
            if sent.campaign == card.campaign and max([sent.at, *sent.dates]) >= self.clock() - WEEK:
                return True
            named = (sent.body.get("template") or {}).get("name") or (sent.state.record or {}).get("templateName")
            common = phones & {phone for _, phone, _ in sent.state.members}
            if named == used and common and sent.at >= self.clock() - WEEK:
                return True
        return False

    def may_approve(
        self, card: Shown, *, value: Any, by: Any, typed: str | None, interactive: bool, place: Place
    ) -> bool:
        """Whether this click is an approval, by everything that is known when it is made."""
        if value != "approve" or not self.may_decide(card, by=by, place=place):
            return False
        if not interactive and not self.rules.noninteractive:
            return False
        return card.wanted is None or (typed is not None and fold(typed) in {fold(text) for text in card.wanted})

    def may_decide(self, card: Shown, *, by: Any, place: Place) -> bool:
        return self.is_open(card) and card.granted is None and by.kind in card.kinds and place == card.place

    def is_open(self, card: Shown) -> bool:
        return not card.closed and self.clock() <= card.expires

    # Requests.

    def depart(self, departure: Departure) -> None:
        """Judges a request at the moment when it leaves."""
        if (other := self.running.get(departure.campaign)) is not None and departure.campaign:
            self.violations.append(f"{departure.path} leaves while {other.path} is under way")
        self.running[departure.campaign] = departure
        claimed = self.record(departure.campaign)
        if not claimed:
            self.violations.append(f"{departure.method} {departure.path} leaves before it is on record")
        reasons = {card.id: self._why_not(card, departure) for card in self.cards if card.id in claimed}
        covering = [card for card in self.cards if reasons.get(card.id, "") is None]
        if covering:
            at = self._position(covering[0], departure)
            assert at is not None
            covering[0].used.setdefault(at, []).append(departure)
        elif departure.gated or self._needs_approval(departure):
            what = f"{departure.method} {departure.path} {departure.body}"
            self.violations.append(f"{what} without a good approval: {reasons or claimed}")
        self.left.append(departure)

    def _needs_approval(self, departure: Departure) -> bool:
        """Of a plain write."""
        if self.rules.confirm == "writes":
            return True
        before = [d for d in self.left if d.campaign == departure.campaign and d.fate != "nothing" and d.campaign]
        if any(max(d.dates, default=0.0) > departure.at for d in before):
            return True
        if departure.kind != "add_campaign_audience":
            return False
        recent = [d for d in before if d.kind == departure.kind and d.at > departure.at - HOUR]
        return sum(len(d.body["clients"]) for d in [*recent, departure]) > self.rules.audience_over

    def _position(self, card: Shown, departure: Departure) -> int | None:
        """Which call of the card this is: the first that has not surely had its request."""
        for at, call in enumerate(card.calls):
            tries = card.used.get(at, [])
            if any(one.fate == "did" for one in tries):
                continue
            if any(one.fate == "maybe" for one in tries):
                return None
            same = wire(card.tool, call) == (departure.method, departure.path, departure.body)
            return at if same else None
        return None

    def _why_not(self, card: Shown, departure: Departure) -> str | None:
        """Why a card is no leave for this request; None: it is."""
        asked = [wire(card.tool, call) for call in card.calls]
        if (departure.method, departure.path, departure.body) not in asked:
            return "another request"
        if self._position(card, departure) is None:
            return "used"
        if card.closed:
            return card.closed
        if card.granted is None:
            return "not approved"
        if departure.place != card.place or departure.agent.place != card.place or departure.agent.read_only:
            return "elsewhere"
        if departure.at > card.expires:
            return "expired"
        if not card.ran() and departure.at > card.granted + START_WITHIN:
            return "approved too long ago"
        if any(date <= departure.at for date in departure.dates):
            return "its date has passed"
        if self.relevant(card, departure.state) != self.relevant(card, card.state):
            return "not what was shown"
        return None


Trouble = Callable[[Departure, httpx.Request], httpx.Response | None]


@dataclass(eq=False)
class Wiretap(httpx.AsyncBaseTransport):
    """Between one agent and the sandbox: tells the oracle what leaves, and brings trouble on demand."""

    oracle: Oracle
    inner: SandboxTransport
    place: Place
    read_only: bool = False
    before: Trouble | None = None
    after: Trouble | None = None
    pause: float = 0.0

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        # The loop's clock runs fast here, so a client's patience would be too short.
        request.extensions.pop("timeout", None)
        if request.method == "GET":
            return await self.inner.handle_async_request(request)
        departure = self._departure(request)
        self.oracle.depart(departure)
        try:
            departure.fate = "maybe"
            response = await self._pass(departure, request)
            departure.fate = _fate(response)
            return response
        except httpx.ConnectError:
            departure.fate = "nothing"
            raise
        finally:
            if self.oracle.running.get(departure.campaign) is departure:
                del self.oracle.running[departure.campaign]

    async def _pass(self, departure: Departure, request: httpx.Request) -> httpx.Response:
        if self.before is not None and (answer := self.before(departure, request)) is not None:
            return answer
        # A moment in which somebody else could come between.
        await asyncio.sleep(self.pause)
        response = await self.inner.handle_async_request(request)
        await response.aread()
        if self.after is not None and (answer := self.after(departure, request)) is not None:
            return answer
        return response

    def _departure(self, request: httpx.Request) -> Departure:
        path = request.url.path
        place = Place(str(request.url.copy_with(raw_path=b"/")).rstrip("/"), request.url.params.get("workspace"),
                      self.place.key)  # fmt: skip
        campaign = _campaign(path)
        body = from_json(request.content) if request.content else None
        number = len(self.oracle.left)
        return Departure(
            number, self, request.method, path, place, body, self.oracle.state(campaign), self.oracle.clock()
        )


def _campaign(path: str) -> str:
    """Whose request it is; "" for one that makes a campaign."""
    return path.removeprefix("/v1/campaigns").strip("/").partition("/")[0]


def _fate(response: httpx.Response) -> str:
    """By the API's own page: a documented refusal did nothing, a success did it, all else may have."""
    try:
        body = from_json(response.content)
    except ValueError:
        return "maybe"
    if response.status_code in (400, 401, 403, 404, 422, 429) and body.get("code") == response.status_code:
        return "nothing"
    return "did" if response.is_success and body.get("status") == "success" else "maybe"
