from ansible.plugins.action import ActionBase


class ActionModule(ActionBase):
    def run(self, tmp=None, task_vars=None):
        result = super().run(tmp, task_vars)
        result.update(self._execute_module("own.stuff.speaks", self._task.args, task_vars=task_vars))
        low = self._low_level_execute_command("echo low; id -un; echo err >&2; exit 3")
        home = self._remote_expand_user("~/x")
        result.update(low={k: low[k] for k in ("rc", "stdout", "stderr")}, home=home, exists=self._remote_file_exists("/etc/passwd"))
        return result
