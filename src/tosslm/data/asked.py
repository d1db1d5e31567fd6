"""Which records of a set are asked for, and by what names: `where` and `fields` of the config."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field

from tosslm.data.turns import fields_of
from tosslm.errors import InputError, RowError

_SHOWN_VALUES = 3
"""Values that are told of where none of them is asked for."""


@dataclass(slots=True)
class Asked:
    """What of a set's records is asked for, and whether any of it was there.

    Attributes:
        fields: the format's names, and the records' for them.
        where: fields, by their names in the records, and the values of them that a record is taken for.
        key: of the set in the config, such as ``data.custom``; empty where there is none.
        read: records so far.
        taken: those of them that are not passed over, good or bad.
        others: of each field that records are taken by, a few values of those that were passed over.
        unseen: fields that stand for one of the format's, and that no record had.
        example: the first record that lacks one of these.
    """

    fields: Mapping[str, str]
    where: Mapping[str, object]
    key: str = ""
    read: int = 0
    taken: int = 0
    others: dict[str, list[object]] = field(default_factory=dict)
    unseen: set[str] = field(default_factory=set)
    example: Mapping[str, object] | None = None

    @classmethod
    def beginning(cls, fields: Mapping[str, str], where: Mapping[str, object], key: str) -> Asked:
        """Before the first record."""
        return cls(fields, where, key, unseen=set(fields.values()))

    def takes(self, record: object) -> bool:
        """Whether a record is not passed over.

        Raises:
            RowError: it lacks what it is chosen by.
        """
        self.read += 1
        taken = not isinstance(record, Mapping) or self._wants(record)
        self.taken += taken
        return taken

    def _wants(self, record: Mapping[str, object]) -> bool:
        if self.unseen and (lacking := self.unseen - record.keys()):
            self.example = self.example or record
            self.unseen = lacking
        elif self.unseen:
            self.unseen = set()
        if missing := [name for name in self.where if name not in record]:
            self.taken += 1
            raise RowError(
                f"field {missing[0]!r}, by which rows are taken, is missing",
                "name another one under where, or add it",
            )
        if all(record[name] == value for name, value in self.where.items()):
            return True
        for name in self.where:
            known = self.others.setdefault(name, [])
            if len(known) < _SHOWN_VALUES and record[name] not in known:
                known.append(record[name])
        return False

    def check(self, names: str) -> None:
        """Refuse, once the set is read, what asked for nothing that is there.

        Args:
            names: of the set's files.

        Raises:
            InputError: ``where`` took none of the rows, or none has a field that stands for another.
        """
        before = f"{self.key}." if self.key else ""
        if self.read and not self.taken:
            wanted = ", ".join(f"{name}: {_shown(value)}" for name, value in self.where.items())
            there = "; ".join(f"{name}: {', '.join(map(_shown, known))}" for name, known in self.others.items())
            raise InputError(
                f"{before}where: {wanted} takes none of the {self.read:,} rows of {names}; name values that are "
                f"there (such as {there})"
            )
        if self.unseen and self.example is not None:
            own = min(self.unseen)
            name = next(one for one, stands in self.fields.items() if stands == own)
            raise InputError(
                f"{before}fields: no row of {names} has a field {own!r} to stand for {name}; "
                f"{fields_of(self.example)}. Name one of them, or leave {name} out of fields"
            )


def _shown(value: object) -> str:
    """A value as YAML and JSON write it, where text is told from what it says."""
    return json.dumps(value, ensure_ascii=False, default=repr)[:40]


def renamed(record: Mapping[str, object], fields: Mapping[str, str]) -> dict[str, object]:
    """A record with the names that a format has for its fields.

    A field that a record lacks is left to the format to miss, so that one set may hold files of several formats.

    Args:
        record: as the data have it.
        fields: the format's names, and the records' for them.

    Raises:
        RowError: the record has a field of the format's name beside the one that stands for it.

    Examples:
        >>> renamed({"prompt": "Hi", "response": "Hello.", "is_safe": True}, {"completion": "response"})
        {'prompt': 'Hi', 'is_safe': True, 'completion': 'Hello.'}
    """
    there = {name: own for name, own in fields.items() if own in record}
    made = {name: value for name, value in record.items() if name not in there.values()}
    for name, own in there.items():
        if made.get(name) is not None:
            raise RowError(
                f"field {name!r} stands there beside {own!r}, which is to stand for it",
                f"take {name} out of fields, or rename it",
            )
        made[name] = record[own]
    return made
