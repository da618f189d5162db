"""``fedkube plan``: what would run where, and how long it would take, before anything starts."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import ValidationError
from rich.console import Console
from rich.table import Table

from fedkube.api.v1alpha1 import FederatedRunSpec
from fedkube.app import project
from fedkube.cli.cluster import building, manifests
from fedkube.cli.cluster.building import Wishes
from fedkube.cli.cluster.connection import connect
from fedkube.cli.cluster.options import Context, Format, Namespace, Output, note, print_json
from fedkube.cli.cluster.submit import is_file
from fedkube.cli.words import bytes_in_words, counted, per_gpu, seconds_in_words
from fedkube.core.accelerators import of_class
from fedkube.core.cohort import share as part_of
from fedkube.core.errors import FedKubeError, Usage
from fedkube.planner import devices, kubernetes, rounds
from fedkube.planner.devices import Claimed, Claims
from fedkube.planner.rounds import Place, Plan, Work
from fedkube.planner.sharing import Demand, share
from fedkube.planner.supply import Amounts, Node, Shape, refusal
from fedkube.store.run_folder import RunFolder

Object = dict[str, Any]

# What a cluster knows of the devices that it gives out by claims.
_OF_DEVICES = ("DeviceClass", "ResourceSlice", "ResourceClaim")
# By which Flower's apps say how many clients train in a round.
_FRACTIONS = ("fraction-train", "fraction-fit")


def plan(
    source: Annotated[
        str,
        typer.Argument(
            metavar="APP|FILE",
            help="A Flower app's folder, or a file with one FederatedRun object; - is stdin.",
            show_default=False,
        ),
    ],
    nodes: Annotated[
        str,
        typer.Option(
            "--nodes",
            metavar="FILE",
            help="Plan with what `kubectl get nodes,pods -A -o yaml` printed, instead of asking "
            "the cluster.",
            show_default=False,
        ),
    ] = "",
    clients: Annotated[
        int | None,
        typer.Option("--clients", help="Logical clients of the pool.", show_default=False),
    ] = None,
    client_seconds: Annotated[
        float | None,
        typer.Option(
            "--client-seconds",
            help="Seconds that a client trains in a round. Default: as in the app's newest run "
            "folder in runs/.",
            show_default=False,
        ),
    ] = None,
    number_of_rounds: Annotated[
        int | None,
        typer.Option(
            "--rounds", help="Default: num-server-rounds of the run config.", show_default=False
        ),
    ] = None,
    model_bytes: Annotated[
        int | None,
        typer.Option(
            "--model-bytes",
            help="Of the model's arrays. Default: as in the app's newest run folder.",
            show_default=False,
        ),
    ] = None,
    gpus: Annotated[
        str, typer.Option("--gpus", help="As `fedkube submit` takes it.", show_default=False)
    ] = "",
    clients_per_gpu: Annotated[
        str | None,
        typer.Option(
            "--clients-per-gpu",
            metavar="N|auto",
            help="As `fedkube submit` takes it; auto counts as 1.",
            show_default=False,
        ),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option("--workers", help="As `fedkube submit` takes it.", show_default=False),
    ] = None,
    cpu: Annotated[
        str, typer.Option("--cpu", help="As `fedkube submit` takes it.", show_default=False)
    ] = "",
    memory: Annotated[
        str, typer.Option("--memory", help="As `fedkube submit` takes it.", show_default=False)
    ] = "",
    run_config: Annotated[
        list[str] | None,
        typer.Option("--run-config", "-c", help="As `fedkube run` takes it.", show_default=False),
    ] = None,
    form: Output = Format.TEXT,
    namespace: Namespace = None,
    context: Context = None,
) -> None:
    """Say what would run where on the cluster, in how many waves, and how long it would take."""
    _positive("--client-seconds", client_seconds)
    _positive("--rounds", number_of_rounds)
    _positive("--model-bytes", model_bytes)
    wishes = Wishes(
        clients=clients,
        workers=workers,
        gpus=gpus,
        clients_per_gpu=per_gpu(clients_per_gpu),
        cpu=cpu,
        memory=memory,
        run_config=project.parse_overrides(run_config or []),
    )
    name, spec, config = _wanted(source, wishes)
    known_s, known_bytes = _history(name)
    work = Work(
        calls=_calls(spec, config),
        client_s=known_s if client_seconds is None else client_seconds,
        rounds=number_of_rounds or _count(config.get("num-server-rounds")),
        model_bytes=known_bytes if model_bytes is None else model_bytes,
    )
    if nodes:
        there, limit, ranges = _supply(manifests.documents(nodes), nodes, namespace, spec)
    else:
        with connect(namespace, context) as (cluster, space):
            pods = cluster.everywhere("Pod")
            found = [kubernetes.node_of(each) for each in cluster.everywhere("Node")]
            there = kubernetes.without_pods(found, pods)
            if spec.device_classes and cluster.devices_version:
                by_kind = {kind: cluster.everywhere(kind) for kind in _OF_DEVICES}
                there = _with_devices(there, spec, by_kind)
            limit = kubernetes.quota_left(cluster.list("ResourceQuota", space))
            ranges = cluster.list("LimitRange", space)
    made = rounds.plan(work, _place(name, spec, there, limit, ranges))
    if form is Format.JSON:
        print_json(_document(made))
    else:
        _print(name, work, made)


# ----------------------------------------------------------------- what is wanted


def _wanted(source: str, wishes: Wishes) -> tuple[str, FederatedRunSpec, Object]:
    """A run's name, its spec, and what is known of its run config."""
    if not is_file(source):
        app = project.read(source)
        config = project.merge(app.config, wishes.run_config)
        body = building.federated_run(app, wishes, "")
        return app.name, FederatedRunSpec.model_validate(body["spec"]), config
    found = manifests.read(source)
    if len(found) > 1:
        raise Usage(f"{source} has {len(found)} runs, and one is planned at a time")
    body = found[0]
    spec = body["spec"]
    if wishes.gpus or wishes.clients_per_gpu or wishes.cpu or wishes.memory:
        raise Usage(
            "--gpus, --clients-per-gpu, --cpu and --memory are for an app's folder",
            hint="say it in the file",
        )
    if (wishes.clients or wishes.workers) and not spec.get("pool"):
        raise Usage("--clients and --workers are of a pool, and the run in the file has sites")
    for field, value in (("clients", wishes.clients), ("workers", wishes.workers)):
        if value is not None:
            spec["pool"][field] = value
    try:
        checked = FederatedRunSpec.model_validate(spec)
    except ValidationError as error:
        raise Usage(f"{source}: {error.errors()[0]['msg']}") from None
    name = body["metadata"].get("name") or body["metadata"]["generateName"]
    return name, checked, {**spec.get("runConfig", {}), **wishes.run_config}


