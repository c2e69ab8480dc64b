"""What every page is made of: its content, its template, figures, words and numbers."""
