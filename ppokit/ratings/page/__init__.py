"""The rating page: people rate responses in a browser, and every rating is on the disk before they go on."""
