"""Runs a real S3-compatible object store for a test: SeaweedFS, or another program of `other_stores`."""

import os
import secrets
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Self

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from server_process import SECOND_PORT_OFFSET, ServerProcess, free_ports

BUCKET = "diptych-test"
REGION = "us-east-1"
READY_WITHIN_S = 60.0  # about 1 s on an idle machine; shared ones stall
POLL_S = 0.05
PROBE_BYTES = 70_000  # past what SeaweedFS keeps beside the metadata: the probe needs a working volume


@dataclass(frozen=True, slots=True)
class Launch:
    """How to start one store program. `sockets`: files outside of its folder that it leaves when killed."""

    command: list[str]
    environment: Mapping[str, str] = field(default_factory=dict)
    sockets: list[Path] = field(default_factory=list)


class Credentials(NamedTuple):
    """What a client signs with."""

    access_key: str
    secret_key: str


class Upload(NamedTuple):
    """An open multipart upload."""

    key: str
    upload_id: str


# (data folder, credentials, the S3 port and four more; P+10000 of each is free too) -> how to start it
Program = Callable[[Path, Credentials, list[int]], Launch]


def seaweedfs(data: Path, credentials: Credentials, ports: list[int]) -> Launch:
    """SeaweedFS: right in all that S3 promises, and loses nothing that it acknowledged when killed."""
    s3, master, volume, filer, admin = ports
    command = [
        binary("weed"),
        "-logtostderr=true",  # or it leaves log files in the temporary folder
        *("mini", f"-dir={data}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-s3.autoCreateBucket=false"),
        *(f"-s3.port={s3}", f"-master.port={master}", f"-volume.port={volume}", f"-filer.port={filer}"),
        # The admin server runs without its page too, and Lance listens by default: on fixed ports if not told.
        *(f"-admin.port={admin}", "-admin.ui=false", "-s3.port.lance=0", "-s3.port.iceberg=0"),
        *("-webdav=false", "-master.telemetry=false"),
    ]
    services = ("filer", "s3", *(f"{name}-grpc" for name in ("master", "volume", "filer", "s3", "admin")))
    numbers = [number for port in ports for number in (port, port + SECOND_PORT_OFFSET)]
    return Launch(
        command, sockets=[Path(f"/tmp/seaweedfs-{service}-{number}.sock") for service in services for number in numbers]
    )


class ObjectStore:
    """A store with one empty bucket, in a folder of its own that goes with it.

    with ObjectStore() as store:                    # SeaweedFS
        run(store.url("run-1"), env=store.environment())
        store.kill()
        store.restart()                             # same folder, same ports
        assert "run-1/report.json" in store.keys("run-1/")

    with ObjectStore(moto_server) as store: ...     # another program, see other_stores.py
    """

    def __init__(self, program: Program = seaweedfs, bucket: str = BUCKET) -> None:
        self.bucket = bucket
        self._program = program
        self._credentials = Credentials("diptychtestkey", secrets.token_hex(16))
        self._resources = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as resources:
            self.folder = Path(tempfile.mkdtemp(prefix="diptych-store-"))
            resources.callback(shutil.rmtree, self.folder)
            data = self.folder / "data"
            data.mkdir()
            ports = free_ports(5)
            launch = self._program(data, self._credentials, ports)
            resources.callback(remove_files, launch.sockets)
            self.endpoint = f"http://127.0.0.1:{ports[0]}"
            self.server = resources.enter_context(
                ServerProcess(launch.command, self._server_environment() | dict(launch.environment), self.folder)
            )
            self._wait_until_ready()
            self._resources = resources.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._resources.close()

    def environment(self, endpoint: str | None = None) -> dict[str, str]:
        """The variables by which S3 clients find this store, or a proxy of it at `endpoint`."""
        return {
            "AWS_ACCESS_KEY_ID": self._credentials.access_key,
            "AWS_SECRET_ACCESS_KEY": self._credentials.secret_key,
            "AWS_ENDPOINT_URL": endpoint or self.endpoint,
            "AWS_REGION": REGION,
        }

    def url(self, prefix: str = "") -> str:
        """`s3://bucket/prefix`."""
        return f"s3://{self.bucket}/{prefix}".rstrip("/")

    def client(self, endpoint: str | None = None, read_timeout_s: float = 20, attempts: int = 1) -> Any:
        """A boto3 client, which by default does not retry and waits longer than SeaweedFS ever made one wait (6 s)."""
        return boto3.session.Session().client(
            "s3",
            endpoint_url=endpoint or self.endpoint,
            region_name=REGION,
            aws_access_key_id=self._credentials.access_key,
            aws_secret_access_key=self._credentials.secret_key,
            config=Config(
                connect_timeout=5,
                read_timeout=read_timeout_s,
                retries={"total_max_attempts": attempts, "mode": "standard"},
                s3={"addressing_style": "path"},
                proxies={},
            ),
        )

    def keys(self, prefix: str = "") -> list[str]:
        """The keys of all objects under the prefix, sorted as S3 sorts them."""
        pages = self.client().get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=prefix)
        return [entry["Key"] for page in pages for entry in page.get("Contents", [])]

    def uploads(self) -> list[Upload]:
        """The multipart uploads that were neither completed nor aborted."""
        pages = self.client().get_paginator("list_multipart_uploads").paginate(Bucket=self.bucket)
        return [Upload(entry["Key"], entry["UploadId"]) for page in pages for entry in page.get("Uploads", [])]

    def kill(self) -> None:
        """kill -9 of the server."""
        self.server.kill()

    def restart(self) -> None:
        """Starts the killed server on the same folder and ports; returns when it works."""
        self.server.start()
        self._wait_until_ready()

    def stop_answering(self) -> None:
        """The server freezes: connections open, nothing is answered until `go_on`; then old requests are done too."""
        self.server.stop_answering()

    def go_on(self) -> None:
        """The frozen server answers again."""
        self.server.go_on()

    def _server_environment(self) -> dict[str, str]:
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
        return inherited | self.environment() | {"HOME": str(self.folder), "TMPDIR": str(self.folder)}

    def _wait_until_ready(self) -> None:
        client = self.client(read_timeout_s=5)
        deadline = time.monotonic() + READY_WITHIN_S
        while True:
            try:
                return self._probe(client)
            except (BotoCoreError, ClientError) as error:
                if not self.server.runs or time.monotonic() > deadline:
                    raise RuntimeError(
                        f"the object store does not work: {error}\n{self.server.last_output()}"
                    ) from error
                time.sleep(POLL_S)

    def _probe(self, client: Any) -> None:
        content = secrets.token_bytes(PROBE_BYTES)
        if self.bucket not in [bucket["Name"] for bucket in client.list_buckets()["Buckets"]]:
            client.create_bucket(Bucket=self.bucket)
        client.put_object(Bucket=self.bucket, Key="probe", Body=content)
        assert client.get_object(Bucket=self.bucket, Key="probe")["Body"].read() == content
        client.delete_object(Bucket=self.bucket, Key="probe")


def binary(name: str) -> str:
    """A program that was installed beside this Python."""
    return str(Path(sys.executable).parent / name)


def remove_files(paths: list[Path]) -> None:
    """Removes those that exist."""
    for path in paths:
        path.unlink(missing_ok=True)
