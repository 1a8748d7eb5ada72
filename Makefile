.DEFAULT_GOAL := help
.PHONY: help setup demo test check format bench chaos

help: ## list the targets
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10

setup: ## make or update the virtual environment
	python3 dev.py setup

demo: ## run the main job on a private PostgreSQL, with live progress
	python3 dev.py demo

test: ## ruff, mypy --strict and all tests, in parallel
	python3 dev.py test

check: ## ruff and mypy --strict only
	python3 dev.py check

format: ## let ruff format and fix the code
	python3 dev.py format

bench: ## the promises of speed, in five minutes, each met or missed
	python3 dev.py bench

chaos: ## break processes, servers and networks for 20 minutes; the tests hold a short form
	python3 dev.py chaos
