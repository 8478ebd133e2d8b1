"""What programs need and cost, by the compiler, before a weight is loaded."""
