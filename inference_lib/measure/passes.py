"""The invocations of a grid in the order of its passes, and a bar that says how far they are."""

from collections.abc import Iterator, Sequence

from inference_lib.measure.plan import RivalSet
from inference_lib.measure.profiles import Profile
from inference_lib.measure.rounds import Race
from inference_lib.support.progress import bar, no_bar

PARTS, FEWER_PARTS = 4, 2
"""Starting, rounds, the phases of their own and the test set; only the first invocation has the last two."""


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
        """Return an invocation of a set that is yet to be run, and moves the bar."""
        before = self._shown.n
        return Race(one, profile, seed, lambda steps: self._shown.update(before + steps - self._shown.n))
