#!/usr/bin/python
# <<INCLUDE_ANSIBLE_MODULE_COMMON>> is the old marker; this is the one that is still honoured:
# from ansible.module_utils.basic import *
from ansible.module_utils.basic import *  # noqa: F403


def main():
    module = AnsibleModule(argument_spec=dict(text=dict(type="str")))  # noqa: F405
    module.exit_json(text=module.params["text"], style="replaced")


main()
