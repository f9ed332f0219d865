#!/usr/bin/python
from ansible.module_utils.basic import AnsibleModule

try:
    import ansible.module_utils.never_there
    there = True
except ImportError:
    there = False
try:
    from ansible.module_utils import urls_of_nobody
    more = True
except ImportError as error:
    more = type(error).__name__

module = AnsibleModule(argument_spec={})
module.exit_json(there=there, more=more)
