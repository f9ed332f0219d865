#!/usr/bin/python
from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.own_words import WORD

if __name__ == "__main__":
    module = AnsibleModule(
        argument_spec={"value": {"type": "raw", "required": True}}, supports_check_mode=True
    )
    module.exit_json(changed=False, word=WORD, value=module.params["value"], check=module.check_mode)
