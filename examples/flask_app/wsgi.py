"""What servers load: `flask run`, `gunicorn wsgi:app`, `oban-sync start --app wsgi:app`."""

from gazette import create_app

app = create_app()
