"""What is in a model, and what changed between two. Nothing is run and nothing is changed.

The package is not called `inspect`, because importing it would then put a module in the place of the
function `qtool.inspect`.
"""
