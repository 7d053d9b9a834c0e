"""Training of syncers and generators on Lightning Fabric (extra "train")."""
