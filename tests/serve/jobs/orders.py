"""Orders, and a queue and a store of their own, for tests of what lies behind the server."""

from everreel.serve.jobs.job import Owner, Quota
from everreel.serve.jobs.order import make_order

ANNA, BEN = Owner("anna"), Owner("ben")


def order(prompt="a red fox", **values):
    return make_order(prompt=prompt, **values)


def owner(name="anna", **quota):
    return Owner(name, Quota(**quota))


def put(queue, whose=ANNA, *, seconds=1, priority=0, **values):
    return queue.put(order(**values), whose, seconds=seconds, priority=priority)[0]
