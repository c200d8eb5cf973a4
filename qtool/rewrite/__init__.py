"""Write a resolved plan: edit a clone of the prepared graph. No decision is made here."""
