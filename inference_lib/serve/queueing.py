"""What can be said of a queue with two lines of arithmetic, before anything is simulated.

Without batching, a queue with random arrivals (Poisson) and a fixed time ``s`` for each request is M/D/1: at a load of
``u = rate * s`` a request waits for ``s * u / (2 * (1 - u))`` on average (Pollaczek and Khinchine; Kleinrock, Queueing
Systems I, section 5.6).

With batching, a busy server takes all that came while it computed the last batch. So batches grow until one takes just
as long as its requests need to come: ``rate * time(batch) = batch``. A request that comes right after a batch was
closed waits for that batch and then for its own: nobody waits much longer than twice ``time(batch)``.
"""

from inference_lib.serve.service import Service


def mean_wait_s(rate: float, service_s: float) -> float:
    """Return the mean wait, seconds, of M/D/1: one request at a time, each takes ``service_s``.

    The wait does not contain the service itself. From a load of 1 on, it grows without end: infinite.
    """
    load = rate * service_s
    return service_s * load / (2 * (1 - load)) if load < 1 else float("inf")


def steady_batch(rate: float, service: Service, max_batch: int, max_wait_s: float = 0.0) -> float:
    """Return the batch size at which a busy queue settles; ``max_batch`` where it cannot keep up with less.

    The smallest batch that is computed, waiting for company included, before as many requests have come.
    """
    for batch in range(1, max_batch + 1):
        if rate * max(service.occupied_s(batch), max_wait_s) <= batch:
            return batch
    return max_batch


def slowest_s(rate: float, service: Service, max_batch: int, max_wait_s: float = 0.0) -> float:
    """Return about the latency of an unlucky request, seconds: the batch before its own, and its own.

    A queue that waits for company does so only while nobody computes, so of waiting and computing the longer counts.
    """
    if rate >= service.capacity:
        return float("inf")
    batch = round(steady_batch(rate, service, max_batch, max_wait_s))
    return max(service.occupied_s(batch), max_wait_s) + service.alone_s(batch) + service.overhead_s


def highest_rate(service: Service, max_batch: int, limit_s: float) -> float:
    """Return the highest rate at which an unlucky request stays within ``limit_s``, by the rule above; 0 if none does.

    A batch may take half the limit; the rate is what batches of that size carry.
    """
    fitting = [
        size
        for size in service.sizes
        if size <= max_batch and service.occupied_s(size) + service.alone_s(size) + service.overhead_s <= limit_s
    ]
    return max((size / service.occupied_s(size) for size in fitting), default=0.0)
