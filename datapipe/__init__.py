"""URL lists to datasets: plan, fetch, decode, filter, resize, write shards, and read them back."""
