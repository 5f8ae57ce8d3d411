"""Mutants of the gate: for each rule of the design's section 4, the gate without it, and the tests that must notice.

`test_mutants.py` makes and kills them. A mutant whose text is not in the source exactly once is an error, so that none
survives by no longer being one.
"""

from dataclasses import dataclass

MACHINE = "test_properties.py::test_nothing_runs_but_what_was_approved_as_it_was_shown"


@dataclass(frozen=True)
class Mutant:
    """`edits` are (file in agent/, text, text instead); `tests` are in tests/, and each of them must fail."""

    name: str
    rule: str
    edits: tuple[tuple[str, str, str], ...]
    tests: tuple[str, ...]


def mutant(name: str, rule: str, old: str, new: str, *tests: str, file: str = "gate.py") -> Mutant:
    """Of one place. A test without a file is in test_rules.py."""
    return Mutant(
        name, rule, ((file, old, new),), tuple(test if "::" in test else f"test_rules.py::{test}" for test in tests)
    )


ASKS = (
    Mutant(
        "nothing-asks-by-itself",
        "destructive calls and sends ask",
        (
            ("loop.py", "if parsed.risk is Risk.WRITE:\n            call =", "if True:\n            call ="),
            ("gate.py", "if operation.risk is not Risk.WRITE or", "if"),
        ),
        ("test_rules.py::test_everything_destructive_and_every_send_asks",),
    ),
    mutant(
        "large-addition-runs",
        "a write above confirm_audience_over asks",
        "return _size(operation) + sum(attempt.size for attempt in recent) > self._settings.confirm_audience_over",
        "return False",
        "test_additions_above_the_limit_ask_and_those_of_the_last_hour_count",
        MACHINE,
    ),
    mutant(
        "hour-not-counted",
        "confirm_audience_over counts over a sliding hour",
        "_size(operation) + sum(attempt.size for attempt in recent)",
        "_size(operation)",
        "test_additions_above_the_limit_ask_and_those_of_the_last_hour_count",
    ),
    mutant(
        "scheduled-send-forgotten",
        "while a scheduled send of ours lies ahead, every write to that campaign asks",
        "if any(send.last_date is not None and send.last_date > now for send in ahead):",
        "if False:",
        "test_while_a_send_lies_ahead_every_write_to_its_campaign_asks",
    ),
    mutant(
        "confirm-writes-ignored",
        "confirm = writes: every write asks",
        'or self._settings.confirm == "writes":',
        "or False:",
        "test_confirm_writes_makes_every_write_ask",
    ),
    mutant(
        "read-only-ignored",
        "read_only refuses all but reads, before asking and before the start",
        "if operation.risk is not Risk.READ and self._settings.read_only:",
        "if False:",
        "test_read_only_refuses_before_it_asks_and_before_it_starts",
    ),
    mutant(
        "read-only-after-approval",
        "at the claim policy is judged again",
        "if (refused := self.refuse(rest[0].operation)) is not None:",
        "if (refused := None) is not None:",
        "test_read_only_refuses_before_it_asks_and_before_it_starts",
    ),
)

