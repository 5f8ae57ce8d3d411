"""The sandbox's memory: campaigns, clients, outbox, request ledger and faults in one SQLite database."""

import json
import sqlite3
import tempfile
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import Any

from agent.sandbox.contract import Json, Message, iso
from agent.sandbox.seed import SeedWorkspace, blank_client, workspaces

TABLES = (
    "CREATE TABLE workspace (id TEXT PRIMARY KEY, name TEXT NOT NULL, waba_id TEXT NOT NULL)",
    """CREATE TABLE resource (workspace TEXT NOT NULL, kind TEXT NOT NULL, name TEXT NOT NULL, record TEXT NOT NULL,
       PRIMARY KEY (workspace, kind, name))""",
    """CREATE TABLE campaign (id TEXT PRIMARY KEY, workspace TEXT NOT NULL, record TEXT NOT NULL,
       title TEXT AS (json_extract(record, '$.title')),
       creationDate TEXT AS (json_extract(record, '$.creationDate')),
       lastUpdate TEXT AS (json_extract(record, '$.lastUpdate')))""",
    "CREATE UNIQUE INDEX campaign_title ON campaign (workspace, title)",
    """CREATE TABLE client (id TEXT PRIMARY KEY, workspace TEXT NOT NULL, record TEXT NOT NULL,
       problematic INTEGER NOT NULL DEFAULT 0, undeliverable INTEGER NOT NULL DEFAULT 0,
       phone TEXT AS (json_extract(record, '$.phoneNumber')),
       name TEXT AS (json_extract(record, '$.name')),
       creationDate TEXT AS (json_extract(record, '$.creationDate')),
       lastUpdate TEXT AS (json_extract(record, '$.lastUpdate')))""",
    "CREATE INDEX client_phone ON client (workspace, phone)",
    "CREATE TABLE tag (tag TEXT NOT NULL, client TEXT NOT NULL, PRIMARY KEY (tag, client)) WITHOUT ROWID",
    "CREATE INDEX tag_client ON tag (client, tag)",
    """CREATE TABLE outbox (seq INTEGER PRIMARY KEY, batch TEXT NOT NULL, at TEXT NOT NULL, due_at TEXT NOT NULL,
       workspace TEXT NOT NULL, campaign TEXT NOT NULL, channel TEXT NOT NULL, responder TEXT, client TEXT NOT NULL,
       phone TEXT NOT NULL, name TEXT, template TEXT NOT NULL, language TEXT, text TEXT NOT NULL, media TEXT,
       buttons TEXT NOT NULL)""",
    """CREATE TABLE request_log (seq INTEGER PRIMARY KEY, at TEXT NOT NULL, method TEXT NOT NULL, path TEXT NOT NULL,
       query TEXT NOT NULL, body TEXT NOT NULL, key_id TEXT, status INTEGER, acted INTEGER NOT NULL DEFAULT 0,
       batch TEXT, fault TEXT, counted_at REAL)""",
    "CREATE INDEX request_rate ON request_log (key_id, counted_at)",
    """CREATE TABLE fault (id INTEGER PRIMARY KEY, kind TEXT NOT NULL, seconds REAL NOT NULL, times INTEGER NOT NULL,
       method TEXT, path TEXT, exact INTEGER NOT NULL)""",
)
NAMES = ("workspace", "resource", "campaign", "client", "tag", "outbox", "request_log", "fault")
TAGS = "(SELECT json_group_array(tag) FROM (SELECT tag FROM tag WHERE client = client.id ORDER BY tag))"


@dataclass(frozen=True)
class Page:
    limit: int = 50
    offset: int = 0
    sort_by: str = "lastUpdate"
    direction: str = "desc"

    @property
    def sql(self) -> str:
        """One row more than the limit is read, to know whether there are more; the id makes the order total."""
        order = f"{self.sort_by} {self.direction}, id {self.direction}"
        return f"ORDER BY {order} LIMIT {self.limit + 1} OFFSET {self.offset}"


