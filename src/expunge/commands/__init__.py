"""What the commands take and print: each hands one typed config to one recipe, and shows what came back."""
