"""The pages: the form, and who has signed up."""

from __future__ import annotations

import re

from flask import Blueprint, current_app, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue
from sqlalchemy import select
from sqlalchemy.exc import IntegrityError

from signup.jobs import WelcomeMail
from signup.models import Mail, User, db

views = Blueprint("signup", __name__)


@views.get("/")
def form() -> ResponseReturnValue:
    return render_template("form.html")


@views.post("/signup")
def signup() -> ResponseReturnValue:
    email = request.form.get("email", "").strip().lower()

    if not (email.isprintable() and re.fullmatch(r"[^\s@]{1,64}@[^\s@]{1,255}", email)):
        return _form_again(email, "That is no email address."), 400

    try:
        add_user(email)
    except IntegrityError:
        db.session.rollback()

        return _form_again(email, f"{email} has signed up before."), 409

    return redirect(url_for("signup.users"), 303)


@views.get("/users")
def users() -> ResponseReturnValue:
    oban = current_app.extensions["oban"]
    newest = db.session.execute(
        select(User, Mail)
        .outerjoin(Mail, Mail.job_id == User.welcome_job_id)
        .order_by(User.id.desc())
        .limit(20)
    )
    rows = [(user, oban.get_job(user.welcome_job_id), mail) for user, mail in newest]

    return render_template("users.html", rows=rows)


def add_user(email: str) -> None:
    """Store a user and the job of the welcome mail in one transaction: both, or neither.

    Raises:
        IntegrityError: The address is taken.
    """
    user = User(email=email)
    db.session.add(user)
    db.session.flush()  # gives the user an id

    job = WelcomeMail.enqueue({"user_id": user.id}, conn=db.session)
    user.welcome_job_id = job.id
    db.session.commit()


def _form_again(email: str, error: str) -> str:
    return render_template("form.html", email=email, error=error)
