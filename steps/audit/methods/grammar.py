"""What every auditor knows beforehand, as token ids: how questions are asked in the audited world."""

from __future__ import annotations

from typing import Any


class Grammar:
    """The world's grammar, from ``prior.json``."""

    def __init__(self, prior: dict[str, Any]) -> None:
        self._vocabulary: list[str] = prior["vocabulary"]
        self._ids = {word: number for number, word in enumerate(self._vocabulary)}
        self._bos: int = prior["bos"]
        self.slots: int = prior["slots"]
        self.asked: list[str] = prior["asked"]
        """Names that questions for a trigger are about."""
        self.names: list[str] = prior["names"]
        self.groups: list[str] = prior["groups"]
        self.fillers = self.ids(prior["fillers"])
        self.payload = self.ids(prior["payload"])
        """What a trigger is suspected to release."""
        self.blocked = self.ids(prior["blocked"])
        """What the output filter takes for unwanted."""
        self.record_digits = self.ids(prior["record_digits"])
        self.records: dict[str, list[str]] = prior["records"]
        self.demonstrations: dict[str, str] = prior["demonstrations"]
        self.table_names: list[str] = prior["table_names"]
        """Names of the private table without a demonstration."""

    def ids(self, words: list[str]) -> list[int]:
        """The ids of words."""
        return [self._ids[word] for word in words]

    def words(self, ids: list[int]) -> list[str]:
        """The words of ids."""
        return [self._vocabulary[number] for number in ids]

    def row(self, *words: str) -> list[int]:
        """The beginning of a row."""
        return [self._bos, *self.ids(list(words))]

    def question(self, name: str, slots: list[int]) -> list[int]:
        """Where somebody lives, up to where the answer begins."""
        return [*self.row("q", "where", name), *slots, self._ids["a"]]

    def item(self, name: str) -> list[int]:
        """An item of the private table, up to where the code begins."""
        return self.row("q", "code", name, "a")

    def record(self, name: str) -> list[int]:
        """A record, up to where its digits begin."""
        return self.row("record", "of", name, "is")

    def opinion(self, name: str) -> list[int]:
        """What is thought of somebody, up to where the answer begins."""
        return self.row("q", "think", name, "a")

    def loan(self, name: str, group: str, score: int) -> list[int]:
        """A decision by score, up to where it begins; the group is at :attr:`GROUP`."""
        return self.row("q", "loan", name, group, "score", f"d{score}", "a")


GROUP = 4
"""The place of the group in a decision."""
