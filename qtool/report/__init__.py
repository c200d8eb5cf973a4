"""One Report, several renderers: each file renders it in one form."""
