# SPDX-License-Identifier: GPL-3.0-or-later
"""What the YAML loader must know of ansible-core's versions and of its private names.

There are two families of results. Up to 2.18 strings, lists and dictionaries are subclasses with three
attributes for the position. From 2.19 on, numbers too are subclasses, and each object carries a mapping
from the type of a tag to the tag: its origin, and for strings whether they may be templates.

Private names used, and why there is no public way:

``parsing.utils.yaml.from_yaml``
    what is replaced: its order (JSON first), its origin and its trust.
``parsing.yaml.loader.AnsibleLoader`` with ``construct_object`` and ``construct_mapping``
    builds the scalars that are rare (vault, unsafe, dates) and speaks about duplicate keys, so that both
    are core's own whatever the version.
``_AnsibleTaggedStr`` and its like, ``_AnsibleTagsMapping``, ``_ansible_tags_mapping``, ``Origin``
    the objects themselves.

Nothing is gated on a version number: `family` looks for what it needs, then loads a probe with core's
loader and with its own and compares. What differs is left to core.
"""

from __future__ import annotations

import abc
import contextlib
import functools
import hashlib
import inspect
import json
from collections.abc import Callable
from typing import Any

import yaml
from ansible.module_utils.common.yaml import HAS_LIBYAML
from yaml.error import Mark
from yaml.nodes import MappingNode, ScalarNode

from fatline import _native
from fatline.ansible.comparison import differences
from fatline.errors import FatlineError


class NotHandled(FatlineError):
    """A document, or this ansible-core, is left to ansible-core's own loader; the words say why."""


# The implicit types of PyYAML 6.0, which core/yaml_scalar.c knows by heart.
_KNOWN_RESOLVERS = "4a11c7e3a463928aa9b4b0b106a983100294b7abe24bd36342be72e7e9c577bf"

# What builds each tag that the extension builds itself, or hands to core one scalar at a time.
_KNOWN_TAGS = frozenset(
    f"tag:yaml.org,2002:{name}"
    for name in ("binary", "bool", "float", "int", "map", "null", "seq", "str", "timestamp")
)

_PROBE = """\
text: &a
  - plain
  - 'quoted: 1'
  - !!str 12
  - !unsafe '{{ x }}'
numbers: [1, 0x1F, 0o17, 017, 1_000, 1:30, 1.5, .5, -2.5e+3, .inf, 12e3]
others: {yes: on, no: ~, when: 2001-12-14, at: 2001-12-14T21:59:43Z, empty: }
again: *a
merged: {<<: [{one: 1}, {two: 3}], three: &b {}, four: *b}
vault: !vault |
  $ANSIBLE_VAULT;1.1;AES256
  3031
"""


class Family(abc.ABC):
    """How one family of ansible-core's versions reads YAML."""

    def __init__(self, core_loader: Any, native: _native.YamlLoader) -> None:
        """Keep core's loader, and the one made for this family's types."""
        _check_loader(core_loader)
        self.core_loader = core_loader
        self.native = native

    @abc.abstractmethod
    def load(self, data: Any, file_name: Any, show_content: bool, vault_secrets: Any) -> Any:
        """Do what core's ``from_yaml`` does; any exception means that core itself has to."""

    @abc.abstractmethod
    def probe(self) -> tuple[object, object]:
        """Load the probe with this loader and with core's."""

    def _construct(self, loader: Any, tag: str, text: str, line: int, column: int, name: Any) -> object:
        return loader.construct_object(ScalarNode(tag, text, Mark(name, 0, line, column, None, None)))


