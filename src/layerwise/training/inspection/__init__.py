"""Looking into one model, trained here or elsewhere: what it says, how sure it is, where it attends, whether it loads as it was."""
