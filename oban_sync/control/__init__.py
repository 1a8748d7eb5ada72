"""The door for changes: what people do to jobs and queues, whether by Oban, shell or page."""
