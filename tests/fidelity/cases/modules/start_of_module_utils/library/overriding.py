#!/usr/bin/python
# SPDX-License-Identifier: BSD-3-Clause
"""Tells what a file of module_utils has seen when it was imported."""

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.splitter import SEEN

if __name__ == "__main__":
    AnsibleModule(argument_spec={}).exit_json(seen=SEEN)
