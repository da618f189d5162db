"""The commands that talk to a cluster, by the caller's kubeconfig and rights."""

from __future__ import annotations

import base64
import hashlib
import json
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from fedkube.api.v1alpha1 import FederatedRunStatus, State
from fedkube.api.v1alpha1 import federated_run as api
from fedkube.app import bundle, project
from fedkube.core.errors import Environment, Exit, Usage

if TYPE_CHECKING:
    from fedkube.coordinator.cluster import Cluster

Object = dict[str, Any]

Name = Annotated[str, typer.Argument(metavar="RUN", show_default=False)]
Namespace = Annotated[
    str | None,
    typer.Option("--namespace", "-n", help="Default: the kubeconfig's.", show_default=False),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead.")]

_POLL_S = 1.0
_PULL_S = 120
_PULLED = ("run.json", "history.json", "history.csv", "model.safetensors")


def submit(
    app: Annotated[str, typer.Argument(metavar="APP", show_default=False)],
    image: Annotated[
        str,
        typer.Option("--image", help="Image with the app's packages. Default: the coordinator's."),
    ] = "",
    name: Annotated[str, typer.Option("--name", help="Default: the app's and a number.")] = "",
    clients: Annotated[
        int | None, typer.Option("--clients", help="Logical clients.", show_default=False)
    ] = None,
    workers: Annotated[int, typer.Option("--workers", help="Worker pods at most.")] = 1,
    run_config: Annotated[
        list[str] | None,
        typer.Option("--run-config", "-c", help="As `fedkube run` takes it.", show_default=False),
    ] = None,
    seed: Annotated[int | None, typer.Option("--seed", help="Same seed, same model.")] = None,
    watch: Annotated[bool, typer.Option("--watch", help="Stay until the run has ended.")] = False,
    namespace: Namespace = None,
) -> None:
    """Run the Flower app in the folder APP on the cluster that the kubeconfig names."""
    loaded = project.read(app)
    overrides = project.parse_overrides(run_config or [])
    project.merge(loaded.config, overrides)
    packed, sha256 = bundle.pack(loaded.folder)
    with _cluster(namespace) as (cluster, space):
        run = _run_object(loaded, name, space)
        chosen = run["metadata"]["name"]
        run["spec"] = {
            "app": {
                "bundle": {"configMap": f"{chosen}-app", "sha256": sha256},
                **({"image": image} if image else {}),
            },
            "runConfig": overrides,
            "pool": {
                "clients": loaded.clients or project.DEFAULT_CLIENTS
                if clients is None
                else clients,
                "workers": workers,
            },
            **({"seed": seed} if seed is not None else {}),
        }
        if not cluster.create(run):
            raise Usage(f"there is a run {chosen!r} in {space!r}", hint="choose another --name")
        created = _get(cluster, space, chosen)
        cluster.create(_app_object(created, packed))
        typer.echo(chosen)
        if watch:
            _follow(cluster, space, chosen)


def ls(namespace: Namespace = None, as_json: AsJson = False) -> None:
    """List the runs."""
    with _cluster(namespace) as (cluster, space):
        runs = cluster.list("FederatedRun", space)
    if as_json:
        typer.echo(json.dumps([_summary(run) for run in runs]))
        return
    table = Table(box=None, pad_edge=False)
    for column in ("NAME", "STATE", "ROUND", "CLIENTS", "GPUS", "ETA"):
        table.add_column(column)
    for run in runs:
        status = _status(run)
        words = (status.round_of, str(status.clients), str(status.gpus), status.eta)
        table.add_row(run["metadata"]["name"], str(status.state), *words)
    Console(highlight=False).print(table)


def get(run: Name, namespace: Namespace = None, as_json: AsJson = False) -> None:
    """Say how a run is."""
    with _cluster(namespace) as (cluster, space):
        found = _get(cluster, space, run)
    if as_json:
        typer.echo(json.dumps(_summary(found)))
        return
    status = _status(found)
    typer.echo(f"{run}  {status.state}  round {status.round_of or '-'}")
    for condition in status.conditions:
        typer.echo(f"  {condition.type} {condition.status}: {condition.message}")
    for metric, value in status.metrics.items():
        typer.echo(f"  {metric} = {value}")


def watch(run: Name, namespace: Namespace = None) -> None:
    """Follow a run until it has ended."""
    with _cluster(namespace) as (cluster, space):
        _follow(cluster, space, run)


def stop(run: Name, namespace: Namespace = None) -> None:
    """Take a run's workers away until `fedkube resume`."""
    _suspend(run, namespace, True)


def resume(run: Name, namespace: Namespace = None) -> None:
    """Give a stopped run its workers back."""
    _suspend(run, namespace, False)


def delete(run: Name, namespace: Namespace = None) -> None:
    """Delete a run and all that it has in the cluster."""
    with _cluster(namespace) as (cluster, space):
        _get(cluster, space, run)
        cluster.delete("FederatedRun", space, run)


def logs(
    run: Name,
    worker: Annotated[bool, typer.Option("--worker", help="A worker's instead.")] = False,
    namespace: Namespace = None,
) -> None:
    """Print what the run's server, or a worker, has printed."""
    role = "worker" if worker else "server"
    with _cluster(namespace) as (cluster, space):
        _get(cluster, space, run)
        pods = cluster.list("Pod", space, f"fedkube.io/run={run},fedkube.io/role={role}")
        if not pods:
            raise Usage(f"run {run!r} has no {role} pod")
        newest = max(pods, key=lambda pod: pod["metadata"]["creationTimestamp"])
        sys.stdout.write(cluster.logs(space, newest["metadata"]["name"]))


def pull(
    run: Name,
    out: Annotated[Path | None, typer.Option("--out", help="Default: runs/RUN.")] = None,
    namespace: Namespace = None,
) -> None:
    """Fetch a run's model, history and record."""
    folder = out or Path("runs") / run
    with _cluster(namespace) as (cluster, space):
        found = _get(cluster, space, run)
        status = _status(found)
        if not status.state.final:
            raise Usage(f"run {run!r} is {status.state}", hint="wait for its end, or watch it")
        with tempfile.TemporaryFile() as packed:
            _read_folder(cluster, space, found, packed)
            folder.mkdir(parents=True, exist_ok=True)
            with tarfile.open(fileobj=packed) as archive:
                archive.extractall(folder, filter="data")
    _verify(folder / "model.safetensors", status)
    typer.echo(f"wrote {folder}")


# ---------------------------------------------------------------- inside


@contextmanager
def _cluster(namespace: str | None) -> Iterator[tuple[Cluster, str]]:
    try:
        from kubernetes.client.exceptions import ApiException
        from kubernetes.config import ConfigException
        from urllib3.exceptions import HTTPError

        from fedkube.coordinator import cluster as clusters
    except ImportError:
        raise Environment(
            "the Kubernetes client is not installed", hint="pip install 'fedkube[kubernetes]'"
        ) from None
    try:
        yield clusters.Cluster(clusters.load()), namespace or clusters.namespace()
    except ConfigException as error:
        raise Environment(
            f"no cluster to talk to: {error}", hint="set KUBECONFIG, or `fedkube run` here"
        ) from None
    except HTTPError as error:
        raise Environment(f"the cluster does not answer: {error}") from None
    except ApiException as error:
        if error.status == 404:
            message = "the cluster has no FederatedRuns, or the namespace is not there"
            raise Environment(message, hint="helm install fedkube helm/fedkube") from None
        refused = Usage if error.status in (400, 422) else Environment
        raise refused(f"the cluster refuses: {_message(error.body)}") from None


def _message(body: Any) -> str:
    try:
        return str(json.loads(body)["message"])
    except (ValueError, KeyError, TypeError):
        return str(body)


def _run_object(loaded: project.Project, name: str, space: str) -> Object:
    slug = "".join(each if each.isalnum() else "-" for each in loaded.name.lower()).strip("-")
    chosen = name or f"{slug[:28]}-{int(time.time()) % 1_000_000:06d}"
    return {
        "apiVersion": api.API_VERSION,
        "kind": api.KIND,
        "metadata": {"name": chosen, "namespace": space},
    }


def _app_object(run: Object, packed: bytes) -> Object:
    metadata = run["metadata"]
    owner = {"apiVersion": api.API_VERSION, "kind": api.KIND}
    owner |= {"name": metadata["name"], "uid": metadata["uid"]}
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {
            "name": f"{metadata['name']}-app",
            "namespace": metadata["namespace"],
            "labels": {"fedkube.io/run": metadata["name"]},
            "ownerReferences": [owner],
        },
        "binaryData": {"app.zip": base64.b64encode(packed).decode()},
    }


