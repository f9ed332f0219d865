#!/usr/bin/python
import json
import sys

from ansible.module_utils.basic import AnsibleModule

if __name__ == "__main__":
    module = AnsibleModule(argument_spec={name: {"type": "str"} for name in ("before", "after", "errors")})
    sys.stderr.write(module.params["errors"])
    sys.stdout.write(
        module.params["before"] + json.dumps({"changed": False, "real": 1}) + module.params["after"]
    )
