"""Acting: edit a clone of the prepared graph as a resolved plan says. Nothing here decides."""
