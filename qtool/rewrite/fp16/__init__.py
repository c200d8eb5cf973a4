"""Write a float16 assignment: types, weights, Casts and the fusion barriers of norms."""
