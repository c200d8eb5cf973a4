"""The float16 assignment: which nodes compute in float16, and the Casts, weights and barriers that follow."""
