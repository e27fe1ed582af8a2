-- Each upload of an input has a blob of its own, and the row says which of them counts. Until now there was one for each
-- input, which an upload replaced before anybody had asked whether it still might.

-- +goose Up

ALTER TABLE inputs ADD COLUMN blob TEXT NOT NULL DEFAULT ''; -- the key of its bytes
UPDATE inputs SET blob = 'inputs/' || (SELECT id FROM jobs WHERE seq = inputs.job) || '/' || name
    WHERE stored_at IS NOT NULL;
