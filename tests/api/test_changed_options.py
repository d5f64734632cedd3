"""What a file, a program or a command makes of a running instance's options."""

import json

import pytest

from swerve.commands import change_by_file
from swerve.config import HTTPOptions, LoggingConfig, ProxyLocation, gRPCOptions
from swerve.generated import control_pb2 as pb
from swerve.instance_options import (
    changed_options,
    deployed_options,
    differences,
    fixed_logging,
    instance_options,
    shown_options,
)
from swerve.schema import ConfigError, parse_config

LAB = "lab_pb2_grpc.add_LabServicer_to_server"


@pytest.fixture
def present(probe):
    return instance_options(gRPCOptions(port=9100, grpc_servicer_functions=[probe.add]), HTTPOptions(port=8100))


def grpc_of(options):
    return json.loads(options.grpc_options_json)


def test_only_what_is_named_changes(present):
    changed = changed_options(present, gRPCOptions(request_timeout_s=5), HTTPOptions(root_path="/api"))
    assert grpc_of(changed) == {**grpc_of(present), "request_timeout_s": 5}
    assert json.loads(changed.http_options_json)["port"] == 8100
    assert changed.grpc_methods == present.grpc_methods
    assert differences(present, changed) == [
        "grpc_options.request_timeout_s: null -> 5.0",
        'http_options.root_path: "" -> "/api"',
    ]


def test_nothing_named_changes_nothing(present):
    assert changed_options(present, gRPCOptions(), HTTPOptions()) == present


def test_servicer_functions_replace_those_before_and_an_empty_list_says_nothing(present):
    changed = changed_options(present, gRPCOptions(grpc_servicer_functions=[LAB]))
    services = {method.path.split("/")[1] for method in changed.grpc_methods}
    assert services == {"lab.v1.Lab"}
    assert "no longer served: /probe.v1.Probe/Unary" in differences(present, changed)
    assert "newly served: /lab.v1.Lab/Plain" in differences(present, changed)
    assert changed_options(present, gRPCOptions(grpc_servicer_functions=[])) == present


def test_a_servicer_function_that_is_wrong_is_refused(present):
    with pytest.raises(AttributeError, match="has no attribute 'no'"):
        changed_options(present, gRPCOptions(grpc_servicer_functions=["lab_pb2_grpc.no"]))


def test_grpc_is_turned_off_and_on_by_its_port(present):
    off = changed_options(present, gRPCOptions(port=0))
    assert not off.grpc_methods
    assert changed_options(off, gRPCOptions(port=9100)).grpc_methods == present.grpc_methods


def test_http_is_turned_off_and_on_by_its_port(present):
    off = changed_options(present, None, HTTPOptions(port=0))
    assert off.http_options_json == ""
    assert changed_options(off, None, HTTPOptions(root_path="/x")).http_options_json == ""
    on = changed_options(off, None, HTTPOptions(port=8200))
    assert json.loads(on.http_options_json)["port"] == 8200
    assert "http_options.port: off -> 8200" in differences(off, on)


def test_options_that_do_not_go_together_are_refused(present):
    with pytest.raises(ValueError, match="certificates"):
        changed_options(present, gRPCOptions(ssl_client_certificate="optional"))


def test_what_a_file_names_goes_together_with_what_the_instance_was_started_with(authority, probe):
    key, chain = authority.issue("server")
    started = gRPCOptions(port=9100, grpc_servicer_functions=[probe.add], ssl_keyfile=key, ssl_certfile=chain)
    options = instance_options(started)
    file = parse_config(f"{{applications: [], grpc_options: {{ssl_ca_certs: {authority.ca_certs}}}}}", "config.yaml")
    request = change_by_file(pb.InstanceStatus(options=options, base_options=options), file)
    named = grpc_of(request.options)
    assert (named["ssl_keyfile"], named["ssl_ca_certs"]) == (key, authority.ca_certs)
    bare = instance_options(gRPCOptions(port=9100, grpc_servicer_functions=[probe.add]))
    with pytest.raises(ValueError, match="it needs ssl_keyfile and ssl_certfile"):
        change_by_file(pb.InstanceStatus(options=bare, base_options=bare), file)
    with_flags = gRPCOptions(ssl_keyfile=key, ssl_certfile=chain)
    assert (
        grpc_of(change_by_file(pb.InstanceStatus(options=bare, base_options=bare), file, with_flags).options) == named
    )


def test_what_the_command_line_sets_over_a_file_stays_when_another_file_comes(present):
    status = pb.InstanceStatus(options=present, base_options=present)
    file = parse_config("{applications: [], grpc_options: {max_message_size: 1000}}", "config.yaml")
    request = change_by_file(status, file, gRPCOptions(request_timeout_s=5))
    after = pb.InstanceStatus(options=request.options, base_options=request.base_options)
    named = grpc_of(change_by_file(after, parse_config("{applications: []}", "other.yaml")).options)
    assert (named["request_timeout_s"], named["max_message_size"]) == (5, grpc_of(present)["max_message_size"])


def test_an_applied_file_is_shown_so_that_it_changes_nothing(present):
    text = "{applications: [], grpc_options: {grpc_servicer_functions: [], request_timeout_s: 7}}"
    file = parse_config(text, "config.yaml")
    deployed = change_by_file(pb.InstanceStatus(options=present, base_options=present), file).options
    # A program changes what the file names, and what it does not.
    by_name = gRPCOptions(request_timeout_s=8, max_message_size=1000)
    status = pb.InstanceStatus(
        options=changed_options(deployed, by_name), base_options=changed_options(present, by_name)
    )
    shown = deployed_options(file.model_dump(mode="json", exclude_unset=True), status.options)
    assert shown == {"grpc_options": {"grpc_servicer_functions": [], "request_timeout_s": 8}}
    again = parse_config(json.dumps({"applications": [], **shown}), "config.yaml")
    assert change_by_file(status, again).options == status.options


def test_a_password_that_is_not_shown_has_to_be_put_back(present):
    present.grpc_options_json = json.dumps({**grpc_of(present), "ssl_keyfile_password": "secret"})
    shown = deployed_options({"grpc_options": {"ssl_keyfile_password": "secret"}}, present)
    with pytest.raises(ConfigError, match="Put the password back"):
        parse_config(json.dumps({"applications": [], **shown}), "config.yaml")


def test_the_proxy_location_and_the_number_of_proxies_change(present):
    changed = changed_options(present, gRPCOptions(num_proxies=3), None, ProxyLocation.Disabled)
    assert (changed.num_proxies, changed.proxy_location) == (3, "Disabled")


def test_the_logging_of_an_instance_is_fixed(present):
    assert fixed_logging(present, None) == fixed_logging(present, LoggingConfig()) == ""
    assert "fixed when it starts" in fixed_logging(present, LoggingConfig(log_level="DEBUG"))


def test_a_password_is_not_shown(present):
    present.http_options_json = json.dumps({"port": 8100, "ssl_keyfile_password": "secret"})
    after = instance_options(gRPCOptions(port=9100), HTTPOptions(port=8100))
    assert "secret" not in str(shown_options(present))
    assert "secret" not in str(differences(present, after))
