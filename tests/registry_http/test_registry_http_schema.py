"""Whatever is sent to either API, generated from its own description: no answer is the server's fault."""

import contextlib

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from registry import Metric, VersionDraft
from registry.http import Role, create_app

pytestmark = pytest.mark.slow
SETTINGS = settings(
    max_examples=8, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
)
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]


@pytest.fixture(scope="module")
def app(backend):
    """The application in this process, over a ledger with something in it."""
    for weights in range(3):
        backend.registry.register(VersionDraft("0", {"a.json": b"%d" % weights}, metrics=[Metric("0", 0.5)]))
    backend.registry.promote("0/1", "0", by="ada", reason="so that something is found")
    return create_app(backend)


@pytest.fixture(scope="module")
def described(app):
    return schemathesis.openapi.from_asgi("/openapi.json", app)


def test_no_request_is_answered_with_a_fault_of_the_server(described, tokens):
    """Every operation, with values that fit its description; and what comes back fits it too."""
    headers = {"Authorization": f"Bearer {tokens[Role.ADMIN]}"}
    tried = set()
    for found in described.get_all_operations():
        operation = found.ok()

        @given(case=operation.as_strategy())
        @SETTINGS
        def answer(case):
            case.call_and_validate(headers=headers, checks=CHECKS)
            tried.add(case.operation.label)

        answer()
    assert len(tried) >= 40


def test_no_request_that_breaks_the_description_is_a_fault_of_the_server_either(described, tokens):
    headers = {"Authorization": f"Bearer {tokens[Role.ADMIN]}"}
    for found in described.get_all_operations():
        operation = found.ok()

        @given(case=operation.as_strategy(generation_mode=GenerationMode.NEGATIVE))
        @SETTINGS
        def answer(case):
            case.call_and_validate(headers=headers, checks=[not_a_server_error])

        with contextlib.suppress(Unsatisfiable):  # an operation that takes anything cannot be called wrongly
            answer()
