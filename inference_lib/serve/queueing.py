"""What can be said of a queue with a few lines of arithmetic, before anything is simulated.

Without batching, a queue with random arrivals (Poisson) and a fixed time ``s`` for each request is M/D/1: at a load of
``u = rate * s`` a request waits for ``s * u / (2 * (1 - u))`` on average (Pollaczek and Khinchine; Kleinrock, Queueing
Systems I, section 5.6).

With batching, a busy server takes all that came while it computed the last batch. So batches grow until one takes just
as long as its requests need to come: ``rate * time(batch) = batch``. Their number scatters as random arrivals do, by
its square root; one batch in a hundred is larger by 2.33 of them. A request that comes right after such a batch was
closed waits for it and then for its own, which is as large. Where two batches may be under way, one of them waits to
be computed, and that makes three.
"""

import math

from inference_lib.serve.service import Service

UNLUCKY = 2.33
"""Standard deviations above the mean that one in a hundred exceeds (normal approximation)."""


def mean_wait_s(rate: float, service_s: float) -> float:
    """Return the mean wait, seconds, of M/D/1: one request at a time, each takes ``service_s``.

    The wait does not contain the service itself. From a load of 1 on, it grows without end: infinite.
    """
    load = rate * service_s
    return service_s * load / (2 * (1 - load)) if load < 1 else math.inf


def steady_batch(rate: float, service: Service, max_batch: int, max_wait_s: float = 0.0) -> int:
    """Return the batch size at which a busy queue settles; ``max_batch`` where it cannot keep up with less.

    The smallest batch that is computed, waiting for company included, before as many requests have come.
    """
    fitting = (b for b in range(1, max_batch) if rate * max(service.occupied_s(b), max_wait_s) <= b)
    return next(fitting, max_batch)


def slowest_s(rate: float, service: Service, max_batch: int, max_wait_s: float = 0.0) -> float:
    """Return about the latency that one request in a hundred exceeds, seconds; infinite above the capacity.

    A queue that waits for company does so only while nobody computes, so of waiting and computing the longer counts.
    """
    if rate >= service.carried(max_batch):
        return math.inf
    return _unlucky_s(steady_batch(rate, service, max_batch, max_wait_s), service, max_batch, max_wait_s)


def highest_rate(service: Service, max_batch: int, limit_s: float) -> float:
    """Return the highest rate at which ``slowest_s`` stays within ``limit_s``, without waiting for company; 0 if none.

    It is what the largest batches carry of which an unlucky request can wait for two, or three, within the limit.
    """
    rates = (service.carried(b) for b in range(1, max_batch + 1) if _unlucky_s(b, service, max_batch) <= limit_s)
    return max(rates, default=0.0)


def _unlucky_s(batch: int, service: Service, max_batch: int, max_wait_s: float = 0.0) -> float:
    large = min(max_batch, math.ceil(batch + UNLUCKY * math.sqrt(batch)))
    before = max(service.depth * service.occupied_s(large), max_wait_s)
    return before + service.alone_s(large)