def _get(cluster: Cluster, space: str, run: str) -> Object:
    found = cluster.get("FederatedRun", space, run)
    if found is None:
        raise Usage(f"there is no run {run!r} in namespace {space!r}", hint="see `fedkube ls`")
    return found


def _status(run: Object) -> FederatedRunStatus:
    return FederatedRunStatus.model_validate(run.get("status", {}))


def _summary(run: Object) -> Object:
    status: Object = json.loads(_status(run).model_dump_json(by_alias=True))
    return {"name": run["metadata"]["name"], "namespace": run["metadata"]["namespace"]} | status


def _suspend(run: str, namespace: str | None, wanted: bool) -> None:
    with _cluster(namespace) as (cluster, space):
        _get(cluster, space, run)
        cluster.patch("FederatedRun", space, run, {"spec": {"suspend": wanted}})


def _follow(cluster: Cluster, space: str, run: str) -> None:
    said = ""
    while True:
        status = _status(_get(cluster, space, run))
        why = next((each.message for each in status.conditions[-1:]), "")
        line = f"{status.state}  round {status.round_of or '-'}  {status.workers} workers  {why}"
        if line != said:
            typer.echo(line)
            said = line
        if status.state.final:
            code = {State.SUCCEEDED: Exit.OK, State.STOPPED: Exit.STOPPED}
            raise typer.Exit(code.get(status.state, Exit.RUN_FAILED))
        time.sleep(_POLL_S)


