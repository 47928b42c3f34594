"""The invocations of a grid in the order of its passes, and a bar that says how far they are."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from inference_lib.measure.plan import Rival, RivalSet
from inference_lib.measure.profiles import Profile
from inference_lib.measure.rounds import Race
from inference_lib.support.progress import Bar, bar, no_bar

PARTS, FEWER_PARTS = 4, 2
"""Starting, rounds, the phases of their own and the test set; only the first invocation has the last two."""


class CountedRace(Race):
    """A race that moves a bar, between turns: a step is one part of the invocation, for one rival."""

    def __init__(self, rivals: RivalSet, profile: Profile, seed: int, shown: Bar) -> None:
        super().__init__(rivals, profile, seed)
        self._shown, self._step = shown, 1.0
        self._turns = 1 + profile.rounds_at(rivals.members[0].workload.batch_size)

    def _timed(self, what: str, step: Callable[[], object]) -> None:
        before = self._shown.n
        self._step = 1 / self._turns if what == "rounds" else 1.0
        super()._timed(what, step)
        self._shown.update(before + len(self.outcomes) - self._shown.n)  # whoever dropped out meanwhile

    @contextmanager
    def _failing(self, rival: Rival) -> Iterator[None]:
        with super()._failing(rival):
            yield
        self._shown.update(self._step)


class Passes:
    """The passes through a grid, and the races of which they are made."""

    def __init__(self) -> None:
        self._shown = no_bar()

    def over(self, sets: Sequence[RivalSet], profile: Profile, *, rounds_only: bool) -> Iterator[tuple]:
        """Yield what ``Session.invocation`` wants to know: the set, the number of the invocation, and the set's place.

        The remaining time is that of the steps so far, so it is guessed too long while the largest batches run, and in
        the first of several passes.
        """

        def steps(one: RivalSet, number: int) -> int:
            return (FEWER_PARTS if rounds_only or number > 1 else PARTS) * len(one.everyone)

        numbers = range(1, profile.invocations + 1)
        with bar(sum(steps(one, number) for number in numbers for one in sets), "measuring") as self._shown:
            for number in numbers:
                for place, one in enumerate(sets, 1):
                    before, asked = self._shown.n, one.members[0].workload
                    self._shown.set_postfix_str(f"{asked.model}, batch {asked.batch_size}")
                    yield one, number, f"{place}/{len(sets)}"
                    if self._shown.n == before and not self._shown.disable:  # measured by an earlier run
                        self._shown.initial += steps(one, number)
                    self._shown.update(before + steps(one, number) - self._shown.n)

    def race(self, one: RivalSet, profile: Profile, seed: int) -> Race:
        """Return an invocation of a set that is yet to be run."""
        return CountedRace(one, profile, seed, self._shown)
