# SPDX-License-Identifier: BSD-3-Clause
"""Inventories of every kind, as files: `SOURCES` gives each a name, the files, and which of them to load."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

VAULT_PASSWORD = b"secret"


@dataclass(frozen=True)
class Source:
    """One inventory."""

    files: dict[str, str]
    start: str = "hosts.yml"
    """What is given with ``-i``, relative to the directory with the files; empty for that directory."""
    executable: tuple[str, ...] = ()
    encrypt: tuple[str, ...] = field(default=())
    """Files that are encrypted as a whole."""

    def write(self, directory: Path) -> str:
        """Write the files below `directory`; returns what to load."""
        for name, content in self.files.items():
            path = directory / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content, encoding="utf-8")
            if name in self.executable:
                path.chmod(0o755)
        return str(directory / self.start)


def one(text: str, name: str = "hosts.yml") -> Source:
    """Make a source of one file."""
    return Source({name: text}, name)


SOURCES: dict[str, Source] = {
    "plain": one("all:\n  hosts:\n    one:\n    two:\n      port: 22\n"),
    "nested groups": one(
        """\
all:
  vars: {domain: example.org}
  hosts:
    lonely:
  children:
    east:
      children:
        web:
          hosts: {w1: , w2: {weight: 2}}
        db:
          hosts:
            d1: {primary: yes}
      vars:
        region: "{{ domain }}-east"
    west:
      hosts:
        w1: {also: west}
      children:
        web:
"""
    ),
    "ranges": one(
        "all:\n  hosts:\n    web[01:12].example.org: {role: web}\n    db-[a:c]:\n    x[1:9:3]:2222: {y: 1}\n"
        "    '[2001:db8::1]:2200':\n    10.0.0.[1:3]:\n"
    ),
    "ports": one("g:\n  hosts:\n    'a:2222':\n    b.example.org:\n    'c:22': {ansible_port: 23}\n"),
    "strings for mappings": one("g:\n  hosts: only\n  children: inner\n"),
    "values of all types": one(
        """\
all:
  vars:
    text: text
    number: 12
    octal: 010
    hexadecimal: 0x1f
    sexagesimal: 12:30:45
    real: 1.5e3
    infinite: [.inf, -.inf]
    truth: [yes, no, on, off, true, False]
    nothing: [null, ~, ]
    day: 2026-01-02
    time: 2026-01-02 03:04:05.6 +01:00
    list: [1, [2, [3]], {four: 4}]
    folded: >
      folded
      text
    literal: |
      line 1
        line 2
    quoted: "a\\tb\\u00e9"
    1: a number as name
    unsafe: !unsafe "{{ not }} a template"
    template: "{{ text }}"
"""
    ),
    "anchors and merges": one(
        """\
defaults:
  vars: &v {a: 1, b: [x, y]}
web:
  vars:
    <<: *v
    b: [z]
  hosts: &h
    w1: &w {shared: {deep: [1]}}
    w2: *w
db:
  hosts: *h
  vars: *v