DECISIONS = (
    mutant(
        "anything-but-deny-is-yes",
        "a missing or unknown decision value is no",
        'approve = decision == "approve"',
        'approve = decision != "deny"',
        "test_any_other_value_is_no",
    ),
    mutant(
        "no-expiry-at-the-decision",
        "an expired approval can't be decided",
        "if (swept := _swept(approval, tx.now())) is not None:\n                tx.move(approval_id",
        "if (swept := None) is not None:\n                tx.move(approval_id",
        "test_an_expired_approval_cannot_be_decided",
    ),
    mutant(
        "anybody-decides",
        "an approval says which kinds of identity may decide it",
        "if not both and (approve or not own):",
        "if False:",
        "test_another_kind_of_identity_may_not_decide",
    ),
    mutant(
        "no-terminal-needed",
        "without a terminal, approving needs its setting",
        "if approve and not interactive and not self._settings.allow_noninteractive_approve:",
        "if False:",
        "test_without_a_terminal_nobody_approves_unless_it_is_set",
    ),
    mutant(
        "nothing-typed",
        "the gate checks the typed text",
        'if preview.confirm == "yes":\n            return None',
        "if True:\n            return None",
        "test_what_must_be_typed_is_checked_here",
    ),
    mutant(
        "count-for-a-title",
        "where the title must be typed, a count is none",
        'if preview.confirm == "typed":',
        'if preview.confirm != "yes":',
        "test_sending_again_wants_the_title_and_no_count",
    ),
    mutant(
        "sent-before-is-nothing",
        "a campaign that was sent before wants its title typed",
        '{"attempt": sends[0].id, "at": sends[0].started_at}, typed=True)',
        '{"attempt": sends[0].id, "at": sends[0].started_at}, typed=False)',
        "test_sending_again_wants_the_title_and_no_count",
        file="preview.py",
    ),
    mutant(
        "decided-twice",
        "states move only forward: what is decided is decided",
        'if approval.state != "pending":\n                return DecisionRefused',
        "if False:\n                return DecisionRefused",
        "test_a_decided_approval_is_decided",
    ),
    mutant(
        "superseded-waits-on",
        "a new message of the same person supersedes what waits",
        'return [approval for approval in waiting if tx.move(approval.id, "pending", "superseded")]',
        "return waiting",
        "test_a_new_message_overtakes_what_waits",
    ),
    mutant(
        "approved-runs-after-a-new-message",
        "what was approved and never begun is not begun by a new message",
        'if ended is None and moved_on and approval.state == "approved":',
        "if False:",
        "test_a_new_message_overtakes_what_was_approved_and_never_begun",
        file="loop.py",
    ),
    mutant(
        "denied-is-asked-again",
        "after denied, drifted or unknown the identical call in the same turn is refused",
        "if any(self._parse(stopped) == parsed for stopped in transcript.stopped):",
        "if False:",
        "test_what_was_denied_is_not_asked_again_in_the_turn",
        file="loop.py",
    ),
)

BOUND = (
    mutant(
        "arguments-not-bound",
        "an approval is bound to its arguments by their digest",
        "or _digest(calls) != approval.arguments_sha256:",
        "or False:",
        "test_arguments_are_bound_by_their_digest",
    ),
    mutant(
        "arguments-not-in-the-fingerprint",
        "the fingerprint is the digest of tool, arguments and facts",
        "json.dumps([self.tool, list(self.arguments), self.facts], sort_keys",
        "json.dumps([self.tool, self.facts], sort_keys",
        "test_arguments_are_bound_by_the_fingerprint_too",
        file="preview.py",
    ),
    mutant(
        "tool-not-bound",
        "an approval is bound to its tool by the digest",
        'text = "\\n".join(f"{operation.tool()} {operation.canonical()}" for operation in operations)',
        'text = "\\n".join(operation.canonical() for operation in operations)',
        "test_the_tool_is_bound[False]",
    ),
    mutant(
        "tool-not-in-the-fingerprint",
        "the fingerprint is the digest of tool, arguments and facts",
        "json.dumps([self.tool, list(self.arguments), self.facts], sort_keys",
        "json.dumps([list(self.arguments), self.facts], sort_keys",
        "test_the_tool_is_bound[True]",
        file="preview.py",
    ),
    mutant(
        "base-url-not-bound",
        "an approval is bound to the base URL",
        "return mine == (approval.base_url, approval.workspace, approval.key_id)",
        "return mine[1:] == (approval.workspace, approval.key_id)",
        "test_an_approval_holds_nowhere_else[base URL]",
    ),
    mutant(
        "workspace-not-bound",
        "an approval is bound to the workspace",
        "return mine == (approval.base_url, approval.workspace, approval.key_id)",
        "return mine[::2] == (approval.base_url, approval.key_id)",
        "test_an_approval_holds_nowhere_else[workspace]",
    ),
    mutant(
        "key-not-bound",
        "an approval is bound to the key",
        "return mine == (approval.base_url, approval.workspace, approval.key_id)",
        "return mine[:2] == (approval.base_url, approval.workspace)",
        "test_an_approval_holds_nowhere_else[key]",
    ),
    mutant(
        "conversation-not-bound",
        "an approval runs in its own conversation",
        '.where((_approval.c.conversation == _b("conversation")) & _approval.c.calls.like(_b("like")))',
        '.where(_approval.c.calls.like(_b("like")))',
        "test_an_approval_is_none_in_another_conversation",
        file="journal.py",
    ),
    mutant(
        "decider-not-judged-again",
        "at the claim entitlement is judged again",
        "for by in approved if self.entitled(approval, by, approve=True) is None)",
        "for by in approved)",
        "test_whoever_decided_is_judged_again_at_the_start",
    ),
    mutant(
        "no-decision-needed",
        "approved means enough distinct entitled decisions",
        "return max(kinds.values(), default=0) >= self._needed(approval)",
        "return True",
        "test_a_state_without_a_decision_is_no_approval",
    ),
)

