# SPDX-License-Identifier: BSD-3-Clause
"""The releases of ansible-core that Fatline is tested with. They decide nothing, and are only told of."""

from __future__ import annotations

TESTED = ((2, 14), *((2, minor) for minor in range(16, 23)))


def series(version: str) -> tuple[int, ...]:
    """Return the first two numbers of a version."""
    return tuple(int(part) for part in version.split(".")[:2])


def remark(version: str) -> str:
    """Return what to say of a release that came after all tested ones; empty for any other."""
    if series(version) <= TESTED[-1]:
        return ""
    newest = ".".join(map(str, TESTED[-1]))
    return f"ansible-core {version} is newer than {newest}, the last one tested; what does not fit falls back"
