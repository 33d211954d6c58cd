"""Files that put diptych on a cluster (KubeRay, AWS, GCP, Slurm, a container) and what fills them in."""
