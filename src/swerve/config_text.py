"""The text of a configuration file as plain data, or one clear message."""

from __future__ import annotations

from typing import Any

import yaml

# Values of a file, each alias counted as often as it is used. No configuration comes near; a few lines of aliases of
# aliases go far beyond ("billion laughs").
_MAX_VALUES = 100_000


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader, which lets through whatever `int()` and `datetime()` raise, told where it was."""

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep=deep)
        except (yaml.YAMLError, RecursionError):
            raise
        except Exception as error:
            kind = node.tag.rpartition(":")[2]
            problem = f"{str(node.value)[:100]!r} is no {kind}"
            raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark) from error


def parse_yaml(text: str, path: str) -> Any:
    """The data that `text` holds. `path` is for messages.

    Raises:
        ValueError: it is no YAML (with line and column), or too much of it.
    """
    try:
        content = yaml.load(text, _Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        place = f"{path}, line {mark.line + 1}, column {mark.column + 1}" if mark else path
        raise ValueError(f"The config file is not valid YAML ({place}): {error.problem}") from error
    except yaml.YAMLError as error:
        raise ValueError(f"The config file {path} is not valid YAML: {error}") from error
    except RecursionError as error:
        raise ValueError(f"The config file {path} is not valid: its values are nested too deeply.") from error
    if not _is_bounded(content):
        raise ValueError(
            f"The config file {path} is not valid: with its aliases it has more than {_MAX_VALUES} values, or one that "
            "holds itself."
        )
    return content


def _is_bounded(content: Any) -> bool:
    """Whether `content` has at most `_MAX_VALUES` values, counted along every path to them."""
    left, rest = _MAX_VALUES, [content]
    while rest:
        value = rest.pop()
        left -= 1
        if isinstance(value, dict):
            rest.extend(value.values())
        elif isinstance(value, list | tuple | set):
            rest.extend(value)
        if left < len(rest):
            return False
    return True
