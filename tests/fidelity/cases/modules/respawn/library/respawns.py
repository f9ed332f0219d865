#!/usr/bin/python
import sys

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.common.respawn import has_respawned, probe_interpreters_for_module, respawn_module

module = AnsibleModule(argument_spec={"under": {"type": "str"}})
if not has_respawned():
    found = probe_interpreters_for_module([module.params["under"]], "json")
    respawn_module(found)
module.exit_json(respawned=has_respawned(), under=sys.executable, params=module.params)
