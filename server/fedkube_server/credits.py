"""Who may send large replies now: few at a time, first come first served, the slow ones apart."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field

from fedkube.wire.limits import MODERATE_UPLOADS, UPLOADS


@dataclass(slots=True)
class Credits:
    """Gives out ``limit`` credits, and again those of up to ``moderates`` who send moderately fast.

    What a fast sender has under way waits in the server's buffers, so their number bounds memory;
    a slow one fills no buffer, and must not hold up the others: its credit is used again.
    """

    limit: int = UPLOADS
    moderates: int = MODERATE_UPLOADS
    _using: set[object] = field(default_factory=set)
    _moderate: set[object] = field(default_factory=set)
    _waiting: OrderedDict[object, Callable[[], None]] = field(default_factory=OrderedDict)

    def ask(self, key: object, granted: Callable[[], None]) -> None:
        """Call ``granted`` when ``key`` may send; at once where that is so now."""
        self._waiting[key] = granted
        self._grant()

    def moderate(self, key: object) -> None:
        """``key`` sends less than the server could take: another may send beside it."""
        if key in self._using and len(self._moderate) < self.moderates:
            self._using.discard(key)
            self._moderate.add(key)
            self._grant()

    def release(self, key: object) -> None:
        """``key`` has sent everything, is slow, or is gone."""
        self._using.discard(key)
        self._moderate.discard(key)
        self._waiting.pop(key, None)
        self._grant()

    def _grant(self) -> None:
        while self._waiting and len(self._using) < self.limit:
            key, granted = self._waiting.popitem(last=False)
            self._using.add(key)
            granted()
