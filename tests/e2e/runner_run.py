# SPDX-License-Identifier: BSD-3-Clause
"""Run a playbook with ansible-runner; a program, so that it can be run as somebody else.

The arguments come as JSON on standard input; the last line of the output tells the result.
"""

import json
import sys

import ansible_runner

ended = ansible_runner.run(quiet=True, **json.load(sys.stdin))
print(json.dumps({"status": ended.status, "rc": ended.rc, "stdout": ended.stdout.read()}))
