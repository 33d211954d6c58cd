"""Gives keys for a running SeaweedFS and takes them away again, by its own shell; and hands them to clients."""

import json
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import uuid4

from object_store import REGION, Credentials, ObjectStore, binary

SHELL_TIMEOUT_S = 60
ACTIONS = "Read,Write,List,Tagging"


def give_key(store: ObjectStore) -> Credentials:
    """A new key, of a user of its own; the store takes it from now on."""
    key = Credentials(uuid4().hex[:20], uuid4().hex)
    _configure(store, key, f"-secret_key={key.secret_key}", f"-actions={ACTIONS}")
    return key


def take_key(store: ObjectStore, key: Credentials) -> None:
    """The store refuses the key from now on, as it does one that has expired."""
    _configure(store, key, "-delete")


def write_credentials(path: Path, key: Credentials) -> None:
    """Makes it the key of a shared credentials file, at once, as the tools do that renew it."""
    new = path.with_suffix(".new")
    new.write_text(
        f"[default]\naws_access_key_id = {key.access_key}\naws_secret_access_key = {key.secret_key}\n", encoding="utf-8"
    )
    new.rename(path)


def write_process_answer(path: Path, key: Credentials, valid_s: float) -> None:
    """Makes it what a `credential_process` answers that prints this file."""
    expiration = (datetime.now(UTC) + timedelta(seconds=valid_s)).isoformat()
    answer = {"Version": 1, "AccessKeyId": key.access_key, "SecretAccessKey": key.secret_key}
    path.write_text(json.dumps({**answer, "Expiration": expiration}))


def file_environment(endpoint: str, credentials: Path) -> dict[str, str]:
    """The variables of a client that has its key from a shared credentials file."""
    return {
        "AWS_ACCESS_KEY_ID": "",
        "AWS_SECRET_ACCESS_KEY": "",
        "AWS_SHARED_CREDENTIALS_FILE": str(credentials),
        "AWS_CONFIG_FILE": str(credentials.with_name("none")),
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_REGION": REGION,
    }


def key_environment(endpoint: str, key: Credentials) -> dict[str, str]:
    """The variables of a client whose key is one of them."""
    return {
        "AWS_ACCESS_KEY_ID": key.access_key,
        "AWS_SECRET_ACCESS_KEY": key.secret_key,
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_REGION": REGION,
    }


def _configure(store: ObjectStore, key: Credentials, *options: str) -> None:
    ports = dict(part[1:].split("=") for part in store.server.command if ".port=" in part)
    done = subprocess.run(
        [
            *(binary("weed"), "-logtostderr=true", "shell", f"-master=127.0.0.1:{ports['master.port']}"),
            f"-filer=127.0.0.1:{ports['filer.port']}",
        ],
        input=f"s3.configure -user=u{key.access_key} -access_key={key.access_key} {' '.join(options)} -apply\nexit\n",
        capture_output=True,
        text=True,
        timeout=SHELL_TIMEOUT_S,
        check=True,
    )
    assert f"u{key.access_key}" in done.stdout, done.stdout + done.stderr
