#!/usr/bin/python
from ansible.module_utils.basic import AnsibleModule

module = AnsibleModule(
    argument_spec={
        "word": {"type": "str", "required": True},
        "number": {"type": "int"},
        "flag": {"type": "bool"},
        "list": {"type": "list", "elements": "str"},
        "map": {"type": "dict"},
        "path": {"type": "path"},
        "choice": {"choices": ["here", "there"]},
        "secret": {"type": "str", "no_log": True},
    }
)
if module.params["word"] == "warn":
    module.warn("of the module")
if module.params["word"] == "deprecate":
    module.deprecate("of the module", version="9.9", collection_name="own.stuff")
module.exit_json(params=module.params, repeated="it says %s" % module.params["secret"])
