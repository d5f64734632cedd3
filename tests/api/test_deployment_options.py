"""`@serve.deployment`, `.options()` and `.bind()`: what they take and refuse, with Ray Serve's messages."""

import pytest

import swerve as serve
from swerve.application import Application, Deployment


class Model:
    pass


def decorated(**options):
    return serve.deployment(**options)(Model)


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({"name": "a#b"}, ValueError, "Deployment names must not contain the '#' character. Current name: a#b."),
        ({"name": 3}, TypeError, "name must be a string."),
        ({"version": "1"}, ValueError, "`version` in `@serve.deployment` has been removed."),
        ({"num_replicas": 0}, ValueError, "num_replicas is expected to larger than 0"),
        (
            {"num_replicas": 2, "autoscaling_config": {"max_replicas": 3}},
            ValueError,
            "Manually setting num_replicas is not allowed when autoscaling_config is provided.",
        ),
        (
            {"ray_actor_options": {"name": "x"}},
            ValueError,
            "Specifying 'name' in ray_actor_options is not allowed. Allowed options: ",
        ),
        ({"user_config": {"x": object()}}, ValueError, "user_config is not JSON-serializable: "),
        ({"max_ongoing_requests": None}, ValueError, "`max_ongoing_requests` must be non-null, got None."),
        ({"max_ongoing_requests": 0}, ValueError, "max_ongoing_requests"),
        (
            {"max_queued_requests": 0},
            ValueError,
            "max_queued_requests must be -1 (no limit) or a positive integer.",
        ),
        ({"max_queued_requests": 1.5}, TypeError, "max_queued_requests must be an integer."),
        ({"max_queued_requests": True}, TypeError, "max_queued_requests must be an integer."),
        ({"backpressure_config": {"status_code": 500}}, ValueError, "backpressure_config.status_code"),
        ({"backpressure_config": {"typo": 1}}, ValueError, "backpressure_config.typo"),
        ({"graceful_shutdown_timeout_s": -1}, ValueError, "graceful_shutdown_timeout_s"),
        ({"health_check_period_s": 0}, ValueError, "health_check_period_s"),
        ({"max_replicas_per_node": 101}, ValueError, "max_replicas_per_node"),
        ({"placement_group_strategy": "PACK"}, ValueError, "`placement_group_bundles` must also be provided"),
        ({"rolling_update_percentage": 0}, ValueError, "rolling_update_percentage"),
        ({"max_surge_percent": 101}, ValueError, "max_surge_percent"),
        (
            {"autoscaling_config": {"min_replicas": 3, "max_replicas": 2}},
            ValueError,
            "max_replicas (2) must be greater than or equal to min_replicas (3)!",
        ),
        (
            {"autoscaling_config": {"min_replicas": 2, "initial_replicas": 1, "max_replicas": 3}},
            ValueError,
            "min_replicas (2) must be less than or equal to initial_replicas (1)!",
        ),
        ({"logging_config": {"encoding": "XML"}}, ValueError, "Got 'XML' for encoding."),
        ({"logging_config": {"log_level": "LOUD"}}, ValueError, 'Got "LOUD" for log_level. log_level must be one of'),
        ({"num_replica": 1}, TypeError, "A deployment has no option 'num_replica'."),
    ],
)
def test_a_wrong_option_is_refused_with_its_message(options, kind, message):
    with pytest.raises(kind) as caught:
        decorated(**options)

    assert message in str(caught.value)


def test_the_bare_decorator_takes_the_class_name_and_all_defaults():
    deployment = serve.deployment(Model)

    assert isinstance(deployment, Deployment)
    assert (deployment.name, deployment.num_replicas, deployment.max_ongoing_requests) == ("Model", 1, 5)
    assert (deployment.max_queued_requests, deployment.user_config) == (-1, None)
    assert deployment.config.graceful_shutdown_timeout_s == 20
    assert deployment.ray_actor_options == {"num_cpus": 1}


def test_options_returns_a_copy_and_keeps_what_it_does_not_name():
    first = decorated(name="first", num_replicas=2, max_ongoing_requests=7)
    second = first.options(name="second", num_replicas=3)

    assert (first.name, first.num_replicas) == ("first", 2)
    assert (second.name, second.num_replicas, second.max_ongoing_requests) == ("second", 3, 7)


def test_num_replicas_auto_means_rays_default_autoscaling_under_the_users_fields():
    config = decorated(num_replicas="auto", autoscaling_config={"max_replicas": 7}).config

    assert config.autoscaling_config.max_replicas == 7
    assert config.autoscaling_config.min_replicas == 1
    assert config.autoscaling_config.target_ongoing_requests == 2
    assert config.max_ongoing_requests == 5


def test_a_number_of_replicas_replaces_autoscaling_and_the_other_way_round():
    scaled = decorated(autoscaling_config={"min_replicas": 2, "max_replicas": 4})

    assert scaled.config.autoscaling_config.min_replicas == 2
    assert scaled.options(num_replicas=3).config.autoscaling_config is None
    assert scaled.options(num_replicas=3).config.num_replicas == 3
    rescaled = decorated(num_replicas=9).options(autoscaling_config={"max_replicas": 2})
    assert (rescaled.num_replicas, rescaled.config.autoscaling_config.max_replicas) == (1, 2)


def test_a_deployment_is_neither_constructed_nor_called_directly():
    with pytest.raises(RuntimeError, match=r"The Deployment constructor should not be called directly."):
        Deployment("x", serve.deployment(Model).config, Model)
    with pytest.raises(RuntimeError, match=r"Deployments cannot be constructed directly."):
        serve.deployment(Model)()


def test_only_classes_and_functions_can_be_deployments():
    with pytest.raises(TypeError, match="must be used on a class or a function"):
        serve.deployment("Model")


def test_bind_of_a_function_takes_no_arguments():
    deployment = serve.deployment(lambda request: request)

    assert isinstance(deployment.bind(), Application)
    with pytest.raises(ValueError, match=r"init_args not supported for function deployments."):
        deployment.bind(1)
    with pytest.raises(ValueError, match=r"init_kwargs not supported for function deployments."):
        deployment.bind(x=1)
