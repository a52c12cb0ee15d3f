"""What a machine with a GPU shows in six minutes: stages in processes of their own, one report. ``make gpu``."""
