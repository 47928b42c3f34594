"""The networks of the course, their data set, and how they were trained."""