@dataclass(frozen=True)
class Fault:
    """What a request suffers, of the kinds in `api.FAULTS`.

    A path matches itself and, unless `exact`, what is below it; one with `*` is a pattern for the whole path.
    """

    kind: str
    seconds: float = 1.0
    times: int = 1
    method: str | None = None
    path: str | None = None
    exact: bool = False

    def hits(self, method: str, path: str) -> bool:
        if self.method is not None and self.method != method:
            return False
        if self.path is None or self.path == path:
            return True
        if "*" in self.path:
            return fnmatchcase(path, self.path)
        return not self.exact and path.startswith(self.path.rstrip("/") + "/")


@cache
def _new(seed: bool) -> bytes:
    """A new database, whole; nothing in it depends on a clock."""
    with tempfile.TemporaryDirectory() as folder:
        store = Store(Path(folder, "new.db"), clock=_no_clock, new_id=str, seed=seed)
        # A database in memory has no log beside it.
        store._db.execute("PRAGMA journal_mode = DELETE")
        image = store._db.serialize()
        store.close()
    return image


def _no_clock() -> datetime:
    raise AssertionError("a new database has no time of its own")


@dataclass(frozen=True)
class Arrival:
    """How a request was let in: its place in the ledger, its key's rate window, and the fault it will suffer."""

    seq: int
    refused: bool
    remaining: int
    fault: Fault | None


