"""The schemas as models and MCP clients get them: a snapshot, a size, OpenAI's strict rules, MCP's hints.

A difference from tests/schemas.json is a change of the product. Where it is meant, renew the file with
`python -m tests.test_schemas` and say so in the change.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agent.domain import Risk
from agent.errors import InvalidCall
from agent.operations import BY_NAME, OPERATIONS, mcp_tools, openai_tools, parse
from tests.test_operations import BUEN_FIN, CREATE, ID, ON_THE_WIRE, READING, SEND, TABLE

SNAPSHOT = Path(__file__).with_name("schemas.json")
RENEW = "the tool schemas changed; if that is meant, renew the snapshot: python -m tests.test_schemas"
BYTES = 9 * 1024
"""The ten go with every request to a model; what they cost is a product decision."""

Node = dict[str, Any]


def forms() -> dict[str, list[Node]]:
    return {"openai": openai_tools(), "strict": openai_tools(strict=True), "mcp": mcp_tools()}


def snapshot() -> dict[str, list[Node]]:
    found: dict[str, list[Node]] = json.loads(SNAPSHOT.read_text())
    return found


def parameters(form: str) -> dict[str, Node]:
    """The argument schema of each tool, by its name."""
    if form == "mcp":
        return {tool["name"]: tool["inputSchema"] for tool in mcp_tools()}
    return {t["function"]["name"]: t["function"]["parameters"] for t in openai_tools(strict=form == "strict")}


def nodes(node: Any, path: str = "") -> Iterator[tuple[str, Node]]:
    """Every schema inside a schema, with its place."""
    if not isinstance(node, dict):
        return
    yield path, node
    for name, field in node.get("properties", {}).items():
        yield from nodes(field, f"{path}.{name}")
    yield from nodes(node.get("items"), f"{path}[]")


def everywhere(form: str) -> list[tuple[str, Node]]:
    return [found for tool, schema in parameters(form).items() for found in nodes(schema, tool)]


FORMS = ["openai", "strict", "mcp"]


@pytest.mark.parametrize("form", FORMS)
def test_snapshot(form: str) -> None:
    now = json.loads(json.dumps(forms()[form]))
    for was, tool in zip(snapshot()[form], now, strict=True):
        assert tool == was, RENEW
    # Order too: it decides whether a provider's prompt cache hits.
    assert json.dumps(now) == json.dumps(snapshot()[form]), RENEW


def test_the_bytes_are_the_same_each_time() -> None:
    assert json.dumps(forms()) == json.dumps(forms())


def test_the_openai_form_is_small() -> None:
    compact = json.dumps(openai_tools(), separators=(",", ":"), ensure_ascii=False).encode()
    assert len(compact) < BYTES, f"{len(compact)} bytes"


@pytest.mark.parametrize("form", ["openai", "strict"])
def test_openai_envelope(form: str) -> None:
    for tool in forms()[form]:
        assert set(tool) == {"type", "function"}
        assert tool["type"] == "function"
        wanted = {"name", "description", "parameters"} | ({"strict"} if form == "strict" else set())
        assert set(tool["function"]) == wanted
        assert tool["function"].get("strict", True) is True
        assert re.fullmatch("[a-z_]{1,64}", tool["function"]["name"])


@pytest.mark.parametrize("form", FORMS)
def test_names_and_descriptions(form: str) -> None:
    tools = [tool.get("function", tool) for tool in forms()[form]]
    assert [tool["name"] for tool in tools] == [operation.tool() for operation in OPERATIONS]
    for tool in tools:
        assert 20 < len(tool["description"]) < 400
        assert "\n" not in tool["description"]


@pytest.mark.parametrize("tool", [o.tool() for o in OPERATIONS if o.risk.gated])
def test_a_gated_tool_says_that_a_person_is_asked(tool: str) -> None:
    (found,) = [one for one in mcp_tools() if one["name"] == tool]
    assert "a person is asked first" in found["description"].lower()


# Structure.

KEYWORDS = {
    "object": {"type", "properties", "required", "additionalProperties", "description"},
    "array": {"type", "items", "minItems", "description", "default"},
    "string": {"type", "enum", "const", "pattern", "minLength", "maxLength", "description", "default"},
    "integer": {"type", "minimum", "maximum", "description", "default"},
    "boolean": {"type", "description", "default"},
}


def kind_of(node: Node) -> str:
    kind = node["type"]
    return str(kind[0] if isinstance(kind, list) else kind)


@pytest.mark.parametrize("form", FORMS)
def test_each_schema_is_plain_json_schema(form: str) -> None:
    """One type each, no references, no unions: what every server's grammar understands."""
    for path, node in everywhere(form):
        kind = kind_of(node)
        assert set(node) <= KEYWORDS[kind], path
        if isinstance(node["type"], list):
            assert node["type"] == [kind, "null"], path
        if kind == "object":
            assert node["additionalProperties"] is False, path
            assert set(node.get("required", [])) <= set(node["properties"]), path
            assert len(set(node.get("required", []))) == len(node.get("required", [])), path
        if kind == "array":
            assert isinstance(node["items"], dict), path
        if "pattern" in node:
            re.compile(node["pattern"])
        if "enum" in node:
            assert len(set(node["enum"])) == len(node["enum"]) >= 2, path
        if "default" in node:
            assert problems(node, node["default"]) == [], path


