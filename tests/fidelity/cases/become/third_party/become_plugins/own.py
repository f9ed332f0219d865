DOCUMENTATION = """
name: own
short_description: for the suite
description: runs sudo, and says so
author: nobody
options:
  become_user: {description: who, default: root, ini: [{section: privilege_escalation, key: become_user}], vars: [{name: ansible_become_user}], keyword: [{name: become_user}]}
  become_exe: {description: what, default: sudo, keyword: [{name: become_exe}]}
  become_flags: {description: how, default: "", keyword: [{name: become_flags}]}
  become_pass: {description: word, required: false, vars: [{name: ansible_become_password}]}
"""
from ansible.plugins.become import BecomeBase


class BecomeModule(BecomeBase):
    name = "own"

    def build_become_command(self, cmd, shell):
        super().build_become_command(cmd, shell)
        if not cmd:
            return cmd
        return "sudo -n BECOME_OWN=yes %s" % self._build_success_command(cmd, shell)