class Store:
    """One SQLite file, or ":memory:"; several processes may each hold a `Store` on the same file.

    `outbox`, `requests`, `state`, `reset`, `alter` and the fault methods are for tests, demos and evals; the rest
    serves the API and runs inside `transaction`.
    """

    def __init__(
        self, database: str | Path, *, clock: Callable[[], datetime], new_id: Callable[[], str], seed: bool = True
    ) -> None:
        self.clock = clock
        self.new_id = new_id
        self._seed = seed
        self._lock = threading.RLock()
        self._db = sqlite3.connect(str(database), timeout=10, isolation_level=None, check_same_thread=False)
        self._db.row_factory = sqlite3.Row
        self.close = weakref.finalize(self, self._db.close)
        if str(database) == ":memory:":
            # Everybody's is the same at first, and filling it takes longer than most of what is done with it.
            self._db.deserialize(_new(seed))
            return
        try:
            self._prepare()
        except BaseException:
            self.close()
            raise

    def _prepare(self) -> None:
        # SQLite doesn't wait for a busy file when two processes switch a new one to WAL at once.
        for remaining in reversed(range(50)):
            try:
                self._db.execute("PRAGMA journal_mode = WAL")
                break
            except sqlite3.OperationalError as error:
                # What is full or can't be opened is no better in five seconds.
                if not remaining or "locked" not in str(error):
                    raise
                time.sleep(0.1)
        self._db.execute("PRAGMA synchronous = NORMAL")
        with self.transaction(write=True):
            if self._row("PRAGMA user_version")[0] == 0:
                for statement in TABLES:
                    self._db.execute(statement)
                self._fill()
                self._db.execute("PRAGMA user_version = 1")

    @contextmanager
    def transaction(self, *, write: bool) -> Iterator[None]:
        with self._lock:
            self._db.execute("BEGIN IMMEDIATE" if write else "BEGIN")
            try:
                yield
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise

    def _rows(self, sql: str, *values: Any) -> list[sqlite3.Row]:
        with self._lock:
            return self._db.execute(sql, values).fetchall()

    def _row(self, sql: str, *values: Any) -> Any:
        return next(iter(self._rows(sql, *values)), None)

    # Seed and reset.

    def reset(self) -> None:
        """Back to a new file: ledger, outbox and faults too."""
        with self.transaction(write=True):
            for name in NAMES:
                self._db.execute(f"DELETE FROM {name}")
            self._fill()

    def _fill(self) -> None:
        for workspace in workspaces():
            values = (workspace.id, workspace.name, workspace.waba_id)
            self._db.execute("INSERT INTO workspace VALUES (?, ?, ?)", values)
            resources = [(workspace.id, kind, name, _dump(record)) for kind, name, record in workspace.resources]
            self._db.executemany("INSERT INTO resource VALUES (?, ?, ?, ?)", resources)
            if self._seed:
                self._fill_workspace(workspace)

    def _fill_workspace(self, workspace: SeedWorkspace) -> None:
        for campaign in workspace.campaigns:
            self.insert_campaign(workspace.id, campaign)
        insert = "INSERT INTO client (id, workspace, record, problematic, undeliverable) VALUES (?, ?, ?, ?, ?)"
        for client in workspace.clients:
            marks = (client.problematic, client.undeliverable)
            self._db.execute(insert, (client.record["id"], workspace.id, _dump(client.record), *marks))
            for tag in client.tags:
                self._tag(client.record["id"], tag)

    # The ledger and the rate limit.

    def arrive(self, entry: Json, limit: int, given: Fault | None) -> Arrival:
        """Enter a request; one beyond `limit` in the last second of its key is refused and doesn't count."""
        # Load is real, so it is measured by the real clock: a test's frozen clock would refuse for ever.
        now = time.time()
        with self.transaction(write=True):
            window = "SELECT count(*) FROM request_log WHERE key_id IS ? AND counted_at > ?"
            before = int(self._row(window, entry["key_id"], now - 1)[0])
            refused = before >= limit
            fault = None if refused else given or self._take_fault(entry["method"], entry["path"])
            values = {
                "at": iso(self.clock()),
                **entry,
                "status": 429 if refused else None,
                "fault": fault.kind if fault else None,
                "counted_at": None if refused else now,
            }
            columns, marks = ", ".join(values), ", ".join(f":{name}" for name in values)
            cursor = self._db.execute(f"INSERT INTO request_log ({columns}) VALUES ({marks})", values)
        return Arrival(cursor.lastrowid or 0, refused, max(0, limit - before - 1), fault)

    def mark_acted(self, seq: int, batch: str | None) -> None:
        self._db.execute("UPDATE request_log SET acted = 1, batch = ? WHERE seq = ?", (batch, seq))

    def finish(self, seq: int, status: int | None) -> None:
        with self.transaction(write=True):
            self._db.execute("UPDATE request_log SET status = ? WHERE seq = ?", (status, seq))

    def requests(self) -> list[Json]:
        """The ledger, oldest first. `acted`: a write was carried out. `status` None: no answer was given (yet)."""
        rows = [dict(row) for row in self._rows("SELECT * FROM request_log ORDER BY seq")]
        for row in rows:
            del row["counted_at"]
        return [{**row, "acted": bool(row["acted"])} for row in rows]

    # Faults.

    def add_fault(self, fault: Fault) -> None:
        with self.transaction(write=True):
            values = (fault.kind, fault.seconds, fault.times, fault.method, fault.path, fault.exact)
            insert = "INSERT INTO fault (kind, seconds, times, method, path, exact) VALUES (?, ?, ?, ?, ?, ?)"
            self._db.execute(insert, values)

    def faults(self) -> list[Fault]:
        """What is still armed, oldest first, `times` counting down."""
        return [fault for _, fault in self._faults()]

    def clear_faults(self) -> None:
        with self.transaction(write=True):
            self._db.execute("DELETE FROM fault")

    def _faults(self) -> list[tuple[int, Fault]]:
        rows = self._rows("SELECT id, kind, seconds, times, method, path, exact FROM fault ORDER BY id")
        return [(row[0], Fault(row[1], row[2], row[3], row[4], row[5], bool(row[6]))) for row in rows]

    def _take_fault(self, method: str, path: str) -> Fault | None:
        for number, fault in self._faults():
            if fault.hits(method, path):
                self._db.execute("UPDATE fault SET times = times - 1 WHERE id = ?", (number,))
                self._db.execute("DELETE FROM fault WHERE times <= 0")
                return fault
        return None

    # Workspaces, channels, templates, agents.

    def workspace_name(self, workspace: str) -> str:
        return str(self._row("SELECT name FROM workspace WHERE id = ?", workspace)[0])

    def waba_id(self, workspace: str) -> str:
        return str(self._row("SELECT waba_id FROM workspace WHERE id = ?", workspace)[0])

    def resources(self, workspace: str, kind: str, name: str | None = None) -> list[Json]:
        """`kind` is channels, templates or agents; `name` a prefixedChannelId, a template's name or an agent's id."""
        sql = "SELECT record FROM resource WHERE workspace = ? AND kind = ? AND name = coalesce(?, name) ORDER BY name"
        return [json.loads(row[0]) for row in self._rows(sql, workspace, kind, name)]

    def alter(self, kind: str, name: str, /, **fields: Any) -> int:
        """Change a channel, template or agent as somebody else would; returns how many there were of that name."""
        with self.transaction(write=True):
            rows = self._rows("SELECT workspace, record FROM resource WHERE kind = ? AND name = ?", kind, name)
            for workspace, record in rows:
                values = (_dump({**json.loads(record), **fields}), workspace, kind, name)
                self._db.execute("UPDATE resource SET record = ? WHERE workspace = ? AND kind = ? AND name = ?", values)
        return len(rows)

    # Campaigns.

    def campaigns(self, workspace: str, page: Page) -> list[Json]:
        rows = self._rows(f"SELECT record FROM campaign WHERE workspace = ? {page.sql}", workspace)
        return [json.loads(row[0]) for row in rows]

    def campaign(self, workspace: str, campaign_id: str) -> Json | None:
        row = self._row("SELECT record FROM campaign WHERE workspace = ? AND id = ?", workspace, campaign_id)
        return json.loads(row[0]) if row else None

    def title_taken(self, workspace: str, title: str, *, but: str = "") -> bool:
        sql = "SELECT 1 FROM campaign WHERE workspace = ? AND title = ? AND id <> ?"
        return self._row(sql, workspace, title, but) is not None

    def insert_campaign(self, workspace: str, record: Json) -> None:
        sql = "INSERT INTO campaign (id, workspace, record) VALUES (?, ?, ?)"
        self._db.execute(sql, (record["id"], workspace, _dump(record)))

    def save_campaign(self, record: Json, now: datetime) -> Json:
        record = _touched(record, now)
        self._db.execute("UPDATE campaign SET record = ? WHERE id = ?", (_dump(record), record["id"]))
        return record

    def delete_campaign(self, workspace: str, campaign_id: str, now: datetime) -> None:
        self.untag(workspace, campaign_id, now)
        self._db.execute("DELETE FROM campaign WHERE id = ?", (campaign_id,))

    # Clients, who are the audience of the campaigns whose tag they carry.

    def audience(self, workspace: str, campaign_id: str, page: Page) -> list[Json]:
        sql = f"""SELECT record, {TAGS} FROM client WHERE workspace = ?
                  AND id IN (SELECT client FROM tag WHERE tag = ?) {page.sql}"""
        return [_client(row) for row in self._rows(sql, workspace, f"campaign-{campaign_id}")]

    def add_client(self, workspace: str, campaign_id: str, phone: str, name: str, now: datetime) -> bool:
        """True when the client is new. Of several that share the phone, the oldest is renamed and tagged."""
        sql = "SELECT record FROM client WHERE workspace = ? AND phone = ? ORDER BY creationDate, id LIMIT 1"
        row = self._row(sql, workspace, phone)
        if row:
            record = {**json.loads(row[0]), "name": name}
            self._save_client(record, now)
        else:
            record = blank_client(self.new_id(), phone, name, iso(now))
            insert = "INSERT INTO client (id, workspace, record) VALUES (?, ?, ?)"
            self._db.execute(insert, (record["id"], workspace, _dump(record)))
        self._tag(record["id"], f"campaign-{campaign_id}")
        return row is None

    def untag(self, workspace: str, campaign_id: str, now: datetime, phone: str | None = None) -> int:
        """Take the campaign's tag from all its clients, or from all of one phone; how many carried it."""
        tag = f"campaign-{campaign_id}"
        sql = """SELECT record FROM client WHERE workspace = ? AND phone = coalesce(?, phone)
                 AND id IN (SELECT client FROM tag WHERE tag = ?)"""
        records = [json.loads(row[0]) for row in self._rows(sql, workspace, phone, tag)]
        for record in records:
            self._save_client(record, now)
            self._db.execute("DELETE FROM tag WHERE tag = ? AND client = ?", (tag, record["id"]))
        return len(records)

    def _save_client(self, record: Json, now: datetime) -> None:
        self._db.execute("UPDATE client SET record = ? WHERE id = ?", (_dump(_touched(record, now)), record["id"]))

    def _tag(self, client_id: str, tag: str) -> None:
        self._db.execute("INSERT OR IGNORE INTO tag (tag, client) VALUES (?, ?)", (tag, client_id))

    # Sends.

    def recipients(self, workspace: str, campaign_id: str, *, problematic: bool, undeliverable: bool) -> list[Json]:
        """Audience members, oldest client first; the two flags say whether clients so marked are included."""
        sql = """SELECT id, phone, name FROM client WHERE workspace = ? AND problematic <= ? AND undeliverable <= ?
                 AND id IN (SELECT client FROM tag WHERE tag = ?) ORDER BY creationDate, id"""
        rows = self._rows(sql, workspace, problematic, undeliverable, f"campaign-{campaign_id}")
        return [dict(row) for row in rows]

    def post(self, header: Json, message: Message, recipients: Sequence[Json], dates: Sequence[datetime]) -> None:
        """Put one message for each recipient and date into the outbox; `header` holds the columns they share."""
        shared = {
            **header,
            "template": message.template,
            "language": message.language,
            "text": message.text,
            "media": _dump(message.media) if message.media else None,
            "buttons": _dump(message.buttons),
        }
        rows = [
            {**shared, "due_at": iso(moment), "client": one["id"], "phone": one["phone"], "name": one["name"]}
            for moment in dates
            for one in recipients
        ]
        columns, marks = ", ".join(rows[0]), ", ".join(f":{name}" for name in rows[0])
        self._db.executemany(f"INSERT INTO outbox ({columns}) VALUES ({marks})", rows)

    def outbox(self, campaign: str | None = None) -> list[Json]:
        """What would have been sent, oldest first, of all campaigns or of one."""
        sql = "SELECT * FROM outbox WHERE campaign = coalesce(?, campaign) ORDER BY seq"
        rows = [dict(row) for row in self._rows(sql, campaign)]
        return [
            {**row, "media": json.loads(row["media"] or "null"), "buttons": json.loads(row["buttons"])} for row in rows
        ]

    def state(self) -> list[Json]:
        """Per workspace: its campaigns with every stored field, its clients with tags and delivery marks."""
        found = []
        with self.transaction(write=False):
            for row in self._rows("SELECT id, name FROM workspace ORDER BY id"):
                campaigns = self._rows("SELECT record FROM campaign WHERE workspace = ? ORDER BY id", row["id"])
                sql = f"SELECT record, {TAGS}, problematic, undeliverable FROM client WHERE workspace = ? ORDER BY id"
                clients = self._rows(sql, row["id"])
                marks = [{name: bool(client[name]) for name in ("problematic", "undeliverable")} for client in clients]
                found.append(
                    {
                        **dict(row),
                        "campaigns": [json.loads(campaign[0]) for campaign in campaigns],
                        "clients": [_client(client) | mark for client, mark in zip(clients, marks, strict=True)],
                    }
                )
        return found


def _dump(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _client(row: sqlite3.Row) -> Json:
    record: Json = json.loads(row[0])
    return {**record, "tags": json.loads(row[1])}


def _touched(record: Json, now: datetime) -> Json:
    """Later than the last update even when the clock stands still, so that a change always shows."""
    after = datetime.fromisoformat(record["lastUpdate"]) + timedelta(milliseconds=1)
    return {**record, "lastUpdate": iso(max(now.astimezone(UTC), after))}
