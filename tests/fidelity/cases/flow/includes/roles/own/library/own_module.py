#!/usr/bin/python
from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.of_role import shout

module = AnsibleModule(argument_spec={"text": {"type": "str"}})
module.exit_json(changed=True, text=shout(module.params["text"]))