DRIFT = (
    mutant(
        "drift-ignored",
        "any difference of the two previews is drift, and nothing runs",
        "same = fresh.fingerprint == approval.fingerprint",
        "same = True",
        "test_a_removal_is_bound_to_the_audience",
        MACHINE,
    ),
    mutant(
        "drift-in-a-batch-ignored",
        "inside a batch only our own removals may have changed anything",
        "same = _same_but_removed(approved, fresh, set(context.batch_done))",
        "same = True",
        "test_drift_inside_a_batch_stops_it",
    ),
    mutant(
        "audience-not-bound",
        "the audience is one of the facts",
        'facts: dict[str, Json] = {"campaign": campaign.model_dump(mode="json"), "audience": audience.facts}\n'
        '        facts["earlier"]',
        'facts: dict[str, Json] = {"campaign": campaign.model_dump(mode="json"), "audience": {"size": 0}}\n'
        '        facts["earlier"]',
        "test_a_removal_is_bound_to_the_audience[call0]",
        "test_a_removal_is_bound_to_the_audience[call1]",
        file="preview.py",
    ),
    mutant(
        "members-not-bound",
        "the audience is bound member by member",
        'facts["digest"] = hashlib.sha256(text.encode()).hexdigest()',
        'facts["digest"] = ""',
        "test_a_send_is_bound_to_what_its_card_showed[somebody_is_swapped]",
        file="preview.py",
    ),
    mutant(
        "template-status-not-bound",
        "the template's status is one of the facts",
        '"status": template.status,',
        '"status": "APPROVED",',
        "test_a_send_is_bound_to_what_its_card_showed[template_status]",
        file="preview.py",
    ),
    mutant(
        "channel-not-bound",
        "the channel is one of the facts",
        '"number": number, "connected": connected, "status": channel.status}',
        '"number": number, "connected": True, "status": channel.status}',
        "test_a_send_is_bound_to_what_its_card_showed[channel_drops]",
        file="preview.py",
    ),
    mutant(
        "dates-not-judged-again",
        "at the claim all dates lie ahead still",
        "fresh_call = parse(tool, rest[0].operation.arguments(), self.reading())",
        "fresh_call = rest[0].operation",
        "test_a_date_that_has_passed_meanwhile_is_not_sent",
    ),
    mutant(
        "no-expiry-at-the-start",
        "an approval that has expired doesn't start",
        'return "expired" if approval.state == "approved" and late else None',
        "return None",
        "test_an_approval_that_expires_before_the_start_is_expired",
    ),
    mutant(
        "no-expiry-in-a-batch",
        "expiry is judged again before every request",
        "if self._clock() > approval.expires_at:",
        "if False:",
        "test_an_approval_that_expires_inside_a_batch_runs_no_more",
    ),
    mutant(
        "starts-whenever",
        "approved but not started within two minutes is expired",
        "late = now > (approval.decided_at or 0.0) + START_WITHIN or now > approval.expires_at",
        "late = now > approval.expires_at",
        "test_an_approved_call_starts_within_two_minutes_or_never[121-expired]",
    ),
    mutant(
        "repeated-unseen",
        "expiry, dates and drift are checked again before a request is repeated",
        "if (changed := await self._recheck(approval, rest, ended)) is not None:",
        "if (changed := None) is not None:",
        "test_a_request_is_judged_again_before_it_is_repeated",
        MACHINE,
    ),
)

