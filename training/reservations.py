"""Gives back what a group of workers that is gone had reserved of the cluster."""


def free_reservations() -> int:
    """Removes the placement groups of this process's job; returns how many there were. Ray is connected already.

    They outlive a controller of Ray Train that fails while it starts its workers, and the next group would wait for
    their resources for ever. Ray Train's own cleaner (2.60) gives up where several Ray clusters run on one machine.
    """
    import ray
    from ray.util.placement_group import PlacementGroup, placement_group_table, remove_placement_group

    job = ray.get_runtime_context().get_job_id()
    # A placement group's id ends with that of the job that made it.
    left = [name for name, facts in placement_group_table().items() if facts["state"] != "REMOVED"]
    ours = [name for name in left if name.endswith(job)]
    for name in ours:
        remove_placement_group(PlacementGroup(ray.PlacementGroupID(bytes.fromhex(name))))
    return len(ours)
