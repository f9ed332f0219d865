#!/usr/bin/python
# SPDX-License-Identifier: BSD-3-Clause
"""Facts of the playbook's own; fails where it is told to."""

import os

from ansible.module_utils.basic import AnsibleModule

if __name__ == "__main__":
    module = AnsibleModule(argument_spec={"gather_subset": {"type": "list"}, "gather_timeout": {"type": "int"}})
    if os.path.exists("/home/worker/work/fail"):
        module.fail_json(msg="told to fail")
    module.exit_json(ansible_facts={"own_fact": module.params["gather_subset"] or "none"})