@pytest.mark.parametrize("form", FORMS)
def test_the_root_is_an_object_with_the_operations_fields(form: str) -> None:
    for tool, schema in parameters(form).items():
        assert schema["type"] == "object"
        assert list(schema["properties"]) == list(BY_NAME[tool].model_fields)


def test_strict_rules() -> None:
    """OpenAI's strict dialect refuses the whole request otherwise."""
    for path, node in everywhere("strict"):
        assert "default" not in node, path
        # The API answers 400 "'minLength' is not permitted".
        assert not {"minLength", "maxLength"} & set(node), path
        if kind_of(node) == "object":
            assert sorted(node["required"]) == sorted(node["properties"]), path
            assert node["additionalProperties"] is False, path
        if isinstance(node["type"], list) and "enum" in node:
            assert None in node["enum"], path


def test_optional_fields_are_nullable_in_the_strict_form_and_no_others() -> None:
    loose = dict(everywhere("openai"))
    for path, node in everywhere("strict"):
        for name, field in node.get("properties", {}).items():
            optional = name not in loose[path].get("required", [])
            # A field with one possible value can as well be always there.
            if "const" not in field:
                assert ("null" in field["type"]) is optional, f"{path}.{name}"


def test_the_loose_form_says_what_is_required_and_nothing_is_nullable() -> None:
    for tool, schema in parameters("openai").items():
        fields = BY_NAME[tool].model_fields
        assert set(schema.get("required", [])) == {name for name, field in fields.items() if field.is_required()}
    for path, node in everywhere("openai"):
        assert isinstance(node["type"], str), path


def test_bounds_and_defaults_of_the_page() -> None:
    found = parameters("openai")
    for tool, most in (("list_campaigns", 200), ("get_campaign_audience", 500)):
        fields = found[tool]["properties"]
        assert {key: fields["limit"][key] for key in ("minimum", "maximum", "default")} == {
            "minimum": 1,
            "maximum": most,
            "default": 50,
        }
        assert (fields["offset"]["minimum"], fields["offset"]["default"]) == (0, 0)
        assert (fields["sortBy"]["default"], fields["sortDirection"]["default"]) == ("lastUpdate", "desc")
        assert fields["sortDirection"]["enum"] == ["asc", "desc"]
    assert found["list_campaigns"]["properties"]["sortBy"]["enum"] == ["title", "creationDate", "lastUpdate"]
    assert found["get_campaign_audience"]["properties"]["sortBy"]["enum"] == ["name", "creationDate", "lastUpdate"]
    assert found["create_campaign"]["properties"]["platform"]["default"] == "whatsapp"
    assert found["create_campaign"]["properties"]["category"]["enum"] == ["marketing", "utility", "authentication"]
    assert found["add_campaign_audience"]["properties"]["clients"]["minItems"] == 1
    template = found["send_campaign"]["properties"]["template"]["properties"]
    assert template["type"]["enum"] == ["image", "video", "document"]
    button = template["buttons"]["items"]["properties"]
    assert button["sub_type"]["enum"] == ["url", "phone_number", "quick_reply", "otp", "flow"]
    assert button["index"]["minimum"] == 0


# Examples, by a validator of the few keywords above.

TYPES: dict[str, Any] = {
    "object": dict,
    "array": list,
    "string": str,
    "integer": int,
    "boolean": bool,
    "null": type(None),
}


def problems(node: Node, value: Any, path: str = "") -> list[str]:
    """What is wrong with a value, by its schema."""
    kinds = node["type"] if isinstance(node["type"], list) else [node["type"]]
    # Python's True is an int; JSON's isn't.
    fits = [kind for kind in kinds if isinstance(value, TYPES[kind])]
    if isinstance(value, bool) and "boolean" not in kinds:
        fits = []
    if not fits:
        return [f"{path}: {value!r} is not {kinds}"]
    if value is None:
        return []
    found = []
    if "enum" in node and value not in node["enum"]:
        found.append(f"{path}: not in the enum")
    if "const" in node and value != node["const"]:
        found.append(f"{path}: not the constant")
    if isinstance(value, str):
        found += [f"{path}: pattern"] if "pattern" in node and not re.search(node["pattern"], value) else []
        found += [f"{path}: too short"] if len(value) < node.get("minLength", 0) else []
    elif isinstance(value, int) and not isinstance(value, bool):
        low, high = node.get("minimum", value), node.get("maximum", value)
        found += [f"{path}: out of bounds"] if not low <= value <= high else []
    elif isinstance(value, list):
        found += [f"{path}: too few"] if len(value) < node.get("minItems", 0) else []
        for number, item in enumerate(value):
            found += problems(node["items"], item, f"{path}[{number}]")
    elif isinstance(value, dict):
        found += [f"{path}: {name} is missing" for name in node.get("required", []) if name not in value]
        for name, item in value.items():
            if name not in node["properties"]:
                found.append(f"{path}: {name} is unknown")
            else:
                found += problems(node["properties"][name], item, f"{path}.{name}")
    return found


