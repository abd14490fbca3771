"""Reading YAML: presets, configurations and the heads of model cards. What it says is plain data, of bounded size."""

from typing import Any

import yaml

# A preset has some lines; the configuration of a run has a hundred.
_MAX_CHARACTERS = 1_000_000
_MAX_DEPTH = 16
_TAGS = frozenset(f"tag:yaml.org,2002:{kind}" for kind in ("str", "int", "float", "bool", "null", "map", "seq"))


class NotPlainYaml(Exception):
    """A text that is not YAML, or says what we don't read: the reason, with its line, as the end of a sentence."""


def yaml_value(text: str) -> Any:
    """Return the data of a YAML text: mappings, lists, texts, numbers, true, false and null.

    Aliases, which may multiply what a text says a billionfold, and other types, such as dates and binary data, are
    refused before anything is built.

    Raises:
        NotPlainYaml: the text is no YAML, or says one of those.
    """
    reader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    if len(text) > _MAX_CHARACTERS:
        raise NotPlainYaml(f"it has {len(text):,} characters, and {_MAX_CHARACTERS:,} are allowed")
    try:
        # Before nodes are made of them, which libyaml does by recursion.
        _check_events(yaml.parse(text, Loader=reader))
        loader = reader(text)
        try:
            node = loader.get_single_node()
            if node is None:
                return None
            _check_nodes(node)
            return loader.construct_document(node)
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        raise NotPlainYaml(f"it is not YAML: {where}{error.problem or error.context}") from None
    except (yaml.YAMLError, ValueError, OverflowError, RecursionError) as error:
        what = (str(error).splitlines() or [type(error).__name__])[0]
        raise NotPlainYaml(f"it is not YAML: {what}") from None


def _check_events(events: Any) -> None:
    depth = 0
    for event in events:
        where = f"line {event.start_mark.line + 1}: " if event.start_mark else ""
        if isinstance(event, yaml.AliasEvent):
            raise NotPlainYaml(f"{where}it has an alias (*{event.anchor}); write the value out")
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > _MAX_DEPTH:
            raise NotPlainYaml(f"{where}it is nested more than {_MAX_DEPTH} levels deep")
        tag = getattr(event, "tag", None)
        if tag not in (None, "!") and tag not in _TAGS:
            raise NotPlainYaml(f"{where}it has the tag {tag}; only plain values are read")


def _check_nodes(root: yaml.Node) -> None:
    """Refuse values of other types than those that JSON has, and keys that stand twice in a mapping."""
    left = [root]
    while left:
        node = left.pop()
        where = f"line {node.start_mark.line + 1}: "
        if node.tag not in _TAGS:
            kind = node.tag.rpartition(":")[2]
            quote = f"; if it is a text, write it in quotes: '{node.value}'" if isinstance(node.value, str) else ""
            raise NotPlainYaml(f"{where}it has a value of the type {kind}{quote}")
        if isinstance(node, yaml.MappingNode):
            keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
            if len(keys) < len(node.value):
                raise NotPlainYaml(f"{where}a key is a list or a mapping; keys are names")
            if twice := next((key for number, key in enumerate(keys) if key in keys[:number]), None):
                raise NotPlainYaml(f"{where}the key {twice} stands there twice")
            left += [item for pair in node.value for item in pair]
        elif isinstance(node, yaml.SequenceNode):
            left += node.value
