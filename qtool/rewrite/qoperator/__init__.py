"""Lower a QDQ graph to integer operators: --format qoperator."""