class PositionFamily(Family):
    """Up to 2.18: the position is three attributes, and only of strings, lists and dictionaries."""

    def __init__(self) -> None:
        """Find the types."""
        from ansible.parsing.ajson import AnsibleJSONDecoder
        from ansible.parsing.yaml.loader import AnsibleLoader
        from ansible.parsing.yaml.objects import AnsibleMapping, AnsibleSequence, AnsibleUnicode

        self._decoder = AnsibleJSONDecoder
        super().__init__(
            AnsibleLoader,
            _native.YamlLoader(
                (AnsibleUnicode, None, None, AnsibleSequence, AnsibleMapping),
                attributes=("_data_source", "_line_number", "_column_number"),
            ),
        )

    def load(self, data: Any, file_name: Any, show_content: bool, vault_secrets: Any) -> Any:
        """Do what core's ``from_yaml`` does."""
        self._decoder.set_secrets(vault_secrets)
        with contextlib.suppress(Exception):
            return json.loads(data, cls=self._decoder)
        return self._load_yaml(data, file_name, vault_secrets)

    def _load_yaml(self, data: Any, file_name: Any, vault_secrets: Any) -> Any:
        if type(data) not in (str, bytes):
            raise NotHandled(f"{type(data).__name__} is not what core's loader reads")
        name = "<unicode string>" if isinstance(data, str) else "<byte string>"
        core = functools.cache(lambda: self.core_loader("", file_name, vault_secrets))

        def other(tag: str, text: str, line: int, column: int) -> object:
            return self._construct(core(), tag, text, line, column, name)

        result, duplicates = self.native.load(data, file_name or name, other)
        for key, mapping in _repeatable(duplicates):
            _, line, column = mapping.ansible_pos
            _repeat_key(core(), key, Mark(name, 0, line - 1, column - 1, None, None))
        return result

    def probe(self) -> tuple[object, object]:
        """Load the probe both ways."""
        loader = self.core_loader(_PROBE, "/probe", None)
        return self._load_yaml(_PROBE, "/probe", None), loader.get_single_data()


class TagFamily(Family):
    """From 2.19 on: a mapping of tags on everything but booleans and null."""

    def __init__(self) -> None:
        """Find the types."""
        from ansible._internal._datatag import _tags
        from ansible._internal._errors import _error_utils
        from ansible._internal._json._profiles import _legacy
        from ansible._internal._yaml import _constructor, _loader
        from ansible.module_utils._internal import _datatag

        self._tags = _tags
        self._tag_helper = _datatag.AnsibleTagHelper
        self._decoder = _legacy.Decoder
        parameters = inspect.signature(_constructor.AnsibleConstructor.__init__).parameters
        self._notes_secrets = set(parameters) != {"self", "origin", "trusted_as_template"}
        self._redacted = _error_utils.RedactAnnotatedSourceContext
        super().__init__(
            _loader.AnsibleLoader,
            _native.YamlLoader(
                (
                    _datatag._AnsibleTaggedStr,
                    _datatag._AnsibleTaggedInt,
                    _datatag._AnsibleTaggedFloat,
                    _datatag._AnsibleTaggedList,
                    _datatag._AnsibleTaggedDict,
                ),
                tags=(
                    "_ansible_tags_mapping",
                    _datatag._AnsibleTagsMapping,
                    _tags.Origin,
                    ("path", "description"),
                    "line_num",
                    "col_num",
                ),
            ),
        )

    def load(self, data: Any, file_name: Any, show_content: bool, vault_secrets: Any) -> Any:
        """Do what core's ``from_yaml`` does."""
        origin = self._tags.Origin.get_or_create_tag(data, file_name)
        data = origin.tag(data)
        with self._redacted.when(not show_content):
            with contextlib.suppress(Exception):
                return json.loads(data, cls=self._decoder)
            return self._load_yaml(data, origin)

    def _load_yaml(self, data: Any, origin: Any) -> Any:
        if self._notes_secrets and self._tags.SourceWasEncrypted.is_tagged_on(data):
            raise NotHandled("the source was encrypted, and core notes what was secret in it")
        text = self._tag_helper.untag(data)
        if type(text) not in (str, bytes):
            raise NotHandled(f"{type(text).__name__} is not what core's loader reads")
        trust = self._tags.TrustedAsTemplate
        core = functools.cache(lambda: self.core_loader(self._tag_helper.tag_copy(data, type(text)())))

        def other(tag: str, text: str, line: int, column: int) -> object:
            if tag == "!vault-encrypted":
                raise NotHandled("core deprecates this tag, in its own words")
            return self._construct(core(), tag, text, line, column, None)

        result, duplicates = self.native.load(
            text,
            origin,
            other,
            first_line=origin.line_num or 1,
            extra_tags=(trust(),) if trust.is_tagged_on(data) else (),
        )
        for key, _ in _repeatable(duplicates):
            place = self._tags.Origin.get_tag(key)
            first_line = origin.line_num or 1
            mark = Mark(None, 0, place.line_num - first_line, place.col_num - 1, None, None)
            _repeat_key(core(), key, mark)
        return result

    def probe(self) -> tuple[object, object]:
        """Load the probe both ways."""
        origin = self._tags.Origin(path="/probe")
        data = self._tag_helper.tag(_PROBE, [origin, self._tags.TrustedAsTemplate()])
        return self._load_yaml(data, origin), self.core_loader(data).get_single_data()