def _read_folder(cluster: Cluster, space: str, found: Object, into: IO[bytes]) -> None:
    """The run folder's files as a tar, by a pod that mounts the run's disk for a moment."""
    from fedkube.coordinator import objects, reconciler

    run = reconciler.read(found)
    reader = objects.reader_pod(run, _image_of(cluster, space, run.name))
    name = reader["metadata"]["name"]
    cluster.delete("Pod", space, name)
    try:
        _wait(lambda: cluster.create(reader), "the pod that reads the run's disk")
        _wait(
            lambda: _phase(cluster, space, name) == "Running", "the pod that reads the run's disk"
        )
        cluster.execute(space, name, objects.reader_command(run, _PULLED), into)
    finally:
        cluster.delete("Pod", space, name)
    into.seek(0)


def _image_of(cluster: Cluster, space: str, run: str) -> str:
    pods = cluster.list("Pod", space, f"fedkube.io/run={run}")
    if not pods:
        raise Usage("the run's pods are gone", hint="read its claim with a pod of your own")
    return str(pods[0]["spec"]["containers"][0]["image"])


def _phase(cluster: Cluster, space: str, pod: str) -> str:
    return str((cluster.get("Pod", space, pod) or {}).get("status", {}).get("phase", ""))


def _verify(model: Path, status: FederatedRunStatus) -> None:
    """What came is what the server wrote."""
    if status.model is None:
        return
    with model.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != status.model.sha256:
        raise Environment(f"{model} has another digest than the run's model", hint="pull again")


def _wait(holds: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + _PULL_S
    while not holds():
        if time.monotonic() > deadline:
            raise Environment(f"{what} did not get ready in {_PULL_S} s")
        time.sleep(0.2)
