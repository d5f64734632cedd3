"""How commands print what they have to say: YAML to standard output, notes beside it."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import typer

from swerve.status_overview import ServeStatus


def note(message: str) -> None:
    """A line for the user that is no result."""
    typer.echo(message, err=True)


def readable(status: ServeStatus) -> dict[str, Any]:
    """A status as plain data, without what is said twice or of nothing."""
    present = asdict(status)
    for app in present["applications"].values():
        _clean_messages(app, "message")
        if app["canary"] is None:
            del app["canary"]
        else:
            app["canary"]["message"] = _clean(app["canary"]["message"])
            _clean_messages(app["canary"], "status_message")
    return present


def _clean_messages(app: dict[str, Any], name: str) -> None:
    for deployment_name, deployment in app["deployments"].items():
        # Its message is shown below the deployment, traceback and all.
        app[name] = _clean(app[name].replace(f"\n{deployment_name}: {deployment['message']}", ""))
        deployment["message"] = _clean(deployment["message"])


def _clean(message: str) -> str:
    """`message` without what a YAML block cannot hold: tabs, and spaces at line ends."""
    return "\n".join(line.rstrip() for line in message.expandtabs().splitlines())


def to_yaml(value: Any) -> str:
    """`value` as YAML, keys in their order, texts of several lines as block scalars where YAML can hold them so."""
    import yaml

    class Dumper(yaml.SafeDumper):
        pass

    def text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
        return dumper.represent_scalar("tag:yaml.org,2002:str", str(value), style="|" if "\n" in value else None)

    Dumper.add_representer(str, text)
    # The names of states are of subclasses.
    Dumper.add_multi_representer(str, text)
    return str(yaml.dump(value, Dumper=Dumper, sort_keys=False, allow_unicode=True))
