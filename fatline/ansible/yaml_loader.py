# SPDX-License-Identifier: GPL-3.0-or-later
"""ansible-core's YAML loader at C speed, for everything that is not out of the ordinary.

`load` gives what core's own ``from_yaml`` gives: the same objects with the same positions and tags. It
has no errors of its own. A document that is broken, or holds what the extension does not build, or is
beyond its limits, is `NotHandled`, and so is a version of ansible-core or of PyYAML that it does not fit:
the caller then asks core, which builds it or says in its own words what is wrong.
"""

from __future__ import annotations

from typing import Any

from fatline import _native
from fatline.ansible.yaml_versions import Family, NotHandled, family

__all__ = ["NotHandled", "available", "load"]


def available() -> str:
    """Say why everything is left to ansible-core in this process; empty if it is not."""
    found = family()
    return "" if isinstance(found, Family) else found


def load(data: Any, file_name: Any = None, show_content: bool = True, vault_secrets: Any = None) -> Any:
    """Do what core's ``from_yaml`` does with the same arguments; NotHandled where core has to do it."""
    found = family()
    if not isinstance(found, Family):
        raise NotHandled(found)
    try:
        return found.load(data, file_name, show_content, vault_secrets)
    except NotHandled:
        raise
    except _native.YamlError as error:
        raise NotHandled(str(error)) from error
    except Exception as error:
        # Not its words, which may repeat what an encrypted file says (rule 7).
        raise NotHandled(f"{type(error).__name__} in code of ansible-core or Python") from error
