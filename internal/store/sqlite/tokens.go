package sqlite

import (
	"bytes"
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/internal/store"
)

// maxTokens bounds the list of tokens. An installation has a handful.
const maxTokens = 10_000

const tokenColumns = `id, name, hash, scopes, created_at, expires_at, revoked_at`

const insertToken = `INSERT INTO tokens (` + tokenColumns + `) VALUES ($1, $2, $3, $4, $5, $6, NULL)`

// A token is live that is neither revoked nor expired.
const liveTokenNamed = `
SELECT count(*) FROM tokens WHERE name = $1 AND revoked_at IS NULL AND (expires_at IS NULL OR expires_at > $2)`

const tokenByHash = `SELECT ` + tokenColumns + ` FROM tokens WHERE hash = $1`

const newestTokens = `SELECT ` + tokenColumns + ` FROM tokens ORDER BY seq DESC LIMIT $1 + 0`

const revokeTokenID = `
UPDATE tokens SET revoked_at = $2
WHERE id = $1 AND revoked_at IS NULL AND (expires_at IS NULL OR expires_at > $2)`

const revokeTokenName = `
UPDATE tokens SET revoked_at = $2
WHERE name = $1 AND revoked_at IS NULL AND (expires_at IS NULL OR expires_at > $2)`

// tokenRow is a token as it was read.
type tokenRow struct {
	store.Token
	scopes string // separated by spaces
}

// columns returns where to scan tokenColumns.
func (r *tokenRow) columns() []column {
	return []column{word(&r.ID), word(&r.Name), document(&r.Hash), word(&r.scopes), instant(&r.CreatedAt),
		instant(&r.ExpiresAt), instant(&r.RevokedAt)}
}

func (r *tokenRow) decode() *store.Token {
	token := r.Token
	token.Scopes = strings.Fields(r.scopes)
	return &token
}

// AddToken implements store.Tokens.
func (s *Store) AddToken(ctx context.Context, token *store.Token) error {
	added := *token
	added.Hash = bytes.Clone(token.Hash)
	scopes := strings.Join(token.Scopes, " ")
	return s.write(ctx, opAddToken, func(t *tx) error {
		var live int
		if _, err := t.one([]column{number(&live)}, liveTokenNamed, added.Name, added.CreatedAt.UnixMicro()); err != nil {
			return err
		}
		if live > 0 {
			return fmt.Errorf("sqlite: token %q: %w: there is a live one of that name", added.Name, fault.Conflict)
		}
		_, _, err := t.exec(insertToken, added.ID, added.Name, added.Hash, scopes, micros(added.CreatedAt),
			micros(added.ExpiresAt))
		return err
	})
}

// TokenByHash implements store.Tokens.
func (s *Store) TokenByHash(ctx context.Context, hash []byte) (*store.Token, error) {
	var r tokenRow
	err := s.read(ctx, func(c *session) error {
		found, err := c.one(r.columns(), tokenByHash, hash)
		if err == nil && !found {
			return fmt.Errorf("sqlite: token: %w", fault.NotFound)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return r.decode(), nil
}

// Tokens implements store.Tokens.
func (s *Store) Tokens(ctx context.Context) ([]*store.Token, error) {
	var tokens []*store.Token
	err := s.read(ctx, func(c *session) error {
		return c.each(func(values row) error {
			var r tokenRow
			err := c.scan(values, r.columns())
			tokens = append(tokens, r.decode())
			return err
		}, newestTokens, maxTokens)
	})
	return tokens, err
}

// RevokeToken implements store.Tokens. An id comes before a name, should one token have the other's id for a name.
func (s *Store) RevokeToken(ctx context.Context, idOrName string, at time.Time) error {
	return s.write(ctx, opRevokeToken, func(t *tx) error {
		for _, text := range []string{revokeTokenID, revokeTokenName} {
			changed, _, err := t.exec(text, idOrName, at.UnixMicro())
			if changed > 0 || err != nil {
				return err
			}
		}
		return fmt.Errorf("sqlite: token %q: %w: no live token has that id or name", idOrName, fault.NotFound)
	})
}
