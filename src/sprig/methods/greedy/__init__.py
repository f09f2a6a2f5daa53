"""Forward selection: start from nothing, add what lowers the error most. One file per objective."""
