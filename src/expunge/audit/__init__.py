"""What the evidence proves: metrics put side by side, intervals, verdicts."""
