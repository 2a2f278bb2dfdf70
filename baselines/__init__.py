"""What the grey box is compared with; each model here has the grey box's ``process`` method."""