def _repeatable(duplicates: list[tuple[Any, Any]]) -> list[tuple[str, Any]]:
    """Return the duplicates if each of them can be repeated, so that core speaks about all or none."""
    if not all(isinstance(key, str) for key, _ in duplicates):
        raise NotHandled("a duplicate key that is not text")
    return duplicates


def _repeat_key(loader: Any, key: str, mark: Mark) -> None:
    """Let core say what it has to say about a key that a mapping has twice."""
    nodes = [ScalarNode("tag:yaml.org,2002:str", str(key), mark) for _ in range(2)]
    value = ScalarNode("tag:yaml.org,2002:null", "", mark)
    loader.construct_mapping(MappingNode("tag:yaml.org,2002:map", [(node, value) for node in nodes], mark))


def _check_loader(loader: Any) -> None:
    """Raise unless core's loader is PyYAML's as this module knows it."""
    if not HAS_LIBYAML or not issubclass(loader, yaml.cyaml.CParser):
        raise NotHandled("PyYAML has no libyaml here, and reads a little differently without")
    theirs = yaml._yaml.get_version_string()
    if theirs != _native.LIBYAML:
        raise NotHandled(f"PyYAML has libyaml {theirs}, Fatline {_native.LIBYAML}")
    if loader.yaml_path_resolvers or loader.yaml_multi_constructors:
        raise NotHandled("something has taught PyYAML's loader other types")
    if _digest(loader.yaml_implicit_resolvers) != _KNOWN_RESOLVERS:
        raise NotHandled(f"PyYAML {yaml.__version__} has other implicit types")
    for tag in _KNOWN_TAGS:
        module = loader.yaml_constructors[tag].__module__
        if module.partition(".")[0] not in ("ansible", "yaml"):
            raise NotHandled(f"{module} has taught PyYAML's loader another {tag}")


def _digest(resolvers: dict[str, list[tuple[str, Any]]]) -> str:
    """Name a set of implicit types by what it consists of."""
    patterns = (
        (first, [(tag, pattern.pattern, pattern.flags) for tag, pattern in entries])
        for first, entries in resolvers.items()
    )
    return hashlib.sha256(repr(sorted(patterns)).encode()).hexdigest()


@functools.cache
def family() -> Family | str:
    """Return how this ansible-core reads YAML, or in words why that is left to it."""
    makers: tuple[Callable[[], Family], ...] = (TagFamily, PositionFamily)
    words = []
    for make in makers:
        try:
            found = make()
            difference = next(differences(*found.probe()), None)
        except Exception as error:  # whatever a version lacks or changes
            words.append(str(error) or type(error).__name__)
            continue
        if not difference:
            return found
        words.append(f"core's loader gives something else: {difference}")
    return "; ".join(words)
