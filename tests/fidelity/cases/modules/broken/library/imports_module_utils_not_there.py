#!/usr/bin/python
from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.nothing_of_that_name import x
