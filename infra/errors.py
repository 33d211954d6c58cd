"""The errors that diptych raises on purpose.

DiptychError                 root; prints as its own two or three lines, without a traceback
├── UserError                the command, config, input or machine is wrong: exit code 2
│   ├── ConfigError          a key or value in the config file or on the command line
│   ├── InputError           a file or dataset that was named cannot be read as what it should be
│   ├── OutputError          a place to write to cannot be written, or is too small
│   │   └── CredentialsRefused   a storage does not take this process's credentials, or there are none
│   │       └── FixedCredentialsRefused   those of its environment, which nobody can renew while it runs
│   └── MachineError         a port, address or device of this machine is not as needed
└── RunError                 the work itself failed: exit code 1
    ├── StageFailed          a stage of a run ended without its result
    ├── StorageFailed        a storage did not answer, or failed, for longer than is waited for
    └── CorruptData          committed bytes differ from what their marker vouches for
"""

from infra.terminal import printable


class DiptychError(Exception):
    """An error with the three things a user needs: what was found and where, what is allowed, what to do.

    All three are positional, so that the error survives pickling between Ray's processes.
    """

    exit_code = 1

    def __init__(self, found: str, allowed: str = "", fix: str = "") -> None:
        super().__init__(found, allowed, fix)
        # What a user or the web wrote may be in them.
        self.found, self.allowed, self.fix = (
            "\n".join(map(printable, part.split("\n"))) for part in (found, allowed, fix)
        )

    def __str__(self) -> str:
        return "\n".join(part for part in (self.found, self.allowed, self.fix) if part)


class UserError(DiptychError):
    """The command, the config, the input or the machine is wrong; a run that was under way ends with StageFailed."""

    exit_code = 2


class ConfigError(UserError):
    """A key or a value of the config is not allowed."""


class InputError(UserError):
    """A named input cannot be read as what it should be."""


class OutputError(UserError):
    """A place to write to cannot be written."""


class CredentialsRefused(OutputError):
    """A storage does not take the credentials that this process finds, or it finds none."""


class FixedCredentialsRefused(CredentialsRefused):
    """A storage does not take the credentials of this process's environment: others are for its next start."""


class MachineError(UserError):
    """Something of this machine (a port, a device, a program) is not as needed."""


class RunError(DiptychError):
    """The work failed after it had started."""


class StageFailed(RunError):
    """A stage ended without its result."""


class StorageFailed(RunError):
    """A storage failed for longer than it is tried again."""


class CorruptData(RunError):
    """Committed bytes are not those that their marker vouches for."""


def first_line(error: BaseException) -> str:
    """The first line of what an error says, or the name of its type where it says nothing."""
    return (str(error).splitlines() or [type(error).__name__])[0]
