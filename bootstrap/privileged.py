# SPDX-License-Identifier: BSD-3-Clause
"""What an agent has in addition if a become plugin has started it: a look at accounts, and its own protection.

It travels in front of the last lines of agent.py, under the rules of that file, and uses its names.
"""
# ruff: noqa: F821 - agent.py has them

# What a become plugin's command reads before it runs anything: accounts, rights, limits (systems fact 21).
ACCOUNT_FILES = ('/etc/passwd', '/etc/group', '/etc/shadow', '/etc/gshadow', '/etc/sudoers', '/usr/local/etc/sudoers',
                 '/etc/sudo.conf', '/etc/doas.conf', '/etc/environment', '/etc/default/locale', '/etc/default/su',
                 '/etc/login.defs', '/etc/hosts', '/etc/hostname')
ACCOUNT_DIRECTORIES = ('/etc/sudoers.d', '/usr/local/etc/sudoers.d', '/etc/pam.d', '/etc/security',
                       '/etc/security/limits.d', '/etc/profile.d')

# Databases of nsswitch.conf that decide who may do what, and the sources that are files or never change.
ACCOUNT_DATABASES = ('passwd', 'group', 'shadow', 'initgroups', 'sudoers')
LOCAL_SOURCES = ('files', 'compat', 'systemd', 'myhostname', 'altfiles')


def foreign_source(path='/etc/nsswitch.conf'):
    """A source of accounts or rights that cannot be looked at, as sssd or LDAP; None if there is none."""
    try:
        stream = open(path)
    except (IOError, OSError):
        return None
    try:
        lines = [line.split('#')[0].split(':') for line in stream]
    finally:
        stream.close()
    for line in lines:
        if len(line) == 2 and line[0].strip() in ACCOUNT_DATABASES:
            for word in line[1].split():
                if word[0] != '[' and word[-1] != ']' and '=' not in word and word not in LOCAL_SOURCES:
                    return word


PR_SET_DUMPABLE = 4


def process_control():
    """prctl(2), or None. Other processes of the account must not reach the wire through /proc (systems fact 2)."""
    if not sys.platform.startswith('linux'):
        return None
    before = set(sys.modules)
    found = None
    try:
        import ctypes
        found = ctypes.CDLL(None).prctl
    except (ImportError, OSError, AttributeError):
        pass  # a Python without it protects itself less
    for name in set(sys.modules) - before:
        # Modules import it themselves, as in an interpreter of their own.
        del sys.modules[name]
    return found


class Accounts(object):
    """Tells whether a become plugin's command would come out now as it did when it started this agent (rule 10)."""

    def __init__(self):
        # sudo and su keep the directory, which is the login user's home; their own shell's files count as well.
        home = working_directory()
        names = ['~/.profile', '~/.bash_profile', '~/.bash_login', '/etc/profile']
        for shell in SHELL_FILES:
            names.extend(SHELL_FILES[shell])
        self.files = [name.replace('~', home) for name in names + list(ANY_SHELL_FILES) + list(ACCOUNT_FILES)]
        self.foreign = foreign_source()
        self.seen = self.look()
        self.set_dumpable = process_control()
        if self.set_dumpable is not None:
            self.set_dumpable(PR_SET_DUMPABLE, 0, 0, 0, 0)

    def leave(self):
        """In a child: it is as open to its account as any process is."""
        if self.set_dumpable is not None:
            self.set_dumpable(PR_SET_DUMPABLE, 1, 0, 0, 0)

    def look(self):
        names = list(self.files)
        for directory in ACCOUNT_DIRECTORIES:
            names.append(directory)
            try:
                names.extend([directory + '/' + name for name in sorted(os.listdir(directory))])
            except OSError:
                pass  # absent, or not for this account: its agents are short-lived (rule 11)
        return signature(names)

    def check(self):
        """Refuse where only the plugin's command itself can tell."""
        if self.foreign:
            raise Refusal(UNSUPPORTED, 'accounts come from %s, whose changes cannot be watched' % self.foreign)
        if self.look() != self.seen:
            raise Refusal(STALE, 'accounts, rights or limits have changed')
