"""The kernels of tables/kernels.py as models of one kernel each, and what the runtime takes for them."""
