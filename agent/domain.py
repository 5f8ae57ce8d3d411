"""What the campaigns API returns, and the four kinds of risk; unknown fields are kept."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Generic, TypeVar

from pydantic import BaseModel, ConfigDict, Field, model_validator

Json = Any
"""A value as `json.loads` gives it."""

Item = TypeVar("Item")


class Risk(StrEnum):
    READ = "read"
    WRITE = "write"
    DESTRUCTIVE = "destructive"
    SEND = "send"

    @property
    def gated(self) -> bool:
        return self in (Risk.DESTRUCTIVE, Risk.SEND)


class Record(BaseModel):
    """A record of the API. Whatever the API adds later stays in `model_extra` and in dumps."""

    model_config = ConfigDict(extra="allow", frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _null_is_absent(cls, data: Json) -> Json:
        if not isinstance(data, dict):
            return data
        return {key: value for key, value in data.items() if value is not None or key not in cls.model_fields}


class Campaign(Record):
    id: str
    title: str = ""
    category: str | None = None
    platform: str | None = None
    templateName: str | None = None
    owners: list[str] = Field(default_factory=list)
    language: str | None = None
    creationDate: str | None = None
    lastUpdate: str | None = None


class Client(Record):
    id: str
    phoneNumber: str | None = None
    name: str | None = None
    creationDate: str | None = None
    lastUpdate: str | None = None


class Channel(Record):
    prefixedChannelId: str
    id: str | None = None
    name: str | None = None
    platform: str | None = None
    displayPhoneNumber: str | None = None
    phoneNumber: str | None = None
    isConnected: bool | None = None
    status: str | None = None
    defaultAgentId: str | None = None


class TemplateButton(Record):
    type: str = ""
    text: str | None = None
    url: str | None = None


class Template(Record):
    name: str
    status: str | None = None
    category: str | None = None
    language: str | None = None
    content: str = ""
    header: Json = None
    footer: str | None = None
    buttons: list[TemplateButton] = Field(default_factory=list)
    params: list[str] | None = None
    dynamicButtonsCount: int | None = None


class Responder(Record):
    """Who answers the replies; the API calls it an agent."""

    id: str
    name: str | None = None
    status: str | None = None


@dataclass(frozen=True, slots=True)
class Page(Generic[Item]):
    items: list[Item]
    offset: int
    has_more: bool


@dataclass(frozen=True, slots=True)
class Answer:
    """A 2xx answer of the API: its JSON, whole."""

    status: int
    body: Mapping[str, Json]
    request_id: str | None = None
