"""``fedkube submit``: an app's folder, or a file with objects, becomes a run on the cluster."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
import yaml

from fedkube.app import bundle, project
from fedkube.cli import cohorts
from fedkube.cli.cluster import building, manifests
from fedkube.cli.cluster.building import Wishes
from fedkube.cli.cluster.connection import connect
from fedkube.cli.cluster.options import Context, Namespace, note
from fedkube.cli.cluster.watch import follow_to_the_end
from fedkube.cli.words import per_gpu
from fedkube.core.errors import AppInvalid, Usage
from fedkube.core.quantisation import Compression

if TYPE_CHECKING:
    from fedkube.cli.cluster.api import Api

Object = dict[str, Any]

_RESOURCES = "What pods get"
_LIFE = "How long things stay"


def submit(
    invocation: typer.Context,
    source: Annotated[
        str,
        typer.Argument(
            metavar="APP|FILE",
            help="A Flower app's folder, or a file of FederatedRun objects; - is stdin.",
            show_default=False,
        ),
    ],
    code: Annotated[
        str,
        typer.Option(
            "--app",
            metavar="FOLDER",
            help="With FILE: send this app's code along, for a run whose spec.app has no bundle.",
            show_default=False,
        ),
    ] = "",
    name: Annotated[
        str,
        typer.Option("--name", help="Default: the app's, and six characters.", show_default=False),
    ] = "",
    image: Annotated[
        str,
        typer.Option(
            "--image",
            help="Image with the app's packages. Default: the coordinator's.",
            show_default=False,
        ),
    ] = "",
    path: Annotated[
        str,
        typer.Option(
            "--path",
            help="The image holds the app in this folder; its code is not sent along.",
            show_default=False,
        ),
    ] = "",
    clients: Annotated[
        int | None,
        typer.Option(
            "--clients", help="Logical clients. Default: as `fedkube run`.", show_default=False
        ),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(
            "--workers",
            help="Worker pods at most; else one, or with --gpus as many as there is room for.",
            show_default=False,
        ),
    ] = None,
    run_config: Annotated[
        list[str] | None,
        typer.Option("--run-config", "-c", help="As `fedkube run` takes it.", show_default=False),
    ] = None,
    seed: Annotated[
        int | None, typer.Option("--seed", help="Same seed, same model.", show_default=False)
    ] = None,
    cohort: Annotated[
        list[str] | None,
        typer.Option("--cohort", help="As `fedkube run` takes it.", show_default=False),
    ] = None,
    compression: Annotated[
        Compression | None,
        typer.Option("--compression", help="As `fedkube run` takes it.", show_default=False),
    ] = None,
    gpus: Annotated[
        str,
        typer.Option(
            "--gpus",
            help="Accelerators of each worker: N (of nvidia.com/gpu), NAME=N, or CLASS=N of a "
            "DeviceClass.",
            show_default=False,
            rich_help_panel=_RESOURCES,
        ),
    ] = "",
    clients_per_gpu: Annotated[
        str | None,
        typer.Option(
            "--clients-per-gpu",
            metavar="N|auto",
            help="Clients that each worker serves at a time, with --gpus 1; when memory runs out "
            "there, one less. auto: as many as its memory turns out to be for. Default: 1.",
            show_default=False,
            rich_help_panel=_RESOURCES,
        ),
    ] = None,
    cpu: Annotated[
        str,
        typer.Option(
            "--cpu",
            help="Cores that each worker is sure of, as 2 or 500m.",
            show_default=False,
            rich_help_panel=_RESOURCES,
        ),
    ] = "",
    memory: Annotated[
        str,
        typer.Option(
            "--memory",
            help="Memory of each worker, as 4Gi.",
            show_default=False,
            rich_help_panel=_RESOURCES,
        ),
    ] = "",
    server_memory: Annotated[
        str,
        typer.Option(
            "--server-memory",
            help="Memory of the server, as 4Gi.",
            show_default=False,
            rich_help_panel=_RESOURCES,
        ),
    ] = "",
    priority_class: Annotated[
        str,
        typer.Option(
            "--priority-class",
            help="Of all pods of the run.",
            show_default=False,
            rich_help_panel=_RESOURCES,
        ),
    ] = "",
    storage: Annotated[
        str,
        typer.Option(
            "--storage",
            help="Size of the disk of the run folder. Default: 1Gi.",
            show_default=False,
            rich_help_panel=_RESOURCES,
        ),
    ] = "",
    storage_class: Annotated[
        str | None,
        typer.Option(
            "--storage-class",
            help="Default: the cluster's.",
            show_default=False,
            rich_help_panel=_RESOURCES,
        ),
    ] = None,
    journal: Annotated[
        str,
        typer.Option(
            "--journal",
            help="As `fedkube run` takes it.",
            show_default=False,
            rich_help_panel=_LIFE,
        ),
    ] = "",
    journal_bytes: Annotated[
        int | None,
        typer.Option(
            "--journal-bytes",
            help="As `fedkube run` takes it.",
            show_default=False,
            rich_help_panel=_LIFE,
        ),
    ] = None,
    keep_journal: Annotated[
        bool,
        typer.Option("--keep-journal", help="As `fedkube run` takes it.", rich_help_panel=_LIFE),
    ] = False,
    keep: Annotated[
        bool,
        typer.Option(
            "--keep", help="Keep the disk when the run is deleted.", rich_help_panel=_LIFE
        ),
    ] = False,
    ttl: Annotated[
        str,
        typer.Option(
            "--ttl",
            help="Delete the run so long after its end, as 7d. Default: never.",
            show_default=False,
            rich_help_panel=_LIFE,
        ),
    ] = "",
    deadline: Annotated[
        str,
        typer.Option(
            "--deadline",
            help="Fail the run when it takes longer, as 12h. Default: no limit.",
            show_default=False,
            rich_help_panel=_LIFE,
        ),
    ] = "",
    watch: Annotated[bool, typer.Option("--watch", help="Stay until the run has ended.")] = False,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Print the objects, and ask nothing of a cluster."),
    ] = False,
    namespace: Namespace = None,
    context: Context = None,
) -> None:
    """Run a Flower app on the cluster that the kubeconfig names.

    Prints the run's name alone on stdout, so that RUN=$(fedkube submit APP) works.
    """
    if dry_run and watch:
        raise Usage("--dry-run creates nothing, so there is nothing to --watch")
    if is_file(source):
        _refuse_options_of_apps(invocation)
        runs, packed = manifests.read(source), b""
        for option, given in (("--watch", watch), ("--app", code)):
            if given and len(runs) > 1:
                raise Usage(f"{option} is for one run, and {source} has {len(runs)}")
        if code:
            packed = _with_code(runs[0], code)
    elif code:
        raise Usage("--app is for a FILE", hint="an app's folder is submitted by itself")
    else:
        wishes = Wishes(
            name=name,
            image=image,
            path=path,
            clients=clients,
            workers=workers,
            run_config=project.parse_overrides(run_config or []),
            seed=seed,
            cohort=cohorts.read(cohort or []),
            compression=compression.value if compression else None,
            gpus=gpus,
            clients_per_gpu=per_gpu(clients_per_gpu),
            cpu=cpu,
            memory=memory,
            server_memory=server_memory,
            storage=storage,
            storage_class=storage_class,
            journal=journal,
            journal_bytes=journal_bytes,
            keep_journal=keep_journal,
            keep=keep,
            ttl=ttl,
            deadline=deadline,
            priority_class=priority_class,
        )
        run, packed = _from_app(source, wishes)
        runs = [run]
    for run in runs:
        _agree_on_namespace(run, namespace)
    if dry_run:
        _print(runs, packed)
        return
    with connect(namespace, context) as (cluster, space):
        for run in runs:
            run["metadata"].setdefault("namespace", space)
            created = _create(cluster, run, packed)
            typer.echo(created["metadata"]["name"])
            if watch:
                metadata = created["metadata"]
                follow_to_the_end(cluster, metadata["namespace"], metadata["name"], stderr=True)


def is_file(source: str) -> bool:
    """Whether this names a file with objects, and no app's folder."""
    return source == "-" or (
        not Path(source).is_dir() and source.endswith((".yaml", ".yml", ".json"))
    )


