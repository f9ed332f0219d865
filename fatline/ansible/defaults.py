# SPDX-License-Identifier: GPL-3.0-or-later
"""Settings that nobody has set are worked out once in a process.

For every task, and for every item of a loop, core asks its configuration about each option of the
connection and the shell, and about a dozen settings of its own: 47 questions, nearly all of which end at the
default. A setting stays at its default until one of its sources has it. Those that can change are looked at
every time; what follows when none has it (the configuration file, the type, the choices) is remembered.
"""

from __future__ import annotations

import contextlib
import inspect
import os
from collections.abc import Mapping
from typing import Any, NamedTuple

from ansible import constants as C
from ansible import context

_PARAMETERS = ["config", "cfile", "plugin_type", "plugin_name", "keys", "variables", "direct"]
# From 2.21 on an engine may be given, for which the answer is worked out each time.
_FORMS = (_PARAMETERS, [*_PARAMETERS, "templar"])
_DEFAULT = "default"

# Of these core makes a new directory for everyone who asks.
_MADE = ("temppath", "tmppath", "tmp")


class _Default(NamedTuple):
    """A setting that was at its default, and the names under which it would have been set."""

    definition: Mapping[str, Any]
    answer: tuple[Any, Any]
    names: tuple[str, ...]
    keywords: tuple[str, ...]
    variables: tuple[str, ...]
    arguments: tuple[str, ...]
    environment: tuple[str, ...]

    def is_set(self, keys: Any, variables: Any, direct: Any) -> bool:
        """Say whether a source has it now."""
        sources = (
            (variables, self.variables),
            (keys, self.keywords),
            (os.environ, self.environment),
            (context.CLIARGS, self.arguments),
        )
        # Loops, because this is asked more often than anything else here.
        for source, names in sources:
            if names and source:
                for name in names:
                    if source.get(name) is not None:
                        return True
        return bool(direct) and any(name in direct for name in self.names)


def install() -> None:
    """Answer so from now on; nothing, where core's configuration is not as we know it."""
    original = C.config.get_config_value_and_origin
    if list(inspect.signature(original).parameters) in _FORMS and not hasattr(original, "fatline"):
        C.config.get_config_value_and_origin = _remembering(C.config, original)


def _remembering(manager: Any, original: Any) -> Any:
    known: dict[tuple[str | None, str | None, str], _Default] = {}

    def get_config_value_and_origin(
        config: str,
        cfile: str | None = None,
        plugin_type: str | None = None,
        plugin_name: str | None = None,
        keys: Any = None,
        variables: Any = None,
        direct: Any = None,
        **engine: Any,
    ) -> tuple[Any, Any]:
        if cfile is not None or any(engine.values()):
            answer: tuple[Any, Any] = original(
                config, cfile, plugin_type, plugin_name, keys, variables, direct, **engine
            )
            return answer
        key = plugin_type, plugin_name, config
        definition = manager.get_configuration_definitions(plugin_type, plugin_name).get(config)
        found = known.get(key)
        if found and found.definition is definition and not found.is_set(keys, variables, direct):
            return found.answer
        answer = original(config, cfile, plugin_type, plugin_name, keys, variables, direct)
        if definition is not None and _is_lasting(definition, answer):
            # A definition that core gets along with may still have sources of a form of their own.
            with contextlib.suppress(AttributeError, KeyError, TypeError):
                known[key] = _default(config, definition, answer)
        return answer

    get_config_value_and_origin.fatline = True  # type: ignore[attr-defined]
    return get_config_value_and_origin


def _is_lasting(definition: Mapping[str, Any], answer: tuple[Any, Any]) -> bool:
    """Say whether this is a default that neither depends on who asks nor can be changed by them."""
    value, origin = answer
    template = definition.get("default")
    return (
        origin == _DEFAULT
        and (value is None or isinstance(value, (str, int, float)))
        and definition.get("type") not in _MADE
        and not (isinstance(template, str) and "{{" in template)
    )


def _default(setting: str, definition: Mapping[str, Any], answer: tuple[Any, Any]) -> _Default:
    names = (setting, *(definition.get("aliases") or ()))
    return _Default(
        definition,
        answer,
        names,
        names + _sources(definition, "keyword"),
        _sources(definition, "vars"),
        _sources(definition, "cli"),
        _sources(definition, "env"),
    )


def _sources(definition: Mapping[str, Any], kind: str) -> tuple[str, ...]:
    return tuple(entry["name"] for entry in definition.get(kind) or ())
