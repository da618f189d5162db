"""Objects of ``resource.k8s.io`` as drivers and the scheduler write them."""

from __future__ import annotations

from typing import Any

Object = dict[str, Any]
DRIVER = "gpu.nvidia.com"


def a_class(name: str = DRIVER, *expressions: str, extended: str = "") -> Object:
    said = expressions or (f'device.driver == "{name}"',)
    selectors = [{"cel": {"expression": each}} for each in said]
    spec = {"selectors": selectors, **({"extendedResourceName": extended} if extended else {})}
    return {"kind": "DeviceClass", "metadata": {"name": name}, "spec": spec}


def a_gpu(number: int, *, first_beta: bool = False, gib: int = 80, **more: Any) -> Object:
    told = {
        "attributes": {
            "type": {"string": "gpu"},
            "index": {"int": number},
            "example.com/rack": {"string": "r1"},
        },
        "capacity": {"memory": {"value": f"{gib}Gi"}},
        **more,
    }
    return {"name": f"gpu-{number}", **({"basic": told} if first_beta else told)}


def a_slice(node: str, devices: list[Object], *, generation: int = 1, **spec: Any) -> Object:
    pool = {"name": node, "generation": generation, "resourceSliceCount": 1}
    return {
        "kind": "ResourceSlice",
        "metadata": {"name": f"{node}-{DRIVER}-{generation}-{len(devices)}"},
        "spec": {"driver": DRIVER, "nodeName": node, "pool": pool, "devices": devices, **spec},
    }


def a_claim(node: str, *devices: str, run: str = "", **result: Any) -> Object:
    """One that has these; ``run``: whose worker it is for."""
    labels = {"fedkube.io/run": run, "fedkube.io/role": "worker"} if run else {}
    results = [
        {"request": "devices-0", "driver": DRIVER, "pool": node, "device": device, **result}
        for device in devices
    ]
    return {
        "kind": "ResourceClaim",
        "metadata": {"name": f"{node}-{'-'.join(devices)}", "namespace": "ml", "labels": labels},
        "status": {"allocation": {"devices": {"results": results}}} if devices else {},
    }
