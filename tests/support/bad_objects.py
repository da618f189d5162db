"""Specs of runs that will not do, by what is wrong with them."""

from __future__ import annotations

from typing import Any

BAD: dict[str, dict[str, Any]] = {
    "no pool": {},
    "no clients": {"pool": {}},
    "one client": {"pool": {"clients": 1}},
    "half a client": {"pool": {"clients": 2.5}},
    "clients in words": {"pool": {"clients": "ten"}},
    "too many clients": {"pool": {"clients": 10**7}},
    "no workers": {"pool": {"clients": 2, "workers": 0}},
    "too many workers": {"pool": {"clients": 2, "workers": 10**5}},
    "no threads": {"pool": {"clients": 2, "threads": 0}},
    "no attempts": {"pool": {"clients": 2, "maxAttempts": 0}},
    "no time": {"pool": {"clients": 2, "clientTimeoutS": 0}},
    "unknown field": {"pool": {"clients": 2}, "rounds": 3},
    "unknown field of the pool": {"pool": {"clients": 2, "client": 3}},
    "image with a blank": {"pool": {"clients": 2}, "app": {"image": "a b"}},
    "relative path": {"pool": {"clients": 2}, "app": {"path": "app"}},
    "bundle without a digest": {"pool": {"clients": 2}, "app": {"bundle": {"configMap": "a"}}},
    "bundle with a short digest": {
        "pool": {"clients": 2},
        "app": {"bundle": {"configMap": "a", "sha256": "ab"}},
    },
    "bundle with no name": {
        "pool": {"clients": 2},
        "app": {"bundle": {"configMap": "A_B", "sha256": "a" * 64}},
    },
    "list in the run config": {"pool": {"clients": 2}, "runConfig": {"a": [1]}},
    "run config is a list": {"pool": {"clients": 2}, "runConfig": []},
    "seed below zero": {"pool": {"clients": 2}, "seed": -1},
    "seed too large": {"pool": {"clients": 2}, "seed": 2**63},
    "storage in words": {"pool": {"clients": 2}, "server": {"storage": {"size": "much"}}},
    "negative checkpoints": {"pool": {"clients": 2}, "checkpoints": {"every": -1}},
    "no deadline": {"pool": {"clients": 2}, "activeDeadlineSeconds": 0},
    "negative backoff": {"pool": {"clients": 2}, "backoffLimit": -1},
    "negative time to live": {"pool": {"clients": 2}, "ttlSecondsAfterFinished": -1},
    "suspend in words": {"pool": {"clients": 2}, "suspend": "yes"},
    "a path of the node": {
        "pool": {"clients": 2, "pod": {"volumes": [{"name": "a", "hostPath": {"path": "/"}}]}}
    },
    "a volume of the coordinator's": {
        "pool": {"clients": 2, "pod": {"volumes": [{"name": "fedkube-tls", "emptyDir": {}}]}}
    },
    "half a GPU": {
        "pool": {"clients": 2, "pod": {"resources": {"limits": {"nvidia.com/gpu": "0.5"}}}}
    },
    "devices of no class": {"pool": {"clients": 2, "pod": {"devices": {"A/B": 1}}}},
    "no devices of a class": {"pool": {"clients": 2, "pod": {"devices": {"a.b": 0}}}},
    "more devices than a claim has": {"pool": {"clients": 2, "pod": {"devices": {"a.b": 33}}}},
    "several clients on no GPU": {"pool": {"clients": 2, "clientsPerAccelerator": 2}},
    "as many clients as fit on no GPU": {"pool": {"clients": 2, "clientsPerAccelerator": "auto"}},
    "some clients on a GPU": {
        "pool": {
            "clients": 2,
            "clientsPerAccelerator": "some",
            "pod": {"resources": {"limits": {"nvidia.com/gpu": 1}}},
        }
    },
    "several clients on two GPUs": {
        "pool": {
            "clients": 2,
            "clientsPerAccelerator": 2,
            "pod": {"resources": {"limits": {"nvidia.com/gpu": 2}}},
        }
    },
    "more clients than fit on a GPU": {
        "pool": {
            "clients": 100,
            "clientsPerAccelerator": 65,
            "pod": {"resources": {"limits": {"nvidia.com/gpu": 1}}},
        }
    },
    "a bad variable": {"pool": {"clients": 2, "pod": {"env": [{"name": "1-A"}]}}},
    "privileged": {"pool": {"clients": 2, "pod": {"hostNetwork": True}}},
    "pool and sites": {"pool": {"clients": 2}, "sites": [{"name": "a"}, {"name": "b"}]},
    "one site": {"sites": [{"name": "a"}]},
    "a site twice": {"sites": [{"name": "a"}, {"name": "a"}]},
    "a site without a name": {"sites": [{}, {"name": "b"}]},
    "a site's name in capitals": {"sites": [{"name": "A"}, {"name": "b"}]},
    "a stranger is banned": {"sites": [{"name": "a"}, {"name": "b"}], "banned": ["c"]},
    "who is banned of a pool": {"pool": {"clients": 2}, "banned": ["a"]},
    "two sites with the same data": {
        "sites": [{"name": "a", "data": {"claim": "x"}}, {"name": "b", "data": {"claim": "x"}}]
    },
    "a site that says which partition it is": {
        "sites": [{"name": "a", "nodeConfig": {"partition-id": 1}}, {"name": "b"}]
    },
    "a cohort of one": {"pool": {"clients": 4}, "cohort": {"minimum": 1}},
    "a cohort of more than there are": {"pool": {"clients": 4}, "cohort": {"minimum": 5}},
    "a cohort of more than are asked": {
        "pool": {"clients": 10},
        "cohort": {"minimum": 6, "fraction": 0.5},
    },
    "a fraction above one": {"pool": {"clients": 4}, "cohort": {"fraction": 1.5}},
    "a deadline of nothing": {"pool": {"clients": 4}, "cohort": {"deadlineSeconds": 0}},
    "fewer than are wanted": {"pool": {"clients": 4}, "cohort": {"overSelection": 0.5}},
    "a bundle in two places": {
        "pool": {"clients": 2},
        "app": {
            "bundle": {"configMap": "a", "url": "https://example.com/a.zip", "sha256": "a" * 64}
        },
    },
    "a bundle on the node's disk": {
        "pool": {"clients": 2},
        "app": {"bundle": {"url": "file:///etc/passwd", "sha256": "a" * 64}},
    },
    "a Service of no known type": {
        "pool": {"clients": 2},
        "server": {"exposure": {"type": "ExternalName"}},
    },
    "a spec that is too large": {
        "pool": {"clients": 2},
        "runConfig": {f"key-{number}": "x" * 100 for number in range(2000)},
    },
}

# By what is wrong: fields that nobody knows. The API server drops them (or refuses them for
# kubectl), so that they reach neither the coordinator nor a pod.
UNKNOWN = {
    "unknown field": "rounds",
    "unknown field of the pool": "client",
    "privileged": "hostNetwork",
}
