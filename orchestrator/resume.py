"""Goes on with a run from what lies in its folder, on any machine or as a cluster's job."""

from collections.abc import Sequence

from infra.errors import ConfigError, CorruptData
from infra.progress_display import ProgressForm
from infra.storage import Storage
from orchestrator.config import RunConfig, config_of
from orchestrator.drive import drive
from orchestrator.run import CONFIG_FILE, read_identity
from orchestrator.stages import configured_stages
from orchestrator.submit import Submission, submit_run
from orchestrator.yaml_source import YamlSource, apply_overrides, parse_yaml
from training.checkpoint import committed_checkpoints, newest_checkpoint


def resume_run(
    folder: Storage,
    overrides: Sequence[str] = (),
    *,
    address: str | None = None,
    progress_form: ProgressForm = ProgressForm.AUTO,
) -> Storage:
    """Does what is missing of the run; returns its folder. Raises UserError, CorruptData where all would be lost."""
    config = stored_config(folder, overrides)
    _require_checkpoint(folder)
    return drive(config, configured_stages(config), address=address, progress_form=progress_form)


def resubmit_run(
    folder: Storage, overrides: Sequence[str], address: str, *, shared_folder: str | None = None
) -> Submission:
    """Hands what is missing of the run to the cluster whose dashboard is at `address`; returns at once.

    Raises UserError, CorruptData where all would be lost, and MachineError when no cluster answers.
    """
    config = stored_config(folder, overrides)
    _require_checkpoint(folder)
    return submit_run(config, address, shared_folder=shared_folder)


def stored_config(folder: Storage, overrides: Sequence[str] = ()) -> RunConfig:
    """The config that lies in the run's folder, wherever that lies now, with overrides."""
    source = stored_source(folder)
    place = {key: source.values[key] for key in ("storage", "name")}
    apply_overrides(source, list(overrides))
    source.values |= place
    return config_of(source)


def stored_source(folder: Storage) -> YamlSource:
    """What the run's run.yaml holds, with the place where the run lies now: the folder may have been moved."""
    read_identity(folder)
    try:
        text = folder.read_bytes(CONFIG_FILE).decode()
    except FileNotFoundError as error:
        raise ConfigError(
            f"{folder.url} holds a run that was never started ({CONFIG_FILE} is missing).",
            "A run keeps its config when it is started or submitted.",
            "Start it with its config, `diptych run CONFIG.yaml`; a fork, with the same `diptych fork` again.",
        ) from error
    storage, _, name = folder.url.rpartition("/")
    source = parse_yaml(text, f"{folder.url}/{CONFIG_FILE}")
    source.values |= {"storage": storage, "name": name}
    return source


def _require_checkpoint(folder: Storage) -> None:
    """A resumed training that has checkpoints must not begin anew without a word."""
    committed = committed_checkpoints(folder)
    if committed and newest_checkpoint(folder) is None:
        raise CorruptData(
            f"{folder.url} has {len(committed)} checkpoints, and none of them is whole: "
            "the training would start at step 0.",
            "A resume goes on from a checkpoint.",
            f"`diptych verify {folder.url}` names what is wrong; restore the files, or train under another name.",
        )
