"""What may go: policies, the plan that they make, and its execution."""