ONCE = (
    mutant(
        "moves-from-any-state",
        "states move by compare-and-set",
        '.where((_approval.c.id == _b("approval")) & (_approval.c.state == _b("old")))',
        '.where(_approval.c.id == _b("approval"))',
        "test_a_state_moves_only_from_where_it_is",
        file="journal.py",
    ),
    mutant(
        "attempt-not-recorded",
        "the attempt is on record before the first byte",
        'return None if tx.attempt(attempt) else "used"',
        "return None",
        "test_the_attempt_is_on_record_before_the_first_byte",
        MACHINE,
    ),
    mutant(
        "attempt-made-again",
        "an attempt that is on record is never made again",
        'return None if tx.attempt(attempt) else "used"',
        "return None if tx.attempt(attempt) else None",
        "test_an_attempt_on_record_is_not_made_again",
    ),
    mutant(
        "unknown-repeated",
        "unknown is never repeated by itself",
        "except (ApiUnreachable, ApiRateLimited) as error:",
        "except ApiError as error:",
        "test_an_answer_that_says_nothing_sure_is_unknown_and_not_repeated[drop]",
        MACHINE,
    ),
    mutant(
        "server-error-is-failed",
        "a 5xx may have acted",
        "_REFUSALS = {400, 401, 403, 404, 422}",
        "_REFUSALS = {400, 401, 403, 404, 422, 500, 503}",
        "test_an_answer_that_says_nothing_sure_is_unknown_and_not_repeated[500_after]",
        MACHINE,
        file="platica.py",
    ),
    mutant(
        "unknown-too-early",
        "nobody else judges an attempt before its deadline and a margin",
        'return [a for a in tx.attempts(states=("started",)) if tx.now() > a.deadline + MARGIN]',
        'return tx.attempts(states=("started",))',
        "test_an_attempt_is_called_unknown_only_when_its_time_is_over",
    ),
    mutant(
        "cancelled-in-the-request",
        "from the attempt's record to its outcome nothing is cancelled",
        "return await shielded(self._run(approval, rest, ended, owner, *checked))",
        "return await self._run(approval, rest, ended, owner, *checked)",
        "test_stopping_a_turn_in_its_request_still_records_the_end",
    ),
    mutant(
        "batch-goes-on",
        "behind a call that ended other than done, nothing of its batch runs",
        "if outcome.kind is not Kind.DONE:\n                for call in rest[1:]:",
        "if False:\n                for call in rest[1:]:",
        "test_a_failure_inside_a_batch_stops_it",
    ),
    mutant(
        "steps-go-on",
        "writes and gated calls behind a step that did not happen are not run",
        "if transcript.failed_step and (",
        "if False and (",
        "test_behind_a_failed_step_nothing_is_written",
        file="loop.py",
    ),
)

LOCK = (
    mutant(
        "lock-is-shared",
        "one lock row per campaign has one owner",
        'where=(_lock.c.until < _b("now")) | (_lock.c.owner == lock.excluded.owner),',
        'where=(_lock.c.until < _b("now")) | (_lock.c.owner != ""),',
        "test_two_removals_from_one_campaign_are_never_under_way_at_once",
        file="journal.py",
    ),
    mutant(
        "lock-let-go-at-the-start",
        "the lock is held from the drift check to the outcome",
        "if why is not None:\n                tx.unlock(attempt.target, owner)",
        "if True:\n                tx.unlock(attempt.target, owner)",
        "test_two_removals_from_one_campaign_are_never_under_way_at_once",
    ),
    mutant(
        "writes-take-no-lock",
        "our own writes take the campaign's lock",
        "if call.operation.campaign is not None and not tx.lock(target, owner, self._hold()):",
        "if False:",
        "test_a_plain_write_waits_for_the_campaign_too",
    ),
)