def _refuse_options_of_apps(invocation: typer.Context) -> None:
    """A file says all of a run; an option beside it would be ignored."""
    both = {"source", "code", "watch", "dry_run", "namespace", "context"}
    for parameter in invocation.command.params:
        given = invocation.get_parameter_source(str(parameter.name))
        if parameter.name not in both and given is not None and given.name == "COMMANDLINE":
            raise Usage(
                f"{parameter.opts[0]} is for an app's folder",
                hint="say it in the file: docs/reference.md has every field",
            )


def _from_app(source: str, wishes: Wishes) -> tuple[Object, bytes]:
    app = project.read(source)
    project.merge(app.config, wishes.run_config)
    if wishes.path:
        if not wishes.image:
            raise Usage("--path is a folder of an image", hint="give --image too")
        return building.federated_run(app, wishes, ""), b""
    packed, sha256 = _packed(app)
    return building.federated_run(app, wishes, sha256), packed


def _with_code(run: Object, folder: str) -> bytes:
    """Have the run of a file use this app; its code."""
    app, spec = project.read(folder), run["spec"]
    of_app = spec.setdefault("app", {})
    if of_app.get("bundle"):
        raise Usage("--app, and spec.app.bundle is in the file", hint="give one of them")
    if "name" not in run["metadata"]:
        raise Usage("--app needs metadata.name in the file: the code is named by it")
    project.merge(app.config, spec.get("runConfig", {}))
    packed, sha256 = _packed(app)
    of_app["bundle"] = building.bundle_of(run["metadata"]["name"], sha256)
    return packed


