"""Starts S3 servers that are not SeaweedFS, for use as `ObjectStore(moto_server)`.

moto_server   keeps its objects in memory; believes any secret; conditional writes work
nanio         ignores `If-None-Match` and `If-Match`: of two writers both win
localbucket   honours `If-None-Match: *`, ignores `If-Match`; believes any secret; a killed PUT stays half written
"""

from pathlib import Path

from object_store import REGION, Credentials, Launch, binary


def moto_server(_data: Path, _credentials: Credentials, ports: list[int]) -> Launch:
    """moto: empty after each start."""
    return Launch([binary("moto_server"), "--host", "127.0.0.1", "--port", str(ports[0])])


def nanio(data: Path, credentials: Credentials, ports: list[int]) -> Launch:
    """nanio: a storage that diptych must refuse for runs with several writers."""
    serve = [binary("nanio"), "serve", "--host", "127.0.0.1", "--port", str(ports[0]), "--data-dir", str(data)]
    return Launch(
        [*serve, "--region", REGION, "--log-level", "warning"],
        environment={"NANIO_ACCESS_KEY": credentials.access_key, "NANIO_SECRET_KEY": credentials.secret_key},
    )


def localbucket(data: Path, _credentials: Credentials, ports: list[int]) -> Launch:
    """localbucket: a storage that diptych must refuse for runs with several writers."""
    return Launch([binary("localbucket"), "--host", "127.0.0.1", "--port", str(ports[0]), str(data)])
