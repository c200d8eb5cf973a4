"""The contents of a model, and the differences between two. Models are neither run nor changed.

The package is not called `inspect`: importing it would put a module in the place of the function
`qtool.inspect`.
"""
