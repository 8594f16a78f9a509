"""Checkers of the part `data`."""

import numpy as np

from zoo.data.order import Order, key, mix, perm


def order_vectors(fixture):
    vectors = fixture.sidecar["primitives"]
    with np.errstate(over="ignore"):
        for case in vectors["mix64"]:
            assert int(mix(np.array([int(case["x"])], dtype=np.uint64))[0]) == int(case["y"])
        for case in vectors["key"]:
            assert int(key(*case["args"])[0]) == int(case["key"])
        for case in vectors["perm"]:
            n, k = np.uint64(case["n"]), key(*case["key_args"])
            forth = perm(np.arange(case["n"], dtype=np.uint64), n, k)
            assert forth.tolist() == case["perm"]
            assert perm(forth, n, k, inverse=True).tolist() == list(range(case["n"]))
    for case in fixture.sidecar["order"]:
        order = Order(
            samples=case["M"], block=case["b"], pool=case["P"], lanes=case["C"], seed=case["seed"]
        )
        assert order.ids(np.array(case["positions"])).tolist() == case["sample_ids"]


CHECKS = {"order_vectors": order_vectors}