"""
    ),
    "invalid group names": one("my-group:\n  hosts:\n    h1:\nother group:\n  hosts:\n    h2:\n"),
    "group priority": one("a:\n  vars: {ansible_group_priority: 10, x: 1}\n  hosts: {h: }\n"),
    "group and host of one name": one("same:\n  hosts:\n    same:\n"),
    "localhost": one("all:\n  hosts:\n    localhost:\n      ansible_connection: local\n    127.0.0.1:\n"),
    "unexpected keys": one("all:\n  hosts: {a: }\n  colour: {red: 1}\n  words: text\n  empty:\nlist: [1]\n"),
    "invalid variable name": one("all:\n  hosts:\n    a:\n      bad-name: 1\n      'with space': 2\n"),
    "merged variables": one("all:\n  hosts:\n    a: {d: {x: 1}}\ng:\n  hosts:\n    a: {d: {y: 2}, d2: 1}\n"),
    "a group called plugin": one("plugin:\nall:\n  hosts:\n    a:\n"),
    "plugin as a host": one("all:\n  hosts:\n    plugin:\n      plugin: x\n"),
    "JSON": one(
        '{"all": {"hosts": {"a": {"n": 1, "t": true, "s": "x", "l": [1, "2", null]}}}}', "hosts.json"
    ),
    "JSON under a YAML name": one('{"all": {"children": {"g": {"hosts": {"a": null}}}}}'),
    "flow mapping": one("{all: {hosts: {a: {x: [1, 2]}, b: }}}"),
    "no extension": one("all:\n  hosts:\n    a:\n", "hosts"),
    "another extension": one("all:\n  hosts:\n    a:\n", "hosts.txt"),
    "INI without extension": one("[web]\nw1\nw2 x=1\n[web:vars]\ny=2\n", "hosts"),
    "INI of one host": one("w1\n", "hosts"),
    "document markers": one("---\n# a comment\nall:\n  hosts:\n    a:\n...\n"),
    "tagged": one("all: !!map\n  hosts: !!map\n    a: {x: !!str 1, y: !!int '2', z: !!float 3}\n"),
    "unicode": one("all:\n  hosts:\n    h\u00f6st:\n      name: \u4f60\u597d \U0001f600\n"),
    "group_vars and host_vars": Source(
        {
            "hosts.yml": "all:\n  children:\n    web:\n      hosts: {w1: , w2: }\n",
            "group_vars/all.yml": "a: 1\nnested: {x: 1}\n",
            "group_vars/web/one.yml": "b: '{{ a }}'\n",
            "group_vars/web/two.json": '{"c": [1]}',
            "host_vars/w1.yaml": "---\nd: !unsafe '{{ e }}'\n",
            "host_vars/w2": "f: {<<: {g: 1}, h: 2}\n",
        }
    ),
    "directory": Source(
        {
            "inventory/01-hosts.yml": "all:\n  hosts: {a: , b: }\n",
            "inventory/02-more": "web:\n  hosts: {a: {x: 1}}\n",
            "inventory/03-ini": "[db]\nb\n",
            "inventory/04-script": '#!/bin/sh\necho \'{"dyn": {"hosts": ["c"], "vars": {"v": 1}}}\'\n',
            "inventory/.hidden": "not: {hosts: {z: }}\n",
            "inventory/group_vars/web.yml": "from: directory\n",
        },
        "inventory",
        executable=("inventory/04-script",),
    ),
    "executable YAML": Source(
        {"hosts.yml": "all:\n  hosts:\n    a:\n"}, "hosts.yml", executable=("hosts.yml",)
    ),
    "constructed": Source(
        {
            "inventory/01-hosts.yml": "all:\n  hosts: {a: {os: deb}, b: {os: rpm}}\n",
            "inventory/02-constructed.yml": "plugin: ansible.builtin.constructed\nstrict: true\n"
            "keyed_groups:\n  - {key: os, prefix: os}\ncompose:\n  twice: os ~ os\n",
        },
        "inventory",
    ),
    "constructed, JSON": one('{"plugin": "ansible.builtin.constructed", "strict": false}'),
    "constructed, quoted": one('"plugin": ansible.builtin.constructed\nstrict: false\n'),
    "constructed, not first": one("strict: false\nplugin: ansible.builtin.constructed\n"),
    "constructed, indented": one("  strict: false\n  plugin: ansible.builtin.constructed\n"),
    "unknown plugin": one("plugin: nobody.knows.this\n"),
    "encrypted file": Source({"hosts.yml": "all:\n  hosts:\n    a: {password: x}\n"}, encrypt=("hosts.yml",)),
    "an encrypted value": one(
        "all:\n  hosts:\n    a:\n      x: !vault |\n        $ANSIBLE_VAULT;1.1;AES256\n        3031\n"
    ),
    "encrypted configuration": Source(
        {"hosts.yml": "plugin: ansible.builtin.constructed\n"}, encrypt=("hosts.yml",)
    ),
    "encrypted group_vars": Source(
        {"hosts.yml": "web:\n  hosts:\n    a:\n", "group_vars/web.yml": "password: x\nlist: [1, y]\n"},
        encrypt=("group_vars/web.yml",),
    ),
    # What is wrong in some way.
    "empty": one(""),
    "only a comment": one("# nothing\n"),
    "a list": one("- a\n- b\n"),
    "a word": one("word\n"),
    "a syntax error": one("all:\n  hosts:\n   a: b: c\n"),
    "a tab": one("all:\n\thosts:\n"),
    "an unquoted template": one("all:\n  vars:\n    x: {{ y }}\n"),
    "an unknown tag": one("all:\n  vars:\n    x: !nobody y\n"),
    "an undefined alias": one("all:\n  vars: *missing\n"),
    "two documents": one("all:\n  hosts: {a: }\n---\nall:\n  hosts: {b: }\n"),
    "duplicate keys": one("all:\n  hosts:\n    a: {x: 1, x: 2}\n    a: {y: 1}\n"),
    "hosts as a list": one("all:\n  hosts: [a, b]\n"),
    "children as a list": one("all:\n  hosts: {h: }\n  children: [a, b]\n"),
    "hosts as a list, and an encrypted value": one(
        "all:\n  vars:\n    x: !vault |\n      $ANSIBLE_VAULT;1.1;AES256\n      3031\n  hosts: [a, b]\n"
    ),
    "hosts as a number": one("all:\n  hosts: 5\n"),
    "a number as host": one("all:\n  hosts:\n    12345:\n"),
    "a number as group": one("5:\n  hosts:\n    a:\n"),
    "an empty host name": one("all:\n  hosts:\n    '':\n"),
    "a list as variables": one("all:\n  hosts:\n    a: [1]\n"),
    "a word as variables": one("all:\n  hosts:\n    a: word\n"),
    "a bad range": one("all:\n  hosts:\n    'a[5:1]':\n    'b[1:z]':\n"),
    "a loop of groups": one("a:\n  children:\n    b:\n      children:\n        a:\n"),
    "a group in itself": one("a:\n  children:\n    a:\n"),
    "a bad priority": one("a:\n  vars: {ansible_group_priority: high}\n"),
    "a control character": one("all:\n  vars: {x: '\x01'}\n"),
    "a missing file": Source({}, "hosts.yml"),
}
