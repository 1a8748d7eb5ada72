-- What tells lanes apart, a piece of other statements: the worker.
--
-- Gives: a bigint, made from what tells them apart besides (seed).
pg_catalog.hashtextextended(worker, /* seed */)