LAST_DOOR = (
    mutant(
        "risk-taken-on-trust",
        "Platica.request derives the risk again from method and path",
        "risk = derive_risk(request.method, request.path)",
        "risk = request.risk",
        "test_nothing_gated_leaves_without_a_permit_for_just_it",
        file="platica.py",
    ),
    mutant(
        "no-permit-needed",
        "a gated request needs a permit",
        "if risk.gated and permit is None:",
        "if False:",
        "test_nothing_gated_leaves_without_a_permit_for_just_it",
        file="platica.py",
    ),
    mutant(
        "permit-for-anything",
        "a permit is for one request",
        "if self.spent or request.sha256 != self.request_sha256:",
        "if self.spent:",
        "test_nothing_gated_leaves_without_a_permit_for_just_it",
        file="platica.py",
    ),
    mutant(
        "permit-again-and-again",
        "a permit is good for one departure",
        "if self.spent or request.sha256 != self.request_sha256:",
        "if request.sha256 != self.request_sha256:",
        "test_nothing_gated_leaves_without_a_permit_for_just_it",
        file="platica.py",
    ),
    mutant(
        "late-first-byte",
        "the executor looks at the clock right before the first byte",
        "if time.monotonic() > self.not_after or not self.in_time():",
        "if False:",
        "test_a_late_first_byte_does_not_leave",
        file="platica.py",
    ),
    mutant(
        "slept-before-the-first-byte",
        "and at the clock on the wall",
        "return self._clock() <= moment",
        "return True",
        "test_a_machine_that_slept_before_the_first_byte_sends_nothing",
    ),
)

