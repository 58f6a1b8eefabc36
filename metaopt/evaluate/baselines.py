"""The names of what every evaluation compares with: Adam at its usual rate, and with its rate tuned on each task."""

USUAL = "adam:lr=0.001"
REFERENCE = "adam@14"
