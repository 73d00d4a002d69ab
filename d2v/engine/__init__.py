"""The training loop and what it needs: knows steps, not objectives."""