EXAMPLES = [(tool, row[3]) for tool, row in TABLE.items()] + [(row[0], row[1]) for row in ON_THE_WIRE]


@pytest.mark.parametrize(("tool", "arguments"), EXAMPLES)
def test_what_the_schema_allows_the_parser_takes(tool: str, arguments: Any) -> None:
    # A null is what the strict form writes for "absent"; the loose one has no nulls.
    given = {name: value for name, value in arguments.items() if value is not None}
    assert problems(parameters("openai")[tool], given) == []
    assert problems(parameters("mcp")[tool], given) == []
    assert parse(tool, given, READING)


def filled(node: Node, value: Any) -> Any:
    """`value` as the strict form wants it: every absent field as null."""
    if isinstance(value, dict):
        constants = {name: field.get("const") for name, field in node["properties"].items()}
        return {
            name: filled(field, value[name]) if value.get(name) is not None else constants[name]
            for name, field in node["properties"].items()
        }
    if isinstance(value, list):
        return [filled(node["items"], item) for item in value]
    return value


@pytest.mark.parametrize(("tool", "arguments"), EXAMPLES)
def test_the_strict_form_of_a_call_is_the_same_call(tool: str, arguments: Any) -> None:
    schema = parameters("strict")[tool]
    strict = filled(schema, arguments)
    assert problems(schema, strict) == []
    assert parse(tool, strict, READING).canonical() == parse(tool, arguments, READING).canonical()


REFUSED: list[tuple[str, Any]] = [
    ("list_campaigns", {"limit": 0}),
    ("list_campaigns", {"limit": 201}),
    ("list_campaigns", {"limit": True}),
    ("list_campaigns", {"limit": "5"}),
    ("list_campaigns", {"sortBy": "name"}),
    ("list_campaigns", {"confirm": True}),
    ("get_campaign", {}),
    ("get_campaign", {"campaignId": "X/send#"}),
    ("get_campaign", {"campaignId": ""}),
    ("create_campaign", {"title": "x"}),
    ("create_campaign", {**CREATE, "category": "promo"}),
    ("create_campaign", {**CREATE, "title": ""}),
    ("add_campaign_audience", {"campaignId": BUEN_FIN, "clients": []}),
    ("add_campaign_audience", {"campaignId": BUEN_FIN, "clients": [{"name": "Ana"}]}),
    ("send_campaign", {"campaignId": ID}),
    ("send_campaign", {**SEND, "template": {"type": "audio"}}),
    ("send_campaign", {**SEND, "template": {"buttons": [{"index": -1, "sub_type": "url"}]}}),
    ("send_campaign", {**SEND, "template": {"scheduledDates": []}}),
    ("send_campaign", {**SEND, "template": {"params": "Ana"}}),
]


@pytest.mark.parametrize(("tool", "arguments"), REFUSED)
def test_what_the_schema_forbids_the_parser_refuses(tool: str, arguments: Any) -> None:
    for form in ("openai", "mcp"):
        assert problems(parameters(form)[tool], arguments), form
    with pytest.raises(InvalidCall):
        parse(tool, arguments, READING)


# MCP.

READS = {"list_campaigns", "get_campaign", "get_campaign_audience"}
DESTRUCTIVE = {
    "delete_campaign",
    "remove_campaign_audience_client",
    "clear_campaign_audience",
    # The platform's own server says write; here clients must prompt for it.
    "send_campaign",
}
IDEMPOTENT = {*READS, "remove_campaign_audience_client"}


def test_all_four_hints_are_explicit_and_as_the_page_has_them() -> None:
    for tool in mcp_tools():
        name, hints = tool["name"], dict(tool["annotations"])
        assert hints.pop("title")
        assert hints == {
            "readOnlyHint": name in READS,
            "destructiveHint": name in DESTRUCTIVE,
            "idempotentHint": name in IDEMPOTENT,
            "openWorldHint": True,
        }, name


def test_hints_follow_the_risk() -> None:
    for tool, operation in zip(mcp_tools(), OPERATIONS, strict=True):
        assert tool["annotations"]["readOnlyHint"] is (operation.risk is Risk.READ)
        assert tool["annotations"]["destructiveHint"] is (operation.risk in (Risk.DESTRUCTIVE, Risk.SEND))


if __name__ == "__main__":
    SNAPSHOT.write_text(json.dumps(forms(), indent=1, ensure_ascii=False) + "\n")
