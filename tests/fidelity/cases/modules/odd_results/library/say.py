#!/usr/bin/python
# SPDX-License-Identifier: BSD-3-Clause
"""Writes to standard output, byte by byte, what it is told to; the module's own end is not used."""

import os

from ansible.module_utils.basic import AnsibleModule

if __name__ == "__main__":
    module = AnsibleModule(argument_spec={"text": {"type": "str"}, "rc": {"type": "int", "default": 0}})
    data = module.params["text"].encode("utf-8", "surrogateescape").decode("unicode_escape").encode("latin-1")
    while data:
        data = data[os.write(1, data) :]
    os._exit(module.params["rc"])
