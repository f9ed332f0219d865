#!/usr/bin/python
# SPDX-License-Identifier: BSD-3-Clause
"""Tells whose module_utils it has."""

from ansible.module_utils import basic, teller

if __name__ == "__main__":
    basic.LEFT = getattr(basic, "LEFT", 0) + 1
    basic.AnsibleModule(argument_spec={}).exit_json(who=[teller.WHO, basic.LEFT, getattr(basic, "PATCHED", None)])
