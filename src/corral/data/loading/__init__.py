"""How data sets are found, fetched, checked and read: what their files share."""
