"""campaign-agent: WhatsApp campaigns by conversation, and nothing irreversible without a person's approval.

Read in this order; each file imports only from those above it.

    errors        every error, and where it goes
    settings      the environment, as one frozen object
    domain        what the campaigns API returns; the four risks
    visible       text of others, with what hides in it as marks
    phones        E.164, and the Mexican 52/521 identity
    platica       one request to the campaigns API: key, deadline, rate, faults by name
    operations    the ten operations, one class each; their schemas
    tables        the tables of the journal, for SQLite and PostgreSQL alike
    statements    statements compiled once, and run on the driver's own cursor
    migrations/   how databases of older versions become those of this one
    database      the database opened, migrated, and run off the event loop
    journal       events, inbox, conversations, approvals, attempts: what is written, and how
    preview       the facts of a risky call, its warnings, its fingerprint
    policy        who may decide what, and how many must
    gate          policy and approval: run, ask or refuse; execute once
    prompts       the one renderer: system prompt, cards, outcomes, errors
    model         the language model: a protocol, and its OpenAI-compatible adapter
    events        what an interface gets of a turn
    transcript    a conversation as the model sees it and the journal keeps it
    loop          Agent.advance and Agent.decide: one turn, as a stream of events
    sandbox/      stand-ins for the two outer services: the campaigns API and a model
    interfaces/   people's input into turns and decisions, events into what they see
    cli           commands; builds the objects and picks the interface
"""

from typing import Any


def __getattr__(name: str) -> Any:
    """`from agent import Agent`, without loading everything for those who want a part."""
    if name == "Agent":
        from agent.loop import Agent

        return Agent
    raise AttributeError(f"module 'agent' has no attribute {name!r}")
