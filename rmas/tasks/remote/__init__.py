"""A script of tests in one process and the function that it tests in another one."""
