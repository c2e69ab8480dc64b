"""The page on two plans, before and after."""
