#!/usr/bin/python
from ansible.module_utils.basic import AnsibleModule
from ansible_collections.own.stuff.plugins.module_utils.inner.deep import deep
from ..module_utils.shallow import shallow

module = AnsibleModule(argument_spec={"text": {"type": "str"}})
module.exit_json(deep=deep(module.params["text"]), shallow=shallow(), name=__name__, file=__file__.rsplit("/", 1)[1])
