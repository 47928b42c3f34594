"""What the exports of a process may share: the processes that compile, and what was found out with them."""

from collections.abc import Callable, Hashable, Iterable
from contextlib import ExitStack
from functools import cached_property

from inference_lib.backends.cudnn.arithmetic import Network
from inference_lib.backends.cudnn.compiler import Kernel, Spec
from inference_lib.backends.cudnn.compilers import Compilers
from inference_lib.backends.cudnn.plans import Forms, Timed, fastest_plans


class Search(ExitStack):
    """The search for plans on one GPU; its compilers start with the first network, and end with the block."""

    def __init__(self) -> None:
        super().__init__()
        self._networks: dict[Hashable, Network] = {}
        self._known: dict[Forms, dict[Spec, Timed]] = {}

    @cached_property
    def compilers(self) -> Compilers:
        """The processes that compile."""
        return self.enter_context(Compilers())

    def network(self, key: Hashable, make: Callable[[], Network]) -> Network:
        """Return what ``make`` made for the first of equal ``key``: scales are found once for all batch sizes."""
        if key not in self._networks:
            with self.compilers.counting("calibrating"):
                self._networks[key] = make()
        return self._networks[key]

    def plans(self, convolutions: Iterable[Forms], among: frozenset[Kernel] | None = None) -> dict[Spec, Timed]:
        """Return the fastest plan of each form of ``convolutions`` that has one, as ``fastest_plans`` finds it.

        A convolution for which all kernels have competed is not searched again.
        """
        convolutions = list(dict.fromkeys(convolutions))
        new = [forms for forms in convolutions if forms not in self._known]
        timed = fastest_plans(new, self.compilers, among) if new else {}
        found = {forms: {spec: timed[spec] for spec in forms if spec in timed} for forms in new}
        if among is None:
            self._known |= found
        return {spec: plan for forms in convolutions for spec, plan in (self._known | found)[forms].items()}