def _calls(spec: FederatedRunSpec, config: Object) -> int:
    """Clients that are asked to train in a round."""
    fraction = spec.cohort.fraction
    if fraction is None:
        said = next((config[name] for name in _FRACTIONS if name in config), 1.0)
        valid = isinstance(said, int | float) and not isinstance(said, bool) and 0 < said <= 1
        fraction = float(said) if valid else 1.0
    wanted = part_of(spec.clients, fraction)
    return min(spec.clients, math.ceil(wanted * spec.cohort.over_selection))


def _count(value: object) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else 0


def _positive(option: str, value: float | None) -> None:
    if value is not None and not 0 < value < math.inf:
        raise Usage(f"{option} is {value:g}, and takes a number above 0")


def _history(name: str) -> tuple[float | None, int | None]:
    """Seconds of a client in training and bytes of the model, as the app's newest run had them."""
    for folder in sorted(Path("runs").glob("*/run.json"), reverse=True):
        run = RunFolder(folder.parent)
        try:
            record, history = run.read_record(), run.read_history()
        except (OSError, ValueError, FedKubeError):
            continue  # somebody else's folder, or a broken one
        if record.app != name:
            continue
        # The first round waits for the workers to have loaded the app.
        seconds = [
            phase.seconds * min(record.workers, len(phase.clients)) / len(phase.clients)
            for each in history[1:]
            if (phase := each.phases.get("train")) is not None and phase.clients
        ]
        model = run.path / "model.safetensors"
        size = model.stat().st_size if model.is_file() else None
        return (statistics.median(seconds) if seconds else None), size
    return None, None


# ----------------------------------------------------------------- where it would be


def _supply(
    bodies: list[Any], where: str, namespace: str | None, spec: FederatedRunSpec
) -> tuple[list[Node], Amounts | None, list[Object]]:
    """The nodes of a file, with what is free; what the namespace's quotas leave; its limits."""
    by_kind: dict[str, list[Object]] = {}
    for body in bodies:
        if not isinstance(body, dict) or "kind" not in body:
            raise Usage(f"{where} is not what `kubectl get nodes,pods -A -o yaml` prints")
        by_kind.setdefault(body["kind"], []).append(body)
    if "Node" not in by_kind:
        raise Usage(
            f"{where} has no node in it", hint="kubectl get nodes,pods -A -o yaml > nodes.yaml"
        )
    try:
        there = kubernetes.without_pods(
            [kubernetes.node_of(each) for each in by_kind["Node"]], by_kind.get("Pod", [])
        )
        there = _with_devices(there, spec, by_kind)
        quotas, ranges = (
            [
                each
                for each in by_kind.get(kind, [])
                if namespace is not None and each["metadata"].get("namespace") == namespace
            ]
            for kind in ("ResourceQuota", "LimitRange")
        )
        return there, kubernetes.quota_left(quotas), ranges
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise Usage(f"{where} has an object that no cluster has written: {error}") from None


