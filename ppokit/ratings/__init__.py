"""People's ratings: files of them, how far they can be trusted, and what training needs of them."""
