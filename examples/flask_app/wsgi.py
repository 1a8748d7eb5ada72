"""What servers load: `flask run`, `gunicorn wsgi:app`, `oban-sync start --app wsgi:oban`."""

from signup import create_app

app = create_app()
oban = app.extensions["oban"]
