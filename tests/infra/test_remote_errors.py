"""An error of ours is found again inside those that Ray wraps around it."""

import pytest
import ray

from infra.cluster import Cluster
from infra.errors import InputError
from infra.remote_errors import unwrapped


def test_a_tasks_own_error_comes_back_as_it_was_raised(ray_cluster: Cluster):
    @ray.remote
    def fail() -> None:
        raise InputError("found", "allowed", "fix")

    with pytest.raises(ray.exceptions.RayError) as caught:
        ray.get(fail.remote())
    error = unwrapped(caught.value)
    assert type(error) is InputError
    assert str(error) == "found\nallowed\nfix"


def test_a_foreign_error_is_none_of_ours():
    assert unwrapped(ValueError("no")) is None