def _packed(app: project.Project) -> tuple[bytes, str]:
    try:
        return bundle.pack(app.folder)
    except AppInvalid as error:
        raise AppInvalid(
            error.message,
            hint="keep data out of the app's folder; or build an image that holds the app and "
            "give --image and --path; or put the zip file behind a URL and submit a FILE with "
            "spec.app.bundle.url and sha256",
        ) from None


def _agree_on_namespace(run: Object, namespace: str | None) -> None:
    stated = run["metadata"].get("namespace")
    if namespace is None:
        return
    if stated is not None and stated != namespace:
        name = run["metadata"].get("name", "the run")
        raise Usage(f"--namespace is {namespace!r}, and metadata.namespace of {name} is {stated!r}")
    run["metadata"]["namespace"] = namespace


def _print(runs: list[Object], packed: bytes) -> None:
    objects = [building.bundle_object(runs[0], packed), *runs] if packed else runs
    typer.echo(yaml.safe_dump_all(objects, sort_keys=False), nl=False)


def _create(cluster: Api, run: Object, packed: bytes) -> Object:
    from kubernetes.client.exceptions import ApiException
    from urllib3.exceptions import HTTPError

    space, wanted = run["metadata"]["namespace"], run["metadata"].get("name")
    try:
        created = cluster.post(run)
    except ApiException as error:
        if error.status == 409:
            raise Usage(
                f"there is a run {wanted!r} in namespace {space!r}",
                hint=f"choose another name, or first `fedkube delete {wanted} -n {space}`",
            ) from None
        raise
    if packed:
        try:
            cluster.post(building.bundle_object(created, packed))
        except BaseException:
            # Whatever it was, Ctrl-C too: a run without its code would wait for it for ever.
            note(f"the app's code was not sent; run {wanted} is deleted again")
            with suppress(ApiException, HTTPError):
                cluster.delete("FederatedRun", space, created["metadata"]["name"])
            raise
    return created
