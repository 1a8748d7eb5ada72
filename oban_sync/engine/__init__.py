"""All work on the database: statements, connections, and the functions the other rooms call."""
