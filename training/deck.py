# SPDX-License-Identifier: Apache-2.0
"""In which order a network sees the views: all in turn, and between them those that it gets wrong."""

from __future__ import annotations

from collections.abc import Hashable, Iterable

import numpy as np

HARD_DRAWS = 0.25  # of the draws are from the hardest views
HARDEST = 0.15  # share of the views seen so far that counts as hardest
FORGET = 0.5  # weight of a new verdict on a view


class Deck:
    """Cards are views. Each comes once before any comes again, the newest first; a share of the
    draws goes to the views on which the network was last seen to err most."""

    def __init__(self, rng: np.random.Generator, hard_draws: float = HARD_DRAWS) -> None:
        self._rng, self._hard_draws = rng, hard_draws
        self._cards: set[Hashable] = set()
        self._pile: list[Hashable] = []
        self._error: dict[Hashable, float] = {}
        self._hardest: list[Hashable] = []
        self._told = 0

    def __len__(self) -> int:
        return len(self._cards)

    def deal(self, cards: Iterable[Hashable]) -> None:
        """From now on these views exist; new ones come on top."""
        now = set(cards)
        fresh = sorted(now - self._cards)
        self._rng.shuffle(fresh)
        gone = self._cards - now
        if gone:
            self._pile = [c for c in self._pile if c not in gone]
            self._error = {c: e for c, e in self._error.items() if c not in gone}
            self._hardest = [c for c in self._hardest if c not in gone]
        self._pile += fresh
        self._cards = now

    def draw(self) -> Hashable:
        """The next view. Raises IndexError where there is none at all."""
        if self._hardest and self._rng.random() < self._hard_draws:
            return self._hardest[self._rng.integers(len(self._hardest))]
        if not self._pile:
            if not self._cards:
                raise IndexError("no cards")
            self._pile = sorted(self._cards)
            self._rng.shuffle(self._pile)
        return self._pile.pop()

    def tell(self, cards: Iterable[Hashable], errors: Iterable[float]) -> None:
        """How wrong the network was on views just seen."""
        for card, error in zip(cards, errors, strict=True):
            if card in self._cards:
                before = self._error.get(card, error)
                self._error[card] = before + FORGET * (float(error) - before)
                self._told += 1
        if self._told >= 200:
            self._told = 0
            most = sorted(self._error, key=lambda c: self._error[c], reverse=True)
            self._hardest = most[: int(HARDEST * len(most))]