def _with_devices(
    there: list[Node], spec: FederatedRunSpec, by_kind: Mapping[str, Sequence[Object]]
) -> list[Node]:
    """The nodes with the devices that the cluster gives out by claims, of the classes asked for."""
    slices = [devices.slice_of(each) for each in by_kind.get("ResourceSlice", ())]
    claims: Claims[str] = Claims(
        [each for each in slices if each is not None],
        [devices.class_of(each) for each in by_kind.get("DeviceClass", ())],
        [Claimed(devices.devices_of(each)) for each in by_kind.get("ResourceClaim", ())],
    )
    asked = [of_class(name) for name in spec.device_classes]
    for name in claims.obscure(asked):
        note(f"which devices are of class {name} is not understood here: none of them are counted")
    return claims.on(there, asked)


def _place(
    name: str,
    spec: FederatedRunSpec,
    there: list[Node],
    limit: Amounts | None,
    ranges: list[Object],
) -> Place:
    from fedkube.coordinator.elastic import shapes_of
    from fedkube.coordinator.objects import Run

    run = Run(name, "default", "0" * 8, 1, spec)
    shapes = shapes_of(run, ranges)
    demands = [
        Demand(job, shape, run.parallelism[job], limit=limit, group="")
        for job, shape in shapes.items()
    ]
    shares = share(there, demands)
    by_node: dict[str, int] = {}
    for each in shares.values():
        for node, count in each.by_node.items():
            by_node[node] = by_node.get(node, 0) + count
    accelerator, count = _accelerator(next(iter(shapes.values())))
    return Place(
        workers=sum(by_node.values()),
        by_node=by_node,
        most=sum(run.parallelism.values()),
        why="; ".join(sorted({each.why for each in shares.values()} - {""})),
        accelerator=accelerator,
        accelerators=count,
        at_once=spec.pool.at_once if spec.pool is not None else 1,
        free=sum(
            node.free.get(accelerator, 0)
            for node in there
            if any(not refusal(node, shape) for shape in shapes.values())
        ),
    )


def _accelerator(shape: Shape) -> tuple[str, int]:
    found = [(name, count) for name, count in shape.requests.items() if "/" in name and count]
    return found[0] if found else ("", 0)


# ----------------------------------------------------------------- how it is said


def _document(made: Plan) -> Object:
    return {
        "workers": made.workers,
        "clients_per_accelerator": made.clients_per_accelerator,
        "accelerators_free": made.accelerators_free,
        "waves": made.waves,
        "round_s": made.round_s,
        "run_s": made.run_s,
        "bytes_per_round": made.bytes_per_round,
        "placement": [
            {"node": node, "workers": count} for node, count in sorted(made.placement.items())
        ],
        "why": made.why,
    }


def _print(name: str, work: Work, made: Plan) -> None:
    console = Console(highlight=False)
    console.print(f"[bold]{name}[/bold]: {counted(work.calls, 'client')} a round")
    if made.placement:
        table = Table(box=None, pad_edge=False)
        table.add_column("NODE")
        table.add_column("WORKERS", justify="right")
        for node, count in sorted(made.placement.items()):
            table.add_row(node, str(count))
        console.print(table)
    facts = [counted(made.workers, "worker"), counted(made.waves, "wave")]
    if made.clients_per_accelerator:
        facts.append(f"{made.accelerators_free} accelerators free")
    console.print(", ".join(facts))
    if made.round_s is None:
        unknown = "not known; give --client-seconds" if made.workers else "never"
        console.print(f"time: {unknown}")
    else:
        words = f"time: {seconds_in_words(made.round_s)} a round"
        if made.run_s is not None:
            words += f", {seconds_in_words(made.run_s)} in {counted(work.rounds, 'round')}"
        if made.accelerator_hours is not None:
            words += f", {made.accelerator_hours:.3g} accelerator hours"
        console.print(words)
    if made.bytes_per_round is not None:
        console.print(f"traffic: {bytes_in_words(made.bytes_per_round)} a round at most")
    console.print(f"why: {made.why}", soft_wrap=True)
