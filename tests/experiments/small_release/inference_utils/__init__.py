import a_large_library_that_is_not_here  # noqa: F401
