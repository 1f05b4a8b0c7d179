"""What `sluice check` examines: settings, database, versions and rights."""