POLICY = (
    mutant(
        "anybody-approves",
        "only approvers of the operation may approve it",
        "both = all(fits(deciders, by.kind, by.id, by.groups) for deciders in (approval.deciders, rule.deciders))",
        "both = True",
        "test_policy.py::test_only_those_on_the_list_of_an_operation_may_approve_it",
    ),
    mutant(
        "bound-approvers-forgotten",
        "who may approve is bound to the approval when it is asked for",
        "for deciders in (approval.deciders, rule.deciders))",
        "for deciders in (rule.deciders,))",
        "test_policy.py::test_a_policy_that_became_stricter_holds_for_what_waits_and_a_looser_one_does_not",
    ),
    mutant(
        "stricter-approvers-wait",
        "who may approve is judged by the settings of the moment, too",
        "for deciders in (approval.deciders, rule.deciders))",
        "for deciders in (approval.deciders,))",
        "test_policy.py::test_a_policy_that_became_stricter_holds_for_what_waits_and_a_looser_one_does_not",
    ),
    mutant(
        "kind-in-disguise",
        "a kind of identity is none that only looks like one",
        'return ":" not in kind and not mine',
        "return not mine",
        "test_policy.py::test_a_kind_is_none_that_looks_like_an_account",
        file="policy.py",
    ),
    mutant(
        "own-send-approved",
        "whoever asked for a large send may not approve it",
        "if approve and own and not (approval.own and rule.own):",
        "if False:",
        "test_policy.py::test_own_sends_above_a_size_need_somebody_else",
    ),
    mutant(
        "one-is-enough",
        "a large send needs two different people",
        "return None if self._enough(approval, tx.decisions(approval.id)) else replace(approval, needed=needed)",
        "return None",
        "test_policy.py::test_a_large_send_needs_two_people",
    ),
    mutant(
        "the-same-person-twice",
        "one person who approves twice is one person",
        'return DecisionRefused("approved_before", approval=approval.id, needed=needed)',
        "return None",
        "test_policy.py::test_a_large_send_needs_two_people",
    ),
    mutant(
        "other-workspaces-decide",
        "people of another Slack workspace decide nothing",
        'if by.kind == "slack" and not of_workspace(',
        "if False and not of_workspace(",
        "test_policy.py::test_people_of_another_workspace_decide_nothing",
    ),
    mutant(
        "policy-not-judged-again",
        "at the claim policy is judged again: how many, who, and whether they asked for it",
        "if not self._enough(current, decisions):",
        "if not decisions:",
        "test_policy.py::test_what_was_approved_under_another_policy_is_judged_again_when_it_runs",
        "test_policy.py::test_who_decided_as_one_of_a_group_is_judged_by_that_group_again",
    ),
    mutant(
        "any-group-will-do",
        "who decided as one of a group is judged by that group again",
        "Identity.of(made.identity, made.member_of) for",
        "Identity.of(made.identity, tuple(self.policy.groups)) for",
        "test_policy.py::test_who_decided_as_one_of_a_group_is_judged_by_that_group_again",
    ),
    mutant(
        "one-person-in-two-places",
        "accounts of two kinds may be one person's",
        "kinds = Counter(by.kind for by in approved",
        'kinds = Counter("" for by in approved',
        "test_policy.py::test_one_person_in_two_places_is_one",
    ),
    mutant(
        "taken-off-the-list-and-counted",
        "of those who have approved only they count who still may",
        "for by in approved if self.entitled(approval, by, approve=True) is None)",
        "for by in approved)",
        "test_policy.py::test_the_first_of_two_counts_no_more_once_taken_off_the_list",
    ),
    mutant(
        "second-person-forgotten",
        "how many are needed is judged by the settings at the decision, too",
        "if (needed := self._needed(approval)) == 1:",
        "if (needed := approval.needed) == 1:",
        "test_policy.py::test_a_second_person_who_became_needed_is_waited_for",
    ),
    mutant(
        "second-person-unbound",
        "how many are needed is bound to the approval when it is asked for",
        "return max(approval.needed, self._rule(approval).needed)",
        "return self._rule(approval).needed",
        "test_policy.py::test_a_second_person_who_was_needed_stays_needed",
    ),
    mutant(
        "terminal-is-somebody-else",
        "where whoever asked may not approve, the terminal has to be named",
        'kinds = (kind, "os") if own and kind != "os" else (kind,)',
        'kinds = (kind, "os") if kind != "os" else (kind,)',
        "test_policy.py::test_the_terminal_is_nobody_else_than_whoever_asked_unless_it_is_named",
        file="policy.py",
    ),
    mutant(
        "drifted-is-of-nobody",
        "a card that drifted is still of whoever changed it",
        'parse_stored(approval.tool, c["arguments"]), _more(c)) for c in approval.calls]',
        'parse_stored(approval.tool, c["arguments"])) for c in approval.calls]',
        "test_policy.py::test_a_card_that_drifted_is_still_of_whoever_asked_for_it_and_of_whoever_changed_it",
    ),
    mutant(
        "turn-changes-hands",
        "whoever approves a step of a turn has not asked for the next one",
        "by = Identity.of(transcript.asker) if transcript.asker else by",
        "pass",
        "test_policy.py::test_a_turn_that_somebody_else_goes_on_with_is_still_of_whoever_asked",
        file="loop.py",
    ),
    mutant(
        "yes-is-for-ever",
        "whoever has approved may still deny",
        'where=(_decision.c.decision == "approve") & (decided.excluded.decision == "deny"),',
        'where=(_decision.c.decision == "x"),',
        "test_policy.py::test_a_no_ends_it_also_after_a_yes_and_also_from_whoever_said_yes",
        file="journal.py",
    ),
    mutant(
        "expiry-of-all-alike",
        "an operation may have its own expiry",
        "self._ttls.get(tool, self._settings.approval_ttl)",
        "self._settings.approval_ttl",
        "test_policy.py::test_each_operation_may_have_its_own_expiry",
        file="policy.py",
    ),
)

MUTANTS = (*ASKS, *DECISIONS, *BOUND, *DRIFT, *ONCE, *LOCK, *LAST_DOOR, *POLICY)
