"""schemathesis: the server is what its OpenAPI document says, whatever is sent."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    ignored_auth,
    negative_data_rejection,
    response_schema_conformance,
    status_code_conformance,
)

from loratory.infer.server.guard import Drain
from loratory.infer.server.process import guarded_app
from small_server import KEY, LIMITS, open_small

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
    negative_data_rejection,
    ignored_auth,
]
HEADERS = {"Authorization": f"Bearer {KEY}", "Host": "127.0.0.1"}


@pytest.fixture(scope="module")
def api(sharp_dir: Callable[[str], Path]) -> schemathesis.BaseSchema:
    """The document of a server that is asked in this process."""
    limits = replace(LIMITS, max_tokens=4)
    service = open_small(sharp_dir("llama"), {}, limits)
    app = guarded_app(service, key=KEY, host="127.0.0.1", allowed_hosts=(), limits=limits, drain=Drain())
    return schemathesis.openapi.from_asgi("/openapi.json", app, headers=HEADERS)


@pytest.mark.parametrize("mode", list(schemathesis.GenerationMode))
def test_the_document_holds(api: schemathesis.BaseSchema, mode: schemathesis.GenerationMode) -> None:
    operations = [found.ok() for found in api.get_all_operations()]
    assert len(operations) == 5
    for operation in operations:
        if mode == schemathesis.GenerationMode.NEGATIVE and operation.method == "get":
            continue

        @given(case=operation.as_strategy(generation_mode=mode))
        @settings(
            max_examples=15,
            phases=[Phase.explicit, Phase.generate],
            suppress_health_check=list(HealthCheck),
            derandomize=True,
        )
        def check(case: schemathesis.Case) -> None:
            case.call_and_validate(headers=HEADERS, checks=CHECKS)

        check()
