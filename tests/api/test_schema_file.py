"""The configuration file: what it accepts, and what it says about everything else."""

from pathlib import Path

import pytest

from swerve.schema import ConfigError, ServeDeploySchema, load_config

APP = "applications:\n  - {name: one, route_prefix: /one, import_path: 'mod:app'}\n"


def load(tmp_path: Path, text: str) -> ServeDeploySchema:
    file = tmp_path / "config.yaml"
    file.write_text(text)
    return load_config(file)


def test_a_file_with_every_part_is_read(tmp_path):
    config = load(
        tmp_path,
        """
proxy_location: HeadOnly
http_options: {port: 8001, keep_alive_timeout_s: 5}
grpc_options: {port: 9001, grpc_servicer_functions: [a.b], request_timeout_s: -1, later_option: 1}
logging_config: {encoding: JSON, log_level: debug}
target_capacity: 50
later_option: {}
applications:
  - name: one
    route_prefix:
    import_path: pkg.mod.app
    runtime_env: {env_vars: {A: b}}
    args: {x: 1}
    later_option: 2
    deployments:
      - {name: D, num_replicas: auto, ray_actor_options: {num_gpus: 1}, user_config: {k: v}}
""",
    )

    assert config.grpc_options.port == 9001
    assert config.grpc_options.request_timeout_s is None
    assert config.http_options.host == "127.0.0.1"
    assert config.logging_config.log_level == "DEBUG"
    app = config.applications[0]
    assert (app.route_prefix, app.import_path, app.args) == (None, "pkg.mod.app", {"x": 1})
    assert app.deployments[0].overrides() == {
        "num_replicas": "auto",
        "ray_actor_options": {"num_gpus": 1},
        "user_config": {"k": "v"},
    }


def test_keys_that_nobody_knows_are_named_wherever_they_are(tmp_path, caplog):
    load(
        tmp_path,
        """
grpc_options: {max_conections: 5}
later: 1
applications:
  - {name: one, route_prefix: /one, import_path: 'm:a', args: {any: 1}, runtime_env: {env_vars: {A: b}}}
  - name: two
    route_prefix: /two
    import_path: m:a
    1: 2
    deployments: [{name: D, num_replica: 2, user_config: {any: 1}, ray_actor_options: {num_cpu: 1}}]
""",
    )

    assert [record.args[1] for record in caplog.records] == [
        "grpc_options.max_conections",
        "later",
        "applications.1.1",
        "applications.1.deployments.0.num_replica",
        "applications.1.deployments.0.ray_actor_options.num_cpu",
    ]


def test_a_file_of_another_kind_is_not_told_without_end(tmp_path, caplog):
    load(tmp_path, APP + "".join(f"key_{number}: 1\n" for number in range(1000)))

    assert 0 < len(caplog.records) < 100


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [1\nb: 2", "is not valid YAML"),
        ("a: 2001-99-99", "line 1, column 4): '2001-99-99' is no timestamp"),
        ("a:\n  !!int x", "line 2, column 3): 'x' is no int"),
        ("[" * 3000, "its values are nested too deeply"),
        ("a: &a [*a]", "or one that holds itself"),
        ("applications: [{import_path: 'a:b', args: {a: !!binary '/w=='}}]", "invalid utf-8"),
        ("", "but it is empty"),
        ("- 1", "but it is a list"),
        ("grpc_options: {}", "applications: Field required (there are: 'grpc_options')"),
        ("applications: [{name: a, improt_path: 'a:b'}]", "Field required (there are: 'name', 'improt_path')"),
        ("grpc_options: {port: many}\n" + APP, "grpc_options.port: Input should be a valid integer"),
        ("grpc_options: {port: 70000}\n" + APP, "grpc_options.port: Input should be less than or equal to 65535"),
        ("proxy_location: Moon\n" + APP, "proxy_location: Input should be 'Disabled', 'HeadOnly' or 'EveryNode'"),
        ("logging_config: {typo: 1}\n" + APP, "logging_config.typo: Extra inputs are not permitted"),
        (
            APP + "  - {name: one, route_prefix: /two, import_path: 'mod:app'}",
            'Found multiple configs for application "one". Please remove all duplicates.',
        ),
        (
            APP + "  - {name: two, route_prefix: /one, import_path: 'mod:app'}",
            'Found duplicate applications for route prefix "/one". '
            "Please ensure each application's route_prefix is unique.",
        ),
        ("applications: [{name: '', import_path: 'm:a'}]", "Application names must be nonempty."),
        ("applications: [{import_path: 'm:a:b'}]", "An import path may have at most one colon."),
        ("applications: [{import_path: ':a'}]", "may not start or end with a colon."),
        ("applications: [{import_path: 'a.'}]", "may not start or end with a dot."),
        ("applications: [{import_path: 'a'}]", "must contain at least on dot or colon"),
        ("applications: [{import_path: 'm:a', route_prefix: x}]", 'Route prefix must start with "/".'),
        ("applications: [{import_path: 'm:a', route_prefix: /x/}]", 'cannot end with "/" unless'),
        ("applications: [{import_path: 'm:a', route_prefix: '/{x}'}]", "cannot contain wildcards"),
        (
            "applications: [{import_path: 'm:a', host: h}]",
            'Host "h" is set in the config for application `default`. '
            "Please remove it and set host in the top level deploy config only.",
        ),
        ("applications: [{import_path: 'm:a', port: 1}]", 'Port "1" is set in the config'),
        (
            "applications: [{import_path: 'm:a', deployments: [{name: D, max_queued_requests: 1.5}]}]",
            "max_queued_requests must be an integer.",
        ),
        (
            "applications: [{import_path: 'm:a', deployments: [{name: D}, {name: D}]}]",
            'Found multiple configs for deployment "D" of application "default".',
        ),
    ],
)
def test_a_wrong_file_is_refused_with_what_and_where(tmp_path, text, message):
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, text)

    assert message in str(caught.value)
    assert "config.yaml" in str(caught.value)


def test_a_yaml_error_says_line_and_column(tmp_path):
    with pytest.raises(ConfigError, match=r"config\.yaml, line 2, column 2"):
        load(tmp_path, "a: [1\nb: 2")


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="cannot be read"):
        load_config(tmp_path / "none.yaml")


def test_rays_older_name_for_no_proxies_is_understood(tmp_path):
    assert load(tmp_path, "proxy_location: NoServer\n" + APP).proxy_location == "Disabled"
