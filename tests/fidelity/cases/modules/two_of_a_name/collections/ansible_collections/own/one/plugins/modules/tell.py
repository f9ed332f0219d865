#!/usr/bin/python
# SPDX-License-Identifier: BSD-3-Clause
"""Tells whose module_utils it has, by both ways to name them."""

from ansible.module_utils import basic
from ansible_collections.own.one.plugins.module_utils import teller
from ansible_collections.own.one.plugins.module_utils.teller import WHO

if __name__ == "__main__":
    basic.LEFT = getattr(basic, "LEFT", 0) + 1
    basic.AnsibleModule(argument_spec={}).exit_json(who=[WHO, teller.WHO, basic.LEFT])
