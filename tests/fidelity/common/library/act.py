#!/usr/bin/python
# SPDX-License-Identifier: BSD-3-Clause
"""Does what it is told: the statements in ``do``; what the expression ``show`` gives is the result."""

import json  # noqa: F401
import os  # noqa: F401
import sys  # noqa: F401

from ansible.module_utils.basic import AnsibleModule

if __name__ == "__main__":
    module = AnsibleModule(
        argument_spec={"do": {"type": "str", "default": ""}, "show": {"type": "str"}},
        supports_check_mode=True,
    )
    exec(module.params["do"])
    if module.params["show"]:
        module.exit_json(changed=False, shown=eval(module.params["show"]))
