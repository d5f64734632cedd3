"""The canary of an application in the configuration file: what it takes over, and what it refuses."""

import pytest
from pydantic import ValidationError

from swerve.config import CanaryOptions
from swerve.schema import ServeApplicationSchema

APP = {"name": "shop", "import_path": "m:app", "route_prefix": "/shop", "args": {"a": 1}}


def app(**canary):
    return ServeApplicationSchema.model_validate({**APP, "canary": canary})


def test_a_canary_takes_over_what_it_does_not_set():
    made = app(args={"a": 2}, weight=5, match={"X-Version": "new"}, rollback=None)
    beside = made.as_canary()
    assert (beside.name, beside.import_path, beside.args) == ("shop", "m:app", {"a": 2})
    assert beside.canary is None
    expected = CanaryOptions(weight=5, match={"x-version": "new"}, rollback=None)
    assert made.canary.options() == expected


def test_its_deployments_stand_for_all_of_the_application_s():
    entry = {**APP, "deployments": [{"name": "A", "num_replicas": 4}, {"name": "B", "num_replicas": 2}]}
    made = ServeApplicationSchema.model_validate(
        {**entry, "canary": {"deployments": [{"name": "A", "num_replicas": 1}]}}
    )
    assert [(one.name, one.num_replicas) for one in made.as_canary().deployments] == [("A", 1)]


@pytest.mark.parametrize(
    ("canary", "message"),
    [
        ({"wieght": 5}, "Extra inputs are not permitted"),
        ({"weight": -1}, "greater than or equal to 0"),
        ({"weight": 100.5}, "less than or equal to 100"),
        ({"import_path": "m"}, 'Got invalid import path "m"'),
        ({"match": {"a b": "x"}}, "for a metadata key"),
        ({"match": {"trace-bin": "x"}}, "must not begin with 'grpc-' and not end with '-bin'"),
        ({"match": {"x": "\u00e4"}}, "for a metadata value"),
        ({"match": {str(number): "x" for number in range(17)}}, "at most 16 items"),
        ({"sticky_key": "grpc-timeout"}, "for a metadata key"),
        ({"rollback": {"max_error_percent": 100}}, "less than 100"),
        ({"rollback": {"min_calls": 0}}, "greater than or equal to 1"),
        ({"rollback": {"window_s": 0.1}}, "greater than or equal to 1"),
    ],
)
def test_what_a_canary_cannot_be(canary, message):
    with pytest.raises(ValidationError, match=message):
        app(**canary)


def test_a_canary_that_contradicts_its_application_is_refused():
    deployments = [{"name": "A", "num_replicas": "auto"}]
    entry = {**APP, "external_scaler_enabled": True, "canary": {"deployments": deployments}}
    with pytest.raises(ValidationError, match=r"The canary of application 'shop': .*external_scaler_enabled"):
        ServeApplicationSchema.model_validate(entry)
